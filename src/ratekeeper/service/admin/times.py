"""The end of a block or a pause: a time, or a length of time from now. Pure, but for the wall clock."""

from __future__ import annotations

import time

from ratekeeper.errors import BadRequestError
from ratekeeper.service.admin.fields import Field, is_length, is_number
from ratekeeper.service.admin.operation import Given

TIMES = {
    "until": Field(is_number, "a time in seconds since 1970"),
    "seconds": Field(is_length, "a length of time in seconds, more than 0 and at most nine years"),
}
"""The fields that say the end, one of them."""


def end_of(given: Given) -> float:
    """Return the end in seconds since 1970. Raise `BadRequestError` unless it is said once."""
    if len(given.keys() & TIMES.keys()) != 1:
        raise BadRequestError("say 'until', a time, or 'seconds', a length of time: one of them")
    until: float = given["until"] if "until" in given else time.time() + given["seconds"]
    return until

"""The operation what-if: the last minutes of requests by another policy. Nothing changes. Knows no HTTP."""

from __future__ import annotations

from typing import Any

from ratekeeper.errors import BadRequestError
from ratekeeper.policy.file.load import MAX_BYTES
from ratekeeper.service.admin.fields import Field, is_name, is_number, is_whole
from ratekeeper.service.admin.operation import Given, NotDoneError, Operation, Report
from ratekeeper.service.core import Core
from ratekeeper.service.recording.what_if import BusyError, WhatIfError
from ratekeeper.service.recording.what_if import what_if as computed

MOST_POLICY_BODY = 2 * MAX_BYTES
"""Bytes of the longest body: room for the longest policy file, as JSON writes some characters in more bytes."""

_RIGHT = {"capacity": is_whole, "per_second": is_number}


async def what_if(core: Core, given: Given) -> Report:
    """Return the decisions that the recorded requests would have met by an edited policy."""
    if len(given) != 1:
        raise BadRequestError("say 'policy', the text of a policy, or 'rules', numbers of some rules: one of them")
    try:
        return await computed(core, given)
    except BusyError as error:
        raise NotDoneError(503, str(error), ("Retry-After", "1")) from None
    except WhatIfError as error:
        raise NotDoneError(503, str(error)) from None


def _is_rules(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(numbers, dict) and _are_right(numbers) for numbers in value.values()
    )


def _are_right(numbers: dict[str, Any]) -> bool:
    return all(name in _RIGHT and _RIGHT[name](number) for name, number in numbers.items())


OPERATIONS = {
    "what-if": Operation(
        what_if,
        {
            "policy": Field(is_name, "the text of a policy file"),
            "rules": Field(_is_rules, 'an object such as {"free keys": {"capacity": 5, "per_second": 0.5}}'),
        },
        most_body=MOST_POLICY_BODY,
    )
}

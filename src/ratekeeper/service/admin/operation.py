"""Operation: what an admin asks for, the fields of its body, and its answer. Knows no HTTP but the statuses."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeAlias

from ratekeeper.http.responses import Response, explained
from ratekeeper.service.admin.fields import Field
from ratekeeper.service.core import Core

Given: TypeAlias = Mapping[str, Any]
"""The fields of a body, each of which is right in itself. Attributes are in the spelling that the policy looks at."""

Report: TypeAlias = dict[str, Any]
"""An answer, as an object of JSON."""


Run: TypeAlias = Callable[[Core, Given], Coroutine[Any, Any, Report]]
"""The function that carries an operation out."""


class Operation(NamedTuple):
    """One operation of the admin API.

    fields     the names of its body; None if it has no body, and is asked for by GET
    changes    whether it changes anything: then it needs an Idempotency-Key, and is logged
    most_body  the bytes of its longest body; None for the usual bound
    """

    run: Run
    fields: Mapping[str, Field] | None = None
    changes: bool = False
    most_body: int | None = None


class NotDoneError(Exception):
    """A request of an admin is not carried out. `response` says why."""

    def __init__(self, status: int, detail: str, *headers: tuple[str, str]) -> None:
        super().__init__(detail)
        self.response: Response = explained(status, detail, *headers)

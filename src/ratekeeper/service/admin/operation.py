"""Operation: what an admin asks for, and the fields of its body. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeAlias

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

    fields   the names of its body; None if it has no body, and is asked for by GET
    changes  whether it changes anything: then it needs an Idempotency-Key, and is logged
    """

    run: Run
    fields: Mapping[str, Field] | None = None
    changes: bool = False

"""The routes of the admin API. Each request is checked here, in one order: its sender, its body, and whether it is new.

Each change is logged: who, what, and hashes in place of keys. It is ended even if the client hangs up.
"""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial
from hashlib import blake2b
from math import ceil
from typing import Any

from ratekeeper.errors import BadRequestError, RatekeeperError, StoreError, StoreUnavailable
from ratekeeper.http.responses import Response, explained, response_to
from ratekeeper.http.stated import stated_attributes
from ratekeeper.policy.patterns import PUBLIC
from ratekeeper.service.admin import buckets, keys, policies, what_if
from ratekeeper.service.admin.fields import parse_fields
from ratekeeper.service.admin.operation import Given, NotDoneError, Operation, Report, Run
from ratekeeper.service.core import Core
from ratekeeper.service.http.admin_guard import key_of_change, signed_in, use_up
from ratekeeper.service.http.answer import CLOSE, JSON_LINES, Answer, answer_of
from ratekeeper.service.http.exchange import GatewayExchange
from ratekeeper.service.http.route import MOST_BODY, Route
from ratekeeper.service.metrics.slots import shown_name

PREFIX = "/v1/admin/"
OPERATIONS: dict[str, Operation] = {
    **buckets.OPERATIONS,
    **policies.OPERATIONS,
    **keys.OPERATIONS,
    **what_if.OPERATIONS,
}

_SHOWN = 2_000

_log = logging.getLogger("ratekeeper.admin")


async def _answer(name: str, operation: Operation, core: Core, request: GatewayExchange) -> Answer:
    """Answer one request of an admin. The connection ends, as answers are long: one client could ask for many."""
    request.connection = CLOSE
    try:
        report = await _answered(name, operation, core, request)
    except NotDoneError as error:
        return answer_of(error.response)
    except (RatekeeperError, ValueError) as error:
        return answer_of(_response_to(error))
    return Answer(200, JSON_LINES, json.dumps(report).encode("ascii"))


async def _answered(name: str, operation: Operation, core: Core, request: GatewayExchange) -> Report:
    who = signed_in(core, request)
    verb = "GET" if operation.fields is None else "POST"
    if request.verb != verb.encode("ascii"):
        raise NotDoneError(405, f"ask by {verb}", ("Allow", verb))
    given = {} if operation.fields is None else parse_fields(request.body, operation.fields)
    _name_rules_whole(core, given)
    if "attributes" in given:
        given["attributes"] = stated_attributes(given["attributes"], core.loaded)
    if not operation.changes:
        return await operation.run(core, given)
    key = key_of_change(request)
    change = asyncio.ensure_future(_changed(who, f"{name} {_shown(core, given)}", key, core, operation.run, given))
    core.changes.add(change)
    change.add_done_callback(core.changes.discard)
    return await asyncio.shield(change)


def _name_rules_whole(core: Core, given: dict[str, Any]) -> None:
    """Replace the name of a rule that is too long for the status, and so cut there, by the rule's own name."""
    rule, rules = given.get("rule"), given.get("rules")
    if rule is None and rules is None:
        return
    names = [one.name for one in core.loaded.rules]
    own = {shown_name(name): name for name in names} | {name: name for name in names}
    if rule is not None:
        given["rule"] = own.get(rule, rule) if isinstance(rule, str) else [own.get(one, one) for one in rule]
    if rules is not None:
        given["rules"] = {own.get(name, name): numbers for name, numbers in rules.items()}


async def _changed(who: str, what: str, key: str, core: Core, run: Run, given: Given) -> Report:
    """Carry out a change unless its key is used up, and log it."""
    await use_up(core, key)
    try:
        report = await run(core, given)
    except (ValueError, BadRequestError, NotDoneError) as error:
        _log.info("%s: %s: not done: %s", who, what, type(error).__name__)  # its text may have a key
        raise
    except BaseException as error:
        _log.warning("%s: %s: failed, perhaps in part: %s", who, what, type(error).__name__)
        raise
    _log.info("%s: %s", who, what)
    return report


def _shown(core: Core, given: Given) -> str:
    """Return the fields of a change for the log: in one line, of ASCII, with hashes in place of keys."""
    fields = dict(given)
    if "attributes" in given:
        secret = core.metrics.slots.secret
        fields["attributes"] = {name: _hashed(secret, name, value) for name, value in given["attributes"].items()}
    text = json.dumps(fields)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _hashed(secret: bytes, name: str, value: str) -> str:
    """Return an attribute's value, or its hash if it may be a key: the same in all processes of the service."""
    if name in PUBLIC:
        return value
    return "#" + blake2b(value.encode("utf-8", "surrogatepass"), digest_size=6, key=secret).hexdigest()


def _response_to(error: RatekeeperError | ValueError) -> Response:
    """Return the response to an error, in words for an admin: those for clients do not tell that the store is away."""
    if isinstance(error, BadRequestError):
        return response_to(error)
    if isinstance(error, StoreUnavailable):
        return explained(503, str(error), ("Retry-After", str(max(1, ceil(error.retry_after)))))
    if isinstance(error, StoreError):
        return explained(503, str(error))
    return explained(400, str(error))


def _most_body(operation: Operation, core: Core, request: GatewayExchange) -> int:
    """Return the bytes of the longest body that an admin may send, and fewer from others: it fills the memory."""
    if operation.most_body is None:
        return MOST_BODY
    try:
        signed_in(core, request)
    except (NotDoneError, BadRequestError):
        return MOST_BODY
    return operation.most_body


ROUTES: dict[bytes, Route] = {
    (PREFIX + name).encode("ascii"): Route(
        partial(_answer, name, operation), operation.fields is not None, partial(_most_body, operation)
    )
    for name, operation in OPERATIONS.items()
}

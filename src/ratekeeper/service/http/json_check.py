"""`POST /v1/check`: the question and the answer as JSON. These are pure functions; they know no server."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from ratekeeper.decision import Decision, RuleDecision
from ratekeeper.errors import BadRequestError, did_you_mean
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.reports import decision_report, finite
from ratekeeper.service.limiter import CheckRequest

_SHAPE = '{"attributes": {"api_key": "k-1", "path": "/search"}, "cost": 1, "timeout": 0, "wait": true}'


MOST_QUESTIONS = 100
"""The questions of one list."""


def parse_checks(body: bytes, known: Collection[str] | None = None) -> CheckRequest | list[CheckRequest]:
    """Return the question in the JSON body of a check, or its list of questions.

    Raise `BadRequestError`, which says what would be right. With `known`, an attribute of another name is an error: no
    rule would look at it, though the program means one.
    """
    try:
        asked = _decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON ({error}): send {_SHAPE}") from None
    if not isinstance(asked, list):
        return _parsed(asked, known)
    if not 1 <= len(asked) <= MOST_QUESTIONS:
        raise BadRequestError(f"a list must have 1 to {MOST_QUESTIONS} questions, not {len(asked):,}")
    return [_parsed_of_list(number, one, known) for number, one in enumerate(asked, 1)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raise `BadRequestError` if it has a key twice: programs differ in which value they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise BadRequestError(f"the key {repeated[:40]!r} is there twice")
    return found


_decode = json.JSONDecoder(object_pairs_hook=_once).decode


def _parsed_of_list(number: int, asked: object, known: Collection[str] | None) -> CheckRequest:
    try:
        return _parsed(asked, known)
    except BadRequestError as error:
        raise BadRequestError(f"question {number} of the list: {error}") from None


def _parsed(asked: object, known: Collection[str] | None) -> CheckRequest:
    if not isinstance(asked, dict) or not isinstance(asked.get("attributes"), dict):
        raise BadRequestError(f"the body must be an object with an object 'attributes', as in {_SHAPE}")
    unknown = set(asked) - set(CheckRequest._fields)
    if unknown:
        raise BadRequestError(f"unknown key {min(unknown)[:40]!r}: send {_SHAPE}")
    for name, value in asked["attributes"].items():
        if not isinstance(value, str):
            raise BadRequestError(f"attribute {name[:40]!r} must be a string, as in {_SHAPE}")
        if known is not None and name not in known:
            raise BadRequestError(f"the policy knows no attribute {name[:40]!r}{did_you_mean(name[:40], known)}")
    cost = asked.get("cost", 1)
    if not isinstance(cost, int) or isinstance(cost, bool) or cost < 0:
        raise BadRequestError("cost must be a whole number, 0 or more")
    timeout = asked.get("timeout", 0)
    if timeout is not None and not (
        isinstance(timeout, int | float) and not isinstance(timeout, bool) and timeout >= 0
    ):
        raise BadRequestError("timeout must be 0 or more seconds, or null to wait as long as the rules allow")
    if not isinstance(wait := asked.get("wait", True), bool):
        raise BadRequestError("wait must be true, to be answered at the turn, or false, to be answered at once")
    return CheckRequest(asked["attributes"], cost, timeout, wait)


def report(decision: PolicyDecision, held: bool) -> dict[str, Any]:
    """Return a decision as JSON, with that of each rule: see `decision_report`. Null means never, and no limit."""
    rules = [{"name": one.label, "shadow": one.shadow, **_own(one, one.decision)} for one in decision.rules]
    return {**decision_report(decision, held), "rules": rules}


def _own(rule: RuleDecision, decision: Decision) -> dict[str, Any]:
    return {
        "limit": str(rule.limit),
        "allowed": decision.allowed,
        "cost": decision.cost,
        "remaining": decision.remaining,
        "retry_after": finite(decision.retry_after),
        "reset_after": decision.reset_after,
        "delay": finite(decision.delay),
    }

"""`POST /v1/check`: the question and the answer as JSON. Pure functions; knows no server."""

from __future__ import annotations

import json
from collections.abc import Collection
from math import inf
from typing import Any, NamedTuple

from ratekeeper.decision import Decision, RuleDecision
from ratekeeper.errors import BadRequestError, did_you_mean
from ratekeeper.policy.decision import PolicyDecision

_SHAPE = '{"attributes": {"api_key": "k-1", "path": "/search"}, "cost": 1}'


class CheckRequest(NamedTuple):
    """Who asks, by attributes, and how much."""

    attributes: dict[str, str]
    cost: int


def parse_check(body: bytes, known: Collection[str] | None = None) -> CheckRequest:
    """Read the JSON body of a check. Raises `BadRequestError` for anything but the shape it names.

    With `known`, an attribute of another name is an error: nothing would limit by it, where something was meant to.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON ({error}): send {_SHAPE}") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("attributes"), dict):
        raise BadRequestError(f"the body must be an object with an object 'attributes', as in {_SHAPE}")
    unknown = set(asked) - {"attributes", "cost"}
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
    return CheckRequest(asked["attributes"], cost)


def report(decision: PolicyDecision) -> dict[str, Any]:
    """Return a decision as JSON. Times are seconds; null stands for never, and for no limit at all."""
    rule = decision.rule
    return {
        "allowed": decision.allowed,
        "rule": rule.name if rule else None,
        "missing": decision.missing,
        "remaining": rule.decision.remaining if rule else None,
        "retry_after": _finite(decision.retry_after),
        "reset_after": decision.reset_after,
        "delay": _finite(decision.delay),
        "rules": [{"name": one.name, "shadow": one.shadow, **_own(one, one.decision)} for one in decision.rules],
    }


def _own(rule: RuleDecision, decision: Decision) -> dict[str, Any]:
    return {
        "limit": str(rule.limit),
        "allowed": decision.allowed,
        "cost": decision.cost,
        "remaining": decision.remaining,
        "retry_after": _finite(decision.retry_after),
        "reset_after": decision.reset_after,
        "delay": _finite(decision.delay),
    }


def _finite(seconds: float) -> float | None:
    return None if seconds == inf else seconds

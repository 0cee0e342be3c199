"""Decisions, limits, their usage and their explanation as JSON, for the command line and the service. Pure functions.

JSON has no infinity, so a time that never comes is null. Knows no store and no HTTP.
"""

from __future__ import annotations

from math import inf
from typing import Any

from ratekeeper.limits import Limit
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.policy.plan import RuleExplanation
from ratekeeper.usage import Usage


def rule_of(label: str, policy: Policy) -> Rule:
    """Return the rule of a limit. A further limit that was looked up has its place behind the rule's name."""
    rules = {rule.name: rule for rule in policy.rules}
    return rules.get(label) or rules[label.rpartition("/")[0]]


def finite(seconds: float) -> float | None:
    """Return a time in seconds; None if it never comes."""
    return None if seconds == inf else seconds


def decision_report(decision: PolicyDecision, held: bool) -> dict[str, Any]:
    """Return a decision without its rules. A request that was `held` until its turn has no more `delay`."""
    rule, allowed = decision.rule, decision.allowed
    own = rule.decision if rule else None
    return {
        "allowed": allowed,
        "rule": rule.label if rule else None,
        "missing": decision.missing,
        "denied": decision.denied,
        "undecided": decision.undecided,
        "message": None if allowed else decision.message,
        "remaining": None if own is None else own.remaining,
        "retry_after": 0.0 if allowed else finite(decision.retry_after),
        "reset_after": 0.0 if own is None else own.reset_after,
        "delay": 0.0 if held and allowed else finite(decision.delay),
    }


def limit_report(limit: Limit) -> dict[str, object]:
    """Return a limit: as a string, and as numbers."""
    nothing = limit.refuses_all
    return {
        "limit": str(limit),
        "algorithm": limit.algorithm.replace("_", " "),
        "capacity": None if nothing else limit.capacity,
        "per_second": None if nothing else float(limit.rate),
    }


def usage_report(usage: Usage, policy: Policy) -> dict[str, object]:
    """Return how much of one limit is used."""
    return {
        "rule": usage.name,
        "limit": str(usage.limit),
        "shadow": rule_of(usage.name, policy).shadow,
        "used": usage.used,
        "remaining": usage.remaining,
        "retry_after": None if usage.limit.refuses_all else usage.retry_after,
        "reset_after": usage.reset_after,
    }


def explanation_report(it: RuleExplanation, looked_up: str | None) -> dict[str, object]:
    """Return one rule's view of a request. `looked_up` is the function that gives its limit, if one does."""
    about: dict[str, object] = {"name": it.rule.name, "shadow": it.rule.shadow, "applies": it.decision is not None}
    if it.decision is None:
        return about | {"reason": it.reason}
    decision = it.decision
    return about | {
        "bucket": it.bucket,
        "limit": str(decision.limit),
        "looked_up": looked_up,
        "allowed": decision.allowed,
        "cost": decision.cost,
        "remaining": decision.remaining,
        "delay": finite(decision.delay),
        "message": message_of(it),
    }


def message_of(it: RuleExplanation) -> str | None:
    """Return the message of a rule that refuses the request; None if it does not, or has no message."""
    refuses = it.decision is not None and not it.decision.allowed and not it.rule.shadow
    return it.rule.message if refuses else None

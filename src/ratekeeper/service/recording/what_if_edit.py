"""The policy that an edit makes of the policy in use: another policy's text, or other numbers for some rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from ratekeeper.errors import LimitError, PolicyError, did_you_mean
from ratekeeper.limits import LeakyBucket, TokenBucket
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.service.recording.rule_toml import UNITS, rate_text, rule_toml

PARTS = ("capacity", "per_second")
SOURCE = "the edited policy"


def edited(policy: Policy, edit: Mapping[str, Any]) -> Policy:
    """Return the policy after an edit: {"policy": text}, or {"rules": {name: {"capacity"?, "per_second"?}}}.

    Without a number a rule stays as it is, so an edit may be none. Raise `PolicyError`, which says what would be right.
    """
    if edit.keys() == {"policy"} and isinstance(edit["policy"], str):
        return Policy.parse(edit["policy"], SOURCE)
    if edit.keys() != {"rules"} or not isinstance(edit["rules"], Mapping):
        raise PolicyError(
            'an edit is {"policy": TEXT}, or {"rules": {NAME: {"capacity": NUMBER, "per_second": NUMBER}}}'
        )
    changes = edit["rules"]
    names = [rule.name for rule in policy.rules]
    for name in changes:
        if name not in names:
            raise PolicyError(f"the policy has no rule {name!r}{did_you_mean(str(name), names)}")
    rules = [_changed(rule, changes[rule.name]) if rule.name in changes else rule for rule in policy.rules]
    return replace(policy, rules=tuple(rules), source=SOURCE)


def changed_toml(before: Policy, after: Policy) -> str:
    """Return the text of the rules that are other than before, to be copied."""
    known = {rule.name: rule for rule in before.rules}
    return "\n".join(rule_toml(rule) for rule in after.rules if rule != known.get(rule.name))


def _changed(rule: Rule, change: object) -> Rule:
    if not isinstance(change, Mapping) or not set(change) <= set(PARTS):
        raise PolicyError(f"rule {rule.name!r}: give a 'capacity', a 'per_second', or both")
    if not change:
        return rule
    limit = rule.limit
    rate = _meant(change["per_second"]) if "per_second" in change else rate_text(limit.rate)
    kind = LeakyBucket if isinstance(limit, LeakyBucket) else TokenBucket
    try:
        return replace(rule, limit=kind(change.get("capacity", limit.capacity), rate))
    except (LimitError, OverflowError, ValueError, TypeError) as error:
        raise PolicyError(f"rule {rule.name!r}: {error}") from None


def _meant(per_second: Any) -> Any:
    """Return the rate that a person has typed, such as "7/hour". As a number of JSON it is 0.0019444444444444444.

    Any other number, or a value that is not one, is returned as it is.
    """
    if isinstance(per_second, bool) or not isinstance(per_second, int | float) or not 0 < per_second < 2**53:
        return per_second
    for seconds in UNITS.values():
        count = round(per_second * seconds, 6)
        if count > 0 and count / seconds == per_second:
            return rate_text(Fraction(str(count)) / seconds)
    return per_second

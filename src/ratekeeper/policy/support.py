"""For support: the usage of a request's buckets, and the buckets to change by hand, chosen by their rules' names.

It knows no store. A change of the wrong bucket may shut out everybody. So an unclear choice is an error, which names
the rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

from ratekeeper.decision import Charge, Decision, scope_of
from ratekeeper.errors import did_you_mean
from ratekeeper.limits import TokenBucket
from ratekeeper.policy.compiled import CompiledPolicy
from ratekeeper.policy.lookups.finder import NOTHING, Known
from ratekeeper.policy.lookups.lookup import MOST_LIMITS
from ratekeeper.policy.model import Rule
from ratekeeper.policy.plan import Plan
from ratekeeper.usage import Usage

RuleNames: TypeAlias = str | Collection[str]
"""The name of a rule, or several names."""

_NO_LIMIT_NOW = TokenBucket(1, 1)
"""Stands for the limit of a bucket whose limit is not known now: the end of a block and a reset need no limit."""


def usage_of(plan: Plan, looks: Sequence[Decision], waiting_at: Callable[[str, str | bytes], int]) -> list[Usage]:
    """Return the usage of each bucket of a plan, by looks at one token of each."""
    parts = zip(plan.answer(looks).rules, plan.charges, strict=True)
    return [Usage.of(rule.label, rule.decision, waiting_at(charge.scope, charge.key)) for rule, charge in parts]


def chosen(
    compiled: CompiledPolicy, attributes: Mapping[str, str], rule: RuleNames | None, known: Known = NOTHING
) -> list[Charge]:
    """Return a charge of one token for each bucket of a request that these rules charge; None stands for all rules.

    Also for each bucket of a limit that a look-up may return at another time, but does not now: such a bucket may be
    blocked too. Raise ValueError for a rule that does not charge the request.
    """
    seen = compiled.seen(attributes)
    plan = _chosen(compiled, seen, compiled.buckets(seen, known), rule)
    return [*plan.charges, *_of_other_times(compiled, plan)]


def chosen_to_grant(
    compiled: CompiledPolicy, attributes: Mapping[str, str], rule: RuleNames | None, known: Known = NOTHING
) -> list[Charge]:
    """As `chosen`. Raise ValueError also if no rule charges the request, or several do and none is named."""
    seen = compiled.seen(attributes)
    return _clear(compiled, seen, rule, known).charges


def chosen_to_block(
    compiled: CompiledPolicy, attributes: Mapping[str, str], rule: RuleNames | None, known: Known = NOTHING
) -> list[Charge]:
    """As `chosen_to_grant`. Raise ValueError also for a block that would refuse nobody, or others by accident."""
    seen = compiled.seen(attributes)
    plan = _clear(compiled, seen, rule, known)
    for one in plan.rules:
        _check_block(one, seen, named=rule is not None)
    return plan.charges


def _of_other_times(compiled: CompiledPolicy, plan: Plan) -> Iterator[Charge]:
    looked_up = {rule.name: rule for rule in compiled.rules if rule.known is not None}
    counts = Counter(rule.name for rule in plan.rules)
    keys = {rule.name: charge.key for rule, charge in zip(plan.rules, plan.charges, strict=True)}
    for name in looked_up.keys() & counts.keys():
        for place in range(counts[name], MOST_LIMITS):
            yield Charge.of(scope_of(name, place), keys[name], _NO_LIMIT_NOW, 1, 0)


def _chosen(compiled: CompiledPolicy, seen: Mapping[str, str], plan: Plan, rule: RuleNames | None) -> Plan:
    if rule is None:
        return plan
    names = _names(compiled, rule)
    charged = {one.name for one in plan.rules}
    for name in names:
        if name not in charged:
            raise ValueError(f"rule {name!r} does not charge this request: {_reason(compiled, seen, name)}")
    pairs = [pair for pair in zip(plan.rules, plan.charges, strict=True) if pair[0].name in names]
    return Plan([one for one, _ in pairs], [charge for _, charge in pairs])


def _clear(compiled: CompiledPolicy, seen: Mapping[str, str], rule: RuleNames | None, known: Known) -> Plan:
    """Return the plan of the rules that are meant. Raise ValueError if that is not clear."""
    plan = compiled.buckets(seen, known)
    if rule is not None:
        return _chosen(compiled, seen, plan, rule)
    if not plan.rules:
        raise ValueError("no rule charges this request" + ", as it is exempt" * (compiled.exempting(seen) is not None))
    if len(charging := dict.fromkeys(one.name for one in plan.rules)) > 1:
        names = ", ".join(map(repr, charging))
        raise ValueError(f"several rules charge this request: name one or more of {names}")
    return plan


def _names(compiled: CompiledPolicy, rule: RuleNames) -> list[str]:
    if not isinstance(rule, Collection):
        raise TypeError(f"rule must be the name of a rule, or several names, not {rule!r}")
    names = [rule] if isinstance(rule, str) else list(rule)
    known = [one.name for one in compiled.policy.rules]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"rule must be the name of a rule, or several names, not {name!r}")
        if name not in known:
            raise ValueError(f"the policy has no rule {name!r}{did_you_mean(name, known)}")
    if not names:
        raise ValueError("rule must name at least one rule, not none")
    return names


def _reason(compiled: CompiledPolicy, seen: Mapping[str, str], name: str) -> str:
    if compiled.exempting(seen) is not None:
        return "the request is exempt"
    return str(next(rule for rule in compiled.rules if rule.name == name).why_not_charged(seen))


def _check_block(rule: Rule, seen: Mapping[str, str], named: bool) -> None:
    if rule.shadow:
        raise ValueError(f"rule {rule.name!r} is in shadow and refuses nothing, so a block would refuse nobody")
    if not rule.key and not named:
        raise ValueError(
            f"rule {rule.name!r} counts all requests together, so a block would refuse everybody: "
            "name the rule if you mean it"
        )
    lacking = [name for name in rule.key if name not in seen]
    if lacking:
        raise ValueError(
            f"rule {rule.name!r} counts by {' and '.join(rule.key)}, and these attributes have no {lacking[0]}: "
            "a block would refuse all requests without one"
        )

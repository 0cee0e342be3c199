"""CompiledPolicy: a policy made ready once to find the rules, the buckets and the costs of each request.

Immutable, so a reload swaps it by one assignment, and a request ends by the one that it began with. It knows no HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

from ratekeeper.decision import Charge, Decision, RuleDecision, scope_of
from ratekeeper.policy.compiled_rule import CompiledRule, each_reading_fits, tests_of
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.model import Policy, Rule, checked_policy
from ratekeeper.policy.patterns import PUBLIC, EntryIndex, Globs
from ratekeeper.policy.spelling import is_method, spelled_match
from ratekeeper.stores.base import Store

_new = tuple.__new__
"""Makes a named tuple without its own constructor, which is written in Python. Use it for each request."""


class RuleExplanation(NamedTuple):
    """One rule's view of a request: the bucket and its decision now, or the reason why the rule does not apply."""

    rule: Rule
    reason: str | None
    bucket: str | None = None
    decision: Decision | None = None


class Plan(NamedTuple):
    """The charges of one request, each with its rule, or the missing attribute that refuses it."""

    rules: list[Rule]
    charges: list[Charge]
    missing: str | None = None

    def answer(self, decisions: Iterable[Decision]) -> PolicyDecision:
        """Return the policy's decision, made of one decision for each charge."""
        pairs = zip(self.rules, decisions, strict=True)
        own = [_new(RuleDecision, (rule.name, one, rule.shadow)) for rule, one in pairs]
        return _new(PolicyDecision, (tuple(own), self.missing))


class ExplanationPlan(NamedTuple):
    """An explanation without its decision for each rule, and the charges of those that apply."""

    explanations: list[RuleExplanation]
    charges: list[Charge]

    def answer(self, decisions: Iterable[Decision]) -> list[RuleExplanation]:
        """Return the explanations with their decisions."""
        each = iter(decisions)
        return [it._replace(decision=next(each)) if it.reason is None else it for it in self.explanations]


class CompiledPolicy:
    """A policy, ready to be asked what a request is charged.

    policy    the policy that it was made from
    rules     its rules, compiled, in the file's order
    names     the attributes that can change its decision; a request needs no others
    waiting   the names of the rules that let a request wait for its turn
    lone      decides by the whole policy, if that is one plain rule and there is a store; else None

    A rule matches if any reading of each attribute does (see `Readings`), an exemption only if all readings do.
    """

    __slots__ = (
        "_exempt", "_exempt_index", "_method", "_secret", "_tier_by_value", "_tiers",
        "lone", "names", "policy", "rules", "waiting",
    )  # fmt: skip

    def __init__(self, policy: Policy, store: Store | None = None) -> None:
        self.policy = checked_policy(policy)
        sources = policy.attributes
        self.lone = LoneRule.of(policy, store) if store is not None else None
        self.rules = tuple(CompiledRule(rule, sources) for rule in policy.rules)
        self.waiting = frozenset(rule.name for rule in policy.rules if rule.max_wait != 0 and not rule.shadow)
        self.names = tuple(sorted(policy.names() - ({"tier"} if policy.tiers else set())))
        self._method = "method" in self.names and is_method("method", sources)
        self._tiers = policy.tiers
        self._tier_by_value = policy.tiers.spelled(sources) if policy.tiers else {}
        exempt = [spelled_match(match, sources, slash_matters=True) for match in policy.exempt]
        self._exempt = tuple(map(tests_of, exempt))
        self._exempt_index = EntryIndex(exempt)
        self._secret = os.urandom(16)

    def seen(self, attributes: Mapping[str, str]) -> dict[str, str]:
        """Return the attributes that the policy looks at and the request has, with its tier.

        A request cannot promote itself by its own attribute `tier`. Raise TypeError if an attribute is not a str.
        """
        get = attributes.get
        seen = {}
        for name in self.names:
            value = get(name)
            if value is not None:
                if value.__class__ is not str:
                    check_type(name, value)
                seen[name] = value
        if self._method and "method" in seen and seen["method"].isascii():
            seen["method"] = seen["method"].upper()
        if (tiers := self._tiers) is not None:
            value = seen.get(tiers.by)
            seen["tier"] = tiers.default if value is None else self._tier_by_value.get(value, tiers.default)
        return seen

    def exempting(self, seen: Mapping[str, str]) -> Globs | None:
        """Return the first entry of `exempt` that a request (see `seen`) matches whole, or None."""
        for place in self._exempt_index.candidates(seen):
            if each_reading_fits(self._exempt[place], seen):
                return self.policy.exempt[place]
        return None

    def plan(self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None) -> Plan:
        """Return the charges of a request that may wait `timeout` seconds, None for as long as its rules allow."""
        seen = self.seen(attributes)
        rules: list[Rule] = []
        charges: list[Charge] = []
        if self._exempt and self.exempting(seen) is not None:
            return Plan(rules, charges)
        for rule in self.rules:
            if not rule.matches(seen):
                continue
            if (lacking := rule.lacking(seen)) is not None:
                if rule.refuses_without_key:
                    return Plan([], [], lacking)
                continue
            rules.append(rule.rule)
            charges.append(rule.charge(seen, cost, timeout))
        return _new(Plan, (rules, charges, None))

    def explain(self, attributes: Mapping[str, str], cost: int = 1) -> ExplanationPlan:
        """Return each rule's view of a request, in the file's order."""
        seen = self.seen(attributes)
        if self.exempting(seen) is not None:
            return ExplanationPlan([RuleExplanation(rule, "the request is exempt") for rule in self.policy.rules], [])
        charges: list[Charge] = []
        explanations = []
        for rule in self.rules:
            reason = rule.why_not_charged(seen)
            if reason is None:
                charges.append(rule.charge(seen, cost))
            bucket = None if reason else self.bucket_name(rule.rule, seen)
            explanations.append(RuleExplanation(rule.rule, reason, bucket))
        return ExplanationPlan(explanations, charges)

    def buckets(self, attributes: Mapping[str, str]) -> Plan:
        """Return a charge of one token, without waiting, for each bucket that a request would be charged to."""
        seen = self.seen(attributes)
        rules = () if self.exempting(seen) is not None else self.rules
        applied = [rule for rule in rules if rule.why_not_charged(seen) is None]
        return Plan([rule.rule for rule in applied], [rule.charge_of_one(seen) for rule in applied])

    def bucket_name(self, rule: Rule, attributes: Mapping[str, str]) -> str:
        """Return a bucket's name for people. Keys are secrets, so most values show only as a keyed hash."""
        parts = [f"{name}={self.shown(name, attributes.get(name))}" for name in rule.key]
        return f"{rule.name}({', '.join(parts)})"

    def shown(self, name: str, value: str | None) -> str:
        """Return an attribute's value as people may see it."""
        if value is None:
            return "(none)"
        if name in PUBLIC:
            return value
        return "#" + blake2b(value.encode("utf-8", "surrogatepass"), digest_size=4, key=self._secret).hexdigest()


class LoneRule:
    """A policy of one rule that treats all requests alike is a limiter: the store's gate decides, without a charge."""

    __slots__ = ("_ask", "_cost", "_rule")

    def __init__(self, rule: Rule, ask: Callable[[str, int], Decision]) -> None:
        self._rule = rule
        self._ask = ask
        self._cost = int(rule.cost)

    @classmethod
    def of(cls, policy: Policy, store: Store) -> LoneRule | None:
        """Return the limiter that decides by the policy, or None if the policy is not of that kind."""
        rule = policy.rules[0]
        plain = isinstance(rule.cost, int) and rule.missing == "shared" and rule.on_error is None
        alike = not (policy.exempt or policy.tiers or rule.match or rule.overrides or rule.shadow)
        if len(policy.rules) > 1 or not (alike and plain) or "method" in rule.key:
            return None
        return cls(rule, store.bind((scope_of(rule.name),), (rule.limit,), _never_waits).try_acquire)

    def try_acquire(self, attributes: Mapping[str, str]) -> PolicyDecision:
        """As `Keeper.try_acquire`, for a request of cost 1."""
        rule = self._rule
        for name in rule.key:
            check_type(name, attributes.get(name))
        decision = self._ask(rule.bucket(attributes), self._cost)
        return _new(PolicyDecision, ((_new(RuleDecision, (rule.name, decision, False)),), None))


def check_type(name: str, value: object) -> None:
    """Raise TypeError if an attribute is not a string."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"attribute {name!r} must be a str, not {type(value).__name__}")


def _never_waits(*_: object) -> Decision:
    raise AssertionError("a lone rule is asked without waiting")

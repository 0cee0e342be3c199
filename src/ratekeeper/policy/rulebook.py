"""Rulebook: a policy turned into charges, and what a store says of them into decisions.

Each request goes through `plan`, so what does not depend on the request is worked out once, when the book is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

from ratekeeper.decision import Charge, Decision, RuleDecision, scope_of
from ratekeeper.policy.match import PUBLIC
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.policy.verdict import PolicyDecision
from ratekeeper.stores.base import Store

_new = tuple.__new__
"""Makes a named tuple without its own constructor, which is written in Python: for what is made for each request."""


class RuleExplanation(NamedTuple):
    """What one rule makes of a request: the bucket and what it would decide now, or why the rule does not apply."""

    rule: Rule
    reason: str | None
    bucket: str | None = None
    decision: Decision | None = None


class Plan(NamedTuple):
    """The charges of one request, each with its rule, or the attribute for want of which it is refused."""

    rules: list[Rule]
    charges: list[Charge]
    missing: str | None = None

    def answer(self, decisions: Iterable[Decision]) -> PolicyDecision:
        """Return what the decisions, one for each charge, make together."""
        pairs = zip(self.rules, decisions, strict=True)
        own = [_new(RuleDecision, (rule.name, one, rule.shadow)) for rule, one in pairs]
        return _new(PolicyDecision, (tuple(own), self.missing))


class ExplanationPlan(NamedTuple):
    """An explanation without its decision for each rule, and the charges of those that apply."""

    explanations: list[RuleExplanation]
    charges: list[Charge]

    def answer(self, decisions: Iterable[Decision]) -> list[RuleExplanation]:
        """Return the explanations, whole."""
        each = iter(decisions)
        return [it._replace(decision=next(each)) if it.reason is None else it for it in self.explanations]


class Rulebook:
    """A policy, ready to be asked what a request is charged. Immutable."""

    __slots__ = ("_chargers", "_names", "_secret", "lone", "policy")

    def __init__(self, policy: Policy, store: Store | None = None) -> None:
        self.policy = checked(policy)
        self.lone = LoneRule.of(policy, store) if store is not None else None
        self._chargers = tuple(Charger(rule) for rule in policy.rules)
        self._names = tuple(policy.names())
        self._secret = os.urandom(16)

    def plan(self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None) -> Plan:
        """Return what a request of a caller who is willing to wait `timeout` seconds is charged."""
        for name in self._names:
            check_type(name, attributes.get(name))
        if self.policy.tiers is not None:
            attributes = self.policy.complete(attributes)
        if self.policy.exempt and self.policy.exemption(attributes) is not None:
            return Plan([], [])
        rules, charges = [], []
        for charger in self._chargers:
            rule = charger.rule
            if rule.match and not rule.matches(attributes):
                continue
            if rule.missing != "shared" and (missing := rule.missing_attribute(attributes)) is not None:
                if rule.missing == "reject" and not rule.shadow:
                    return Plan([], [], missing)
                continue
            rules.append(rule)
            charges.append(charger.charge(attributes, cost, timeout))
        return _new(Plan, (rules, charges, None))

    def explain(self, attributes: Mapping[str, str], cost: int = 1) -> ExplanationPlan:
        """Return what each rule makes of a request, in the file's order."""
        complete = self.policy.complete(attributes)
        if self.policy.exemption(complete) is not None:
            return ExplanationPlan([RuleExplanation(rule, "the request is exempt") for rule in self.policy.rules], [])
        charges: list[Charge] = []
        explanations = []
        for charger in self._chargers:
            rule = charger.rule
            reason = _why_not_charged(rule, complete)
            if reason is None:
                charges.append(charger.charge(complete, cost))
            bucket = None if reason else self.bucket_name(rule, complete)
            explanations.append(RuleExplanation(rule, reason, bucket))
        return ExplanationPlan(explanations, charges)

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
        """Return what decides by the policy, if it is of that kind."""
        rule = policy.rules[0]
        plain = isinstance(rule.cost, int) and rule.max_wait == 0 and rule.missing == "shared" and rule.on_error is None
        alike = not (policy.exempt or policy.tiers or rule.match or rule.overrides or rule.shadow)
        if len(policy.rules) > 1 or not (alike and plain):
            return None
        return cls(rule, store.bind((scope_of(rule.name),), (rule.limit,), _never_waits).try_acquire)

    def check(self, attributes: Mapping[str, str]) -> PolicyDecision:
        """Decide a request of cost 1, and charge it if it is allowed."""
        rule = self._rule
        for name in rule.key:
            check_type(name, attributes.get(name))
        decision = self._ask(rule.bucket(attributes), self._cost)
        return _new(PolicyDecision, ((_new(RuleDecision, (rule.name, decision, False)),), None))


class Charger:
    """Builds one rule's charges."""

    __slots__ = ("_scope", "_usual", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._scope = scope_of(rule.name)
        # What the charge of a usual request is but for its key: a request of cost 1, by a rule that treats all alike.
        alike = isinstance(rule.cost, int) and not rule.overrides
        self._usual = self._charge("", {}, 1, None)[2:] if alike else None

    def charge(self, attributes: Mapping[str, str], cost: int, timeout: float | None = None) -> Charge:
        """Build the charge of a request that takes `cost` times the rule's own.

        Both the rule and the caller (`timeout`) say how long it may wait.
        """
        key = self.rule.bucket(attributes)
        if self._usual and timeout is None and cost.__class__ is int and cost == 1:
            return _new(Charge, (self._scope, key, *self._usual))
        return self._charge(key, attributes, cost, timeout)

    def _charge(self, key: str, attributes: Mapping[str, str], cost: int, timeout: float | None) -> Charge:
        rule = self.rule
        waits = [wait for wait in (rule.max_wait, timeout) if wait is not None]
        return Charge.of(
            self._scope, key, rule.limit_for(attributes), rule.cost_of(attributes) * cost,
            min(waits, default=None), rule.shadow, rule.on_error,
        )  # fmt: skip


def checked(policy: Policy) -> Policy:
    """Return the policy. Raises TypeError if it is none."""
    if not isinstance(policy, Policy):
        raise TypeError(f"a keeper takes a Policy, such as Policy.load('policy.toml'), not {policy!r}")
    return policy


def check_type(name: str, value: object) -> None:
    """Raise TypeError if an attribute is not a text."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"attribute {name!r} must be a str, not {type(value).__name__}")


def _never_waits(*_: object) -> Decision:
    raise AssertionError("a lone rule is asked without waiting")


def _why_not_charged(rule: Rule, attributes: Mapping[str, str]) -> str | None:
    reason = rule.why_not(attributes)
    if reason is None and rule.missing != "shared" and (missing := rule.missing_attribute(attributes)) is not None:
        verb = "skipped" if rule.missing == "skip" or rule.shadow else "refused"
        return f"{verb}: the request has no {missing}"
    return reason

"""Keeper and AsyncKeeper: a policy put to work on a store. They know no file and no HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

from ratekeeper.decision import Charge, Decision, scope_of
from ratekeeper.errors import RateLimitExceeded
from ratekeeper.limits import wait_ticks
from ratekeeper.policy.model import PUBLIC, Policy, Rule
from ratekeeper.policy.verdict import PolicyDecision, RuleDecision
from ratekeeper.stores.awaited import awaited
from ratekeeper.stores.base import AsyncStore, Store, local
from ratekeeper.stores.choice import MEMORY, StoreChoice
from ratekeeper.turns import take_turn, take_turn_async

_OWN = StoreChoice(MEMORY)


class RuleExplanation(NamedTuple):
    """What one rule makes of a request: the bucket and what it would decide now, or why the rule does not apply."""

    rule: Rule
    reason: str | None
    bucket: str | None = None
    decision: Decision | None = None


class _Applied(NamedTuple):
    rule: Rule
    charge: Charge


class _Plan(NamedTuple):
    """The charges of one request, or the attribute for want of which it is refused."""

    applied: list[_Applied]
    missing: str | None = None

    @property
    def charges(self) -> list[Charge]:
        return [applied.charge for applied in self.applied]

    def answer(self, decisions: Iterable[Decision]) -> PolicyDecision:
        pairs = zip(self.applied, decisions, strict=True)
        rules = tuple(RuleDecision(it.rule.name, decision, it.rule.shadow) for it, decision in pairs)
        return PolicyDecision(rules, self.missing)


class _ExplanationPlan(NamedTuple):
    """An explanation without its decision for each rule, and the charges of those that apply."""

    explanations: list[RuleExplanation]
    charges: list[Charge]

    def answer(self, decisions: Iterable[Decision]) -> list[RuleExplanation]:
        each = iter(decisions)
        return [it._replace(decision=next(each)) if it.reason is None else it for it in self.explanations]


class _Rulebook:
    """A policy turned into charges: what both keepers are made of."""

    def __init__(self, policy: Policy) -> None:
        if not isinstance(policy, Policy):
            raise TypeError(f"a keeper takes a Policy, such as Policy.load('policy.toml'), not {policy!r}")
        self.policy = policy
        self._scopes = {rule.name: scope_of(rule.name) for rule in policy.rules}
        self._names = tuple(policy.names())
        self._secret = os.urandom(16)

    def _acquire_plan(self, attributes: Mapping[str, str], cost: int, timeout: float | None) -> _Plan:
        """Plan for a caller who waits; raise at once for one that can only be refused."""
        wait_ticks(timeout)
        plan = self._plan(attributes, cost, timeout)
        if plan.missing is not None:
            raise RateLimitExceeded(plan.answer([]))
        return plan

    def _explain_plan(self, attributes: Mapping[str, str], cost: int) -> _ExplanationPlan:
        complete = self.policy.complete(attributes)
        charges: list[Charge] = []
        explanations = []
        for rule in self.policy.rules:
            reason = _why_not_charged(rule, complete)
            if reason is None:
                charges.append(self._charge(rule, complete, cost))
            bucket = None if reason else self._bucket_name(rule, complete)
            explanations.append(RuleExplanation(rule, reason, bucket))
        return _ExplanationPlan(explanations, charges)

    def _plan(self, attributes: Mapping[str, str], cost: int, timeout: float | None = None) -> _Plan:
        for name in self._names:
            value = attributes.get(name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"attribute {name!r} must be a str, not {type(value).__name__}")
        attributes = self.policy.complete(attributes)
        applied = []
        for rule in self.policy.rules:
            if not rule.matches(attributes):
                continue
            if _unusable(rule, attributes):
                if rule.missing == "reject" and not rule.shadow:
                    return _Plan([], rule.missing_attribute(attributes))
                continue
            applied.append(_Applied(rule, self._charge(rule, attributes, cost, timeout)))
        return _Plan(applied)

    def _charge(self, rule: Rule, attributes: Mapping[str, str], cost: int, timeout: float | None = None) -> Charge:
        """Build a rule's charge. Both the rule and the caller (`timeout`) say how long it may wait."""
        waits = [wait for wait in (rule.max_wait, timeout) if wait is not None]
        return Charge.of(
            self._scopes[rule.name], rule.bucket(attributes), rule.limit_for(attributes),
            rule.cost_of(attributes) * cost, min(waits, default=None), rule.shadow, rule.on_error,
        )  # fmt: skip

    def _bucket_name(self, rule: Rule, attributes: Mapping[str, str]) -> str:
        """Return a bucket's name for people. Keys are secrets, so most values show only as a keyed hash."""
        parts = [f"{name}={self._shown(name, attributes.get(name))}" for name in rule.key]
        return f"{rule.name}({', '.join(parts)})"

    def _shown(self, name: str, value: str | None) -> str:
        if value is None:
            return "(none)"
        if name in PUBLIC:
            return value
        return "#" + blake2b(value.encode("utf-8", "surrogatepass"), digest_size=4, key=self._secret).hexdigest()


class Keeper(_Rulebook):
    """Decide requests by a policy: every rule that matches is charged, or none is.

    `store` is where the buckets live: by default the one that the policy chooses, or else a `MemoryStore` of its own.
    Thread-safe.

    >>> policy = Policy.parse('''
    ... [[rules]]
    ... name = "each user"
    ... key = ["user"]
    ... limit = "10/minute"
    ... ''')
    >>> decision = Keeper(policy).check({"user": "alice"})
    >>> decision.allowed, decision.remaining
    (True, 9)
    """

    def __init__(self, policy: Policy, store: Store | None = None) -> None:
        super().__init__(policy)
        self.store: Store = local(store, "Keeper") if store is not None else (policy.store or _OWN).open()

    def check(self, attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision:
        """Decide one request and charge it if it is allowed. Never blocks; `delay` says how long it must wait.

        `cost` multiplies each rule's own. Raises `CostError` if an attribute that should be a rule's cost is no number,
        TypeError if one that a rule looks at is no str.
        """
        plan = self._plan(attributes, cost)
        return plan.answer(self.store.decide(plan.charges))

    def acquire(self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None) -> PolicyDecision:
        """Wait for the request's turn, as long as its rules' `max_wait` and `timeout` (seconds) allow.

        Raises `RateLimitExceeded` at once if it is refused, or if its turn would come later. If the wait is
        interrupted, the place is given back, and those behind move up; see docs/waiting.md.
        """
        plan = self._acquire_plan(attributes, cost, timeout)
        return _admitted(plan.answer(take_turn(self.store, plan.charges)))

    def explain(self, attributes: Mapping[str, str], cost: int = 1) -> list[RuleExplanation]:
        """Say of each rule, in the file's order, whether it applies and what it would decide. Charges nothing."""
        plan = self._explain_plan(attributes, cost)
        return plan.answer(self.store.decide(plan.charges, commit=False))


class AsyncKeeper(_Rulebook):
    """`Keeper` for asyncio: the same arguments and verbs, awaited.

    `store` may also be one that must be awaited, such as one on the network.
    """

    def __init__(self, policy: Policy, store: Store | AsyncStore | None = None) -> None:
        super().__init__(policy)
        self.store: Store | AsyncStore = store if store is not None else (policy.store or _OWN).open_async()
        self._store = awaited(self.store)

    async def check(self, attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision:
        """As `Keeper.check`."""
        plan = self._plan(attributes, cost)
        return plan.answer(await self._store.decide(plan.charges))

    async def acquire(
        self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None
    ) -> PolicyDecision:
        """As `Keeper.acquire`. A waiting task that is cancelled gives its place back."""
        plan = self._acquire_plan(attributes, cost, timeout)
        return _admitted(plan.answer(await take_turn_async(self._store, plan.charges)))

    async def explain(self, attributes: Mapping[str, str], cost: int = 1) -> list[RuleExplanation]:
        """As `Keeper.explain`."""
        plan = self._explain_plan(attributes, cost)
        return plan.answer(await self._store.decide(plan.charges, commit=False))


def _admitted(decision: PolicyDecision) -> PolicyDecision:
    if not decision.allowed:
        raise RateLimitExceeded(decision)
    return decision


def _why_not_charged(rule: Rule, attributes: Mapping[str, str]) -> str | None:
    reason = rule.why_not(attributes)
    if reason is None and _unusable(rule, attributes):
        verb = "skipped" if rule.missing == "skip" or rule.shadow else "refused"
        return f"{verb}: the request has no {rule.missing_attribute(attributes)}"
    return reason


def _unusable(rule: Rule, attributes: Mapping[str, str]) -> bool:
    """Is the rule not to be charged, for want of an attribute of its key?"""
    return rule.missing != "shared" and rule.missing_attribute(attributes) is not None

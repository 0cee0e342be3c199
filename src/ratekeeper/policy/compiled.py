"""CompiledPolicy: a policy made ready once to find the rules, the buckets and the costs of each request.

Immutable, so a reload swaps it by one assignment, and a request ends by the one that it began with. It knows no HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple, Protocol

from ratekeeper import core
from ratekeeper.decision import Charge, Decision, RuleDecision
from ratekeeper.limits import checked_cost
from ratekeeper.policy.decision import PolicyDecision, refused
from ratekeeper.policy.model import Policy, Rule, checked_policy
from ratekeeper.policy.patterns import PUBLIC, Globs
from ratekeeper.policy.program import Program, exempting, program_of, seen_by
from ratekeeper.stores.base import Store
from ratekeeper.stores.table_store import TableStore

_new = tuple.__new__
"""Makes a named tuple without its own constructor, which is written in Python. Use it for each request."""


class RuleExplanation(NamedTuple):
    """One rule's view of a request: the bucket and its decision now, or the reason why the rule does not apply."""

    rule: Rule
    reason: str | None
    bucket: str | None = None
    decision: Decision | None = None


class Match(NamedTuple):
    """A rule that charges a request: its place, that of its limit (see `CompiledRule`), the bucket and its own cost."""

    rule: int
    limit: int
    bucket: str
    cost: int


class Plan(NamedTuple):
    """The charges of one request, each with its rule, or the missing attribute that refuses it.

    `known` has the decisions of rules that refuse without a store, by the rule's place. These have no charge.
    """

    rules: list[Rule]
    charges: list[Charge]
    missing: str | None = None
    known: Mapping[int, Decision] = {}

    def answer(self, decisions: Iterable[Decision]) -> PolicyDecision:
        """Return the policy's decision, made of one decision for each charge."""
        if self.known:
            each = iter(decisions)
            decisions = [self.known[n] if n in self.known else next(each) for n in range(len(self.rules))]
        pairs = zip(self.rules, decisions, strict=True)
        own = [_new(RuleDecision, (rule.name, one, rule.shadow, rule.message)) for rule, one in pairs]
        return PolicyDecision(tuple(own), self.missing)


class ExplanationPlan(NamedTuple):
    """An explanation without its decision for each rule, and the charges of those that apply."""

    explanations: list[RuleExplanation]
    charges: list[Charge]

    def answer(self, decisions: Iterable[Decision]) -> list[RuleExplanation]:
        """Return the explanations with their decisions."""
        each = iter(decisions)
        asked = [it.reason is None and it.decision is None for it in self.explanations]
        return [it._replace(decision=next(each)) if of else it for it, of in zip(self.explanations, asked, strict=True)]


class Matcher(Protocol):
    """Finds the rules that charge a request."""

    def match(self, attributes: Mapping[str, str]) -> list[Match] | str:
        """Return the matches in the file's order, or the missing attribute that refuses the request.

        Raise TypeError if an attribute is not a string, and `CostError` if a cost is not a number.
        """
        ...


class PythonMatcher:
    """The matcher in Python: the reference, and the matcher of machines without the C core."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def match(self, attributes: Mapping[str, str]) -> list[Match] | str:
        """As `Matcher.match`."""
        program = self._program
        seen = seen_by(program, attributes)
        if program.exempt is not None and exempting(program.exempt, seen) >= 0:
            return []
        matches = []
        for place, rule in enumerate(program.rules):
            if not rule.matches(seen):
                continue
            if (lacking := rule.lacking(seen)) is not None:
                if rule.refuses_without_key:
                    return lacking
                continue
            own = rule.rule
            matches.append(_new(Match, (place, rule.limit_place(seen), own.bucket(seen), own.cost_of(seen))))
        return matches


class CompiledPolicy:
    """A policy, ready to be asked what a request is charged.

    policy       the policy that it was made from
    rules        its rules, compiled, in the file's order
    names        the attributes that can change its decision; a request needs no others
    waiting      the names of the rules that let a request wait for its turn
    try_acquire  decides one request without waiting, and charges it; None without a local store

    A rule matches if any reading of each attribute does (see `Readings`), an exemption only if all readings do.
    """

    __slots__ = ("_matcher", "_program", "_secret", "names", "policy", "rules", "try_acquire", "waiting")

    def __init__(
        self, policy: Policy, store: Store | None = None, matcher: Callable[[Program], Matcher] | None = None
    ) -> None:
        self.policy = checked_policy(policy)
        self._program = program_of(policy)
        self.rules, self.names = self._program.rules, self._program.names
        self.waiting = frozenset(rule.name for rule in policy.rules if rule.max_wait != 0 and not rule.shadow)
        self._matcher = (matcher or core.matcher or PythonMatcher)(self._program)
        self._secret = os.urandom(16)
        self.try_acquire = None if store is None else self._verb(store)

    def _verb(self, store: Store) -> Callable[..., PolicyDecision]:
        """Return `try_acquire` on a store: a C function, if the store's table and the matcher are in C."""
        gate = store.policy_gate(self._matcher) if isinstance(store, TableStore) else None
        if gate is not None:
            decide: Callable[..., PolicyDecision] = gate.try_acquire
            return decide

        def try_acquire(attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision:
            plan = self.plan(attributes, cost, 0)
            return plan.answer(store.decide(plan.charges))

        return try_acquire

    def seen(self, attributes: Mapping[str, str]) -> dict[str, str]:
        """Return the attributes that the policy looks at and the request has, with its tier.

        A request cannot promote itself by its own attribute `tier`. Raise TypeError if an attribute is not a str.
        """
        return seen_by(self._program, attributes)

    def exempting(self, seen: Mapping[str, str]) -> Globs | None:
        """Return the first entry of `exempt` that a request (see `seen`) matches whole, or None."""
        exempt = self._program.exempt
        place = -1 if exempt is None else exempting(exempt, seen)
        return None if place < 0 else self.policy.exempt[place]

    def plan(self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None) -> Plan:
        """Return the charges of a request that may wait `timeout` seconds, None for as long as its rules allow."""
        cost = checked_cost(cost)
        matches = self._matcher.match(attributes)
        if isinstance(matches, str):
            return Plan([], [], matches)
        rules: list[Rule] = []
        charges: list[Charge] = []
        known: dict[int, Decision] = {}
        for place, limit, bucket, own_cost in matches:
            compiled = self.rules[place]
            charge = compiled.charge_at(limit, bucket, own_cost, cost, timeout)
            if charge.limit.max_cost >= 0:
                charges.append(charge)
            elif compiled.shadow:
                known[len(rules)] = refused(charge)
            else:  # nothing else is charged, so nothing else is asked
                return Plan([compiled.rule], [], known={0: refused(charge)})
            rules.append(compiled.rule)
        return _new(Plan, (rules, charges, None, known))

    def explain(self, attributes: Mapping[str, str], cost: int = 1) -> ExplanationPlan:
        """Return each rule's view of a request, in the file's order."""
        cost = checked_cost(cost)
        seen = self.seen(attributes)
        if self.exempting(seen) is not None:
            return ExplanationPlan([RuleExplanation(rule, "the request is exempt") for rule in self.policy.rules], [])
        charges: list[Charge] = []
        explanations = []
        for rule in self.rules:
            if (reason := rule.why_not_charged(seen)) is not None:
                explanations.append(RuleExplanation(rule.rule, reason))
                continue
            charge = rule.charge(seen, cost)
            known = refused(charge) if charge.limit.refuses_all else None
            charges += [charge] if known is None else []
            explanations.append(RuleExplanation(rule.rule, None, self.bucket_name(rule.rule, seen), known))
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

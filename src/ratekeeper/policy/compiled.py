"""CompiledPolicy: a policy made ready once to find the rules, the buckets and the costs of each request.

Immutable, so a reload swaps it by one assignment, and a request ends by the one that it began with. It knows no HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Protocol

from ratekeeper import core
from ratekeeper.clock import SystemClock
from ratekeeper.decision import Charge, Decision
from ratekeeper.limits import Limit, checked_cost
from ratekeeper.policy.decision import PolicyDecision, refused
from ratekeeper.policy.hashes import digest_name
from ratekeeper.policy.lookups.finder import NOTHING, Known, LimitFinder
from ratekeeper.policy.lookups.functions import Lookups
from ratekeeper.policy.model import Policy, Rule, checked_policy
from ratekeeper.policy.patterns import PUBLIC, Globs
from ratekeeper.policy.plan import NONE_KNOWN, ExplanationPlan, Match, Plan, RuleExplanation
from ratekeeper.policy.program import Program, exempting, program_of, seen_by
from ratekeeper.stores.base import Store
from ratekeeper.stores.table_store import TableStore

_new = tuple.__new__
"""Makes a named tuple without its own constructor, which is written in Python. Use it for each request."""


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
            matches.append(_new(Match, (place, rule.limit_place(seen), rule.bucket(seen), rule.rule.cost_of(seen))))
        return matches


class CompiledPolicy:
    """A policy, ready to be asked what a request is charged.

    policy       the policy that it was made from
    rules        its rules, compiled, in the file's order
    names        the attributes that can change its decision; a request needs no others
    waiting      the names of the rules that let a request wait for its turn
    try_acquire  decides one request without waiting, and charges it; None without a local store
    awaits       whether a request may have to await a look-up: then the verbs here raise `LookupNeeded`

    A rule matches if any reading of each attribute does (see `Readings`), an exemption only if all readings do.
    """

    __slots__ = (
        "_finder", "_matcher", "_program", "_secret", "awaits", "names", "policy", "rules", "try_acquire", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        policy: Policy,
        store: Store | None = None,
        matcher: Callable[[Program], Matcher] | None = None,
        lookups: Lookups | None = None,
    ) -> None:
        self.policy = checked_policy(policy)
        lookups = lookups or Lookups({}, awaits=False)
        # Another machine's clock may be set, so it is not for the age of answers.
        clock = store.clock if isinstance(store, TableStore) else SystemClock()
        caches = lookups.caches_of(policy, clock)
        self._program = program_of(policy, caches)
        self.awaits = lookups.awaits and bool(caches)
        self._finder = LimitFinder(self._program.rules, self.awaits) if caches else None
        self.rules, self.names = self._program.rules, self._program.names
        self.waiting = frozenset(rule.name for rule in policy.rules if rule.max_wait != 0 and not rule.shadow)
        self._matcher = (matcher or core.matcher or PythonMatcher)(self._program)
        self._secret = os.urandom(16)
        self.try_acquire = None if store is None else self._verb(store)

    def _verb(self, store: Store) -> Callable[..., PolicyDecision]:
        """Return `try_acquire` on a store: a C function, if the store's table and the matcher are in C."""
        asked = None if self._finder is None else self._finder.ask
        gate = store.policy_gate(self._matcher, asked) if isinstance(store, TableStore) else None
        if gate is not None:
            decide: Callable[..., PolicyDecision] = gate.try_acquire
            return decide

        def try_acquire(attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision:
            plan = self.plan(attributes, cost, 0)
            return plan.answer(store.decide(plan.charges))

        return try_acquire

    @property
    def matcher(self) -> Matcher:
        """The object that finds the rules of a request."""
        return self._matcher

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The attributes that its rules look at, by their slots: those of a request, their digests, and the tier."""
        program = self._program
        hashed = [digest_name(program.names[slot]) for slot in program.hashed]
        return (*program.names, *hashed, *(["tier"] if program.tier is not None else []))

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

    def plan(
        self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None, known: Known = NOTHING
    ) -> Plan:
        """Return the charges of a request that may wait `timeout` seconds, None for as long as its rules allow.

        `known` are the limits that it has awaited.
        """
        cost = checked_cost(cost)
        matches = self._matcher.match(attributes)
        if isinstance(matches, str):
            return Plan([], [], matches)
        if self._finder is not None:
            return self._plan_looked_up(self._finder, attributes, matches, cost, timeout, known)
        rules: list[Rule] = []
        charges: list[Charge] = []
        refusing: dict[int, Decision] = {}
        for place, limit, bucket, own_cost in matches:
            compiled = self.rules[place]
            charge = compiled.charge_at(limit, bucket, own_cost, cost, timeout)
            if charge.limit.max_cost >= 0:
                charges.append(charge)
            elif compiled.shadow:
                refusing[len(rules)] = refused(charge)
            else:  # nothing else is charged, so nothing else is asked
                return Plan([compiled.rule], [], known={0: refused(charge)})
            rules.append(compiled.rule)
        return _new(Plan, (rules, charges, None, refusing, []))

    def _plan_looked_up(
        self, finder: LimitFinder, attributes: Mapping[str, str], matches: list[Match], cost: int,
        timeout: float | None, known: Known,
    ) -> Plan:  # fmt: skip
        rules, charges, refusing, places = list[Rule](), list[Charge](), dict[int, Decision](), list[int]()
        for place, limit, bucket, own_cost in matches:  # if a fixed limit refuses, nothing is looked up
            rule, one = self.rules[place], self.rules[place].limits[limit]
            if one.max_cost < 0 and not rule.shadow and (limit >= 0 or rule.known is None):
                return self._refusing(place, 0, rule.charge_of(one, 0, bucket, own_cost * cost, timeout))
        found = finder.of(matches, lambda rule: rule.key_values(self.seen(attributes)), known)
        for place, limit, bucket, own_cost in matches:
            rule = self.rules[place]
            limits = found[place].limits if place in found else (rule.limits[limit],)
            for number, one in enumerate(limits):
                charge = rule.charge_of(one, number, bucket, own_cost * cost, timeout)
                if one.max_cost >= 0:
                    charges.append(charge)
                elif rule.shadow:
                    refusing[len(rules)] = refused(charge)
                else:
                    return self._refusing(place, number, charge)
                rules.append(rule.rule)
                places.append(number)
        return Plan(rules, charges, None, refusing, places)

    def _refusing(self, place: int, number: int, charge: Charge) -> Plan:
        return Plan([self.rules[place].rule], [], None, {0: refused(charge)}, [number])

    def explain(self, attributes: Mapping[str, str], cost: int = 1, known: Known = NOTHING) -> ExplanationPlan:
        """Return each rule's view of a request, in the file's order; of a rule with several limits, one for each."""
        cost = checked_cost(cost)
        seen = self.seen(attributes)
        if self.exempting(seen) is not None:
            return ExplanationPlan([RuleExplanation(rule, "the request is exempt") for rule in self.policy.rules], [])
        charges: list[Charge] = []
        explanations = []
        limits = self._limits_by_rule(seen, known)
        for place, rule in enumerate(self.rules):
            if (reason := rule.why_not_charged(seen)) is not None:
                explanations.append(RuleExplanation(rule.rule, reason))
                continue
            for number, limit in enumerate(limits[place]):
                own_cost = rule.rule.cost_of(seen)
                charge = rule.charge_of(limit, number, rule.bucket(seen), own_cost * cost, None)
                refusing = refused(charge) if limit.refuses_all else None
                charges += [charge] if refusing is None else []
                explanations.append(
                    RuleExplanation(rule.rule, None, self.bucket_name(rule.rule, rule.keyed(seen)), refusing)
                )
        return ExplanationPlan(explanations, charges)

    def buckets(self, attributes: Mapping[str, str], known: Known = NOTHING) -> Plan:
        """Return a charge of one token, without waiting, for each bucket that a request would be charged to."""
        seen = self.seen(attributes)
        rules, charges, places = list[Rule](), list[Charge](), list[int]()
        limits_by_rule = {} if self.exempting(seen) is not None else self._limits_by_rule(seen, known)
        for place, limits in limits_by_rule.items():
            rule = self.rules[place]
            for number, limit in enumerate(limits):
                rules.append(rule.rule)
                places.append(number)
                charges.append(rule.charge_of_one(limit, number, rule.bucket(seen)))
        return Plan(rules, charges, None, NONE_KNOWN, places)

    def _limits_by_rule(self, seen: Mapping[str, str], known: Known) -> dict[int, tuple[Limit, ...]]:
        """Return the limits of each rule that charges a request, by the rule's place."""
        matches = [
            _new(Match, (place, rule.limit_place(seen), rule.bucket(seen), 1))
            for place, rule in enumerate(self.rules)
            if rule.why_not_charged(seen) is None
        ]
        finder = self._finder
        found = finder.of(matches, lambda rule: rule.key_values(seen), known) if finder is not None else {}
        return {
            place: found[place].limits if place in found else (self.rules[place].limits[limit],)
            for place, limit, _, _ in matches
        }

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

"""CompiledRule: one rule of a policy, as the tests of a request and its charges.

It gets the attributes that `CompiledPolicy.seen` returns: strings only, each in its one spelling. Both classes are
named tuples: the C core (matcher_object.c) reads their fields too, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import chain, product
from typing import NamedTuple

from ratekeeper.decision import Charge, scope_of
from ratekeeper.limits import Limit, wait_ticks
from ratekeeper.policy.entries import EntryIndex, Tests, tests_of
from ratekeeper.policy.hashes import PREFIX
from ratekeeper.policy.lookups.cache import LookupCache
from ratekeeper.policy.model import Rule
from ratekeeper.policy.patterns import PUBLIC, clipped
from ratekeeper.policy.sources import Readings, Source, readings_of
from ratekeeper.policy.spelling import spelled_match

MISSING = ("shared", "skip", "reject")
"""The values of `CompiledRule.missing`: the places here."""

_new = tuple.__new__


def any_reading_fits(tests: Tests, seen: Mapping[str, str]) -> bool:
    """Return whether each test accepts a reading of its attribute. A missing attribute matches nothing."""
    for test in tests:
        value = seen.get(test.name)
        if value is None or not any(map(test.accepts, readings_of(value))):
            return False
    return True


def each_reading_fits(tests: Tests, seen: Mapping[str, str]) -> bool:
    """Return whether each test accepts all readings of its attribute. A missing attribute matches nothing."""
    for test in tests:
        value = seen.get(test.name)
        if value is None or not all(map(test.accepts, readings_of(value))):
            return False
    return True


class Overrides(NamedTuple):
    """The overrides of a rule: finds the one that counts.

    ranks  the place of each override's limit in the order of strictness, and last that of the rule's limit
    """

    entries: EntryIndex
    ranks: tuple[int, ...]
    names: tuple[str, ...]
    slots: tuple[int, ...]

    @classmethod
    def of(cls, rule: Rule, sources: Mapping[str, Source], slots: Mapping[str, int]) -> Overrides | None:
        """Return the overrides of a rule; None if it has none."""
        if not rule.overrides:
            return None
        matches = [spelled_match(override.match, sources, slash_matters=False) for override in rule.overrides]
        names = tuple(sorted(set().union(*matches)))
        limits = limits_of(rule)
        ranks = [0] * len(limits)
        for rank, place in enumerate(sorted(range(len(limits)), key=lambda place: _strictness(limits[place]))):
            ranks[place] = rank
        index = EntryIndex.of(matches, slots, one_reading=True)  # `place` chooses them one by one
        return cls(index, tuple(ranks), names, tuple(slots[name] for name in names))

    def place(self, seen: Mapping[str, str]) -> int:
        """Return the place of the first override that matches, -1 if none does; of several readings the strictest."""
        several: dict[str, list[str]] = {}  # the attribute, its digest, or both: they take the same reading
        for name in self.names:
            if isinstance(seen.get(name), Readings):
                several.setdefault(name.removeprefix(PREFIX), []).append(name)
        if not several:
            return self._first(seen)
        readings = [zip(*(readings_of(seen[name]) for name in names), strict=True) for names in several.values()]
        names = list(chain(*several.values()))
        choices = (dict(zip(names, chain(*choice), strict=True)) for choice in product(*readings))
        return min((self._first({**seen, **choice}) for choice in choices), key=lambda place: self.ranks[place])

    def _first(self, seen: Mapping[str, str]) -> int:
        for place in self.entries.candidates(seen):
            if any_reading_fits(self.entries.tests[place], seen):
                return place
        return -1


def _strictness(limit: Limit) -> tuple[Fraction, int, bool]:
    return limit.rate, limit.capacity, not (limit.queues or limit.denies)


def limits_of(rule: Rule) -> tuple[Limit, ...]:
    """Return the limits of a rule's overrides, and last its own: at the place -1."""
    return (*(override.limit for override in rule.overrides), rule.limit)


class CompiledRule(NamedTuple):
    """A rule, ready for requests.

    slots    the places of its key's attributes
    missing  the place in `MISSING`; a rule in shadow refuses no request, so "reject" is "skip" there
    limits   the limits of its overrides, and last its own
    cost     the tokens that a request takes, or the slot of the attribute with their number
    fixed    whether `cost` is the tokens
    wait     the ticks that a request may wait when it is asked without waiting: in shadow, the rule's own
    known    the limits that were looked up for the rule's buckets, in place of `limits[-1]`; None if it is fixed
    usual    the charges of usual requests but for their keys, by place of the limit and timeout: made when first asked
    """

    name: str
    message: str | None
    scope: str
    tests: Tests
    slots: tuple[int, ...]
    missing: int
    overrides: Overrides | None
    limits: tuple[Limit, ...]
    cost: int
    fixed: bool
    cost_of: Callable[[str], int]
    shadow: bool
    wait: int
    known: LookupCache | None
    rule: Rule
    usual: dict[tuple[int, float | None], tuple[object, ...]]

    @classmethod
    def of(
        cls, rule: Rule, sources: Mapping[str, Source], slots: Mapping[str, int], known: LookupCache | None
    ) -> CompiledRule:
        """Compile a rule. `slots` are the places of the policy's attributes."""
        return cls(
            name=rule.name,
            message=rule.message,
            scope=scope_of(rule.name),
            tests=tests_of(spelled_match(rule.match, sources, slash_matters=False), slots),
            slots=tuple(slots[name] for name in rule.key),
            missing=MISSING.index("skip" if rule.shadow and rule.missing == "reject" else rule.missing),
            overrides=Overrides.of(rule, sources, slots),
            limits=limits_of(rule),
            cost=rule.cost if isinstance(rule.cost, int) else slots[rule.cost],
            fixed=isinstance(rule.cost, int),
            cost_of=lambda value: rule.cost_of({str(rule.cost): value}),
            shadow=rule.shadow,
            wait=wait_ticks(rule.max_wait) if rule.shadow else 0,
            known=known,
            rule=rule,
            usual={},
        )

    @property
    def refuses_without_key(self) -> bool:
        """Whether a request is refused if it lacks an attribute of the key."""
        return MISSING[self.missing] == "reject"

    def matches(self, seen: Mapping[str, str]) -> bool:
        """Return whether the rule is for a request."""
        return not self.tests or any_reading_fits(self.tests, seen)

    def bucket(self, seen: Mapping[str, str]) -> str:
        """Return the key of the bucket of a request that the rule is for."""
        return self.rule.bucket(self.keyed(seen))

    def keyed(self, seen: Mapping[str, str]) -> Mapping[str, str]:
        """Return a request's attributes as the key takes them: of several readings, the first that the rule is for.

        So another reading, which the client chooses, names no other bucket.
        """
        chosen: dict[str, str] = {}
        for test in self.tests:
            tested = seen.get(test.name)
            if isinstance(tested, Readings):
                name = test.name.removeprefix(PREFIX)  # a digest has the readings of its value, in their order
                pairs = zip(readings_of(seen[name]), tested.all, strict=True)
                chosen[name] = next(reading for reading, one in pairs if test.accepts(one))
        return {**seen, **chosen} if chosen else seen

    def key_values(self, seen: Mapping[str, str]) -> tuple[str | None, ...]:
        """Return the values of the key of a request that the rule is for, as its bucket has them."""
        return tuple(map(self.keyed(seen).get, self.rule.key))

    def lacking(self, seen: Mapping[str, str]) -> str | None:
        """Return the first missing attribute of the key that keeps the rule from charging a request, or None."""
        if MISSING[self.missing] != "shared":
            for name in self.rule.key:
                if name not in seen:
                    return name
        return None

    def why_not_charged(self, seen: Mapping[str, str]) -> str | None:
        """Return why a request is not charged, without any secret; None if it is."""
        for test in self.tests:
            name = test.name
            if name not in seen:
                return f"no {name.removeprefix(PREFIX)}"
            if not any_reading_fits((test,), seen):
                if name not in PUBLIC:
                    return f"{name.removeprefix(PREFIX)} does not match"
                return f"{name} is {clipped(seen[name])}, not {' or '.join(map(repr, self.rule.match[name]))}"
        if (missing := self.lacking(seen)) is not None:
            return f"{'refused' if self.refuses_without_key else 'skipped'}: the request has no {missing}"
        return None

    def limit_place(self, seen: Mapping[str, str]) -> int:
        """Return the place in `limits` of the first override that matches, or else -1: the rule's own.

        If readings lead to different limits, the strictest counts: the one with the lowest rate, or else capacity, or
        else a leaky bucket.
        """
        return -1 if self.overrides is None else self.overrides.place(seen)

    def charge(self, seen: Mapping[str, str], cost: int, timeout: float | None = None) -> Charge:
        """Return the charge of a request that takes `cost` times the rule's own. See `charge_at`."""
        return self.charge_at(self.limit_place(seen), self.bucket(seen), self.rule.cost_of(seen), cost, timeout)

    def charge_at(self, place: int, key: str, own_cost: int, cost: int, timeout: float | None) -> Charge:
        """Return the charge of `own_cost * cost` tokens on a bucket with the limit at `place`.

        The request may wait as long as both the rule and the caller (`timeout`) allow. For a rule in shadow no request
        waits: every verb asks it with its own `max_wait`, so that it reports the decision of its queue.
        """
        if not self.fixed or cost.__class__ is not int or cost != 1 or timeout not in (0, None):
            return self.charge_of(self.limits[place], 0, key, own_cost * cost, timeout)
        rest = self.usual.get((place, timeout))
        if rest is None:
            rest = self.usual[place, timeout] = self.charge_of(self.limits[place], 0, key, own_cost, timeout)[2:]
        return _new(Charge, (self.scope, key, *rest))

    def charge_of(self, limit: Limit, place: int, key: str, cost: int, timeout: float | None) -> Charge:
        """Return the charge of `cost` tokens on a bucket, by the limit at `place` of several that were looked up."""
        rule = self.rule
        allowed = (rule.max_wait,) if rule.shadow else (rule.max_wait, timeout)
        waits = [wait for wait in allowed if wait is not None]
        scope = scope_of(rule.name, place) if place else self.scope
        return Charge.of(scope, key, limit, cost, min(waits, default=None), rule.shadow, rule.on_error)

    def charge_of_one(self, limit: Limit, place: int, key: str) -> Charge:
        """Return the charge of one token, without waiting."""
        return Charge.of(scope_of(self.rule.name, place), key, limit, 1, 0, self.shadow)

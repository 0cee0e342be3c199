"""CompiledRule: one rule of a policy, as the tests of a request and its charges.

It gets the attributes that `CompiledPolicy.seen` returns: strings only, each in its one spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import product
from typing import TypeAlias

from ratekeeper.decision import Charge, scope_of
from ratekeeper.limits import Limit
from ratekeeper.policy.model import Override, Rule
from ratekeeper.policy.patterns import PUBLIC, Accepts, EntryIndex, Globs, accepts, clipped
from ratekeeper.policy.sources import Readings, Source, readings_of
from ratekeeper.policy.spelling import spelled_match

Tests: TypeAlias = tuple[tuple[str, Accepts], ...]
"""The attributes that must match, each with the test of its value."""

_new = tuple.__new__


def tests_of(match: Globs) -> Tests:
    """Return the tests of a rule, an override or an exemption."""
    return tuple((name, accepts(globs)) for name, globs in match.items())


def any_reading_fits(tests: Tests, seen: Mapping[str, str]) -> bool:
    """Return whether each test accepts a reading of its attribute. A missing attribute matches nothing."""
    for name, accept in tests:
        value = seen.get(name)
        if value is None or not (accept(value) or (isinstance(value, Readings) and any(map(accept, value.all)))):
            return False
    return True


def each_reading_fits(tests: Tests, seen: Mapping[str, str]) -> bool:
    """Return whether each test accepts all readings of its attribute. A missing attribute matches nothing."""
    for name, accept in tests:
        value = seen.get(name)
        if value is None or not all(map(accept, readings_of(value))):
            return False
    return True


class CompiledRule:
    """A rule, ready for requests. Immutable. `refuses_without_key` says what `lacking` means for the request."""

    __slots__ = ("_at_once", "_overrides", "_scope", "_tests", "_usual", "refuses_without_key", "rule")

    def __init__(self, rule: Rule, sources: Mapping[str, Source]) -> None:
        self.rule = rule
        self.refuses_without_key = rule.missing == "reject" and not rule.shadow
        self._scope = scope_of(rule.name)
        self._tests = tests_of(spelled_match(rule.match, sources, slash_matters=False))
        self._overrides = _Overrides(rule.overrides, sources) if rule.overrides else None
        # All of a usual request's charge but its key, for each override and, last, for the rule itself.
        limits = (*(override.limit for override in rule.overrides), rule.limit)
        alike = isinstance(rule.cost, int)
        self._at_once, self._usual = (
            tuple(self._charge("", limit, rule.cost_of({}), timeout)[2:] for limit in limits) if alike else None
            for timeout in (0, None)
        )

    def matches(self, seen: Mapping[str, str]) -> bool:
        """Return whether the rule is for a request."""
        return not self._tests or any_reading_fits(self._tests, seen)

    def lacking(self, seen: Mapping[str, str]) -> str | None:
        """Return the first missing attribute of the key that keeps the rule from charging a request, or None."""
        if self.rule.missing != "shared":
            for name in self.rule.key:
                if name not in seen:
                    return name
        return None

    def why_not_charged(self, seen: Mapping[str, str]) -> str | None:
        """Return why a request is not charged, without any secret; None if it is."""
        for test in self._tests:
            name, _ = test
            if name not in seen:
                return f"no {name}"
            if not any_reading_fits((test,), seen):
                if name not in PUBLIC:
                    return f"{name} does not match"
                return f"{name} is {clipped(seen[name])}, not {' or '.join(map(repr, self.rule.match[name]))}"
        if (missing := self.lacking(seen)) is not None:
            return f"{'refused' if self.refuses_without_key else 'skipped'}: the request has no {missing}"
        return None

    def limit_for(self, seen: Mapping[str, str]) -> Limit:
        """Return the limit of the first override that matches, or else the rule's own.

        If readings lead to different limits, the strictest counts: the one with the lowest rate, or else capacity.
        """
        place = self._override(seen)
        return self.rule.limit if place < 0 else self.rule.overrides[place].limit

    def charge(self, seen: Mapping[str, str], cost: int, timeout: float | None = None) -> Charge:
        """Return the charge of a request that takes `cost` times the rule's own.

        The request may wait as long as both the rule and the caller (`timeout`) allow. For a rule in shadow no request
        waits: every verb asks it with its own `max_wait`, so that it reports the decision of its queue.
        """
        key = self.rule.bucket(seen)
        usual = self._at_once if timeout == 0 else self._usual if timeout is None else None
        if usual is not None and cost.__class__ is int and cost == 1:
            return _new(Charge, (self._scope, key, *usual[self._override(seen)]))
        return self._charge(key, self.limit_for(seen), self.rule.cost_of(seen) * cost, timeout)

    def charge_of_one(self, seen: Mapping[str, str]) -> Charge:
        """Return the charge of one token, without waiting."""
        return Charge.of(self._scope, self.rule.bucket(seen), self.limit_for(seen), 1, 0, self.rule.shadow)

    def _override(self, seen: Mapping[str, str]) -> int:
        """Return the place of the override that counts, -1 if none does."""
        if self._overrides is None:
            return -1
        places = self._overrides.places(seen)
        return min(places, key=self._strictness) if len(places) > 1 else places[0]

    def _strictness(self, place: int) -> tuple[Fraction, int]:
        limit = self.rule.limit if place < 0 else self.rule.overrides[place].limit
        return limit.rate, limit.capacity

    def _charge(self, key: str, limit: Limit, cost: int, timeout: float | None) -> Charge:
        rule = self.rule
        allowed = (rule.max_wait,) if rule.shadow else (rule.max_wait, timeout)
        waits = [wait for wait in allowed if wait is not None]
        return Charge.of(self._scope, key, limit, cost, min(waits, default=None), rule.shadow, rule.on_error)


class _Overrides:
    """The overrides of a rule: which of them is the first that matches."""

    __slots__ = ("_index", "_names", "_tests")

    def __init__(self, overrides: tuple[Override, ...], sources: Mapping[str, Source]) -> None:
        matches = [spelled_match(override.match, sources, slash_matters=False) for override in overrides]
        self._tests = tuple(map(tests_of, matches))
        self._index = EntryIndex(matches)
        self._names = tuple(sorted(set().union(*matches)))

    def places(self, seen: Mapping[str, str]) -> list[int]:
        """Return the place of the override that counts, -1 if none does; of several readings, a place for each."""
        several = [name for name in self._names if isinstance(seen.get(name), Readings)]
        if not several:
            return [self._first(seen)]
        choices = product(*(readings_of(seen[name]) for name in several))
        return [self._first({**seen, **dict(zip(several, choice, strict=True))}) for choice in choices]

    def _first(self, seen: Mapping[str, str]) -> int:
        for place in self._index.candidates(seen):
            if any_reading_fits(self._tests[place], seen):
                return place
        return -1

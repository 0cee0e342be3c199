"""EntryIndex: finds the few overrides or exemptions that a request may match, however many there are.

It is a named tuple: the C core (patterns.c) reads it too, field by field in this order. This module knows no rule and
no limit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import NamedTuple, TypeAlias

from ratekeeper.policy.patterns import Globs, Kind, Pattern, Places, Test, ValueIndex, with_places

_MOST_COMBINATIONS = 64
"""The limit on combinations of exact values that are listed for one entry. With more, one attribute finds the entry."""

Tests: TypeAlias = tuple[Test, ...]
"""The tests of a request, of which each must succeed. Each is of another attribute."""


def tests_of(match: Globs, slots: Mapping[str, int]) -> Tests:
    """Return the tests of a rule, an override or an exemption. Each attribute has a slot."""
    return tuple(Test.of(globs, name, slots[name]) for name, globs in match.items())


class EntryIndex(NamedTuple):
    """Finds the few entries, overrides or exemptions, that a request may match. The caller tests them.

    always   the entries that nothing finds
    tables   attributes and their slots, and the entries by their exact values: a tuple, or one value of one attribute
    lookups  an attribute, its slot, and the entries by its value
    tests    the tests of each entry
    """

    always: Places
    tables: tuple[tuple[tuple[str, ...], Places, Mapping[str | tuple[str, ...], Places]], ...]
    lookups: tuple[tuple[str, int, ValueIndex], ...]
    tests: tuple[Tests, ...]

    @classmethod
    def of(cls, entries: Sequence[Globs], slots: Mapping[str, int], one_reading: bool) -> EntryIndex:
        """Return the index of entries. Each attribute has a slot.

        If each attribute has `one_reading`, an entry that is found by all of its patterns needs no test.
        """
        each = [{name: tuple(map(Pattern.of, globs)) for name, globs in entry.items()} for entry in entries]
        uses = Counter((name, one) for entry in each for name, patterns in entry.items() for one in patterns)
        always: list[int] = []
        tables: dict[tuple[str, ...], defaultdict[str | tuple[str, ...], list[int]]] = {}
        lookups: defaultdict[str, list[tuple[Pattern, int]]] = defaultdict(list)
        tests: list[Tests] = []
        for place, entry in enumerate(each):
            listed = _is_listed(entry)
            exactly = len(entry) == 1 and all(one.is_found for patterns in entry.values() for one in patterns)
            known = one_reading and (listed or exactly)
            tests.append(() if known else tests_of(entries[place], slots))
            if listed:
                names = tuple(sorted(entry))
                table = tables.setdefault(names, defaultdict(list))
                for values in product(*({pattern.text for pattern in entry[name]} for name in names)):
                    table[_key(values)].append(place)
            elif (name := _finding(entry, uses)) is not None:
                lookups[name] += [(pattern, place) for pattern in entry[name]]
            else:
                always.append(place)
        return cls(
            tuple(always),
            tuple((names, tuple(slots[name] for name in names), with_places(table)) for names, table in tables.items()),
            tuple((name, slots[name], ValueIndex.of(patterns)) for name, patterns in lookups.items()),
            tuple(tests),
        )

    def candidates(self, attributes: Mapping[str, str]) -> list[int]:
        """Return the places of the entries that may match, in order."""
        found = [*self.always]
        for names, _, table in self.tables:
            values = tuple(attributes[name] for name in names if name in attributes)
            if len(values) == len(names):
                found += table.get(_key(values), ())
        for name, _, index in self.lookups:
            if (value := attributes.get(name)) is not None:
                found += index.find(value)
        found.sort()
        return found


def _key(values: tuple[str, ...]) -> str | tuple[str, ...]:
    return values if len(values) > 1 else next(iter(values))


def _is_listed(entry: Mapping[str, tuple[Pattern, ...]]) -> bool:
    """Return whether an entry has exact values only, and few enough combinations to list them all."""
    exact = all(pattern.kind is Kind.EXACT for patterns in entry.values() for pattern in patterns)
    return exact and bool(entry) and (len(entry) == 1 or prod(map(len, entry.values())) <= _MOST_COMBINATIONS)


def _finding(entry: Mapping[str, tuple[Pattern, ...]], uses: Counter[tuple[str, Pattern]]) -> str | None:
    """Return the attribute with the patterns that the fewest entries share; None if nothing finds the entry."""

    def shared(name: str) -> int:
        return max(uses[name, one] if _has_end(one) else len(uses) + 1 for one in entry[name])

    name = min(entry, key=shared, default=None)
    return name if name is not None and all(map(_has_end, entry[name])) else None


def _has_end(pattern: Pattern) -> bool:
    return bool(pattern.head or pattern.tail)

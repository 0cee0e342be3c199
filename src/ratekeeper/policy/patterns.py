"""Patterns: globs and networks, and the tests and look-ups that they are compiled to.

The time of a request does not grow with the number of patterns: exact values are in a set, prefixes and suffixes in a
set for each length, networks in a set for each prefix length. A regular expression is used for other globs only. This
module knows no rule and no limit. Most attributes are secrets (an API key): only those in `PUBLIC` are ever shown.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import product
from math import prod
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from ratekeeper.errors import PolicyError
from ratekeeper.policy.addresses import Bits, bits_of, network_of

Globs: TypeAlias = Mapping[str, tuple[str, ...]]
"""The patterns of each attribute, of which one must match: `*` is any run of characters, `/` too, `?` any one. A
network, such as 10.0.0.0/8, matches the addresses in it."""

Accepts: TypeAlias = Callable[[str], bool]
"""A function that returns whether a value matches."""

PUBLIC = frozenset({"tier", "path", "method", "route", "endpoint"})
"""The attributes whose values may be shown."""

T = TypeVar("T")

_WILDCARD = re.compile(r"[*?]")
_MOST_COMBINATIONS = 64
"""The limit on combinations of exact values that are listed for one entry. With more, one attribute finds the entry."""


class Kind(Enum):
    """The kinds of patterns, the most selective first."""

    EXACT = "exact"
    NETWORK = "network"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    GLOB = "glob"
    ANY = "any"


class Pattern(NamedTuple):
    """A pattern and its parts: `head` is the literal text before the first wildcard, `tail` that after the last."""

    kind: Kind
    text: str
    head: str
    tail: str

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Read a pattern."""
        first = _WILDCARD.search(text)
        if first is None:
            return cls(Kind.EXACT if network_of(text) is None else Kind.NETWORK, text, text, text)
        head, middle = text[: first.start()], text[first.start() :]
        tail = re.split(_WILDCARD, middle)[-1]
        if set(middle.removesuffix(tail)) != {"*"} or (head and tail):
            return cls(Kind.GLOB, text, head, tail)
        kind = Kind.PREFIX if head else Kind.SUFFIX if tail else Kind.ANY
        return cls(kind, text, head, tail)


class _Lookup(Generic[T]):
    """A map from a value to the items under the patterns that it may match. A glob is judged by its literal ends."""

    __slots__ = ("_exact", "_heads", "_networks", "_tails")

    def __init__(self) -> None:
        self._exact: dict[str, list[T]] = {}
        self._heads: dict[int, dict[str, list[T]]] = {}
        self._tails: dict[int, dict[str, list[T]]] = {}
        self._networks: dict[tuple[int, int], dict[int, list[T]]] = {}

    def put(self, pattern: Pattern, thing: T) -> bool:
        """Put an item under a pattern. Return false if the pattern has no literal end to look up."""
        if pattern.kind is Kind.EXACT:
            self._exact.setdefault(pattern.text, []).append(thing)
        elif pattern.kind is Kind.NETWORK:
            network = _bits(pattern)
            table = self._networks.setdefault((network.version, network.prefix), {})
            table.setdefault(_start(network, network.prefix), []).append(thing)
        elif pattern.head:
            self._heads.setdefault(len(pattern.head), {}).setdefault(pattern.head, []).append(thing)
        elif pattern.tail:
            self._tails.setdefault(len(pattern.tail), {}).setdefault(pattern.tail, []).append(thing)
        else:
            return False
        return True

    def find(self, value: str) -> list[T]:
        """Return the items under the patterns that a value may match."""
        found = [*self._exact.get(value, ())]
        for length, heads in self._heads.items():
            found += heads.get(value[:length], ())
        for length, tails in self._tails.items():
            found += tails.get(value[-length:], ())
        if self._networks and (bits := bits_of(value)) is not None:
            for (version, prefix), starts in self._networks.items():
                if version == bits.version and prefix <= bits.prefix:
                    found += starts.get(_start(bits, prefix), ())
        return found


def _bits(pattern: Pattern) -> Bits:
    network = network_of(pattern.text)
    assert network is not None
    return Bits(network.version, int(network.network_address), network.prefixlen)


def _start(bits: Bits, prefix: int) -> int:
    """Return the first bits of an address."""
    return bits.number >> ((32 if bits.version == 4 else 128) - prefix)


def accepts(patterns: Iterable[str]) -> Accepts:
    """Return the test of the values that match one of the patterns."""
    by_kind: defaultdict[Kind, list[Pattern]] = defaultdict(list)
    for text in patterns:
        pattern = Pattern.of(text)
        by_kind[pattern.kind].append(pattern)
    if Kind.ANY in by_kind:
        return lambda value: True
    tests: list[Accepts] = []
    if Kind.EXACT in by_kind:
        tests.append(frozenset(pattern.text for pattern in by_kind[Kind.EXACT]).__contains__)
    if Kind.PREFIX in by_kind:
        tests.append(_begins({pattern.head for pattern in by_kind[Kind.PREFIX]}))
    if Kind.SUFFIX in by_kind:
        tests.append(_ends({pattern.tail for pattern in by_kind[Kind.SUFFIX]}))
    if Kind.NETWORK in by_kind:
        tests.append(_is_in(by_kind[Kind.NETWORK]))
    if Kind.GLOB in by_kind:
        tests.append(_fits(by_kind[Kind.GLOB]))
    return tests[0] if len(tests) == 1 else _one_of(tuple(tests))  # of no pattern: none of them


def _one_of(tests: tuple[Accepts, ...]) -> Accepts:
    def accepts(value: str) -> bool:
        for test in tests:  # noqa: SIM110  a generator for `any` costs more than the tests
            if test(value):
                return True
        return False

    return accepts


def _begins(heads: set[str]) -> Accepts:
    if len(heads) == 1:
        (head,) = heads
        return lambda value: value.startswith(head)
    by_length = _by_length(heads)
    return lambda value: any(value[:length] in same for length, same in by_length)


def _ends(tails: set[str]) -> Accepts:
    by_length = _by_length(tails)
    return lambda value: any(value[-length:] in same for length, same in by_length)


def _by_length(texts: set[str]) -> tuple[tuple[int, frozenset[str]], ...]:
    lengths = sorted({len(text) for text in texts})
    return tuple((length, frozenset(text for text in texts if len(text) == length)) for length in lengths)


def _is_in(networks: Iterable[Pattern]) -> Accepts:
    lookup = _Lookup[bool]()
    for network in networks:
        lookup.put(network, True)
    return lambda value: bool(lookup.find(value))


def _fits(globs: Iterable[Pattern]) -> Accepts:
    # `translate` would take [...] for a set of characters; here brackets are literal. Its result does not backtrack
    # into a `*` once passed, so no request can be made slow to match.
    match = re.compile("|".join(fnmatch.translate(glob.text.replace("[", "[[]")) for glob in globs)).match
    return lambda value: match(value) is not None


class EntryIndex:
    """Finds the few entries, overrides or exemptions, that a request may match. The caller tests them."""

    __slots__ = ("_always", "_by_attribute", "_by_values")

    def __init__(self, entries: Sequence[Globs]) -> None:
        each = [{name: tuple(map(Pattern.of, globs)) for name, globs in entry.items()} for entry in entries]
        uses = Counter((name, one) for entry in each for name, patterns in entry.items() for one in patterns)
        self._always: list[int] = []
        self._by_values: dict[tuple[str, ...], dict[tuple[str | None, ...], list[int]]] = {}
        self._by_attribute: dict[str, _Lookup[int]] = {}
        for place, entry in enumerate(each):
            if _is_listed(entry):
                names = tuple(sorted(entry))
                table = self._by_values.setdefault(names, {})
                for values in product(*({pattern.text for pattern in entry[name]} for name in names)):
                    table.setdefault(values, []).append(place)
            else:
                self._put(place, entry, uses)

    def _put(self, place: int, entry: Mapping[str, tuple[Pattern, ...]], uses: Counter[tuple[str, Pattern]]) -> None:
        """Index an entry by the attribute with the patterns that the fewest entries share."""

        def shared(name: str) -> int:
            return max(uses[name, one] if _has_end(one) else len(uses) + 1 for one in entry[name])

        name = min(entry, key=shared)
        if all(_has_end(pattern) for pattern in entry[name]):
            lookup = self._by_attribute.setdefault(name, _Lookup())
            for pattern in entry[name]:
                lookup.put(pattern, place)
        else:
            self._always.append(place)

    def candidates(self, attributes: Mapping[str, str]) -> list[int]:
        """Return the places of the entries that may match, in order."""
        found = self._always.copy()
        for names, table in self._by_values.items():
            found += table.get(tuple(map(attributes.get, names)), ())
        for name, lookup in self._by_attribute.items():
            value = attributes.get(name)
            if value is not None:
                found += lookup.find(value)
        found.sort()
        return found


def _is_listed(entry: Mapping[str, tuple[Pattern, ...]]) -> bool:
    """Return whether an entry has exact values only, and few enough combinations to list them all."""
    exact = all(pattern.kind is Kind.EXACT for patterns in entry.values() for pattern in patterns)
    return exact and (len(entry) == 1 or prod(map(len, entry.values())) <= _MOST_COMBINATIONS)


def _has_end(pattern: Pattern) -> bool:
    return bool(pattern.head or pattern.tail)


def checked_globs(match: Globs) -> None:
    """Raise `PolicyError` unless each attribute has a tuple of patterns."""
    for name, globs in match.items():
        if not isinstance(globs, tuple) or not globs or not all(isinstance(glob, str) and glob for glob in globs):
            # A bare str would match letter by letter, that is never: the rule would silently limit nothing.
            raise PolicyError(f"match on {name!r}: the patterns must be a tuple of strings, at least one, none empty")


def clipped(text: str, most: int = 80) -> str:
    """Quote a string, cut short if it is longer than `most`."""
    return repr(text if len(text) <= most else text[:most] + "...")

"""Patterns: globs and networks, and the tests and look-ups that they are compiled to.

The time of a request does not grow with the number of patterns: exact values are in a dictionary, prefixes and suffixes
in one for each length, networks in a sorted list. A regular expression is used for other globs only. The results are
named tuples: the C core (patterns.c) reads them too, field by field in this order. This module knows no rule and no
limit. Most attributes are secrets (an API key): only those in `PUBLIC` are ever shown.
"""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Mapping
from enum import Enum
from typing import NamedTuple, TypeAlias, TypeVar

from ratekeeper.errors import PolicyError
from ratekeeper.policy.addresses import Bits, key_and_prefix, network_of
from ratekeeper.policy.hashes import digest_in, digest_of

Globs: TypeAlias = Mapping[str, tuple[str, ...]]
"""The patterns of each attribute, of which one must match: `*` is any run of characters, `/` too, `?` any one. A
network, such as 10.0.0.0/8, matches the addresses in it."""

PUBLIC = frozenset({"tier", "path", "method", "route", "endpoint"})
"""The attributes whose values may be shown."""

K = TypeVar("K", bound=Hashable)

_WILDCARD = re.compile(r"[*?]")


class Kind(Enum):
    """The kinds of patterns, the most selective first."""

    EXACT = "exact"
    NETWORK = "network"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    GLOB = "glob"
    HASH = "hash"
    ANY = "any"


class Pattern(NamedTuple):
    """A pattern and its parts: `head` is the literal text before the first wildcard, `tail` that after the last."""

    kind: Kind
    text: str
    head: str
    tail: str

    @property
    def is_found(self) -> bool:
        """Whether an index finds a pattern's values and no others."""
        return self.kind not in (Kind.GLOB, Kind.HASH, Kind.ANY)

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Read a pattern."""
        if digest_in(text) is not None:
            return cls(Kind.HASH, text, "", "")
        first = _WILDCARD.search(text)
        if first is None:
            return cls(Kind.EXACT if network_of(text) is None else Kind.NETWORK, text, text, text)
        head, middle = text[: first.start()], text[first.start() :]
        tail = re.split(_WILDCARD, middle)[-1]
        if set(middle.removesuffix(tail)) != {"*"} or (head and tail):
            return cls(Kind.GLOB, text, head, tail)
        kind = Kind.PREFIX if head else Kind.SUFFIX if tail else Kind.ANY
        return cls(kind, text, head, tail)


Places: TypeAlias = tuple[int, ...]
"""The numbers of the entries under one pattern."""

Literals: TypeAlias = tuple[tuple[int, Mapping[str, Places]], ...]
"""Prefixes or suffixes, by their length."""


class Networks(NamedTuple):
    """From an address to the networks that it is in, by one binary search. Networks are nested or disjoint.

    starts   the key of the first address of each span of addresses that are in the same networks, in order
    spans    the networks of each span, as pairs of prefix and places
    key_of   returns the key and the prefix of a value, None if it is not an address
    joined   all of `starts`: the C core searches in memory that lies together
    """

    starts: tuple[bytes, ...]
    spans: tuple[tuple[tuple[int, Places], ...], ...]
    key_of: Callable[[str], tuple[bytes, int] | None]
    joined: bytes

    @classmethod
    def of(cls, places: Mapping[Bits, Places]) -> Networks | None:
        """Return the networks, or None if there are none."""
        spans: dict[bytes, tuple[Bits, ...]] = {}
        around: list[Bits] = []
        for network in [*sorted(places), None]:
            while around and (network is None or not around[-1].holds(network)):
                after = around.pop().after()
                if after is not None:
                    spans[after] = tuple(around)
            if network is not None:
                around.append(network)
                spans[network.key()] = tuple(around)
        order = sorted(spans)
        own = tuple(tuple((network.prefix, places[network]) for network in spans[start]) for start in order)
        return cls(tuple(order), own, key_and_prefix, b"".join(order)) if places else None

    def find(self, value: str) -> list[int]:
        """Return the places of the networks that hold an address, or all of a client's network."""
        found = self.key_of(value)
        if found is None:
            return []
        key, known = found
        place = bisect_right(self.starts, key) - 1
        span = self.spans[place] if place >= 0 else ()
        return [one for prefix, places in span if prefix <= known for one in places]


class ValueIndex(NamedTuple):
    """From a value to the places of the patterns that it may match. A glob is judged by its literal ends."""

    exact: Mapping[str, Places]
    heads: Literals
    tails: Literals
    networks: Networks | None

    @classmethod
    def of(cls, patterns: Iterable[tuple[Pattern, int]]) -> ValueIndex:
        """Return the index of patterns, each with its place. Each pattern must have a literal end."""
        exact: defaultdict[str, list[int]] = defaultdict(list)
        heads: defaultdict[str, list[int]] = defaultdict(list)
        tails: defaultdict[str, list[int]] = defaultdict(list)
        networks: defaultdict[Bits, list[int]] = defaultdict(list)
        for pattern, place in patterns:
            if pattern.kind is Kind.EXACT:
                exact[pattern.text].append(place)
            elif pattern.kind is Kind.NETWORK:
                networks[_bits(pattern)].append(place)
            elif pattern.head:
                heads[pattern.head].append(place)
            else:
                tails[pattern.tail].append(place)
        return cls(with_places(exact), _by_length(heads), _by_length(tails), Networks.of(with_places(networks)))

    def find(self, value: str) -> list[int]:
        """Return the places of the patterns that a value may match."""
        found = [*self.exact.get(value, ())]
        for length, heads in self.heads:
            found += heads.get(value[:length], ())
        for length, tails in self.tails:
            found += tails.get(value[-length:], ())
        if self.networks is not None:
            found += self.networks.find(value)
        return found


def with_places(places: Mapping[K, Iterable[int]]) -> dict[K, Places]:
    """Return a map to places that no longer changes."""
    return {key: tuple(found) for key, found in places.items()}


def _by_length(literals: Mapping[str, Iterable[int]]) -> Literals:
    lengths = sorted(set(map(len, literals)))
    return tuple((length, {one: tuple(literals[one]) for one in literals if len(one) == length}) for length in lengths)


def _bits(pattern: Pattern) -> Bits:
    network = network_of(pattern.text)
    assert network is not None
    return Bits(network.version, int(network.network_address), network.prefixlen)


class Test(NamedTuple):
    """The test of one attribute: does its value match a pattern?

    name    the attribute, and `slot` its place among the attributes of a policy
    always  whether each value matches
    known   the patterns that are not globs
    glob    the match of the globs, a regular expression, and of hashes beside them; None if there are none
    """

    name: str
    slot: int
    always: bool
    known: ValueIndex
    glob: Callable[[str], object] | None

    @classmethod
    def of(cls, patterns: Iterable[str], name: str = "", slot: int = 0) -> Test:
        """Return the test of the values that match one of the patterns."""
        each = [Pattern.of(text) for text in patterns]
        known = ValueIndex.of([(one, 0) for one in each if one.is_found])
        globs = [one for one in each if one.kind is Kind.GLOB]
        glob = _regex_match(globs) if globs else None
        digests = frozenset([digest_in(one.text) for one in each if one.kind is Kind.HASH])
        glob = _hash_or(digests, glob) if digests else glob
        return cls(name, slot, any(one.kind is Kind.ANY for one in each), known, glob)

    def accepts(self, value: str) -> bool:
        """Return whether a value matches."""
        return self.always or bool(self.known.find(value)) or (self.glob is not None and self.glob(value) is not None)


def _regex_match(globs: Iterable[Pattern]) -> Callable[[str], object]:
    # `translate` would take [...] for a set of characters; here brackets are literal. Its result does not backtrack
    # into a `*` once passed, so no request can be made slow to match.
    return re.compile("|".join(fnmatch.translate(glob.text.replace("[", "[[]")) for glob in globs)).match


def _hash_or(digests: Container[str | None], glob: Callable[[str], object] | None) -> Callable[[str], object]:
    """Return a function that returns whether a value's digest or a glob matches: None if neither does.

    Lists of exact values and hashes do not need it: see `spelled_match`.
    """
    return lambda value: True if digest_of(value) in digests else glob(value) if glob is not None else None


def accepts(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that returns whether a value matches one of the patterns."""
    return Test.of(patterns).accepts


def checked_globs(match: Globs) -> None:
    """Raise `PolicyError` unless each attribute has a tuple of patterns."""
    for name, globs in match.items():
        if not isinstance(globs, tuple) or not globs or not all(isinstance(glob, str) and glob for glob in globs):
            # A bare str would match letter by letter, that is never: the rule would silently limit nothing.
            raise PolicyError(f"match on {name!r}: the patterns must be a tuple of strings, at least one, none empty")


def clipped(text: str, most: int = 80) -> str:
    """Quote a string, cut short if it is longer than `most`."""
    return repr(text if len(text) <= most else text[:most] + "...")

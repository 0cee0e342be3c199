"""HeavyHitters: the keys that are refused most, by rule, in bounded memory. Knows no page, no clock and no protocol.

It is Space-Saving (Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements", 2005): a
key without a place takes that of the key with the fewest refusals, and goes on from its count. So a count is at most
`error` too high and never too low, and a key with more refusals than `floor` has a place. An attacker who invents keys
raises the floor, and no memory.

Only refusals are counted, in the process that decided them. `published` is what a process tells the others, each
second, and `merged` is the sum over all processes. Both have real keys: people see them only as `hashed` says.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from hashlib import blake2b
from heapq import heappop, heappush, nlargest
from typing import Any, NamedTuple, TypeAlias

from ratekeeper.http.exchange import Exchange
from ratekeeper.policy.decision import PolicyDecision

PLACES = 1024
"""The keys that a sketch keeps. Of n refusals, each count is at most n / PLACES too high."""

MOST_CHARACTERS = 64
"""The characters of a value that are kept. A longer one is cut, and has a digest in place of the rest."""

_MOST_TALLIES = 256

PUBLISHED = 100
"""The keys that a process tells the others."""

PUBLISHED_BYTES = 48_000
"""The size of them as JSON: fewer are told if their values are long."""

Values: TypeAlias = tuple[str | None, ...]
Key: TypeAlias = tuple[str, tuple[str, ...], Values]
"""A rule's name, the attributes of its key, and their values: None for a missing one."""
Published: TypeAlias = dict[str, Any]


class Hitter(NamedTuple):
    """A key that a rule has refused `rejected` times, or up to `error` times less.

    names, values   the attributes of the rule's key, and the key's own: None for a missing one
    """

    rule: str
    names: tuple[str, ...]
    values: Values
    rejected: int
    error: int

    @property
    def key(self) -> str:
        """The key as an admin may see it. It may have any characters."""
        each = zip(self.names, self.values, strict=True)
        return ", ".join([f"{name}={'(none)' if value is None else value}" for name, value in each]) or "(one for all)"


class Sketch:
    """Space-Saving: the counts of the most frequent keys.

    >>> sketch = Sketch(2)
    >>> for key in "abacad":
    ...     _ = sketch.add(key)
    >>> sketch.counts["a"], sketch.floor
    ([3, 0], 3)
    """

    __slots__ = ("_heap", "_next", "counts", "places")

    def __init__(self, places: int = PLACES) -> None:
        self.places = places
        self.counts: dict[Hashable, list[int]] = {}
        """The count of each key, and how much of it may be of others. It is -1 once the key has lost its place."""
        self._heap: list[tuple[int, int, Hashable]] = []  # counts as they were: each has grown since, or is right
        self._next = 0

    def add(self, key: Hashable) -> list[int]:
        """Count a key once. Return its count, which the caller may raise while the key has its place."""
        count = self.counts.get(key)
        if count is not None:
            count[0] += 1
            return count
        fewest = self._free_place() if len(self.counts) >= self.places else 0
        count = self.counts[key] = [fewest + 1, fewest]
        self._push(fewest + 1, key)
        return count

    @property
    def floor(self) -> int:
        """The most refusals that a key without a place can have had."""
        return min(count for count, _ in self.counts.values()) if len(self.counts) >= self.places else 0

    def _free_place(self) -> int:
        """Forget the key with the smallest count, and return this. Each step back in the heap is paid by a count."""
        while True:
            known, _, key = heappop(self._heap)
            now = self.counts[key][0]
            if now == known:
                self.counts.pop(key)[1] = -1
                return now
            self._push(now, key)

    def _push(self, count: int, key: Hashable) -> None:
        self._next += 1
        heappush(self._heap, (count, self._next, key))


class _Refusing(NamedTuple):
    """A rule that refused: the attributes of its key, the only one if it is one, and counts by the value of this."""

    only: str | None
    counts: dict[str | None, list[int]]
    rule: str
    names: tuple[str, ...]


class HeavyHitters:
    """The keys that this process refuses most, by rule. Not thread-safe: it belongs to one event loop.

    `secret` is that of all processes, for the digests of long values. `renew` begins a new window: the counts are those
    of the window before and of this one.
    """

    def __init__(self, secret: bytes, places: int = PLACES) -> None:
        self._secret = secret
        self._places = places
        self._now, self._before = Sketch(places), Sketch(places)
        self._keeper: Any = None
        self._refusing: dict[Hashable, tuple[_Refusing, ...]] = {}
        self._counts: dict[str, dict[str | None, list[int]]] = {}

    def refused(self, exchange: Exchange, decision: PolicyDecision) -> None:
        """Count a refusal for each rule that refused."""
        keeper, attributes, _ = exchange.asked  # type: ignore[misc]  # it was asked
        if keeper is not self._keeper:
            self._keeper = keeper
            self._forget()
        tally = decision.tally
        refusing = self._refusing.get(tally)
        if refusing is None:
            refusing = self._learn(tally, decision)
        for only, counts, rule, names in refusing:
            value = None
            if only is not None:
                value = attributes.get(only)
                count = counts.get(value)
                if count is not None and count[1] >= 0:  # as nearly always: a client that is refused goes on
                    count[0] += 1
                    continue
            count = self._now.add((rule, names, self._values(attributes, names)))
            if only is not None and (value is None or len(value) <= MOST_CHARACTERS):
                if len(counts) >= self._places:
                    counts.clear()
                counts[value] = count

    def renew(self) -> None:
        """Begin a new window, and forget the one before the last."""
        self._now, self._before = Sketch(self._places), self._now
        self._forget()

    def published(self, most: int = PUBLISHED) -> Published:
        """Return the keys that are refused most, as JSON, for `merged`."""
        windows = [(sketch.counts, sketch.floor) for sketch in (self._now, self._before)]
        return _as_json(*_sum(windows), most)

    def _learn(self, tally: Hashable, decision: PolicyDecision) -> tuple[_Refusing, ...]:
        """Return the rules that refuse in all decisions of a tally."""
        if len(self._refusing) >= _MOST_TALLIES:
            self._forget()
        keys = {rule.name: rule.key for rule in self._keeper.policy.rules}
        names = dict.fromkeys(rule.name for rule in decision.enforced if not rule.decision.allowed)
        refusing = []
        for name in names:
            only = keys[name][0] if len(keys[name]) == 1 and keys[name][0] != "tier" else None
            refusing.append(_Refusing(only, self._counts.setdefault(name, {}), name, keys[name]))
        self._refusing[tally] = found = tuple(refusing)
        return found

    def _forget(self) -> None:
        self._refusing.clear()
        self._counts.clear()

    def _values(self, attributes: Mapping[str, str], names: tuple[str, ...]) -> Values:
        seen = self._keeper.compiled.seen(attributes) if "tier" in names else attributes
        return tuple([self._cut(seen.get(name)) for name in names])

    def _cut(self, value: str | None) -> str | None:
        if value is None or len(value) <= MOST_CHARACTERS:
            return value
        digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8, key=self._secret)
        return f"{value[:MOST_CHARACTERS]}~{digest.hexdigest()}"


def merged(published: Iterable[Published], most: int = 20) -> list[Hitter]:
    """Return the keys that all processes have refused most, most first."""
    each = []
    for one in published:
        entries = {
            (rule, tuple(names), tuple(values)): [count, error] for rule, names, values, count, error in one["keys"]
        }
        each.append((entries, int(one["floor"])))
    counts, _ = _sum(each)
    return [Hitter(*key, *count) for key, count in _most(counts, most)]


def hashed(secret: bytes, hitter: Hitter) -> str:
    """Return a key as anybody may see it: "#" and 12 hexadecimal digits, the same in all processes."""
    told = repr((hitter.rule, hitter.names, hitter.values)).encode("utf-8", "surrogatepass")
    return "#" + blake2b(told, digest_size=6, key=secret).hexdigest()


def _sum(each: Iterable[tuple[Mapping[Any, list[int]], int]]) -> tuple[dict[Key, list[int]], int]:
    """Return the sum of some counts, and of their floors. A key that one of them lacks may have had its floor there."""
    sketches = list(each)
    all_floors = sum(floor for _, floor in sketches)
    total: dict[Key, list[int]] = {}
    for counts, floor in sketches:
        for key, (count, error) in counts.items():
            both = total.setdefault(key, [all_floors, all_floors])
            both[0] += count - floor
            both[1] += error - floor
    return total, all_floors


def _most(counts: Mapping[Key, list[int]], most: int) -> list[tuple[Key, list[int]]]:
    return nlargest(most, counts.items(), key=lambda entry: entry[1][0] - entry[1][1])


def _fitting(entries: Iterable[tuple[Key, list[int]]]) -> Iterable[tuple[Key, list[int]]]:
    """Yield the first entries, as long as their JSON has its place among the parts that a process tells others."""
    room = PUBLISHED_BYTES
    for key, count in entries:
        room -= len(json.dumps([*key, *count])) + 1
        if room < 0:
            return
        yield key, count


def _as_json(counts: Mapping[Key, list[int]], floor: int, most: int) -> Published:
    told = dict(_fitting(_most(counts, most)))
    left_out = (count for key, (count, _) in counts.items() if key not in told)
    return {"floor": max([floor, *left_out]), "keys": [[*key, *count] for key, count in told.items()]}

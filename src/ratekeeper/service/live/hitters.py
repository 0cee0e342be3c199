"""HeavyHitters: the keys that are refused most, by rule, in bounded memory. Knows no page, no clock and no protocol.

Only refusals are counted, in the process that decided them, by a sketch (`sketch.py`; in C, core/sketch_object.c). A
rule is told by a label, which has its name and the attributes of its key: so a reload goes on where both stay.
`published` is what a process tells the others, each second, and `merged` is the sum over all processes. Both have real
keys: people see them only as `hashed` says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from hashlib import blake2b
from heapq import nlargest
from typing import Any, NamedTuple, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from ratekeeper import core
from ratekeeper.http.exchange import Asked
from ratekeeper.policy.bucket_keys import bucket_of, values_of
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.service.live.sketch import Entry, PythonSketch, Told

PLACES = 1024
"""The keys that a sketch keeps."""

MOST_CHARACTERS = 64
"""The characters of a value that are kept. A longer one is cut, and has a digest in place of the rest."""

PUBLISHED = 100
"""The keys that a process tells the others."""

PUBLISHED_BYTES = 48_000
"""The size of them as JSON: fewer are told if their values are long."""

Values: TypeAlias = tuple[str | None, ...]
Published: TypeAlias = dict[str, Any]
K = TypeVar("K", bound=Hashable)


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


class HeavyHitters:
    """The keys that this process refuses most, by rule. Not thread-safe: it belongs to one event loop.

    `secret` is that of all processes, for the digests of long values. `refused` observes decisions that refuse. `renew`
    begins a new window: the counts are those of the window before and of this one.
    """

    def __init__(self, secret: bytes, places: int = PLACES) -> None:
        self._secret = secret
        self._places = places
        self._sketch = (core.sketch or PythonSketch)(places, os.urandom(16), self._labels, self._told, self._cut)
        self.refused = self._sketch.refused
        self._before: list[Entry] = []
        self._by_rule = WeakKeyDictionary[Any, dict[str, str]]()
        """The labels of each keeper's rules, by their names."""

    def renew(self) -> None:
        """Begin a new window, and forget the one before the last."""
        self._before = self._sketch.entries()
        self._sketch.clear()

    def published(self, most: int = PUBLISHED) -> Published:
        """Return the keys that are refused most, as JSON, for `merged`."""
        windows = self._sketch.entries(), self._before
        counts, floor = _sum([(_by_key(entries), self._floor(entries)) for entries in windows])
        top = _most(counts, most)
        keys = list(_fitting([*json.loads(label), values_of(key), *count] for (label, key), count in top))
        told = {key for key, _ in top[: len(keys)]}
        left_out = (count for key, (count, _) in counts.items() if key not in told)
        return {"floor": max([floor, *left_out]), "keys": keys}

    def _floor(self, entries: list[Entry]) -> int:
        """Return the most refusals that a key without a place can have had."""
        return min(count for _, _, count, _ in entries) if len(entries) >= self._places else 0

    def _told(self, asked: Asked, decision: PolicyDecision) -> Told:
        """Return the keys of the rules that refused: of a rule one, however many limits it has."""
        labels = self._labels_by_rule(asked)
        keys = {rule.name: rule.decision.key for rule in decision.enforced if not rule.decision.allowed}
        return [(labels[name], str(key)) for name, key in keys.items()]

    def _labels(self, asked: Asked) -> tuple[str, ...]:
        return tuple(self._labels_by_rule(asked).values())

    def _labels_by_rule(self, asked: Asked) -> dict[str, str]:
        """Return the labels of the rules by which a request was decided. It may have waited since before a reload."""
        keeper, *_ = asked
        labels = self._by_rule.get(keeper)
        if labels is None:
            labels = self._by_rule[keeper] = {
                rule.name: json.dumps([rule.name, rule.key]) for rule in keeper.policy.rules
            }
        return labels

    def _cut(self, key: str) -> str:
        """Return a key with its long values cut."""
        return bucket_of([value if value is None else self._cut_value(value) for value in values_of(key)])

    def _cut_value(self, value: str) -> str:
        if len(value) <= MOST_CHARACTERS:
            return value
        digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8, key=self._secret)
        return f"{value[:MOST_CHARACTERS]}~{digest.hexdigest()}"


def merged(published: Iterable[Published], most: int = 20) -> list[Hitter]:
    """Return the keys that all processes have refused most, most first."""
    each = []
    for one in published:
        entries = {
            (rule, tuple(names), tuple(values)): (count, error) for rule, names, values, count, error in one["keys"]
        }
        each.append((entries, int(one["floor"])))
    counts, _ = _sum(each)
    return [Hitter(rule, names, values, *count) for (rule, names, values), count in _most(counts, most)]


def hashed(secret: bytes, hitter: Hitter) -> str:
    """Return a key as anybody may see it: "#" and 12 hexadecimal digits, the same in all processes."""
    told = repr((hitter.rule, hitter.names, hitter.values)).encode("utf-8", "surrogatepass")
    return "#" + blake2b(told, digest_size=6, key=secret).hexdigest()


def _by_key(entries: Iterable[Entry]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(label, key): (count, error) for label, key, count, error in entries}


def _sum(each: Iterable[tuple[Mapping[K, tuple[int, int]], int]]) -> tuple[dict[K, tuple[int, int]], int]:
    """Return the sum of some counts, and of their floors. A key that one of them lacks may have had its floor there."""
    sketches = list(each)
    all_floors = sum(floor for _, floor in sketches)
    total: dict[K, tuple[int, int]] = {}
    for counts, floor in sketches:
        for key, (count, error) in counts.items():
            known, of_others = total.get(key, (all_floors, all_floors))
            total[key] = known + count - floor, of_others + error - floor
    return total, all_floors


def _most(counts: Mapping[K, tuple[int, int]], most: int) -> list[tuple[K, tuple[int, int]]]:
    return nlargest(most, counts.items(), key=lambda entry: entry[1][0] - entry[1][1])


def _fitting(keys: Iterable[list[Any]]) -> Iterator[list[Any]]:
    """Yield the first keys, as long as their JSON has its place among the parts that a process tells others."""
    room = PUBLISHED_BYTES
    for key in keys:
        room -= len(json.dumps(key)) + 1
        if room < 0:
            return
        yield key

"""PythonSketch: the keys that rules refuse most, where the C core is not in use. Knows no policy and no page.

It is Space-Saving (Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements", 2005): a
key without a place takes that of the key with the fewest refusals, and goes on from its count. So a count is at most
`error` too high and never too low, and a key with more refusals than the fewest has a place. An attacker who invents
keys raises these, and no memory. Of n refusals, each count is at most n / places too high.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TypeAlias

from ratekeeper.http.exchange import Asked
from ratekeeper.policy.decision import PolicyDecision

SHORT = 64
"""The characters of a key that is kept as it is. A longer one is kept as `cut` returns it."""

Told: TypeAlias = list[tuple[str, str]]
"""The keys that a decision refuses: of each its rule's label, and the key."""

Entry: TypeAlias = tuple[str, str, int, int]
"""A rule's label, a key, its count, and its error: it came as often as the count says, or up to the error less."""


class PythonSketch:
    """Counts keys of rules, each by its rule's label. Not thread-safe: it belongs to one event loop.

    places  the most keys that are kept
    secret  the C core's: 16 bytes or more, the key of its hash
    labels  only the C core calls it: with a question, for the labels of its policy's rules, in the policy's order
    told    called with a question and a decision that refuses; returns the keys to be counted
    cut     called with a key that is longer than `SHORT`; returns it in bounded length. Two keys must not become equal

    >>> sketch = PythonSketch(2, bytes(16), lambda asked: (), lambda asked, decision: [], str)
    >>> for key in "abacad":
    ...     sketch.add("rule", key)
    >>> sketch.entries()
    [('rule', 'a', 3, 0), ('rule', 'd', 3, 2)]
    """

    def __init__(
        self,
        places: int,
        secret: bytes,
        labels: Callable[[Asked], tuple[str, ...]],
        told: Callable[[Asked, PolicyDecision], Told],
        cut: Callable[[str], str],
        /,
    ) -> None:
        self._most = places
        self._told = told
        self._cut = cut
        self.clear()

    def refused(self, asked: Asked, decision: PolicyDecision, /) -> None:
        """Count a refusal for each rule that refused. It is an observer of decisions that refuse."""
        for label, key in self._told(asked, decision):
            self.add(label, key)

    def add(self, label: str, key: str, /) -> None:
        """Count a key once."""
        named = label, key if len(key) <= SHORT else self._cut(key)
        place = self._places.get(named)
        if place is None:
            place = self._take_place()
            self._names[place], self._places[named] = named, place
        self._counts[place] += 1

    def entries(self) -> list[Entry]:
        """Return the keys that have a place, in the order of their places."""
        each = zip(self._names, self._counts, self._errors, strict=True)
        return [(*name, count, error) for name, count, error in each]

    def clear(self) -> None:
        """Forget all keys."""
        self._places: dict[tuple[str, str], int] = {}
        self._names: list[tuple[str, str]] = []
        self._counts: list[int] = []
        self._errors: list[int] = []
        self._heap: list[tuple[int, int, int]] = []  # counts as they were: each has grown since, or is right
        self._turns = 0

    def _take_place(self) -> int:
        """Return a place for a newcomer, with the count of the key that had it."""
        place = len(self._names)
        if place < self._most:
            self._names.append(("", ""))
            self._counts.append(0)
            self._errors.append(0)
        else:
            place = self._free_place()
        self._push(self._counts[place] + 1, place)
        return place

    def _free_place(self) -> int:
        """Forget the key with the fewest, and return its place. Each step back in the heap is paid by a count."""
        while True:
            known, _, place = heappop(self._heap)
            if known == self._counts[place]:
                del self._places[self._names[place]]
                self._errors[place] = known
                return place
            self._push(self._counts[place], place)

    def _push(self, count: int, place: int) -> None:
        heappush(self._heap, (count, self._turns, place))
        self._turns += 1

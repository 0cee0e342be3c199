"""Outcomes over time, in bins of equal length that grow with the log. Knows no rule and no log.

Bins begin at round times of UTC. While a log is read there are at most some hundred, so memory is bounded. At the end
they are put together to as many as a chart shows.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

ADMITTED, DELAYED, REJECTED = range(3)
"""The outcomes: admitted at once, admitted after a delay, rejected."""

Counts: TypeAlias = tuple[int, int, int]

_WIDTHS = (1, 5, 15, 60, 300, 900, 3600, 10_800, 43_200, 86_400, 604_800, 2_419_200)
"""Seconds of a bin while a log is read: each divides the next."""
_SHOWN = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800)
"""Seconds of a bin that people read well. Longer ones are whole weeks."""
_WEEK = 604_800
_MOST_KEPT = 300
MOST_SHOWN = 72


class Series(NamedTuple):
    """Counts in bins of `width` seconds. The first begins at `start`, in seconds since 1970."""

    start: int
    width: int
    counts: tuple[Counts, ...]

    @property
    def most(self) -> int:
        """The most requests of a bin."""
        return max((sum(counts) for counts in self.counts), default=0)

    def of(self, outcome: int) -> list[int]:
        """Return the counts of one outcome."""
        return [counts[outcome] for counts in self.counts]

    def fitted(self, most: int) -> Series:
        """Return the same counts in at most `most` bins, each of several of these.

        >>> Series(0, 5, ((1, 0, 0), (2, 0, 1), (4, 0, 0))).fitted(2)
        Series(start=0, width=10, counts=((3, 0, 1), (4, 0, 0)))
        """
        each = -(-len(self.counts) // most)
        groups = (self.counts[place : place + each] for place in range(0, len(self.counts), each))
        sums = (tuple(map(sum, zip(*group, strict=True))) for group in groups)
        return Series(self.start, self.width * each, tuple((a, d, r) for a, d, r in sums))


class Timeline:
    """Outcomes over time, while a log is read."""

    __slots__ = ("_bins", "_counts", "_second", "_width")

    def __init__(self) -> None:
        self._width = 0  # the place in _WIDTHS
        self._bins: dict[int, list[int]] = {}
        self._second = -1
        self._counts: list[int] = []  # the bin of that second: many requests share one

    def add(self, second: int, outcome: int) -> None:
        """Count a request of a time, in seconds since 1970."""
        if second != self._second:
            self._second, self._counts = second, self._bin(second)
        self._counts[outcome] += 1

    def _bin(self, second: int) -> list[int]:
        counts = self._bins.setdefault(second // _WIDTHS[self._width], [0, 0, 0])
        if len(self._bins) > _MOST_KEPT and self._width + 1 < len(_WIDTHS):
            self._widen()
            counts = self._bins[second // _WIDTHS[self._width]]
        return counts

    def _widen(self) -> None:
        bins, factor = self._bins, _WIDTHS[self._width + 1] // _WIDTHS[self._width]
        self._width += 1
        self._bins = {}
        for place, counts in bins.items():
            _merge(self._bins.setdefault(place // factor, [0, 0, 0]), counts)

    def series(self, first: int, last: int, most: int = MOST_SHOWN) -> Series:
        """Return the counts from one second to another, in `most` bins at most."""
        own = _WIDTHS[self._width]
        width = next((it for it in _SHOWN if it % own == 0 and _bins(first, last, it) <= most), _WEEK)
        while _bins(first, last, width) > most or width % own:
            width += _WEEK
        found = [[0, 0, 0] for _ in range(_bins(first, last, width))]
        for place, counts in self._bins.items():
            _merge(found[place * own // width - first // width], counts)
        return Series(first // width * width, width, tuple((a, d, r) for a, d, r in found))


def _bins(first: int, last: int, width: int) -> int:
    return last // width - first // width + 1


def _merge(total: list[int], counts: list[int]) -> None:
    for outcome, count in enumerate(counts):
        total[outcome] += count

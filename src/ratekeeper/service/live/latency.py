"""Latency: quantiles of the time to a decision, from the cells of the histograms. Knows no clock."""

from __future__ import annotations

from collections.abc import Sequence

from ratekeeper.service.metrics.cells import BOUNDS, PROTOCOLS, histogram_cells

_CELLS = [histogram_cells(protocol)[:-1] for protocol in PROTOCOLS]


def durations(fixed: Sequence[int]) -> list[int]:
    """Return the count of each bucket of the histogram, all protocols together."""
    return [sum(fixed[cell] for cell in cells) for cells in zip(*_CELLS, strict=True)]


def grown(now: Sequence[int], before: Sequence[int]) -> list[int]:
    """Return the counts since an earlier moment."""
    return [later - earlier for later, earlier in zip(now, before, strict=True)]


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Return the seconds that this share of the decisions took at most, within a bucket by proportion.

    None without a decision. The last bucket has no end: a decision there counts as its beginning.
    """
    rank = share * sum(counts)
    if not rank:
        return None
    below = 0
    for place, count in enumerate(counts[:-1]):
        if below + count >= rank:
            low = BOUNDS[place - 1] if place else 0.0
            return low + (BOUNDS[place] - low) * (rank - below) / count
        below += count
    return BOUNDS[-1]

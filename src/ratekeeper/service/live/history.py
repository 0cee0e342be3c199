"""History: the counts of all processes in each of the last seconds, so that a page shows minutes when it opens.

Each process keeps one, as a page may ask any of them. A second costs one look at all cells in use, and 24
bytes for each rule. Knows no page and no clock.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ratekeeper.service.live.latency import durations, grown, quantile
from ratekeeper.service.metrics.cells import OUTCOMES, PROTOCOLS, RESULTS, RULES, cell_of
from ratekeeper.service.metrics.totals import Totals

SECONDS = 300
"""The seconds that are kept."""
LATENCY_WINDOW = 10
"""The seconds over which latency is told."""
MOST_RULES = 64
"""The rules of a history that is shown: those with the most decisions in it."""

_RESULTS = [[cell_of("ratekeeper_requests", protocol, result) for protocol in PROTOCOLS] for result in RESULTS]
_ALLOWED, _DELAYED, _REFUSED, _SHADOW = (
    OUTCOMES.index(one) for one in ("allowed", "delayed", "refused", "shadow_refused")
)
_SERIES = ("admitted", "rejected", "delayed")


class Sample(NamedTuple):
    """The counts at one second.

    at         seconds since 1970
    results    the requests by their result
    durations  the histogram of all protocols
    latency    the p50 and p99 of the seconds before
    rules      three counts for each rule, in the order in which the history has met them
    failures   the store's failures
    """

    at: float
    results: list[int]
    durations: list[int]
    latency: tuple[float | None, float | None]
    rules: array[int]
    failures: int


class History:
    """The samples of the last seconds, one each second."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SECONDS + 1)
        self._rules: dict[str, int] = {}

    def take(self, totals: Totals, at: float) -> None:
        """Add the counts of this second."""
        counts = array("q", bytes(24 * len(self._rules)))
        for name, outcomes in totals.rules.items():
            place = self._rules.get(name)
            if place is None:
                if len(self._rules) == RULES:
                    continue
                place = self._rules[name] = len(self._rules)
                counts.extend((0, 0, 0))
            first = 3 * place
            counts[first] = outcomes[_ALLOWED] + outcomes[_SHADOW]
            counts[first + 1] = outcomes[_REFUSED]
            counts[first + 2] = outcomes[_DELAYED]
        spent = durations(totals.fixed)
        before = self.before()
        recent = spent if before is None else grown(spent, before.durations)
        results = [sum(totals.fixed[cell] for cell in cells) for cells in _RESULTS]
        failures = totals.fixed[cell_of("ratekeeper_store_failures")]
        latency = quantile(recent, 0.5), quantile(recent, 0.99)
        self._samples.append(Sample(at, results, spent, latency, counts, failures))

    def before(self) -> Sample | None:
        """Return the sample that is `LATENCY_WINDOW` seconds old, or the oldest one; None if there is none."""
        return self._samples[max(0, len(self._samples) - LATENCY_WINDOW)] if self._samples else None

    def shown(self) -> dict[str, Any]:
        """Return the counts of each second, as the page takes them."""
        samples = list(self._samples)
        later = samples[1:]
        return {
            "step": 1,
            "times": [round(sample.at, 3) for sample in later],
            "rules": {name: self._of_rule(samples, place) for name, place in self._busiest(samples)},
            "latency": {
                "p50": [sample.latency[0] for sample in later],
                "p99": [sample.latency[1] for sample in later],
            },
            "requests": {
                result: _steps(samples, lambda sample, place=place: sample.results[place])  # type: ignore[misc]
                for place, result in enumerate(RESULTS)
            },
        }

    def _busiest(self, samples: Sequence[Sample]) -> list[tuple[str, int]]:
        if len(samples) < 2:
            return []
        first, last = samples[0].rules, samples[-1].rules
        grew: dict[str, int] = {}
        for name, place in self._rules.items():
            cells = slice(3 * place, 3 * place + 3)
            grew[name] = sum(last[cells]) - sum(first[cells])
        busiest = sorted((name for name in grew if grew[name]), key=lambda name: -grew[name])[:MOST_RULES]
        return [(name, self._rules[name]) for name in busiest]

    @staticmethod
    def _of_rule(samples: Sequence[Sample], place: int) -> dict[str, list[int]]:
        return {
            series: _steps(samples, lambda sample, cell=3 * place + n: _cell(sample.rules, cell))  # type: ignore[misc]
            for n, series in enumerate(_SERIES)
        }


def _cell(counts: array[int], cell: int) -> int:
    """Return a count; 0 in a sample that is older than its rule."""
    return counts[cell] if cell < len(counts) else 0


def _steps(samples: Sequence[Sample], read: Callable[[Sample], int]) -> list[int]:
    """Return how much a count grew in each second."""
    counts = [read(sample) for sample in samples]
    return grown(counts[1:], counts[:-1])

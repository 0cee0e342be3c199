"""Exposition: the metrics of all processes as the text of one scrape. Knows Prometheus' formats, and no connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ratekeeper.service.metrics import cells
from ratekeeper.service.metrics.counters import SAMPLE, Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.metrics.table import TableCounts
from ratekeeper.service.metrics.totals import TotalsReader


class Scrape(NamedTuple):
    """The answer to a scrape."""

    content_type: str
    body: bytes


class Exposition:
    """Answers scrapes: the sum over all processes, and the counts of the table that they share."""

    def __init__(self, metrics: Metrics, store: Any) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(AllProcesses(metrics.slots, store, metrics.refresh))

    def scrape(self, accept: str | None = None) -> Scrape:
        """Return the text, in the format that the header `Accept` asks for, or in the usual one."""
        try:
            encode, content_type = choose_encoder(accept or "")
        except (TypeError, ValueError):  # a format's version is not a number
            encode, content_type = choose_encoder("")
        return Scrape(content_type, encode(self._registry))


class AllProcesses(Collector):
    """The sum over all processes. `refresh` brings the counts of this process up to date, if it serves."""

    def __init__(self, slots: Slots, store: Any, refresh: Callable[[], None] = lambda: None) -> None:
        self._totals = TotalsReader(slots)
        self._refresh = refresh
        self._table = TableCounts(store)

    def collect(self) -> Iterator[Metric]:
        self._refresh()
        totals = self._totals.read()
        yield from _families(totals.fixed)
        yield _histogram(totals.fixed)
        yield from _of_rules(totals.rules)
        yield from _of_policy(totals.processes)
        yield from self._of_table()

    def describe(self) -> list[Metric]:
        return []  # so that the registry does not scrape when it is made

    def _of_table(self) -> Iterator[Metric]:
        stats = self._table.read()
        if stats is None:
            return
        yield GaugeMetricFamily(
            "ratekeeper_table_max_keys", "Live buckets that the table has room for.", stats.max_keys
        )
        yield GaugeMetricFamily("ratekeeper_table_live", "Buckets that are not full: as many keys.", stats.live)
        yield CounterMetricFamily(
            "ratekeeper_table_evicted", "Live buckets that were evicted for newcomers.", stats.evicted_live
        )
        yield CounterMetricFamily(
            "ratekeeper_table_refused", "Newcomers that were refused, as the table was full.", stats.refused_full
        )


def _families(total: list[int]) -> Iterator[Metric]:
    cell = 0
    for family in cells.FAMILIES:
        make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        metric = make(family.name, family.help, labels=list(family.labels))
        for labels in family.combinations():
            metric.add_metric(list(labels), total[cell])
            cell += 1
        yield metric


def _of_rules(rules: dict[str, list[int]]) -> Iterator[Metric]:
    decisions = CounterMetricFamily(
        "ratekeeper_decisions", "Decisions of each rule of the policy, as the rule alone decides.",
        labels=["rule", "outcome"],
    )  # fmt: skip
    nearly = CounterMetricFamily(
        "ratekeeper_near_limit", "Requests that a rule allowed, with less than a fifth of its limit left after it.",
        labels=["rule"],
    )  # fmt: skip
    for name, (*counts, near) in rules.items():
        for outcome, count in zip(cells.OUTCOMES, counts, strict=True):
            decisions.add_metric([name, outcome], count)
        nearly.add_metric([name], near)
    yield from (decisions, nearly)


def _histogram(total: list[int]) -> Metric:
    metric = HistogramMetricFamily(
        "ratekeeper_decision_duration_seconds",
        f"Time from a question to its decision, with the wait for a turn, of one question in {SAMPLE} or more.",
        labels=["protocol"],
    )
    bounds = [*map(floatToGoString, cells.BOUNDS), "+Inf"]
    for protocol in cells.PROTOCOLS:
        *counts, nanoseconds = [total[cell] for cell in cells.histogram_cells(protocol)]
        buckets = list(zip(bounds, accumulate(counts), strict=True))
        metric.add_metric([protocol], buckets, nanoseconds / 1e9)
    return metric


def _of_policy(fixed: list[list[int]]) -> Iterator[Metric]:
    in_use = GaugeMetricFamily(
        "ratekeeper_policy_in_use", "Processes that decide by the policy of this version.", labels=["version"]
    )
    versions = [slot[cells.VERSION_CELL] for slot in fixed if slot[cells.VERSION_CELL]]
    for version in sorted(set(versions)):
        in_use.add_metric([f"{version & (2**64 - 1):016x}"], versions.count(version))
    yield in_use
    yield GaugeMetricFamily(
        "ratekeeper_policy_last_reload_success_timestamp_seconds",
        "When the policy in use was read from its file, in seconds since 1970.",
        max(slot[cells.RELOADED_CELL] for slot in fixed) / 1000,
    )

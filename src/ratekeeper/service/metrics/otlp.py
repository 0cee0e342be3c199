"""OtlpExport: sends the service's metrics by OTLP over HTTP, as an OpenTelemetry Collector takes them.

They are the numbers that a scrape of Prometheus shows, so decisions pay nothing for it. One process sends the sum over
all processes. The standard variables of OpenTelemetry, such as OTEL_EXPORTER_OTLP_ENDPOINT, say where to and how often.
Knows no connection of clients.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric as Family

from ratekeeper.service.metrics.exposition import AllProcesses

_EVERY_MS = "OTEL_METRIC_EXPORT_INTERVAL"
_LAST_MOMENT_MS = 2000
_CUMULATIVE = AggregationTemporality.CUMULATIVE

_log = logging.getLogger("ratekeeper")


class OtlpExport:
    """Sends the metrics once in an interval, from its own thread, and a last time when it is closed.

    `counts` are the arguments of `AllProcesses`.
    """

    def __init__(self, *counts: Any) -> None:
        self._counts = AllProcesses(*counts)
        self._exporter = OTLPMetricExporter()
        self._resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "ratekeeper")})
        self._began = time.time_ns()
        self._closing = threading.Event()
        self._every = _interval()
        self._thread = threading.Thread(target=self._run, name="ratekeeper OTLP", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send a last time, if the Collector answers soon."""
        self._closing.set()
        self._thread.join(_LAST_MOMENT_MS / 1000)
        with suppress(Exception):
            self._exporter.shutdown(timeout_millis=0)

    def _run(self) -> None:
        while not self._closing.wait(self._every):
            self._send(10_000)
        self._send(_LAST_MOMENT_MS)

    def _send(self, patience_ms: float) -> None:
        try:
            self._exporter.export(self._data(), timeout_millis=patience_ms)  # it logs an outage by itself
        except Exception:
            _log.exception("a mistake in the export of metrics")

    def _data(self) -> MetricsData:
        now = time.time_ns()
        metrics = [_converted(family, self._began, now) for family in self._counts.collect()]
        scope = ScopeMetrics(InstrumentationScope("ratekeeper"), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


def _interval() -> float:
    """Return the seconds between two exports: those of OpenTelemetry's variable, or a minute."""
    text = os.environ.get(_EVERY_MS, "60000")
    return max(0.05, int(text) / 1000) if text.isascii() and text.isdigit() else 60.0


def _converted(family: Family, began: int, now: int) -> Metric:
    if family.type == "histogram":
        data: Any = Histogram(list(_histograms(family, began, now)), _CUMULATIVE)
    else:
        points = [
            NumberDataPoint(dict(one.labels), began, now, one.value)
            for one in family.samples
            if not one.name.endswith("_created")
        ]
        data = Gauge(points) if family.type == "gauge" else Sum(points, _CUMULATIVE, is_monotonic=True)
    return Metric(family.name, family.documentation, "s" if family.type == "histogram" else "1", data)


def _histograms(family: Family, began: int, now: int) -> Iterator[HistogramDataPoint]:
    """Yield the histogram of each protocol: Prometheus has it as samples, whose counts add up."""
    for protocol in dict.fromkeys(one.labels["protocol"] for one in family.samples):
        own = [one for one in family.samples if one.labels["protocol"] == protocol]
        buckets = [(float(one.labels["le"]), one.value) for one in own if one.name.endswith("_bucket")]
        seconds = next(one.value for one in own if one.name.endswith("_sum"))
        counts = [int(later - earlier) for (_, earlier), (_, later) in pairwise([(0.0, 0.0), *buckets])]
        bounds = [bound for bound, _ in buckets[:-1]]
        unknown = float("nan")  # the least and the greatest value are not counted
        yield HistogramDataPoint(
            {"protocol": protocol}, began, now, sum(counts), seconds, counts, bounds, unknown, unknown
        )

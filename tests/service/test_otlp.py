"""`--otlp`: a Collector gets the numbers that a scrape shows, summed over workers, by OTLP over HTTP."""

from __future__ import annotations

import gzip
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from servers import PATIENCE
from service_process import poll, running

POLICY = '[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "2/day"\n'
pytestmark = pytest.mark.slow


class Collector(ThreadingHTTPServer):
    """Takes what is sent, as an OpenTelemetry Collector does."""

    def __init__(self) -> None:
        self.taken: list[ExportMetricsServiceRequest] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def value(self, name: str, **labels: str) -> float | None:
        """Return the last value of a metric: of a histogram the number of its values."""
        if not self.taken:
            return None
        for resource in self.taken[-1].resource_metrics:
            for metric in [metric for scope in resource.scope_metrics for metric in scope.metrics]:
                points: Any = metric.sum.data_points or metric.gauge.data_points or metric.histogram.data_points
                for point in points if metric.name == name else ():
                    own = {one.key: one.value.string_value for one in point.attributes}
                    if own == labels:
                        return float(point.count if metric.HasField("histogram") else point.as_double or point.as_int)
        return None


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.taken.append(ExportMetricsServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.mark.parametrize("workers", [1, 2])
def test_a_collector_gets_the_sum_over_all_workers(policy: Path, workers: int) -> None:
    with collector() as taking:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{taking.server_port}",
            "OTEL_METRIC_EXPORT_INTERVAL": "50",
        }
        with running(policy, "--otlp", "--workers", str(workers), env=env) as service:
            assert [service.check().status_code for _ in range(5)] == [200, 200, 429, 429, 429]
            poll(lambda: taking.value("ratekeeper_decisions", rule="each", outcome="refused") == 3)
            assert taking.value("ratekeeper_decisions", rule="each", outcome="allowed") == 2
            poll(lambda: taking.value("ratekeeper_processes") == workers)
            poll(lambda: taking.value("ratekeeper_table_live") == 1)
            poll(lambda: (taking.value("ratekeeper_decision_duration_seconds", protocol="http") or 0) >= 1)
            [resource, *_] = taking.taken[-1].resource_metrics
            assert ("service.name", "ratekeeper") in {
                (one.key, one.value.string_value) for one in resource.resource.attributes
            }


PATIENT = f"""\
from ratekeeper.service.metrics import otlp

otlp._LAST_MOMENT_MS = {1000 * PATIENCE}
"""
"""A module by which the service waits longer for a Collector that stalls."""


def test_the_last_numbers_are_sent_when_the_service_stops(policy: Path) -> None:
    with collector() as taking:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{taking.server_port}",
            "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
            "PYTHONPATH": os.pathsep.join([str(policy.parent), *sys.path]),
        }
        (policy.parent / "sitecustomize.py").write_text(PATIENT)
        with running(policy, "--otlp", env=env) as service:
            assert service.check().status_code == 200
            assert not taking.taken, "the interval is an hour"
        assert taking.value("ratekeeper_decisions", rule="each", outcome="allowed") == 1


def test_a_collector_that_is_not_there_costs_nobody_an_answer(policy: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_METRIC_EXPORT_INTERVAL": "50"}
    with running(policy, "--otlp", env=env) as service:
        assert [service.check().status_code for _ in range(3)] == [200, 200, 429]
        poll(lambda: "opentelemetry" in service.log.lower() or "metrics" in service.log.lower())
        assert service.check().status_code == 429

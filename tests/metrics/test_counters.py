"""Counters of decisions: what a scrape or an exporter sees of the requests of a real server."""

from __future__ import annotations

from typing import Any

import httpx
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from test_aiohttp import application, ask

from ratekeeper import Keeper, ManualClock, MemoryStore, Policy
from ratekeeper.metrics import opentelemetry, prometheus

POLICY = Policy.parse("""
[attributes]
user = "header:x-user"
tenant = "header:x-tenant"

[[rules]]
name = "each user"
match = { path = "/" }
key = ["user"]
limit = "2/minute"

[[rules]]
name = "planned"
shadow = true
limit = "1/minute"

[[rules]]
name = "queue"
match = { path = "/forbidden" }
algorithm = "leaky_bucket"
capacity = 1
leak_rate = "1/minute"
max_wait = 60

[[rules]]
name = "each tenant"
match = { path = "/nowhere" }
key = ["tenant"]
missing = "reject"
limit = "1/minute"
""")
PATHS = ["/", "/", "/", "/forbidden", "/forbidden", "/nowhere", "/rare"]
COUNTED = {
    ("each user", "allowed"): 2,
    ("each user", "refused"): 1,
    ("planned", "allowed"): 2,  # the second after a minute, for which the queue has held a request
    ("planned", "shadow_refused"): 4,
    ("queue", "allowed"): 1,
    ("queue", "delayed"): 1,
    ("1/hour", "allowed"): 1,
    ("", "refused"): 1,
}


def scraped(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """The metrics that Prometheus would get over HTTP: its text format, read by its own client."""
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        text = httpx.get(f"http://127.0.0.1:{server.server_port}/metrics").text
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        (one.labels["rule"], one.labels["outcome"]): one.value
        for one in samples
        if one.name == "ratekeeper_decisions_total"
    }


def exported(reader: InMemoryMetricReader) -> dict[tuple[str, str], float]:
    data: Any = reader.get_metrics_data()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    (metric,) = [one for one in metrics if one.name == "ratekeeper.decisions"]
    return {(one.attributes["rule"], one.attributes["outcome"]): one.value for one in metric.data.data_points}


def test_prometheus_scrapes_each_rules_outcomes() -> None:
    registry = CollectorRegistry()
    ask(application(POLICY, on_decision=prometheus.DecisionCounter(registry)), *PATHS)
    assert scraped(registry) == COUNTED


def test_opentelemetry_exports_each_rules_outcomes() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    ask(application(POLICY, on_decision=opentelemetry.DecisionCounter(provider.get_meter("test"))), *PATHS)
    assert exported(reader) == COUNTED
    provider.shutdown()


def test_both_count_side_by_side_and_however_many_keys_there_are_no_more_series() -> None:
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    provider = MeterProvider([reader])
    counters = [prometheus.DecisionCounter(registry), opentelemetry.DecisionCounter(provider.get_meter("test"))]
    app = application(Policy.parse('[[rules]]\nname = "r"\nkey = ["path"]\nlimit = "1/minute"'), on_decision=counters)
    ask(app, *[f"/items/{n}" for n in range(50)], method="POST")
    assert scraped(registry) == exported(reader) == {("r", "allowed"): 50}
    provider.shutdown()


def test_a_keeper_without_a_middleware_is_counted_too() -> None:
    registry = CollectorRegistry()
    count = prometheus.DecisionCounter(registry)
    keeper = Keeper(Policy.parse('[[rules]]\nname = "r"\nlimit = "1/hour"'), MemoryStore(clock=ManualClock()))
    for request in [{"path": "/1"}, {"path": "/2"}]:
        count(request, keeper.try_acquire(request))
    assert scraped(registry) == {("r", "allowed"): 1, ("r", "refused"): 1}


def test_a_rule_in_shadow_delays_nobody() -> None:
    policy = Policy.parse('[[rules]]\nname = "r"\nshadow = true\nlimit = "1/hour"\nmax_wait = inf')
    keeper = Keeper(policy, MemoryStore(clock=ManualClock()))
    decisions = [keeper.try_acquire({}) for _ in range(2)]
    assert decisions[1].rules[0].decision.delay > 0
    assert [one.outcomes for one in decisions] == [(("r", "allowed"),)] * 2

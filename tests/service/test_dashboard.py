"""The dashboard for Grafana: each query is one that Prometheus parses, of metrics and labels that a scrape shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from needs import ROOT
from prometheus_client.parser import text_string_to_metric_families

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.exposition import Exposition
from ratekeeper.service.metrics.of_policy import note_policy

DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
OF_PROMETHEUS = {"job", "instance"}
"""The labels that Prometheus adds to each sample."""


@pytest.fixture(scope="module")
def scraped() -> dict[str, dict[str, set[str]]]:
    """Return the names of all samples of a scrape, and for each its labels with their values."""
    metrics = Metrics()
    metrics.count("a", "allowed")
    note_policy(metrics.slot, Policy.parse("rules = [{name = 'a', limit = '1/s'}]"))
    text = Exposition(metrics, MemoryStore(10)).scrape().body.decode()
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def selectors(expression: Any) -> Iterator[Any]:
    """Return the selectors of metrics in an expression, at any depth."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for part in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(expression, part, None)) is not None:
            yield from selectors(inner)
    for inner in getattr(expression, "args", None) or ():
        yield from selectors(inner)


def parsed(query: str) -> Any:
    return promql_parser.parse(query.replace("$__rate_interval", "5m").replace("$job", ".+"))


@pytest.mark.parametrize(("title", "target"), QUERIES, ids=lambda part: part if isinstance(part, str) else "")
def test_a_query_is_of_metrics_and_labels_that_a_scrape_shows(
    title: str, target: dict[str, str], scraped: dict[str, dict[str, set[str]]]
) -> None:
    found = list(selectors(parsed(target["expr"])))
    assert found
    for selector in found:
        assert selector.name in scraped, f"{title}: no scrape shows {selector.name}"
        for matcher in selector.matchers.matchers:
            if matcher.name not in OF_PROMETHEUS:
                assert matcher.value in scraped[selector.name][matcher.name], (title, matcher.name, matcher.value)
    known = set.intersection(*[set(scraped[selector.name]) for selector in found]) | OF_PROMETHEUS
    grouped = [name.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in by.split(",")]
    shown = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
    assert {*grouped, *shown} <= known
    if grouped:
        assert set(shown) <= set(grouped), f"{title}: the legend names a label that the sum drops"


def test_every_metric_is_on_the_dashboard(scraped: dict[str, dict[str, set[str]]]) -> None:
    queried = {selector.name for _, target in QUERIES for selector in selectors(parsed(target["expr"]))}
    histogram = {name for name in scraped if name.endswith(("_sum", "_count"))}
    assert set(scraped) - queried == histogram


def test_every_metric_is_on_the_page_with_its_labels(scraped: dict[str, dict[str, set[str]]]) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = {
        name: re.findall(r"`(\w+)`", labels)
        for names, labels in re.findall(r"^\| (`ratekeeper_.*?) \|([^|]*)\|", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    shown = {re.sub(r"_(bucket|sum|count)$", "", name): set(labels) - {"le"} for name, labels in scraped.items()}
    assert {name: set(labels) for name, labels in rows.items()} == shown
    for query in re.findall(r"^- ((?:`[^`]+`(?: or )?)+)", page, re.MULTILINE):
        for one in re.findall(r"`([^`]+)`", query):
            assert all(selector.name in scraped for selector in selectors(parsed(one))), one
    [collector] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    collected = yaml.safe_load(collector)
    assert collected["service"]["pipelines"]["metrics"]["receivers"] == list(collected["receivers"])


def test_counters_are_shown_as_rates_and_panels_do_not_overlap() -> None:
    for title, target in QUERIES:
        assert ("_total" in target["expr"]) <= bool(re.search(r"(rate|increase)\(", target["expr"])), title
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    taken = [
        (x, y) for it in places for x in range(it["x"], it["x"] + it["w"]) for y in range(it["y"], it["y"] + it["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])

"""The service's metrics: the counts of each process, a scrape, and the counts of processes that have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from ratekeeper import Keeper, ManualClock, MemoryStore, Policy, StoreUnavailable
from ratekeeper.core.counts import Counts
from ratekeeper.errors import PolicyError, RatekeeperError
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.policy.model import OTHERS
from ratekeeper.service.metrics import of_policy
from ratekeeper.service.metrics.cells import ALL_CELLS, BOUNDS, RULES, bucket_of
from ratekeeper.service.metrics.counters import SAMPLE, Metrics, watch_store
from ratekeeper.service.metrics.exposition import Exposition
from ratekeeper.service.metrics.slots import Slots, shown_name
from ratekeeper.stores.redis.store import RedisStats

POLICY = Policy.parse("""
[[rules]]
name = "each user"
key = ["user"]
limit = "10/minute"

[[rules]]
name = "planned"
shadow = true
limit = "2/minute"

[[rules]]
name = "each tenant"
match = { path = "/tenants" }
key = ["tenant"]
missing = "reject"
limit = "5/minute"
""")


LABELS = ("protocol", "rule", "result", "outcome", "le", "version")


def shown(metrics: Metrics, store: object = None, accept: str = "") -> dict[tuple[str, ...], float]:
    """Return what a scrape shows: each sample by its name and the values of its labels."""
    text = Exposition(metrics, store).scrape(accept).body.decode()
    parse: Any = open_metrics if accept else text_string_to_metric_families
    return {
        (
            sample.name.removeprefix("ratekeeper_"),
            *(sample.labels[label] for label in LABELS if label in sample.labels),
        ): sample.value
        for family in parse(text)
        for sample in family.samples
    }


@pytest.fixture(params=["c", "python"])
def keeper(request: pytest.FixtureRequest) -> Keeper:
    return Keeper(POLICY, MemoryStore(1000, clock=ManualClock(), implementation=request.param))


def test_each_rule_counts_by_its_own_outcome_and_when_less_than_a_fifth_is_left(keeper: Keeper) -> None:
    metrics = Metrics()
    for n in range(12):
        metrics.decided(None, keeper.try_acquire({"user": "alice", "path": f"/{n}"}))
    metrics.decided(None, keeper.try_acquire({"user": "bob", "path": "/tenants"}))
    seen = shown(metrics)
    assert seen["decisions_total", "each user", "allowed"] == 10
    assert seen["decisions_total", "each user", "refused"] == 2
    assert seen["near_limit_total", "each user"] == 2, "the ninth and the tenth"
    assert seen["decisions_total", "planned", "allowed"] == 2
    assert seen["decisions_total", "planned", "shadow_refused"] == 10 - 2 + 2, "also beside a refusal"
    assert seen["near_limit_total", "planned"] == 1
    assert seen["decisions_total", "", "refused"] == 1, "an attribute was missing"
    assert ("decisions_total", "each tenant", "allowed") not in seen


def test_decisions_that_count_alike_have_one_tally_and_others_have_another(keeper: Keeper) -> None:
    asked = [keeper.try_acquire({"user": user}) for user in "aaaaaaaaaaabc"]
    by_tally: dict[Any, set[Any]] = {}
    for decision in asked:
        by_tally.setdefault(decision.tally, set()).add((decision.outcomes, decision.nearly_used))
    assert all(len(alike) == 1 for alike in by_tally.values())
    assert len(by_tally) < len(asked)


def test_a_policy_that_replaces_another_is_counted_by_its_own_rules(keeper: Keeper) -> None:
    metrics = Metrics()
    metrics.decided(None, keeper.try_acquire({"user": "alice"}))
    keeper.replace(Policy.parse("rules = [{name = 'new', limit = '5/s'}, {name = 'planned', limit = '9/minute'}]"))
    metrics.decided(None, keeper.try_acquire({"user": "alice"}))
    seen = shown(metrics)
    assert seen["decisions_total", "each user", "allowed"] == seen["decisions_total", "new", "allowed"] == 1
    assert seen["decisions_total", "planned", "allowed"] == 2


def test_answers_are_counted_by_protocol_and_result(keeper: Keeper) -> None:
    metrics = Metrics()
    refused = RateLimitExceeded(keeper.try_acquire({"user": "alice"}, 11))
    for refusal in (None, None, refused, StoreUnavailable("away")):
        metrics.protocols["grpc"].answered(refusal, 0)
    seen = shown(metrics)
    assert [seen["requests_total", "grpc", result] for result in ("allowed", "refused", "failed")] == [2, 1, 1]
    assert seen["requests_total", "http", "allowed"] == 0


def test_one_question_in_some_is_timed_from_the_first() -> None:
    metrics = Metrics()
    resp = metrics.protocols["resp"]
    timed = [resp.begin() for _ in range(2 * SAMPLE + 1)]
    assert [n for n, began in enumerate(timed) if began] == [0, SAMPLE, 2 * SAMPLE]
    for began in timed:
        resp.answered(None, began)
    seen = shown(metrics)
    assert seen["decision_duration_seconds_count", "resp"] == 3
    assert seen["decision_duration_seconds_sum", "resp"] > 0
    assert seen["decision_duration_seconds_bucket", "resp", "+Inf"] == 3
    assert seen["decision_duration_seconds_bucket", "http", "+Inf"] == 0


@given(st.integers(0, 10**12))
def test_a_duration_is_in_the_first_bucket_whose_bound_holds_it(nanoseconds: int) -> None:
    assert bucket_of(nanoseconds) == sum(nanoseconds > round(bound * 1e9) for bound in BOUNDS)


def test_a_scrape_is_read_by_the_parsers_of_both_formats() -> None:
    metrics = Metrics()
    accept = "application/openmetrics-text; version=1.0.0"
    assert shown(metrics).keys() == shown(metrics, accept=accept).keys()
    assert Exposition(metrics, None).scrape(accept).content_type.startswith("application/openmetrics-text")
    assert Exposition(metrics, None).scrape("*/*").content_type.startswith("text/plain")


def test_connections_and_waiting_requests_are_gauges() -> None:
    metrics, waiting = Metrics(), [3]
    metrics.watch("ratekeeper_waiting_requests", lambda: waiting[0])
    http = metrics.protocols["http"]
    for _ in range(3):
        http.opened()
    http.closed()
    assert shown(metrics)["waiting_requests",] == 3
    waiting[0] = 1
    seen = shown(metrics)
    assert (seen["waiting_requests",], seen["connections", "http"], seen["connections_opened_total", "http"]) == (
        1,
        2,
        3,
    )


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots.make(4)
    yield made
    os.close(made.descriptor)


def test_a_scrape_of_any_process_is_the_sum_of_all(slots: Slots) -> None:
    processes = [Metrics(slots, number) for number in range(1, 4)]
    for turn, process in enumerate(processes, 1):
        for _ in range(turn):
            process.count("a", "allowed")
            process.protocols["http"].answered(None, 0)
        process.count(f"only {turn}", "refused", nearly_used=True)
        process.protocols["http"].opened()
    seen = shown(processes[0])
    assert seen == shown(processes[2]) == shown(Metrics(Slots.attach(slots.descriptor), 1))
    assert seen["decisions_total", "a", "allowed"] == seen["requests_total", "http", "allowed"] == 6
    assert seen["near_limit_total", "only 2"] == seen["decisions_total", "only 2", "refused"] == 1
    assert (seen["processes",], seen["connections", "http"]) == (3, 3)


WORKER = """
import os, signal, sys
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
metrics = Metrics(Slots.attach(int(sys.argv[1])), 1)
calls = [5]
metrics.watch("ratekeeper_store_calls", lambda: calls[0])
metrics.protocols["resp"].opened()
for n in range(100):
    metrics.count("rule %d" % (n % 5), "allowed")
metrics.refresh()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_counters_go_on_and_gauges_end_when_a_process_is_killed_and_replaced(slots: Slots) -> None:
    parent = Metrics(slots, 0)
    for turn in (1, 2, 3):
        command = [sys.executable, "-c", WORKER, str(slots.descriptor)]
        ended = subprocess.run(command, pass_fds=[slots.descriptor], timeout=60)
        assert ended.returncode == -signal.SIGKILL
        assert shown(parent)["connections", "resp"] == 1, "nobody has cleared it"
        slots[1].end()
        seen = shown(parent)
        assert seen["decisions_total", "rule 4", "allowed"] == 20 * turn
        assert seen["store_calls_total",] == 5 * turn, "counted by the process itself, from 0"
        assert (seen["connections", "resp"], seen["processes",]) == (0, 1)


def test_rules_without_end_share_a_row_and_use_no_more_memory() -> None:
    metrics = Metrics()
    for n in range(RULES + 50):
        metrics.count(f"rule {n}", "allowed")
        metrics.count("rule 0", "refused")
    seen = shown(metrics)
    assert seen["decisions_total", "rule 0", "refused"] == RULES + 50
    assert seen["decisions_total", OTHERS, "allowed"] == 51
    assert len({sample for sample in seen if sample[0] == "near_limit_total"}) == RULES
    assert len(metrics._rows) < RULES


@pytest.mark.parametrize("name", ["ü" * 200, "x" * 112, "x" * 113, 'quotes " and \\', "a=b{}"])
def test_any_name_of_a_rule_is_shown_whole_or_cut_with_a_digest(name: str) -> None:
    metrics = Metrics()
    metrics.count(name, "allowed")
    metrics.count(name[:-1] + "y", "allowed")
    [first, second] = [sample[1] for sample in shown(metrics) if sample[0] == "near_limit_total"]
    assert first == shown_name(name) != second
    assert len(first.encode()) <= 112
    if len(name) == 112 or (name.isascii() and len(name) < 112):
        assert first == name


def test_slots_of_another_version_are_an_error(slots: Slots) -> None:
    os.ftruncate(slots.descriptor, 4096)
    with pytest.raises(RatekeeperError, match="replaced by another version while it served: restart it"):
        Slots.attach(slots.descriptor)


def test_the_policy_in_use_and_the_last_reload_are_shown(slots: Slots) -> None:
    parent, workers = slots[0], [Metrics(slots, number) for number in (1, 2, 3)]
    of_policy.note_reload(parent, None)
    for worker in workers:
        of_policy.note_policy(worker.slot, POLICY)
    other = Policy.parse("rules = [{name = 'new', limit = '5/s'}]")
    of_policy.note_policy(workers[0].slot, other)
    seen = shown(workers[0])
    assert seen["policy_in_use", POLICY.version] == 2
    assert seen["policy_in_use", other.version] == 1
    assert seen["policy_last_reload_successful",] == 1
    begun = seen["policy_last_reload_success_timestamp_seconds",]
    assert begun > 1e9
    of_policy.note_reload(parent, PolicyError("a mistake"))
    seen = shown(workers[1])
    assert seen["policy_reloads_total", "failure"] == 1
    assert seen["policy_last_reload_successful",] == 0
    assert seen["policy_last_reload_success_timestamp_seconds",] == begun
    of_policy.note_reload(parent, None)
    seen = shown(workers[1])
    assert (seen["policy_reloads_total", "success"], seen["policy_last_reload_successful",]) == (2, 1)
    assert seen["policy_last_reload_success_timestamp_seconds",] >= begun


def test_the_table_is_shown_once_and_a_store_on_a_server_by_each_process(slots: Slots) -> None:
    first, second = Metrics(slots, 1), Metrics(slots, 2)
    store = MemoryStore(2, clock=ManualClock())
    keeper = Keeper(Policy.parse("rules = [{name = 'a', key = ['user'], limit = '1/hour'}]"), store)
    for user in range(40):
        keeper.try_acquire({"user": str(user)})
    seen = shown(first, store)
    assert seen["table_max_keys",] == 2
    assert 0 < seen["table_live",] <= 40
    assert seen["table_evicted_total",] > 0
    assert seen["table_live",] == store.stats().live

    class OnServer:
        def stats(self) -> RedisStats:
            return RedisStats(calls=7, requests=9, remembered=0, scripts_sent=1, failures=2, opened=1, open=1)

    for process in (first, second):
        watch_store(process, OnServer())
        process.refresh()
    seen = shown(second, OnServer())
    assert (seen["store_calls_total",], seen["store_failures_total",], seen["store_circuits_open",]) == (14, 4, 2)
    assert ("table_live",) not in seen


def test_counts_of_both_cores_are_raised_alike_and_have_bounds() -> None:
    from ratekeeper import core  # noqa: PLC0415

    for make in (Counts, core.counts):
        memory = bytearray(8 * ALL_CELLS)
        counts = make(memory)
        counts.add(3)
        counts.add((3, 5, 5, ALL_CELLS - 1))
        assert memoryview(memory).cast("q").tolist().count(2) == 2
        for wrong in (-1, ALL_CELLS, (0, ALL_CELLS)):
            with pytest.raises(IndexError):
                counts.add(wrong)
        with pytest.raises(TypeError):
            counts.add("3")  # type: ignore[arg-type]

"""The history of the last minutes, and the quantiles of latency."""

from __future__ import annotations

import json
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import MemoryStore, Policy
from ratekeeper.decision import Outcome
from ratekeeper.limits import TokenBucket
from ratekeeper.policy.model import Rule
from ratekeeper.service.core import Core
from ratekeeper.service.live.history import LATENCY_WINDOW, SECONDS, History
from ratekeeper.service.live.history import MOST_RULES as MOST_CHARTS
from ratekeeper.service.live.latency import durations, quantile
from ratekeeper.service.live.status import MOST_RULES
from ratekeeper.service.metrics.cells import BOUNDS, RULES, bucket_of, histogram_cells
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.totals import TotalsReader
from ratekeeper.service.operator_options import OperatorOptions

OUTCOMES: list[Outcome] = ["allowed", "delayed", "refused", "shadow_refused"]


class Seconds:
    """A process that counts, and its history, second by second."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.history = History()
        self._totals = TotalsReader(self.metrics.slots)
        self._now = 1_000.0
        self.end()

    def count(self, rule: str, outcome: Outcome, times: int = 1) -> None:
        for _ in range(times):
            self.metrics.count(rule, outcome)

    def end(self) -> None:
        self.history.take(self._totals.read(), self._now)
        self._now += 1


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(OUTCOMES)), max_size=6), max_size=8))
def test_each_second_has_its_own_decisions(seconds: list[list[tuple[str, Outcome]]]) -> None:
    it = Seconds()
    for decisions in seconds:
        for rule, outcome in decisions:
            it.count(rule, outcome)
        it.end()
    shown = it.history.shown()
    assert shown["times"] == [1_001.0 + n for n in range(len(seconds))]
    assert set(shown["rules"]) == {rule for decisions in seconds for rule, _ in decisions}
    series = {"admitted": ("allowed", "shadow_refused"), "rejected": ("refused",), "delayed": ("delayed",)}
    for rule, of_rule in shown["rules"].items():
        for name, outcomes in series.items():
            assert of_rule[name] == [
                sum(one == rule and outcome in outcomes for one, outcome in decisions) for decisions in seconds
            ]


def test_it_keeps_five_minutes_and_no_more() -> None:
    it = Seconds()
    for n in range(SECONDS + 50):
        it.count("a", "allowed", n)
        it.metrics.protocols["http"].answered(None, 0)
        it.end()
    shown = it.history.shown()
    assert len(shown["times"]) == SECONDS
    assert shown["rules"]["a"]["admitted"] == [*range(50, SECONDS + 50)]
    assert shown["requests"] == {"allowed": [1] * SECONDS, "refused": [0] * SECONDS, "failed": [0] * SECONDS}


def test_only_the_busiest_rules_are_shown_so_that_its_size_is_bounded() -> None:
    it = Seconds()
    for n in range(RULES + 10):
        it.count(f"{n:04}" + "\x01" * 100, "refused", 2 if n % 20 == 7 else 1)
    for _ in range(SECONDS):
        it.end()
    rules = it.history.shown()["rules"]
    assert len(rules) == MOST_CHARTS
    busier = [name for name, series in rules.items() if sum(series["rejected"]) > 1]
    assert len(busier) == 52, "all that are busier"
    assert len(json.dumps(it.history.shown())) < 300_000
    assert all(len(sample.rules) <= 3 * RULES for sample in it.history._samples)


def test_latency_is_that_of_the_last_seconds() -> None:
    it = Seconds()
    cells, slow = it.metrics.slot.cells, histogram_cells("http")[bucket_of(10**9)]
    cells[slow] += 5
    for _ in range(LATENCY_WINDOW):
        it.end()
        assert it.history.shown()["latency"]["p99"][-1] == pytest.approx(1, rel=0.6)
    it.end()
    assert it.history.shown()["latency"]["p99"][-1] is None, "nothing was timed since"


@given(st.lists(st.integers(0, 60 * 10**9), min_size=1, max_size=50), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_in_the_bucket_of_the_decision_that_it_tells(nanoseconds: list[int], share: float) -> None:
    counts = [0] * (len(BOUNDS) + 1)
    for one in nanoseconds:
        counts[bucket_of(one)] += 1
    told = quantile(counts, share)
    assert told is not None
    reached = next(place for place, total in enumerate(accumulate(counts)) if total >= share * len(nanoseconds))
    if reached == len(BOUNDS):
        assert told == BOUNDS[-1]
    else:
        assert (BOUNDS[reached - 1] if reached else 0) <= told <= BOUNDS[reached]


def test_no_decision_has_no_quantile() -> None:
    assert quantile([0] * (len(BOUNDS) + 1), 0.5) is None


def test_all_protocols_are_in_one_latency() -> None:
    metrics = Metrics()
    for place, protocol in enumerate(metrics.protocols, 1):
        metrics.slot.cells[histogram_cells(protocol)[3]] = place  # type: ignore[arg-type]
    assert durations(TotalsReader(metrics.slots).read().fixed)[3] == 1 + 2 + 3


def test_the_size_of_a_status_is_bounded_whatever_the_rules_and_their_names_are() -> None:
    names = [f"{n}" + "\x01\u202e<b>" * 2_000 for n in range(RULES + 100)]
    policy = Policy(tuple(Rule(name, TokenBucket(5, "1/s")) for name in names))
    core = Core(policy, MemoryStore(10))
    core.operate(OperatorOptions(recording_bytes=0))
    for n, name in enumerate(names):
        core.metrics.count(name, "allowed")
        if n % 10 == 0:
            core.metrics.count(name, "refused")
    text = core.live.status()
    status = json.loads(text)
    assert len(status["rules"]) == MOST_RULES
    assert status["rules_left_out"] == 100 + RULES - MOST_RULES + 1, "some rules share one row"
    assert len(text) < 300_000
    refused = sum(rule["counts"]["refused"] for rule in status["rules"])
    assert refused > 100, "the busiest rules are shown"

"""Where demand exceeds the rate all the time, the report says so, and the rate that it names would have done."""

from __future__ import annotations

import json
from fractions import Fraction
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ratekeeper.cli.replay.engine import replay
from ratekeeper.cli.replay.words import rates_like, remedy_of
from ratekeeper.limits import TICKS_PER_SECOND, LeakyBucket, Limit, TokenBucket
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.replay.demand import Demand
from ratekeeper.replay.report import Report, RuleReport

BEGIN = 1_700_000_000


def run(limit: Limit, times: list[float], **rule: object) -> Report:
    lines = [json.dumps({"ts": BEGIN + at, "path": "/"}) for at in sorted(times)]
    return replay(Policy((Rule("r", limit, **rule),)), lines)  # type: ignore[arg-type]


def one(report: Report) -> RuleReport:
    [rule] = report.rules
    return rule


def steady(a_second: float, seconds: float, seed: int = 1) -> list[float]:
    random, at, found = Random(seed), 0.0, []
    while (at := at + random.expovariate(a_second)) < seconds:
        found.append(at)
    return found


def test_steady_demand_above_the_rate_is_told_as_a_rate_and_not_as_a_capacity() -> None:
    rule = one(run(TokenBucket(3, "30/minute"), steady(200 / 60, 600)))
    assert rule.needed > 1000
    assert rule.remedy is not None
    assert 3 < rule.remedy.asked < 3.6
    enough, asked = rates_like(rule)
    assert (asked.endswith("/minute"), enough.endswith("/minute")) == (True, True)
    assert 200 <= int(enough.removesuffix("/minute")) <= 400
    assert one(run(TokenBucket(rule.remedy.capacity, enough), steady(200 / 60, 600))).rejected == 0
    advice = remedy_of(rule)
    assert advice is not None
    assert (
        f"the rate is too low, and no capacity would mend it. Demand was more than 30/minute all the time: {asked}"
        in (advice)
    )
    assert advice.endswith(f"{enough} with a capacity of {rule.remedy.capacity} would have rejected nothing")


def test_a_burst_is_told_as_a_capacity() -> None:
    burst = [n / 1000 for n in range(500)]
    for others in ([], [float(at) for at in range(0, 3600, 60)]):
        rule = one(run(TokenBucket(3, "30/minute"), burst + others))
        assert rule.remedy is None
        assert rule.needed >= 499


def test_bursts_again_and_again_whose_mean_the_rate_bears_are_told_as_a_capacity() -> None:
    times = [minute * 60 + n * 0.01 for minute in range(60) for n in range(20)]
    rule = one(run(TokenBucket(3, "30/minute"), times))
    assert rule.remedy is None
    assert rule.needed == 20


def test_a_little_more_than_the_rate_that_twice_the_capacity_bears_is_told_as_a_capacity() -> None:
    assert one(run(TokenBucket(60, "60/minute"), [n * 0.95 for n in range(600)])).remedy is None


limits = st.builds(
    TokenBucket, st.integers(1, 5), st.sampled_from(["1/s", "30/minute", "7/10s", "1/minute"])
) | st.builds(LeakyBucket, st.integers(1, 5), st.sampled_from(["1/s", "30/minute"]))


@given(
    limit=limits,
    gaps=st.lists(st.sampled_from([0.0, 0.001, 0.2, 0.5, 1.0, 3.0, 17.0, 90.0]), min_size=1, max_size=80),
    max_wait=st.sampled_from([None, 0.0, 2.5]),
    costs=st.lists(st.integers(1, 3), min_size=80, max_size=80),
)
def test_the_rate_and_the_capacity_together_reject_nothing(
    limit: Limit, gaps: list[float], max_wait: float | None, costs: list[int]
) -> None:
    if isinstance(limit, LeakyBucket):
        max_wait = None
    now, times = 0, []
    for gap in gaps:
        now += int(gap * TICKS_PER_SECOND)
        times.append(now)
    wait = int((max_wait or 0) * TICKS_PER_SECOND)
    demand = Demand(limit, times[0], 0, wait)
    for at, cost in zip(times, costs, strict=False):
        demand.add(at, cost)
    room = demand.capacity + limit.queues
    for last, end in enumerate(times):
        asked = 0
        for first in range(last, -1, -1):
            asked += costs[first]
            assert asked <= room + demand.rate * Fraction(end - times[first] + wait, TICKS_PER_SECOND)


def test_demand_that_grows_for_ever_keeps_few_corners_and_a_rate_that_would_do() -> None:
    demand, now, times = Demand(TokenBucket(1000, "1/minute"), 0, 0, 0), 0, []
    for n in range(3000):
        now += 16_000_000_000 - 5_000_000 * n
        times.append(now)
        demand.add(now, 1)
    assert len(demand._corners) <= 65
    for first in range(0, 3000, 100):
        span = Fraction(times[-1] - times[first], TICKS_PER_SECOND)
        assert 3000 - first <= demand.capacity + demand.rate * span


def test_a_few_requests_each_hour_exceed_a_rate_of_few_a_day_all_the_time() -> None:
    times = [hour * 3600.0 + n for hour in range(72) for n in range(4)]
    rule = one(run(TokenBucket(3, "3/day"), times))
    assert rule.remedy is not None
    enough, asked = rates_like(rule)
    assert asked == "97/day"
    assert one(run(TokenBucket(rule.remedy.capacity, enough), times)).rejected == 0
    assert one(run(TokenBucket(3, "3/day"), times[:40])).remedy is None, "ten hours say nothing about a day"

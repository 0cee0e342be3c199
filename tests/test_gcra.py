"""The rule against what it claims: an exact token bucket and an explicit queue, as people draw them."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st
from oracles import QueueOracle, TokenBucketOracle
from rulings import decide

from ratekeeper import LeakyBucket, TokenBucket
from ratekeeper.gcra import refundable
from ratekeeper.limits import TICKS_PER_SECOND, Limit

# Rates that divide nothing, by the hour and by the nanosecond.
RATES = [3, 5, Fraction(7, 60), Fraction(999_983, 3600), 80_000, 999_983, Fraction(1, 86_400), 10**9]
rates = st.sampled_from(RATES) | st.fractions(min_value=Fraction(1, 10_000), max_value=10**6)
token_buckets = st.builds(TokenBucket, st.integers(1, 50), rates)
leaky_buckets = st.builds(LeakyBucket, st.integers(0, 50), rates)
# A gap between two requests: some intervals, some ticks more or less, sometimes backward.
gaps = st.tuples(st.integers(-3, 8), st.integers(-2, 2))
START = 10**15


def times(limit: Limit, gaps: list[tuple[int, int]]) -> list[int]:
    return [START + at for at in accumulate(intervals * limit.interval + ticks for intervals, ticks in gaps)]


@given(token_buckets, st.lists(st.tuples(gaps, st.integers(0, 60)), max_size=60))
def test_it_decides_as_an_exact_token_bucket_does(
    limit: TokenBucket, requests: list[tuple[tuple[int, int], int]]
) -> None:
    oracle = TokenBucketOracle(limit.capacity, limit.interval)
    tat = 0
    for now, (_, cost) in zip(times(limit, [gap for gap, _ in requests]), requests, strict=True):
        ruling = decide(tat, now, *limit.terms(cost))
        assert ruling.allowed == oracle.ask(now, cost)
        if ruling.allowed and cost:
            tat = ruling.new_tat
        assert (max(tat, now) - now) == oracle.missing_at(now) * limit.interval


@given(leaky_buckets, st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=60))
def test_it_delays_and_refuses_as_an_explicit_queue_does(limit: LeakyBucket, gaps: list[tuple[int, int]]) -> None:
    oracle = QueueOracle(limit.capacity, limit.interval)
    tat = 0
    for now in times(limit, [(intervals % 3, ticks) for intervals, ticks in gaps]):
        ruling = decide(tat, now, *limit.terms(1))
        start = oracle.ask(now)
        assert ruling.allowed == (start is not None)
        if start is not None:
            assert now + ruling.delay == start
            tat = ruling.new_tat


@given(token_buckets, st.lists(st.tuples(gaps, st.integers(1, 20)), max_size=60))
def test_no_window_admits_more_than_capacity_and_refill(
    limit: TokenBucket, requests: list[tuple[tuple[int, int], int]]
) -> None:
    admitted: list[tuple[int, int]] = []
    tat = 0
    for now, (_, cost) in zip(times(limit, [gap for gap, _ in requests]), requests, strict=True):
        ruling = decide(tat, now, *limit.terms(cost))
        if ruling.allowed:
            tat = ruling.new_tat
            admitted.append((now, cost))
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            window = admitted[first : last + 1]
            length = max(at for at, _ in window) - min(at for at, _ in window)
            most = limit.capacity + Fraction(length, TICKS_PER_SECOND) * limit.rate
            assert sum(cost for _, cost in window) <= most


@given(token_buckets | leaky_buckets, st.integers(0, 10**15), st.integers(1, 60), st.floats(0, 100) | st.none())
def test_refused_a_tick_before_retry_after_and_allowed_at_it(
    limit: Limit, debt: int, cost: int, timeout: float | None
) -> None:
    cost = min(cost, limit.max_cost)
    terms = limit.terms(cost, timeout)
    tat = START + debt
    retry_after = decide(tat, START, *terms).retry_after
    assert decide(tat, START + retry_after, *terms).allowed
    if retry_after:
        assert not decide(tat, START + retry_after - 1, *terms).allowed


@given(token_buckets)
def test_a_full_bucket_admits_exactly_its_capacity_at_once(limit: TokenBucket) -> None:
    tat, admitted = 0, 0
    while (ruling := decide(tat, START, *limit.terms(1))).allowed:
        tat, admitted = ruling.new_tat, admitted + 1
    assert admitted == limit.capacity


@given(token_buckets, st.integers(0, 10**12), st.integers(1, 20), st.integers(1, 20))
def test_taking_a_then_b_leaves_what_taking_a_and_b_leaves(limit: TokenBucket, debt: int, a: int, b: int) -> None:
    first = decide(START + debt, START, *limit.terms(a))
    second = decide(first.new_tat, START, *limit.terms(b))
    assert second.new_tat == decide(START + debt, START, *limit.terms(a + b)).new_tat


@given(token_buckets, st.floats(0, 1000), st.integers(0, 10**12))
def test_who_waits_is_admitted_when_the_tokens_will_have_come_and_not_before(
    limit: TokenBucket, timeout: float, debt: int
) -> None:
    ruling = decide(START + debt, START, *limit.terms(1, timeout))
    if ruling.allowed:
        assert ruling.delay <= timeout * TICKS_PER_SECOND
        assert decide(START + debt, START + ruling.delay, *limit.terms(1)).allowed
        if ruling.delay:
            assert not decide(START + debt, START + ruling.delay - 1, *limit.terms(1)).allowed


@given(token_buckets, st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(0, 40)), min_size=2, max_size=40))
def test_a_refund_never_lets_a_later_burst_through(limit: TokenBucket, requests: list[tuple[int, int | None]]) -> None:
    """The charges that are left after refunds obey the window bound, as if the refunded requests had never come."""
    tat, now = 0, START
    charged: list[int] = []
    for gap, refund in requests:
        now += gap * limit.interval // 4
        ruling = decide(tat, now, *limit.terms(1))
        if ruling.allowed:
            tat = ruling.new_tat
            charged.append(now)
        if refund is not None and refund < len(charged):
            tat -= refundable(limit.interval, now - charged.pop(refund))
    for first in range(len(charged)):
        assert (len(charged) - first) * limit.interval <= limit.full + charged[-1] - charged[first]

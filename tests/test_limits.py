"""Limits: what their texts mean, how they are quantised, and how a bad one is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import LeakyBucket, Limit, LimitError, TokenBucket, parse_limit
from ratekeeper.limits import MAX_REFILL_TICKS, TICKS_PER_SECOND, parse_rate, rate_text


@pytest.mark.parametrize(
    ("text", "capacity", "rate"),
    [
        ("100/minute", 100, Fraction(100, 60)),
        ("100 per minute burst 20", 20, Fraction(100, 60)),
        ("5/10s", 5, Fraction(1, 2)),
        ("2/500ms", 2, Fraction(4)),
        ("1000/day", 1000, Fraction(1000, 86_400)),
        ("3/2 weeks", 3, Fraction(3, 2 * 604_800)),
        ("10 / hr, burst=4", 4, Fraction(10, 3600)),
        ("1_000/h", 1000, Fraction(1000, 3600)),
        ("0.5/s burst 1", 1, Fraction(1, 2)),
        (" 7/MINUTES ", 7, Fraction(7, 60)),
        ("9 per 1.5 secs", 9, Fraction(6)),
        ("8/d", 8, Fraction(8, 86_400)),
    ],
)
def test_a_text_means_its_count_period_and_burst(text: str, capacity: int, rate: Fraction) -> None:
    limit = parse_limit(text)
    assert (limit.capacity, limit.rate) == (capacity, rate)


@pytest.mark.parametrize("rate", ["300/minute", 5, 5.0, Fraction(5), "5 per second", "5/s"])
def test_a_rate_is_the_same_however_it_is_written(rate: object) -> None:
    assert TokenBucket(20, rate) == TokenBucket(20, 5)  # type: ignore[arg-type]
    assert hash(TokenBucket(20, rate)) == hash(TokenBucket(20, 5))  # type: ignore[arg-type]


def test_a_float_means_the_decimal_that_it_prints_as() -> None:
    assert TokenBucket(1, 0.1).rate == Fraction(1, 10)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5/minuet", "did you mean 'minute'"),
        ("5/minuts", "did you mean 'minutes'"),
        ("1000/month", "'1000/30 days'"),
        ("1000/year", "'1000/365 days'"),
        ("10", "write a count and a period"),
        ("", "write a count and a period"),
        ("ten/minute", "write a count and a period"),
        ("-5/minute", "write a count and a period"),
        ("10/s foo", "'foo' is not understood"),
        ("10/s burst", "'burst' is not understood"),
        ("0/s", "more than 0"),
        ("10/s burst 0", "at least 1"),
        ("10/0s", "longer than 0"),
        ("0.5/s", "add a burst"),
        ("0.5/minuet", "did you mean 'minute'"),
        ("9" * 400 + ".5/s", "at most 100 characters"),
        ("2000000000/s", "at most 1,000,000,000"),
        ("1/500 weeks burst 2", "more than the 5 years allowed"),
        (100, "text such as"),
    ],
)
def test_a_bad_text_is_an_error_that_says_what_is_right(text: str, says: str) -> None:
    with pytest.raises(LimitError, match=says):
        parse_limit(text)


@given(st.text(max_size=30) | st.from_regex(r"\A\d{1,3}[ /]?(per )?\d{0,3} ?[a-z]{1,7}( burst \d{1,3})?\Z"))
def test_any_text_is_a_limit_or_a_limit_error(text: str) -> None:
    try:
        limit = parse_limit(text)
    except LimitError:
        return
    assert limit.capacity >= 1
    assert limit.rate > 0


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), -float("inf"), 1e9 + 1, 10**400, True, None, [5]])
def test_a_rate_that_cannot_be_is_an_error(rate: object) -> None:
    with pytest.raises(LimitError, match="refill_rate"):
        TokenBucket(1, rate)  # type: ignore[arg-type]
    with pytest.raises(LimitError, match="leak_rate"):
        LeakyBucket(1, rate)  # type: ignore[arg-type]


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True, None, "5", 10**400])
def test_a_capacity_that_cannot_be_is_an_error(capacity: object) -> None:
    with pytest.raises(LimitError):
        TokenBucket(capacity, 1)  # type: ignore[arg-type]


def test_a_leaky_bucket_may_have_no_place_to_wait_but_not_fewer() -> None:
    assert LeakyBucket(0, 1).max_cost == 1
    with pytest.raises(LimitError, match="at least 0"):
        LeakyBucket(-1, 1)


def test_the_fastest_and_the_slowest_limit_are_still_exact() -> None:
    assert TokenBucket(1, 10**9).interval == 16
    slowest = TokenBucket(1, Fraction(1, 5 * 365 * 86_400))
    assert slowest.full == MAX_REFILL_TICKS
    with pytest.raises(LimitError, match="years"):
        TokenBucket(1, slowest.rate * Fraction(999_999, 1_000_000))


@given(st.fractions(min_value=Fraction(1, 10**6), max_value=10**6))
def test_a_rate_is_rounded_down_and_by_less_than_a_ten_thousandth(rate: Fraction) -> None:
    quantised = Fraction(TICKS_PER_SECOND, TokenBucket(1, rate).interval)
    assert quantised <= rate
    assert (rate - quantised) / rate < Fraction(1, 10_000)


@given(st.fractions(min_value=Fraction(1, 10**6), max_value=10**6))
def test_the_text_of_a_rate_reads_back_as_the_rate(rate: Fraction) -> None:
    assert parse_rate(rate_text(rate)) == rate


def test_a_limit_is_a_value() -> None:
    limit = TokenBucket(20, "300/minute")
    assert str(limit) == "token_bucket of 20 at 5/s"
    assert str(LeakyBucket(3, "7/minute")) == "leaky_bucket of 3 at 7/minute"
    limits: list[Limit] = [TokenBucket(3, 1), LeakyBucket(3, 1)]
    assert limits[0] != limits[1]
    with pytest.raises(AttributeError):
        limit.capacity = 3  # type: ignore[misc]

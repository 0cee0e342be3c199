"""Limits: the meaning of their strings, how they are quantised, and how a bad limit is refused."""

from __future__ import annotations

import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import (
    Deny,
    LeakyBucket,
    Limit,
    Limiter,
    LimitError,
    ManualClock,
    MemoryStore,
    TokenBucket,
    parse_limit,
    parse_limits,
)
from ratekeeper.limits import MAX_REFILL_TICKS, TICKS_PER_SECOND
from ratekeeper.rates import parse_rate, rate_text


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
        ("10 requests per minute", 10, Fraction(10, 60)),
        ("10 per minute", 10, Fraction(10, 60)),
        ("10 req/min burst 3", 3, Fraction(10, 60)),
        ("1 Request / 2s", 1, Fraction(1, 2)),
        ("300reqs/h", 300, Fraction(300, 3600)),
        ("10 requests/300", 10, Fraction(10, 300)),
    ],
)
def test_a_text_means_its_count_period_and_burst(text: str, capacity: int, rate: Fraction) -> None:
    limit = parse_limit(text)
    assert (limit.capacity, limit.rate) == (capacity, rate)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        # limits, and so slowapi and flask-limiter
        ("10/minute", [(10, 60)]),
        ("10 per minute", [(10, 60)]),
        ("10 per hour", [(10, 3600)]),
        ("1/second", [(1, 1)]),
        ("1 per second", [(1, 1)]),
        ("1/day", [(1, 86_400)]),
        ("5/10seconds", [(5, 10)]),
        ("100 per 2 hours", [(100, 7200)]),
        ("200 per day", [(200, 86_400)]),
        ("10/minute;100/hour", [(10, 60), (100, 3600)]),
        ("10 per minute, 100 per hour", [(10, 60), (100, 3600)]),
        ("10/hour;100/day;2000 per week", [(10, 3600), (100, 86_400), (2000, 604_800)]),
        ("100/day, 500/7days", [(100, 86_400), (500, 604_800)]),
        ("1/second|5/minute", [(1, 1), (5, 60)]),
        # django-ratelimit
        ("1/s", [(1, 1)]),
        ("5/m", [(5, 60)]),
        ("100/h", [(100, 3600)]),
        ("100/d", [(100, 86_400)]),
        ("10/5m", [(10, 300)]),
        ("100/300s", [(100, 300)]),
        ("100/300", [(100, 300)]),
        # limits, whose spaces are all optional
        ("10per2hours", [(10, 7200)]),
        ("10perminute", [(10, 60)]),
        # throttled-py
        ("10/wk", [(10, 604_800)]),
        ("10 per wks", [(10, 604_800)]),
        ("10/secs", [(10, 1)]),
        ("10/mins", [(10, 60)]),
        ("10/hrs", [(10, 3600)]),
        # DRF
        ("60/min", [(60, 60)]),
        ("20/hour", [(20, 3600)]),
        ("100/day", [(100, 86_400)]),
    ],
)
def test_the_texts_of_other_libraries_mean_here_what_they_meant_there(text: str, limits: list[tuple[int, int]]) -> None:
    expected = tuple(TokenBucket(count, Fraction(count, seconds)) for count, seconds in limits)
    assert parse_limits(text) == expected
    if len(expected) == 1:
        assert parse_limit(text) == expected[0]


@pytest.mark.parametrize("text", ["10/5 burst 3", "10/5, burst=3", "10/5s burst 3", "10/5sec;burst 3"])
def test_a_burst_may_follow_seconds_without_a_unit(text: str) -> None:
    assert parse_limit(text) == TokenBucket(3, 2)


def test_a_burst_belongs_to_the_limit_before_it() -> None:
    expected = (TokenBucket(4, "10/minute"), TokenBucket(100, "100/hour"), TokenBucket(2, "1/s"))
    assert parse_limits("10/minute, burst=4; 100/hour | 1/s; burst 2") == expected


@pytest.mark.parametrize("text", ["10/minute;100/hour", "10 per minute, 100 per hour", "1/s|2/m", "10/s burst 5; 9/m"])
def test_several_limits_where_one_is_meant_are_an_error_that_names_what_reads_them(text: str) -> None:
    with pytest.raises(LimitError, match=r"several limits where one is meant: .* use parse_limits"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10/minute;", "'' is not a limit"),
        ("10/minute;;1/s", "'' is not a limit"),
        ("10/minute; 5/minuet", "did you mean 'minute'"),
        ("10/minute 100/hour", "'100/hour' is not understood"),
        ("100/month", "'100/30 days'"),  # DRF went by the first letter, and read 100 a minute
        ("1/mon", "unknown unit of time 'mon'"),
        ("10/", "write a count and a period"),  # django-ratelimit read 10 a second
        ("10 per 5", "write a count and a period"),
        ("10/0", "longer than 0 seconds"),
        ("5/hrss", "unknown unit of time 'hrss': did you mean 'hrs'"),
        ("5/secss", "unknown unit of time 'secss'"),
        ("10/5 burts 3", "'burts'"),
        (b"1/s", "limits are a string such as"),
    ],
)
def test_what_other_libraries_guess_is_an_error_here(text: str, says: str) -> None:
    with pytest.raises(LimitError, match=says):
        parse_limits(text)


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
        ("10 requests", "write a count and a period"),
        ("10 request5/minute", "write a count and a period"),
        ("10 apples per minute", "write a count and a period"),
        ("10/s foo", "'foo' is not understood"),
        ("10/s burst", "'burst' is not understood"),
        ("0/s burst 5", "a rate must be positive, not '0/s': to refuse every request, use the limit '0/s'"),
        ("10/s burst 0", "capacity must be at least 1, not 0: to refuse every request, use the limit '0/s'"),
        ("10/s burst 0", "at least 1"),
        ("10/0s", "longer than 0"),
        ("0.5/s", "add a burst"),
        ("0.5/minuet", "did you mean 'minute'"),
        ("9" * 400 + ".5/s", "at most 100 characters"),
        ("2000000000/s", "at most 1,000,000,000"),
        ("1/500 weeks burst 2", "more than the 5 years allowed"),
        (100, "a string such as"),
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
    assert (limit.capacity >= 1 and limit.rate > 0) or limit == NOTHING


NOTHING = TokenBucket(0, 0)


@pytest.mark.parametrize("text", ["0/s", "0/minute", "0.0/2h", " 0 requests per day burst 0 ", "00/5"])
def test_a_limit_of_nothing_is_one_value_however_it_is_written(text: str) -> None:
    limit = parse_limit(text)
    assert limit == NOTHING == TokenBucket(0, text.partition("burst")[0]) == TokenBucket(0, 0.0)
    assert limit.refuses_all
    assert limit.window == limit.rate == 0
    assert str(limit) == "token_bucket of 0 at 0/s"
    assert not parse_limit("1/s").refuses_all


def test_to_deny_is_not_a_limit_of_nothing() -> None:
    assert Deny() == Deny() != NOTHING
    assert Deny().refuses_all
    assert (str(Deny()), repr(Deny())) == ("deny", "Deny()")
    assert pickle.loads(pickle.dumps(Deny())) == Deny()


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), -float("inf"), 1e9 + 1, 10**400, True, None, [5]])
def test_a_rate_that_cannot_be_is_an_error(rate: object) -> None:
    with pytest.raises(LimitError, match="refill_rate"):
        TokenBucket(1, rate)  # type: ignore[arg-type]
    with pytest.raises(LimitError, match="leak_rate"):
        LeakyBucket(1, rate)  # type: ignore[arg-type]


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True, None, "5", 10**400])
def test_a_capacity_that_cannot_be_is_an_error(capacity: object) -> None:
    with pytest.raises(LimitError, match=r"TokenBucket: .*capacity"):
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
    with pytest.raises(AttributeError, match="cannot assign to field 'capacity'"):
        limit.capacity = 3  # type: ignore[misc]


# At most so many in every window


@pytest.mark.parametrize(
    "text",
    ["at most 100 in 60s burst 10", "At most 100 requests in any minute, burst=10", "at most 100/minute burst 10",
     "at most 1_00 per 1 min; burst 10", "at most 100 in 60 seconds burst 10", "at  most 100/60 burst 10"],
)  # fmt: skip
def test_a_limit_for_every_window_is_read_in_words(text: str) -> None:
    assert parse_limit(text) == TokenBucket.within(100, 60, burst=10) == TokenBucket(10, "90/minute")
    assert parse_limits(f"{text}; 5/s") == (TokenBucket(10, "90/minute"), TokenBucket(5, 5))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("at most 100 in 60s", "say how many may come at once: add a burst, 'at most 100 in 60s burst 1'"),
        ("at most 100 in 60 burst 10", "write, say, 'at most 100 in 60s burst 10'"),
        ("at most", "write, say, 'at most 100 in 60s burst 10'"),
        ("at most 1/s burst 1", "the most in a window must be a whole number, 2 or more"),
        ("at most 2.5/s burst 1", "the most in a window must be a whole number, 2 or more"),
        ("at most 0/s burst 0", "the most in a window must be a whole number, 2 or more"),
        ("at most 100 in 60s burst 100", "burst must be at least 1, and less than 100, the most in a window, not 100"),
        ("at most 100 in 60s burst 0", "burst must be at least 1, and less than 100, the most in a window, not 0"),
        ("at most 100 in any month burst 10", "a month has no fixed length"),
        ("at most 100 in minuet burst 10", "did you mean 'minute'"),
        ("at most 10 in 0s burst 5", "the period must be longer than 0 s"),
        ("at most 10 in 60s; 5/s", "several limits where one is meant"),
        ("at most 10 in 60s burst 5 or so", "'burst 5 or so' is not understood"),
        ("100 in 60s burst 10", "write a count and a period"),
        ("at most 2000000000/s burst 1", "at most 1,000,000,000 per second"),
        ("at most 3 in 500 weeks burst 2", "more than the 5 years allowed"),
    ],
)
def test_a_window_that_cannot_be_is_an_error_that_says_what_is_right(text: str, says: str) -> None:
    with pytest.raises(LimitError, match=says):
        parse_limit(text)


@pytest.mark.parametrize(
    ("most", "seconds", "burst", "says"),
    [
        (True, 60, 1, "within: most must be a whole number of tokens, not True"),
        (1.5, 60, 1, "within: most must be a whole number of tokens, not 1.5"),
        (100, 60, "10", "within: burst must be a whole number of tokens, not '10'"),
        (100, 60, 100, "within: burst must be at least 1, and less than 100"),
        (100, 60, 0, "within: burst must be at least 1, and less than 100"),
        (100, 60, -1, "within: burst must be at least 1, and less than 100"),
        (100, "60", 10, "within: seconds must be a number, not '60'"),
        (100, None, 10, "within: seconds must be a number, not None"),
        (100, 0, 10, "within: seconds must be more than 0, and finite, not 0"),
        (100, -1.5, 10, "within: seconds must be more than 0, and finite, not -1.5"),
        (100, float("nan"), 10, "within: seconds must be more than 0, and finite, not nan"),
        (100, float("inf"), 10, "within: seconds must be more than 0, and finite, not inf"),
        (100, 10**400, 10, "more than the 5 years allowed"),
        (100, 5e-324, 10, "at most 1,000,000,000 per second"),
        (10**400, 1, 10, "at most 1,000,000,000 per second"),
    ],
)
def test_the_arguments_of_within_are_checked(most: int, seconds: float, burst: int, says: str) -> None:
    with pytest.raises(LimitError, match=says):
        TokenBucket.within(most, seconds, burst=burst)


def test_a_window_is_exact() -> None:
    assert TokenBucket.within(7, 0.1, burst=6).rate == 10
    assert TokenBucket.within(7, Fraction(1, 3), burst=1).rate == 18
    assert type(Deny.within(7, 1, burst=1)) is TokenBucket
    pair: TokenBucket = TokenBucket.within(most=2, seconds=1, burst=1)
    assert pair.capacity == 1


PAUSES = st.sampled_from([0, 1, 7, 10**6]) | st.integers(0, 3 * TICKS_PER_SECOND)


@given(st.data())
def test_no_window_ever_sees_more_and_some_window_sees_as_many(data: st.DataObject) -> None:
    most = data.draw(st.integers(2, 12))
    burst = data.draw(st.integers(1, most - 1))
    lengths: list[float | Fraction] = [1, 0.5, 2, Fraction(7, 3), 0.001]
    seconds = data.draw(st.sampled_from(lengths))
    length = Fraction(str(seconds)) * TICKS_PER_SECOND
    limit = TokenBucket.within(most, seconds, burst=burst)
    clock = ManualClock(start=1000)
    limiter = Limiter(limit, store=MemoryStore(10, clock=clock))

    def ask(cost: int) -> list[int]:
        return [clock.ticks()] * cost if limiter.try_acquire("k", cost) else []

    admitted: list[int] = []
    for _ in range(data.draw(st.integers(0, 40))):
        admitted += ask(data.draw(st.integers(1, burst)))
        clock.advance_ticks(data.draw(PAUSES))
    clock.advance_ticks(limit.full)  # full: then as many as can be, each as early as can be
    begin = clock.ticks()
    while clock.ticks() - begin <= length:
        admitted += ask(1)
        if not limiter.peek("k"):
            clock.advance_ticks(limiter.peek("k").retry_ticks)
    for first, at in enumerate(admitted):
        assert sum(later - at <= length for later in admitted[first:]) <= most
    last = sum(at >= begin and at - begin <= length for at in admitted)
    exact = length % (most - burst) == 0 and Fraction(length, most - burst) == limit.interval
    assert last >= most - (not exact)  # an interval that is rounded up to a tick may come a tick too late

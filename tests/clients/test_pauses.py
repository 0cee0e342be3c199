"""A server's word on when to ask it again: which parts are read, which are ignored, and that no part does harm."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import Keeper, ManualClock, MemoryStore, Policy
from ratekeeper.clients.pauses import LONGEST_PAUSE, pause_after
from ratekeeper.http.headers import rate_limit_headers

DATE = ("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
SINCE_1970 = 784_111_777

FIELDS = ["Retry-After", "RateLimit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Date"]
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text('";=rt0123 ,.-:GMTSunNov', max_size=60),
    st.sampled_from(["0", "5", "1e9", "-1", "nan", "inf", "9" * 18, DATE[1], '"a";r=0;t=5', "٣", "Mon, 99 Nov 1994"]),
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30),
        (" 30 ", 30),
        ("0.35", 0.35),
        ("0.1000000000000000055511151231257827", 0.1),
        ("0", 0),
        ("Sun, 06 Nov 1994 08:50:07 GMT", 30),
        ("Sunday, 06-Nov-94 08:50:07 GMT", 30),
        ("Sun Nov  6 08:50:07 1994", 30),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_read_in_all_its_forms(status: int, value: str, seconds: float) -> None:
    assert pause_after(status, [DATE, ("retry-after", value)]) == seconds


def test_a_date_is_read_as_utc_wherever_the_client_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert pause_after(503, [DATE, ("Retry-After", "Sun Nov  6 08:50:07 1994")]) == 30
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("status", [200, 202, 301, 413, 500])
def test_retry_after_of_another_status_is_no_pause(status: int) -> None:
    assert pause_after(status, [("Retry-After", "30")]) == 0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ('"default";r=0;t=30', 30),
        ('"default"; t=30; r=0', 30),
        ("default;r=0;t=30;pk=:c29tZQ==:", 30),
        ('"a, \\"b\\";r=5";r=0;t=30', 30),
        ('"minute";r=0;t=12, "day";r=0;t=700 , "year";r=1;t=90000', 700),
        ('"default";r=1;t=30', 0),
        ('"default";r=0', 0),
        ('"default";t=30', 0),
        ('"default";r=0;t=30, "broken', 0),
        ('"default";r=0;t=-30', 0),
        ("limit=10, remaining=0, reset=30", 0),
    ],
)
@pytest.mark.parametrize("status", [200, 429, 500])
def test_rate_limit_with_nothing_left_is_a_pause_and_all_else_is_none(status: int, value: str, seconds: float) -> None:
    assert pause_after(status, [("RateLimit", value)]) == seconds


def test_lines_of_one_field_are_one_list() -> None:
    assert pause_after(200, [("RateLimit", '"a";r=5;t=9'), ("ratelimit", '"b";r=0;t=7')]) == 7


@pytest.mark.parametrize("prefix", ["X-RateLimit-", "RateLimit-", "x-rate-limit-"])
@pytest.mark.parametrize("reset", ["30", "30.0", f"{SINCE_1970 + 10**9 + 30}", f"{SINCE_1970 + 10**9 + 30}000"])
def test_a_legacy_reset_is_told_by_its_size(prefix: str, reset: str) -> None:
    date = ("Date", "Wed, 15 Jul 2026 10:36:17 GMT")
    assert pause_after(200, [date, (prefix + "Remaining", "0"), (prefix + "Reset", reset)]) == 30
    assert pause_after(200, [date, (prefix + "Remaining", "1"), (prefix + "Reset", reset)]) == 0


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["30", "30"], 30),
        (["5", "30", "7"], 30),
        (["30", ""], 30),
        (["Sun, 06 Nov 1994 08:49:47 GMT", "Sunday, 06-Nov-94 08:50:07 GMT"], 30),
        (["30", "Sun Nov  6 08:49:47 1994"], 30),
        (["5", "Sun, 06 Nov 1994 08:50:07 GMT", "7"], 30),
        (["30", "soon"], 0),
        (["soon", "30"], 0),
    ],
)
def test_of_several_lines_of_retry_after_the_longest_counts(values: list[str], seconds: float) -> None:
    assert pause_after(429, [DATE, *(("Retry-After", value) for value in values)]) == seconds
    assert pause_after(429, [DATE, ("Retry-After", ", ".join(values))]) == seconds


def test_of_several_legacy_limits_those_with_nothing_left_count() -> None:
    assert pause_after(200, [("X-RateLimit-Remaining", "0, 0"), ("X-RateLimit-Reset", "30, 60")]) == 60
    assert pause_after(200, [("X-RateLimit-Remaining", "0, 9"), ("X-RateLimit-Reset", "30, 60")]) == 30
    assert pause_after(200, [("X-RateLimit-Remaining", "1, 9"), ("X-RateLimit-Reset", "30, 60")]) == 0


def test_retry_after_is_preferred_and_rate_limit_is_preferred_to_legacy() -> None:
    legacy = [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "3")]
    named = [("RateLimit", '"a";r=0;t=2'), *legacy]
    assert pause_after(429, [("Retry-After", "1"), *named]) == 1
    assert pause_after(429, named) == 2
    assert pause_after(429, legacy) == 3


def test_a_time_without_a_date_to_compare_it_with_says_nothing() -> None:
    assert pause_after(429, [("Retry-After", DATE[1])]) == 0


def test_a_server_cannot_make_us_wait_for_years() -> None:
    for digits in (18, 20, 99):  # 20: 2**64 - 1, as of a counter that went below 0
        assert pause_after(429, [("Retry-After", "9" * digits)]) == LONGEST_PAUSE
    assert pause_after(429, [DATE, ("Retry-After", "Sun, 06 Nov 9994 08:49:37 GMT")], longest=5) == 5
    assert pause_after(429, [("Retry-After", "30")], longest=0) == 0


@given(
    status=st.sampled_from([200, 429, 503]),
    headers=st.lists(st.tuples(st.sampled_from(FIELDS), TEXTS), max_size=8),
    longest=st.floats(0, 1e6),
)
def test_whatever_a_server_sends_the_pause_is_within_bounds(
    status: int, headers: list[tuple[str, str]], longest: float
) -> None:
    assert 0 <= pause_after(status, headers, longest) <= longest


@pytest.mark.parametrize("value", ['"' * 60_000, '"a"' + ";r=0" * 15_000, '"a";' * 15_000, "a," * 30_000])
def test_a_long_header_takes_no_longer_to_read_than_it_is_long(value: str) -> None:
    assert pause_after(200, [("RateLimit", value)]) == 0  # else this would not end


def test_what_our_own_server_says_is_understood() -> None:
    policy = Policy.parse('[[rules]]\nname = "all, \\"quoted\\""\nlimit = "2/minute"')
    keeper = Keeper(policy, MemoryStore(clock=ManualClock(start=1000)))
    answers = [keeper.try_acquire({}) for _ in range(3)]
    paused = [pause_after(200 if one.allowed else 429, rate_limit_headers(one)) for one in answers]
    assert paused == [0, 30, 30]

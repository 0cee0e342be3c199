"""ManualClock: any time is a good start, on every store and core; what it cannot be is an error that says so."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from needs import need

from ratekeeper import IMPLEMENTATION, Decision, LeakyQueue, Limiter, ManualClock, MemoryStore, SharedMemoryStore
from ratekeeper.clock import MAX_TICKS
from ratekeeper.limits import TICKS_PER_SECOND, wait_ticks
from ratekeeper.stores.table_store import TableStore

STARTS = [0, 1000, 2**26 - 1, 2**26, 2**27, 1_800_000_000.123, 4e9, -0.5, -1, -(2**26), -1e9, 1e14, -1e14]


def store_on(clock: ManualClock, kind: str, folder: Path) -> TableStore:
    need("the C core", kind == "python" or IMPLEMENTATION == "c")
    if kind == "shared":
        return SharedMemoryStore(folder / "table", 100, clock=clock)
    return MemoryStore(100, clock=clock, implementation="c" if kind == "c" else "python")


def trace(store: TableStore, clock: ManualClock) -> list[tuple[Any, ...]]:
    """The answers of a limiter while the clock goes on and back."""
    limiter, chance = Limiter("7/minute burst 3", store=store, name="trace"), random.Random(5)
    answers: list[Decision] = []
    for _ in range(200):
        answers.append(limiter.try_acquire("alice"))
        clock.advance(chance.choice([0, 0.5, 8.58, 60, -0.25]))
    return [(one.allowed, one.remaining, one.debt_ticks, one.retry_ticks) for one in answers]


@pytest.mark.parametrize("kind", ["c", "python", "shared"])
@pytest.mark.parametrize("start", [*STARTS, time.time()])
def test_a_limiter_decides_alike_whenever_a_manual_clock_starts(start: float, kind: str, tmp_path: Path) -> None:
    zero, clock = ManualClock(1000), ManualClock(start)
    clock.advance(1)
    assert trace(store_on(clock, kind, tmp_path), clock) == trace(MemoryStore(100, clock=zero), zero)


@pytest.mark.parametrize("start", STARTS)
def test_a_queue_keeps_its_pace_whenever_a_manual_clock_starts(start: float) -> None:
    clock = ManualClock(start)
    items: LeakyQueue[int] = LeakyQueue(10, 4, clock=clock)
    began, left = clock.ticks(), []
    for item in range(3):
        items.put(item)
    for _ in range(3):
        items.get()
        left.append((clock.ticks() - began) / TICKS_PER_SECOND)
    assert left == [0, 0.25, 0.5]


@given(st.floats(0, 2**26, exclude_max=True))
def test_a_small_start_is_its_own_ticks(start: float) -> None:
    assert ManualClock(start).ticks() == round(Fraction(start) * TICKS_PER_SECOND)


@given(st.floats(-9e14, 9e14), st.floats(-1e7, 1e7))
def test_a_clock_tells_the_callers_own_seconds_to_the_nearest_tick(start: float, step: float) -> None:
    clock = ManualClock(start)
    assert abs(Fraction(clock.seconds()) - Fraction(start)) <= max(
        Fraction(1, 32 * 10**9), abs(Fraction(start)) / 2**52
    )
    before, ticks = clock.ticks(), round(Fraction(step) * TICKS_PER_SECOND)
    assume(before + ticks >= 0)
    clock.advance(step)
    assert clock.ticks() - before == ticks


@given(st.floats(-9e14, 9e14))
def test_any_start_leaves_two_years_back_and_four_ahead_or_begins_at_zero(start: float) -> None:
    ticks = ManualClock(start).ticks()
    assert 0 <= ticks <= MAX_TICKS - 2**27 * TICKS_PER_SECOND
    assert ticks >= 2**26 * TICKS_PER_SECOND or -1e-10 < start < 2**26


def test_clocks_that_start_apart_stay_apart_so_that_they_can_share_a_table() -> None:
    assert ManualClock(1_800_000_005).ticks() - ManualClock(1_800_000_000).ticks() == 5 * TICKS_PER_SECOND


@pytest.mark.parametrize("start", [0, 5, 1_800_000_000, -5])
def test_a_step_out_of_the_range_is_an_error_and_the_clock_stays(start: float) -> None:
    clock = ManualClock(start)
    moves: list[tuple[Callable[[Any], None], Any, str]] = [
        (clock.advance, -4e8, "an earlier"), (clock.advance_ticks, -(10**400), "an earlier"),
        (clock.set_ticks, -1, "an earlier"), (clock.advance, 4e8, "a later"), (clock.set_ticks, 2**62, "a later"),
        (clock.advance_ticks, 10**5000, "a later"),
    ]  # fmt: skip
    for move, by, start_of in moves:
        with pytest.raises(ValueError, match=rf"this clock goes from .* s, no further: .* with {start_of} start"):
            move(by)
    assert clock.seconds() == start


def test_a_clock_that_began_at_zero_does_not_go_back_before_it() -> None:
    with pytest.raises(ValueError, match=r"this clock goes from 0\.0 to"):
        ManualClock().advance(-1)
    clock = ManualClock(-1)
    clock.advance(-1)
    assert clock.seconds() == -2.0


@pytest.mark.parametrize("bad", ["5", b"5", None, [], object(), 5j, Path("x")])
def test_a_time_that_is_no_number_is_a_type_error(bad: Any) -> None:
    with pytest.raises(TypeError, match="start must be a number of seconds, not "):
        ManualClock(bad)
    with pytest.raises(TypeError, match="seconds must be a number of seconds, not "):
        ManualClock().advance(bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e15, -1e300, 10**400, Decimal("NaN")])
def test_a_time_that_is_no_time_is_a_value_error(bad: Any) -> None:
    with pytest.raises(ValueError, match="start must be a number of seconds between"):
        ManualClock(bad)
    with pytest.raises(ValueError, match="seconds must be a number of seconds between"):
        ManualClock().advance(bad)


@pytest.mark.parametrize("half", [0.5, Fraction(1, 2), Decimal("0.5")])
def test_a_time_may_be_any_number(half: Any) -> None:
    clock = ManualClock(half)
    clock.advance(half)
    assert clock.seconds() == 1.0


@pytest.mark.parametrize("bad", [0.5, "1", None])
def test_ticks_are_whole(bad: Any) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        ManualClock().advance_ticks(bad)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        ManualClock().set_ticks(bad)


@pytest.mark.parametrize("bad", [5, 1.5, "now", 0, [], object(), lambda: 5, ManualClock, time])
def test_what_is_no_clock_is_a_type_error_that_says_what_is(bad: Any, tmp_path: Path) -> None:
    makers: list[Callable[[], object]] = [
        lambda: MemoryStore(10, clock=bad), lambda: MemoryStore(10, clock=bad, implementation="python"),
        lambda: LeakyQueue(1, 1, clock=bad),
    ]  # fmt: skip
    if IMPLEMENTATION == "c":
        makers.append(lambda: SharedMemoryStore(tmp_path / "table", 10, clock=bad))
    for make in makers:
        with pytest.raises(TypeError, match=r"clock must be a clock, such as ManualClock\(\), not "):
            make()
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize("kind", ["c", "python"])
@pytest.mark.parametrize(
    ("timeout", "ticks"),
    [
        (None, MAX_TICKS), (0, 0), (True, 16 * 10**9), (0.5, 8 * 10**9), (float("inf"), MAX_TICKS),
        (10**400, MAX_TICKS), (-1, ValueError), (-0.5, ValueError), (float("nan"), ValueError),
        (-float("inf"), ValueError), (-(10**400), ValueError), (Fraction(1, 2), TypeError), (Decimal(1), TypeError),
        ("1", TypeError), (b"1", TypeError), ([], TypeError),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_timeout_is_read_alike_by_both_cores(timeout: Any, ticks: Any, kind: str, tmp_path: Path) -> None:
    limiter = Limiter("1/s", store=store_on(ManualClock(), kind, tmp_path))
    if not isinstance(ticks, int):
        for ask in (wait_ticks, lambda seconds: limiter.acquire("a", timeout=seconds)):
            with pytest.raises(ticks, match="timeout must be"):
                ask(timeout)
        return
    assert wait_ticks(timeout) == ticks
    assert limiter.acquire("a", timeout=timeout)
    reserved = limiter._gate.reserve("a", 1, timeout)
    assert reserved.allowed == (ticks >= 16 * 10**9)

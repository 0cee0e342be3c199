"""Ranges of the TAT axis and the places that are cut from them, compared with sets of single ticks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from ratekeeper.waiting.places import Need, Range, Ranges, fit, forget_past, put, take

END = 40


def runs_of(lengths: list[tuple[int, int]]) -> set[int]:
    """Return ticks in runs, each after a gap."""
    some: set[int] = set()
    at = 0
    for gap, length in lengths:
        some |= {*range(at + gap, at + gap + length)}
        at += gap + length
    return some


ticks = st.builds(runs_of, st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=5))
needs = st.builds(Need, increment=st.integers(0, 6), burst=st.integers(1, 8))


def ranges_of(some: Iterable[int]) -> Ranges:
    """Return ticks as disjoint ranges, ascending, none beside another."""
    ranges: list[Range] = []
    for tick in sorted(some):
        if ranges and ranges[-1][1] == tick:
            ranges[-1] = ranges[-1][0], tick + 1
        else:
            ranges.append((tick, tick + 1))
    return deque(ranges)


def ticks_of(ranges: Iterable[Range]) -> set[int]:
    return {tick for start, end in ranges for tick in range(start, end)}


@given(ticks, st.integers(0, END - 1), st.integers(1, END))
def test_a_range_is_put_where_it_belongs_and_joined_with_those_beside_it(some: set[int], start: int, size: int) -> None:
    piece = range(start, min(start + size, END))
    ranges = ranges_of(some - {*piece})
    put(ranges, (piece.start, piece.stop))
    assert ranges == ranges_of(some | {*piece})


@given(ticks, st.integers(0, END))
def test_ranges_that_are_past_are_forgotten(some: set[int], now: int) -> None:
    ranges = ranges_of(some)
    kept = [one for one in ranges if one[1] > now]
    forget_past(ranges, now)
    assert [*ranges] == kept


def earliest_end(some: set[int], begin: int, need: Need) -> int | None:
    """Return the least end of a window of one burst, from `begin` on, that has the increment."""
    for end in range(begin, END + 1):
        if sum(max(begin, end - need.burst) <= tick < end for tick in some) >= need.increment:
            return end
    return None


@given(st.lists(st.tuples(needs, ticks), min_size=1, max_size=3), st.integers(0, 12), st.integers(0, 12))
def test_requests_that_leave_together_have_their_increments_within_one_burst_of_the_earliest_turn(
    buckets: list[tuple[Need, set[int]]], begin: int, now: int
) -> None:
    wanted = [need for need, _ in buckets]
    place = fit(wanted, [ranges_of(some) for _, some in buckets], begin, now, by_leaving=True)
    for turn in range(begin, END + 1):
        ends = [earliest_end(some, turn, need) for need, some in buckets]
        if all(end is not None and end <= turn + need.burst for end, need in zip(ends, wanted, strict=True)):
            assert place == (turn, tuple([((begin, end),) for end in ends]))
            return
    assert place is None


@given(st.lists(st.tuples(needs, ticks), min_size=1, max_size=3), st.integers(0, 12), st.integers(0, 12))
def test_requests_that_are_charged_at_admission_have_their_increments_from_now_on(
    buckets: list[tuple[Need, set[int]]], begin: int, now: int
) -> None:
    wanted = [need for need, _ in buckets]
    place = fit(wanted, [ranges_of(some) for _, some in buckets], begin, now, by_leaving=False)
    ends = [earliest_end(some, now, need) for need, some in buckets]
    if any(end is None for end in ends):
        assert place is None
    else:
        turn = max(begin, *(end - need.burst for end, need in zip(ends, wanted, strict=True) if end is not None))
        assert place == (turn, tuple([((begin, end),) for end in ends]))


@given(st.lists(st.tuples(needs, ticks), min_size=1, max_size=3), st.integers(0, 12))
def test_a_place_takes_all_that_lies_before_its_end_and_leaves_the_rest(
    buckets: list[tuple[Need, set[int]]], begin: int
) -> None:
    spare = [ranges_of(some) for _, some in buckets]
    place = fit([need for need, _ in buckets], spare, begin, begin, by_leaving=True)
    if place is None:
        return
    taken = take(place, spare)
    assert taken.turn == place.turn
    for (_, some), left, owned, [(_, end)] in zip(buckets, spare, taken.owned, place.owned, strict=True):
        assert owned == tuple(ranges_of(tick for tick in some if tick < end))
        assert left == ranges_of(tick for tick in some if tick >= end)

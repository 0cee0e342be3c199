"""Ranges of a bucket's TAT axis, and the places that are cut from them. Pure integers: no clock, no store, no waiter.

A charge moves a bucket's TAT on, from `start` to `end`, and so owns the range [start, end) of that axis. Ranges of one
bucket are disjoint. A request may leave at the time d if, in each of its buckets, it owns ranges as long as its
increment within [d, d + burst]. The burst of a token bucket is `capacity * interval`, that of a leaky bucket the
increment itself.

Why the limit holds. Requests that leave from s to e own ranges within [s, e + burst], and these are disjoint. So their
increments sum to at most e - s + burst, which is `capacity + rate * t`. It does not matter who owned a range before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

Range: TypeAlias = tuple[int, int]
Ranges: TypeAlias = "deque[Range]"
"""Disjoint ranges of one bucket, ascending, none beside another."""


class Need(NamedTuple):
    """The need of a request in one bucket: ranges as long as `increment`, within one `burst`."""

    increment: int
    burst: int


class Place(NamedTuple):
    """The ranges that one request owns, for each of its buckets, and its turn: when it may leave.

    A place may own more than the request needs: ranges before its turn are of no use to later waiters.
    """

    turn: int
    owned: tuple[tuple[Range, ...], ...]


def fit(
    needs: Sequence[Need], spare: Sequence[Iterable[Range]], begin: int, now: int, by_leaving: bool
) -> Place | None:
    """Return the earliest place, with its turn at `begin` or later, that these ranges have room for; or None.

    Its ranges are only `(begin, end)`, one a bucket: `take` cuts all that lies before the end. With `by_leaving` the
    ranges of all buckets must begin at the turn or later, which may be later than each bucket alone would ask: so the
    turn is taken again from there, until it stays. It only grows, so this ends. Else they must begin at `now` or later:
    each is charged at admission, and may begin before the turn.
    """
    turn = begin
    while True:
        ends: list[int] = []
        latest = turn
        for need, ranges in zip(needs, spare, strict=True):
            end = _earliest_end(ranges, turn if by_leaving else now, need)
            if end is None:
                return None
            ends.append(end)
            latest = max(latest, end - need.burst)
        if latest == turn or not by_leaving:
            return Place(latest, tuple([((begin, end),) for end in ends]))
        turn = latest


def take(place: Place, spare: Sequence[Ranges]) -> Place:
    """Cut a place that `fit` found out of the ranges, with all that lies before it: that is void from then on."""
    ends = [owned[-1][1] for owned in place.owned]
    return Place(place.turn, tuple([_cut(ranges, end) for ranges, end in zip(spare, ends, strict=True)]))


def cut_in_order(
    wanted: Iterable[tuple[Sequence[Need], int]],
    places: Iterable[Place],
    spare: Sequence[Ranges],
    now: int,
    by_leaving: bool,
) -> tuple[deque[Place], list[Ranges]] | None:
    """Cut places anew out of all that these places own and all that is spare: in order, the earliest for each need.

    Return them, and the ranges that are left. None: one would have a later turn than stands beside its needs.
    """
    owned = [deque(ranges) for ranges in spare]
    for place in places:
        for ranges, pieces in zip(owned, place.owned, strict=True):
            for piece in pieces:
                put(ranges, piece)
    cut: deque[Place] = deque()
    turn = now
    for needs, latest in wanted:
        found = fit(needs, owned, turn, now, by_leaving)
        if found is None or found.turn > latest:
            return None
        cut.append(take(found, owned))
        turn = found.turn
    return cut, owned


def put(ranges: Ranges, piece: Range) -> None:
    """Add a range where it belongs, and join it with those beside it."""
    start, end = piece
    if ranges and end <= ranges[0][0]:
        if ranges[0][0] == end:
            end = ranges.popleft()[1]
        ranges.appendleft((start, end))
        return
    behind: list[Range] = []
    while ranges and ranges[-1][0] >= end:
        behind.append(ranges.pop())
    if behind and behind[-1][0] == end:
        end = behind.pop()[1]
    if ranges and ranges[-1][1] == start:
        start = ranges.pop()[0]
    ranges.append((start, end))
    ranges.extend(reversed(behind))


def forget_past(ranges: Ranges, now: int) -> None:
    """Remove the ranges that are past."""
    while ranges and ranges[0][1] <= now:
        ranges.popleft()


def _earliest_end(ranges: Iterable[Range], begin: int, need: Need) -> int | None:
    """Return the least `end` such that the ranges from `begin` have the increment within [end - burst, end].

    A window as long as the burst moves along the axis. It gains where its head is on a range, and loses where its tail
    leaves one.
    """
    increment, burst = need
    if increment == 0:
        return begin
    if increment > burst:
        return None
    window: deque[list[int]] = deque()
    have = 0
    for start, stop in ranges:
        head = max(start, begin)
        if head >= stop:
            continue
        have -= _leave_behind(window, head - burst)
        window.append([head, head])
        while head < stop:
            tail = window[0]
            step = min(increment - have, stop - head, tail[0] + burst - head)
            if step:
                have += step
            else:  # the window is as long as the burst: what its head gains, its tail loses
                step = min(stop - head, tail[1] - tail[0])
                tail[0] += step
                if tail[0] == tail[1]:
                    window.popleft()
            head += step
            window[-1][1] = head
            if have == increment:
                return head
    return None


def _leave_behind(window: deque[list[int]], begin: int) -> int:
    """Remove the parts before `begin`. Return how much they were."""
    lost = 0
    while window and window[0][0] < begin:
        piece = window[0]
        lost += min(piece[1], begin) - piece[0]
        if piece[1] > begin:
            piece[0] = begin
        else:
            window.popleft()
    return lost


def _cut(ranges: Ranges, end: int) -> tuple[Range, ...]:
    """Remove all that lies before `end`, and return it."""
    pieces: list[Range] = []
    while ranges and ranges[0][0] < end:
        start, stop = ranges.popleft()
        pieces.append((start, min(stop, end)))
        if stop > end:
            ranges.appendleft((end, stop))
    return tuple(pieces)

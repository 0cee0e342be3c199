"""The demand of one bucket over time, and the rate that would have met it. Knows no log, no rule and no store.

The capacity that would have done, at the limit's rate, grows with the log if demand exceeds the rate all the time. Then
the rate is wrong, and not the capacity. This module finds the rate.

Say S(i) tokens were asked for before request i, which came at t(i). A bucket of capacity c and rate r rejects nothing
if, for all requests i and j with i before j or i = j,

    S(j) + cost(j) - S(i)  <=  c + r * (t(j) - t(i) + wait).

With c the limit's own capacity, a burst of one instant would ask for an infinite rate. So short bursts are left to the
capacity: those of w, the time in which the present rate gives one token, and at least a second. r is the largest slope
(S(j) + cost(j) - c - S(i)) / (t(j) - t(i) + wait + w), and the capacity is c + r * w. Both together reject nothing.

The largest slope from the point (t(j), S(j) + cost(j) - c) to an earlier point (t(i), S(i)) ends at a corner of the
lower convex hull of the earlier points. Corners before an edge that is flatter than r can never give a larger slope
than r, so they are forgotten. Few corners are left, and their number is bounded.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import NamedTuple

from ratekeeper.limits import TICKS_PER_SECOND, Limit

_MOST_CORNERS = 64
_LEAST_SECONDS, _LEAST_TOKENS = 10, 3
"""Demand of a shorter time than both, in seconds and in tokens at the present rate, is a burst, for a capacity."""
_STEADY = 4
"""The needed rate is at most so many times the mean demand, or else demand comes in bursts, for a capacity."""


class Remedy(NamedTuple):
    """A rate, in tokens a second, and a capacity that together would have rejected nothing.

    `asked` is the mean demand of the bucket that asked for the most, in tokens a second, over `seconds`. `buckets` is
    the number of buckets that asked for more than the rate all the time.
    """

    rate: Fraction
    capacity: int
    asked: Fraction
    seconds: float
    buckets: int


class Demand:
    """The demand of a bucket since it first was not full. `debt` tokens were asked for before."""

    __slots__ = ("_corners", "_grace", "_rise", "_room", "_run", "_short", "first", "last", "limit", "tokens")

    def __init__(self, limit: Limit, now: int, debt: int, wait: int) -> None:
        self.limit = limit
        self.tokens = 0
        self.first = self.last = now
        self._room = limit.capacity + limit.queues
        self._short = max(TICKS_PER_SECOND, limit.interval)
        self._grace = wait + self._short
        self._rise, self._run = 1, limit.interval  # the largest slope
        self._corners = [(now, -debt)]

    def add(self, now: int, cost: int) -> None:
        """Count a request."""
        corners, before = self._corners, self.tokens
        if now > corners[-1][0]:  # else the corner of this instant is lower
            while len(corners) > 1 and _is_above(corners[-2], corners[-1], now, before):
                corners.pop()
            corners.append((now, before))
            self._forget()
        self.last = now
        self.tokens = before + cost
        top, end = self.tokens - self._room, now + self._grace
        at, tokens = corners[0]
        if (top - tokens) * self._run > self._rise * (end - at):  # all edges are steeper, so the first corner shows it
            for at, tokens in corners:
                if (top - tokens) * self._run > self._rise * (end - at):
                    self._rise, self._run = top - tokens, end - at
            self._forget()

    def _forget(self) -> None:
        corners, flat = self._corners, 0
        while flat + 1 < len(corners):
            (at, tokens), (later, more) = corners[flat], corners[flat + 1]
            if (more - tokens) * self._run > self._rise * (later - at):
                break
            flat += 1
        if flat:
            del corners[:flat]
        if len(corners) > _MOST_CORNERS:  # a corner to the right and below gives larger slopes, so the rate still does
            corners[:] = [(corners[-1][0], corners[0][1])]

    @property
    def rate(self) -> Fraction:
        """The rate that would have met the demand but for short bursts, in tokens a second; at least the mean."""
        return max(self.mean, Fraction(self._rise * TICKS_PER_SECOND, self._run))

    @property
    def capacity(self) -> int:
        """The capacity that rejects nothing at that rate."""
        return self.limit.capacity + ceil(self.rate * self._short / TICKS_PER_SECOND)

    @property
    def mean(self) -> Fraction:
        """The mean demand, in tokens a second."""
        return Fraction(self.tokens * TICKS_PER_SECOND, max(self._short, self.last - self.first))

    def exceeds_all_the_time(self, needed: int, span: int) -> bool:
        """Return whether the rate is too low, and not the capacity. `needed` is the capacity at the present rate."""
        length = self.last - self.first
        return (
            needed > 2 * self.limit.capacity
            and length >= max(_LEAST_SECONDS * TICKS_PER_SECOND, _LEAST_TOKENS * self.limit.interval)
            and 10 * length >= span
            and self.mean > self.limit.rate
            and _STEADY * self.mean >= self.rate
        )


def _is_above(one: tuple[int, int], corner: tuple[int, int], at: int, tokens: int) -> bool:
    """Return whether a corner is on or above the line from the one before it to a new point."""
    return (corner[1] - one[1]) * (at - one[0]) >= (tokens - one[1]) * (corner[0] - one[0])

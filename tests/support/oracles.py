"""Independent witnesses: both algorithms as people draw them, with no TAT anywhere, and a parser of headers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import http_sf

from ratekeeper import TokenBucket
from ratekeeper.limits import TICKS_PER_SECOND


def structured(header: str) -> list[tuple[str, dict[str, int]]]:
    """The items of a RateLimit header as an independent parser of structured fields reads them."""
    return cast("list[tuple[str, dict[str, int]]]", http_sf.parse(header.encode("ascii"), tltype="list"))


class TokenBucketOracle:
    """A bucket of tokens, counted when it is asked. All times in ticks."""

    def __init__(self, capacity: int, interval: int) -> None:
        self.capacity = capacity
        self.interval = interval
        self.missing = Fraction(0)  # tokens, when it was last charged
        self.charged_at = 0

    def missing_at(self, now: int) -> Fraction:
        """Tokens that are missing from a full bucket; a clock that stepped back takes refilled tokens away again."""
        return max(Fraction(0), self.missing - Fraction(now - self.charged_at, self.interval))

    def ask(self, now: int, cost: int) -> bool:
        missing = self.missing_at(now)
        if missing + cost > self.capacity:
            return False
        if cost:
            self.missing, self.charged_at = missing + cost, now
        return True

    def remaining(self, now: int) -> int:
        return int(self.capacity - self.missing_at(now)) if self.missing_at(now) <= self.capacity else 0


class QueueOracle:
    """A server that takes one interval a request, and `capacity` places to wait. All times in ticks."""

    def __init__(self, capacity: int, interval: int) -> None:
        self.capacity = capacity
        self.interval = interval
        self.starts: list[int] = []  # when each admitted request is, or was, taken from the queue

    def ask(self, now: int) -> int | None:
        """Return when a request that arrives now goes ahead, or None if the queue is full."""
        free_at = self.starts[-1] + self.interval if self.starts else now
        waiting = sum(start > now for start in self.starts)
        if free_at > now and waiting >= self.capacity:
            return None
        self.starts.append(max(now, free_at))
        return self.starts[-1]


def assert_windows_hold(limit: TokenBucket, admitted: Sequence[int]) -> None:
    """Check the promise over a history of single tokens, by their times in order: in every window, also the longest.

    In a window from one admission to another: last - first + 1 <= capacity + rate * t. Put as "no later one is more
    above the line of the rate than capacity - 1 over the lowest before it", one pass looks at every window.
    """
    lowest = Fraction(0)
    for count, at in enumerate(admitted):
        above_line = count - Fraction(at, TICKS_PER_SECOND) * limit.rate
        lowest = above_line if count == 0 else min(lowest, above_line)
        assert above_line - lowest + 1 <= limit.capacity

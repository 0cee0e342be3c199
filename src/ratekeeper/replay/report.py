"""The results of a replay: values, counted by `engine` and shown by `tables`.

They hold no key in clear, unless the replay was asked to show keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.policy.model import Rule
from ratekeeper.replay.demand import Remedy
from ratekeeper.replay.timeline import Series


class BadLine(NamedTuple):
    """A line that could not be replayed, and why."""

    line: int
    reason: str


class TimeSpan(NamedTuple):
    """The times of a log's first and last request, in ticks since 1970."""

    first: int
    last: int

    @property
    def seconds(self) -> tuple[int, int]:
        """The same in whole seconds."""
        return self.first // TICKS_PER_SECOND, self.last // TICKS_PER_SECOND


class BucketReport(NamedTuple):
    """One bucket of one rule; `name` is its key for people. The counts are as in `RuleReport`.

    `remedied` is whether it asked for more than the rate all the time, so no capacity is meant.
    """

    rule: str
    name: str
    admitted: int
    rejected: int
    needed: int
    remedied: bool = False


@dataclass(frozen=True, slots=True)
class RuleReport:
    """The decisions of one rule on the requests that it matched, without regard to other rules.

    delayed     admitted requests that the rule would have had wait
    buckets     distinct buckets that were asked
    needed      the least capacity, at the same rate, with which the rule would have admitted every request of the log,
                if all other rules had too; a leaky bucket's callers are taken to wait for their turn
    needed_99   the same for 99 % of the buckets: the worst one per cent left out
    keyless     requests without an attribute of the rule's key, which shared a bucket
    timeline    outcomes over time; None if no request matched
    remedy      the rate that would do, where demand exceeds the rate all the time: `needed` then grows with the log
    """

    rule: Rule
    admitted: int
    rejected: int
    delayed: int
    buckets: int
    needed: int
    needed_99: int
    keyless: int
    timeline: Series | None = None
    remedy: Remedy | None = None

    @property
    def requests(self) -> int:
        return self.admitted + self.rejected


@dataclass(frozen=True, slots=True)
class Report:
    """The decisions of a policy on a log.

    lines       lines read, blank ones left out
    requests    lines that were replayed; each was admitted or rejected
    bad_lines   the first lines that could not be replayed, of `unreadable` in all
    unmatched   requests that no rule matched: admitted
    delayed     admitted requests that would have had to wait, the longest for `longest_delay` seconds
    lacking     rejected requests by the missing attribute that made a rule with `missing = "reject"` refuse them
    absent      attributes that the policy asks for, and that no request has
    late        requests so far behind others in the log that they were replayed at a later time than their own
    lateness    how much later at most, in seconds
    whole_seconds  no time in the log has a fraction of a second
    evicted     live buckets that the store had no place for
    top         the buckets that rejected the most requests, most first
    timeline    outcomes over time; None if the log has no requests
    """

    lines: int
    requests: int
    unreadable: int
    bad_lines: tuple[BadLine, ...]
    span: TimeSpan | None
    unmatched: int
    admitted: int
    rejected: int
    delayed: int
    longest_delay: float
    lacking: dict[str, int]
    absent: tuple[str, ...]
    late: int
    lateness: float
    whole_seconds: bool
    evicted: int
    rules: tuple[RuleReport, ...]
    top: tuple[BucketReport, ...]
    timeline: Series | None = None

"""Replay: requests of the past through a policy, on a clock that they drive. Knows no log, no file and no terminal.

Time
    The clock stands at the time of the entry being decided. Logs are not quite in order: a line is written when its
    request ends, and some servers (Apache) write the time at which it began, so lines step back by seconds. A clock
    that followed them would be wrong: a request of 12:00:05 would be refused for tokens that are taken at 12:00:09. So
    entries pass through a heap that holds the last 10,000 and lets the earliest go first, which puts such logs in
    order. An entry that comes even later is decided at the latest time so far, and is counted as `late`.

    The clock covers the nine years with the most of the first 10,000 entries, and a month before. So a line of 1970,
    from a server with an unset clock, is not read, and the other lines are.

Memory
    It grows by some 300 bytes for each distinct bucket, some 600 if requests meet it while it is not full, and with
    nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heappushpop
from itertools import islice

from ratekeeper.clock import ManualClock
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.policy.keeper import Keeper
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.replay.entries import LogEntry, UnreadableLine
from ratekeeper.replay.plan import Lacking, Planner, asked_for
from ratekeeper.replay.report import BadLine, BucketReport, Report, TimeSpan
from ratekeeper.replay.tally import Share, Values, count, most_refusing
from ratekeeper.replay.timeline import ADMITTED, DELAYED, REJECTED, Timeline
from ratekeeper.stores.memory import MemoryStore

HELD_BACK = 10_000
"""The number of entries that wait in case an earlier one follows."""

_BAD_LINES_TOLD = 3
_FIRST_TICK, _LAST_TICK = TICKS_PER_SECOND, 2**62 - 1  # a clock's
_MONTH = 30 * 86_400 * TICKS_PER_SECOND
_NINE_YEARS = _LAST_TICK - _FIRST_TICK - _MONTH


class Replay:
    """One replay. `run` decides requests, and `report` tells of them. `max_keys` is the size of the store.

    `lines` are those that were read of a log, and `note` counts one that is not a request.
    """

    def __init__(self, policy: Policy, max_keys: int = 1_000_000) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(max_keys, clock=self.clock)
        self.keeper = Keeper(policy.without_lookups(), self.store)  # the functions are the application's
        self.planner = Planner(self.keeper.compiled, policy.rules)
        self.absent = set(asked_for(policy))
        self.bad_lines: list[BadLine] = []
        self.lacking: Counter[str] = Counter()
        self.lines = self.unreadable = self.unmatched = self.admitted = self.rejected = self.delayed = 0
        self.longest_delay = self.late = self.lateness = self.now = 0
        self.span: TimeSpan | None = None
        self.offset = 0  # from the log's time to the clock's
        self.whole_seconds = True
        self.timeline = Timeline()

    def run(self, entries: Iterable[LogEntry]) -> Replay:
        """Decide requests, in order of time."""
        for entry in self._in_order(iter(entries)):
            try:
                self._replay(entry)
            except UnreadableLine as error:
                self.note(entry.line, error)
        return self

    def note(self, line: int, reason: UnreadableLine) -> None:
        """Count a line that is not a request."""
        self.unreadable += 1
        if len(self.bad_lines) < _BAD_LINES_TOLD:
            self.bad_lines.append(BadLine(line, str(reason)))

    def _in_order(self, entries: Iterator[LogEntry]) -> Iterator[LogEntry]:
        """Put entries in order of time, as far as the heap can; set the clock by the first ones."""
        held = sorted(islice(entries, HELD_BACK))
        if held:
            self.offset = _FIRST_TICK + _MONTH - _start_of_most([entry.at for entry in held])
        for entry in entries:
            yield heappushpop(held, entry)  # a sorted list is a heap
        yield from sorted(held)

    def _replay(self, entry: LogEntry) -> None:
        attributes = entry.attributes
        self._set_clock(entry.at)
        if self.absent:
            self.absent.difference_update(attributes)
        try:
            shares = self.planner.shares(attributes, entry.cost)
        except Lacking as refusal:
            self.lacking[refusal.attribute] += 1
            self.rejected += 1
            self.timeline.add(self._second(), REJECTED)
            return
        if shares:
            self._decide(shares)
        else:
            self.unmatched += 1
            self.admitted += 1
            self.timeline.add(self._second(), ADMITTED)

    def _second(self) -> int:
        """Return the time of the request being decided, in seconds since 1970."""
        return (self.now - self.offset) // TICKS_PER_SECOND

    def _set_clock(self, at: int) -> None:
        """Go on to an entry's time; stay if it is past."""
        now = at + self.offset
        if now == self.now:
            return
        if not _FIRST_TICK <= now <= _LAST_TICK:
            raise UnreadableLine("its time is more than nine years from that of most requests in the log")
        if self.span is None:
            self.span = TimeSpan(at, at)
        if at % TICKS_PER_SECOND:
            self.whole_seconds = False
        if now < self.now:
            self.late += 1
            self.lateness = max(self.lateness, self.now - now)
            return
        self.now = now
        self.span = self.span._replace(last=at)
        self.clock.set_ticks(now)

    def _decide(self, shares: list[Share]) -> None:
        decisions = self.store.decide([share.charge for share in shares])
        second = self._second()
        allowed, delay = count(shares, decisions, self.now, second)
        if not allowed:
            self.rejected += 1
            self.timeline.add(second, REJECTED)
            return
        self.admitted += 1
        self.timeline.add(second, DELAYED if delay else ADMITTED)
        if delay:
            self.delayed += 1
            self.longest_delay = max(self.longest_delay, delay)

    def report(self, top: int = 0, show_keys: bool = False) -> Report:
        """Return the decisions. The `top` buckets with the most rejections are named as `replay` says."""
        span = self.span
        return Report(
            lines=self.lines, requests=self.admitted + self.rejected, unreadable=self.unreadable,
            bad_lines=tuple(sorted(self.bad_lines)), span=self.span, unmatched=self.unmatched, admitted=self.admitted,
            rejected=self.rejected, delayed=self.delayed, longest_delay=self.longest_delay / TICKS_PER_SECOND,
            lacking=dict(self.lacking), absent=tuple(sorted(self.absent)), late=self.late,
            lateness=self.lateness / TICKS_PER_SECOND, whole_seconds=self.whole_seconds,
            evicted=self.store.stats().evicted_live, rules=tuple(tally.report(span) for tally in self.planner.tallies),
            top=self._top(top, show_keys), timeline=self.timeline.series(*span.seconds) if span else None,
        )  # fmt: skip

    def _top(self, top: int, show_keys: bool) -> tuple[BucketReport, ...]:
        return tuple(
            BucketReport(
                rule.name,
                self._name(rule, values, show_keys),
                bucket.admitted,
                bucket.rejected,
                bucket.needed,
                bool(self.span and bucket.in_excess(self.span.last - self.span.first)),
            )
            for rule, values, bucket in most_refusing(self.planner.tallies, top)
        )

    def _name(self, rule: Rule, values: Values, show_keys: bool) -> str:
        """Return a bucket's name for people; values are secrets unless the keeper knows them to be public."""
        shown = [
            ("(none)" if value is None else value) if show_keys else self.keeper.compiled.shown(name, value)
            for name, value in zip(rule.key, values, strict=True)
        ]
        return ", ".join(f"{name}={value}" for name, value in zip(rule.key, shown, strict=True)) or "(one for all)"


def _start_of_most(times: list[int]) -> int:
    """Return the start of the nine years with the most of some sorted times; of several, the latest."""
    most, start, first = 0, times[0], 0
    for last, at in enumerate(times):
        while at - times[first] > _NINE_YEARS:
            first += 1
        if last - first + 1 >= most:
            most, start = last - first + 1, times[first]
    return start

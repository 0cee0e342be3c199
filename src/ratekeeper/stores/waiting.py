"""Who waits, in which order, and when each may go: the one implementation of waiting, for threads and for asyncio.

A waiter reserves its place by the rule itself: its charge moves the bucket's TAT past now, so the order of arrival is
the order of leaving, and nobody polls. A `Line` keeps the waiters of this process, so that those behind one who gives
up can move up. It reads its store's clock, and knows no thread or event loop, only a function that wakes a waiter.

Why moving up is exact. Say W gives up at a time c before its turn. W waits, so the bucket's TAT before W's charge was
later than c: at a token bucket because W's cost was not there yet (tat + increment > c + capacity * interval, and no
cost is over the capacity), at a leaky bucket because its server was busy until then. So the TATs of all behind W follow
from W's without a gap, and the rule, run again for them as if W had never come, starts from a TAT that is still ahead
of the clock: each is given what it would have had. Whose new turn is already past leaves now.

That holds if all behind W are known here. They are if each one's charge starts where the one before it ends, and the
TAT in the store is that of the last; else someone came after W in another process, or without waiting here, and nobody
is moved: W's place is lost. Given to a newcomer, it would let two leave at one time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Protocol, TypeAlias

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge, Decision, key_bytes
from ratekeeper.gcra import refundable
from ratekeeper.limits import MAX_AHEAD_TICKS

Bucket: TypeAlias = tuple[str, bytes]


@dataclass(slots=True, eq=False)
class Place:
    """A waiter's place at one bucket: what its cost comes to there, and the bucket's TAT before and after it."""

    charge: Charge
    own: int
    before: int
    tat: int

    def turn_after(self, tat: int) -> int:
        """When this bucket lets the waiter go, if `tat` is the bucket's before this charge."""
        return tat if self.charge.limit.queues else tat + self.own - self.charge.limit.full


@dataclass(slots=True, eq=False)
class Waiter:
    """One who waits at one or several buckets, until the last of them lets it go."""

    wake: Callable[[], None]
    places: list[Place] = field(default_factory=list)
    leaves_at: int = 0
    at: int = 0

    @property
    def buckets(self) -> list[Bucket]:
        return [bucket_of(place.charge) for place in self.places]


class _Move(NamedTuple):
    """What a waiter gets that moves up: its turn, and the TATs before and after its charges."""

    waiter: Waiter
    turn: int
    befores: list[int]
    tats: list[int]


class Deciding(Protocol):
    """What a line needs of its store."""

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]: ...
    def refund(self, charges: Sequence[Charge], at_ticks: int, /) -> None: ...
    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int, /) -> bool: ...


class Line:
    """The waiters of one store in this process, in order for each bucket."""

    def __init__(self, store: Deciding, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()  # held for bookkeeping, never while anyone sleeps
        self._waiters: dict[Bucket, list[Waiter]] = {}
        self._gone: list[Waiter] = []  # who gave up, and has not been taken out yet

    def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        """Charge, and put the waiter in line if it must wait. Returns each charge's decision."""
        with self._lock:
            self._settle()
            if len(charges) > 1 and len({key_bytes(charge.key) for charge in charges}) == 1:
                charges = self._due_together(charges)
            decisions = self._store.decide(charges)
            enforced = [pair for pair in zip(charges, decisions, strict=True) if not pair[0].shadow]
            delay = max((decision.delay_ticks for _, decision in enforced), default=0)
            if delay and all(decision.allowed for _, decision in enforced):
                self._enter(waiter, enforced, delay)
            return decisions

    def leave(self, waiter: Waiter) -> None:
        """Take a waiter out whose turn has come."""
        with self._lock:
            if waiter.places:
                self._settle()
                self._take_out({waiter})

    def give_up(self, waiter: Waiter, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Take a waiter out that will not use its turn, and let those behind it move up as far as is exact.

        They move once for all who give up together: with `later`, a function that calls another soon, not at once.
        """
        with self._lock:
            if not waiter.places:
                return
            if self._clock.ticks() >= waiter.leaves_at:  # its time has begun
                self._give_back([waiter])
                self._take_out({waiter})
                return
            self._gone.append(waiter)
            if later is not None and len(self._gone) == 1:
                later(self.settle)
            elif later is None:
                self._settle()

    def settle(self) -> None:
        """Let those move up that are behind who gave up."""
        with self._lock:
            self._settle()

    def refund(self, charges: Sequence[Charge], at: int) -> None:
        """Give back charges that were made at `at`; who waits at the same buckets has its turn so much sooner."""
        with self._lock:
            self._settle()
            lines = [self._waiters.get(bucket_of(charge), []) for charge in charges]
            first = next((line[0] for line in lines if line), None)
            if first is None:
                self._store.refund(charges, at)
                return
            now = self._clock.ticks()
            buckets = [bucket_of(charge) for charge in charges]
            alike = all(line == lines[0] for line in lines) and all(one.buckets == buckets for one in lines[0])
            if alike and _unbroken(lines[0]):
                tats = [
                    max(now, place.before - refundable(charge.increment, now - at))
                    for charge, place in zip(charges, first.places, strict=True)
                ]
                self._rerun(tats, lines[0], lines[0][-1].places, now)

    def _due_together(self, charges: Sequence[Charge]) -> list[Charge]:
        """Charge each bucket for when the request leaves, which may be later than the bucket itself would let it go.

        Otherwise many that wait for one limit would be charged to another while they wait, and then leave in a burst
        that the other does not allow. This is for charges of one key, whose requests all wait for each other anyway;
        one user's wait must not take from a tenant's bucket what the others could use meanwhile.
        """
        looked = self._store.decide(charges, commit=False)
        enforced = zip(charges, looked, strict=True)  # one in shadow delays nobody
        delay = max((decision.delay_ticks for charge, decision in enforced if not charge.shadow), default=0)
        due = []
        for charge, decision in zip(charges, looked, strict=True):
            idle = max(0, delay - decision.debt_ticks) if decision.allowed and charge.increment else 0
            due.append(
                charge._replace(
                    increment=charge.increment + idle, tolerance=charge.tolerance + idle, bound=charge.bound + idle
                )
            )
        return due

    def _enter(self, waiter: Waiter, charged: Sequence[tuple[Charge, Decision]], delay: int) -> None:
        waiter.at = charged[0][1].at_ticks
        waiter.leaves_at = waiter.at + delay
        for charge, decision in charged:
            own, tat = charge.cost * charge.limit.interval, decision.at_ticks + decision.debt_ticks
            waiter.places.append(Place(charge, own, tat - charge.increment, tat))
            self._waiters.setdefault(bucket_of(charge), []).append(waiter)

    def _take_out(self, waiters: Set[Waiter]) -> None:
        for bucket in {bucket for waiter in waiters for bucket in waiter.buckets}:
            stay = [waiter for waiter in self._waiters[bucket] if waiter not in waiters]
            if stay:
                self._waiters[bucket] = stay
            else:
                del self._waiters[bucket]
        for waiter in waiters:
            waiter.places = []

    def _settle(self) -> None:
        if not self._gone:
            return
        gone, self._gone = self._gone, []
        groups: dict[tuple[Bucket, ...], set[Waiter]] = {}
        for waiter in gone:
            groups.setdefault(tuple(waiter.buckets), set()).add(waiter)
        for buckets, group in groups.items():
            if not self._move_up(buckets, group):
                self._give_back(group)
            self._take_out(group)

    def _move_up(self, buckets: tuple[Bucket, ...], gone: Set[Waiter]) -> bool:
        """Let those move up that are behind the first of `gone`, if they wait at just the same buckets."""
        line = self._waiters[buckets[0]]
        first = next(place for place, waiter in enumerate(line) if waiter in gone)
        behind = line[first:]
        for bucket in buckets[1:]:
            other = self._waiters[bucket]
            if other[other.index(line[first]) :] != behind:
                return False
        stay = [waiter for waiter in behind if waiter not in gone]
        if any(tuple(waiter.buckets) != buckets for waiter in stay) or not _unbroken(behind):
            return False
        now = self._clock.ticks()
        tats = [max(now, place.before) for place in line[first].places]
        return self._rerun(tats, stay, behind[-1].places, now)

    def _give_back(self, waiters: Iterable[Waiter]) -> None:
        """Give back the tokens of who could not be undone: as a refund, which is nothing while somebody waits."""
        for waiter in waiters:
            tokens = [place.charge for place in waiter.places if not place.charge.limit.queues]
            self._store.refund(tokens, waiter.at)

    def _rerun(self, tats: list[int], waiters: Sequence[Waiter], last: Sequence[Place], now: int) -> bool:
        """Run the rule again for waiters, from these TATs before them. False, and nothing done, if others came.

        `last` are the places of who was the last in line until now.
        """
        moves: list[_Move] = []
        for waiter in waiters:
            befores, at = tats, list(zip(waiter.places, tats, strict=True))
            turn = max(now, *(place.turn_after(tat) for place, tat in at))
            # A bucket alone is always ahead of the turn (see above); one of several may be idle until then.
            tats = [place.own + (max(tat, turn) if len(at) > 1 else tat) for place, tat in at]
            moves.append(_Move(waiter, turn, befores, tats))
        if not self._rewind(last, tats):
            return False
        for waiter, turn, befores, tats in moves:
            waiter.leaves_at = turn
            for place, before, tat in zip(waiter.places, befores, tats, strict=True):
                place.before, place.tat = before, tat
            waiter.wake()
        return True

    def _rewind(self, places: Sequence[Place], tats: Sequence[int]) -> bool:
        """Set the TATs after the last of a line back, all or none: if one fails, those before are charged anew."""
        done: list[Charge] = []
        for place, tat in zip(places, tats, strict=True):
            charge = place.charge
            if not self._store.rewind(charge.scope, charge.key, place.tat, tat):
                for again in done:
                    self._store.decide([again])
                return False
            back = place.tat - tat
            done.append(charge._replace(cost=0, increment=back, tolerance=MAX_AHEAD_TICKS, bound=MAX_AHEAD_TICKS))
        return True


def _unbroken(line: Sequence[Waiter]) -> bool:
    """Does each charge follow from the one before it (or find an idle bucket), so that nobody unknown is between?"""
    return all(
        after.before in (before.tat, second.at)
        for first, second in pairwise(line)
        for before, after in zip(first.places, second.places, strict=True)
    )


def bucket_of(charge: Charge) -> Bucket:
    """Return which bucket a charge is for: a str key is the same as its UTF-8 bytes."""
    return charge.scope, key_bytes(charge.key)

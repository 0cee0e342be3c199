"""Who waits, in which order, and when each may go: the one implementation of waiting, for threads and for asyncio.

A waiter reserves its place by the rule itself: its charge moves the bucket's TAT past now, so the order of arrival is
the order of leaving, and nobody polls. A `Line` keeps the waiters of this process, so that those behind one who gives
up can move up. It reads its store's clock, and knows no thread or event loop, only a function that wakes a waiter.

Why moving up is exact. Say W gives up at a time c before its turn. W waits, so the bucket's TAT before W's charge was
later than c: at a token bucket because W's cost was not there yet (tat + increment > c + capacity * interval, and no
cost is over the capacity), at a leaky bucket because its server was busy until then. So the TATs of all behind W follow
from W's without a gap, and the rule, run again for them as if W had never come, starts from a TAT that is still ahead
of the clock: each is given what it would have had. Whose new turn is already past leaves now.

That holds if all behind W are known here. They are if the TAT in the store is that of the last in the line; else
someone came after W in another process, or without waiting here, and nobody is moved. At a token bucket W's tokens are
then given back all the same, as by `refund`. At a leaky bucket W's place is lost: given to a newcomer, it would let two
leave at one time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ratekeeper.decision import Charge, Decision

if TYPE_CHECKING:
    from ratekeeper.stores.base import Store


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
    def buckets(self) -> list[tuple[str, str | bytes]]:
        return [(place.charge.scope, place.charge.key) for place in self.places]


class _Move(NamedTuple):
    """What a waiter gets that moves up: its turn, and the TATs before and after its charges."""

    waiter: Waiter
    turn: int
    befores: list[int]
    tats: list[int]


class Line:
    """The waiters of one store in this process, in order for each bucket."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # held for bookkeeping, never while anyone sleeps
        self._waiters: dict[tuple[str, str | bytes], list[Waiter]] = {}

    def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        """Charge, and put the waiter in line if it must wait. Returns each charge's decision."""
        with self._lock:
            if len(charges) > 1 and len({charge.key for charge in charges}) == 1:
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
            self._take_out(waiter)

    def give_up(self, waiter: Waiter) -> None:
        """Take a waiter out that will not use its turn, and let those behind it move up as far as is exact."""
        with self._lock:
            if not waiter.places:
                return
            now = self._store.clock.ticks()
            behind = self._behind(waiter)
            moved = now < waiter.leaves_at and behind is not None and self._move_up(waiter, behind, now)
            if not moved:
                tokens = [place.charge for place in waiter.places if not place.charge.limit.queues]
                self._store.refund(tokens, waiter.at)
            self._take_out(waiter)

    def _due_together(self, charges: Sequence[Charge]) -> list[Charge]:
        """Charge each bucket for when the request leaves, which may be later than the bucket itself would let it go.

        Otherwise many that wait for one limit would be charged to another while they wait, and then leave in a burst
        that the other does not allow. This is for charges of one key, whose requests all wait for each other anyway;
        one user's wait must not take from a tenant's bucket what the others could use meanwhile.
        """
        looked = self._store.decide(charges, commit=False)
        delay = max(decision.delay_ticks for decision in looked)
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
            self._waiters.setdefault((charge.scope, charge.key), []).append(waiter)

    def _take_out(self, waiter: Waiter) -> None:
        for bucket in waiter.buckets:
            line = self._waiters[bucket]
            line.remove(waiter)
            if not line:
                del self._waiters[bucket]
        waiter.places = []

    def _behind(self, waiter: Waiter) -> list[Waiter] | None:
        """Return who is behind a waiter, if it is the same at all its buckets, and they wait at no others."""
        lines = [self._waiters[bucket] for bucket in waiter.buckets]
        behind, *others = [line[line.index(waiter) + 1 :] for line in lines]
        alike = all(other == behind for other in others)
        return behind if alike and all(other.buckets == waiter.buckets for other in behind) else None

    def _move_up(self, gone: Waiter, behind: list[Waiter], now: int) -> bool:
        """Run the rule again for all behind, as if `gone` had never come. False, and nothing done, if others came."""
        last = behind[-1] if behind else gone
        tats = [place.before for place in gone.places]
        moves: list[_Move] = []
        for waiter in behind:
            befores, at = tats, list(zip(waiter.places, tats, strict=True))
            turn = max(now, *(place.turn_after(tat) for place, tat in at))
            # A bucket alone is always ahead of the turn (see above); one of several may be idle until then.
            tats = [place.own + (max(tat, turn) if len(at) > 1 else tat) for place, tat in at]
            moves.append(_Move(waiter, turn, befores, tats))
        for place, tat in zip(last.places, tats, strict=True):
            if not self._store.rewind(place.charge.scope, place.charge.key, place.tat, tat):
                return False
        for waiter, turn, befores, tats in moves:
            waiter.leaves_at = turn
            for place, before, tat in zip(waiter.places, befores, tats, strict=True):
                place.before, place.tat = before, tat
            waiter.wake()
        return True

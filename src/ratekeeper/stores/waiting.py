"""Who waits, in which order, and when each may go: the one implementation of waiting, for threads and for asyncio.

A waiter reserves its place by the rule itself: its charge moves the bucket's TAT past now, so the order of arrival is
the order of leaving, and nobody polls. An `Order` keeps the waiters of this process, so that those behind one who gives
up can move up. It reads its store's clock, and knows no thread or event loop, only a function that wakes a waiter.

It is written once, as coroutines that await nothing but the store. `Line` runs them on a local store, whose answers
never make anyone wait, and `AsyncLine` awaits them on a store on the network. They see to it that nobody moves, leaves
or joins while others are moved.

Why moving up is exact. Say W gives up at a time c before its turn. W waits, so the bucket's TAT before W's charge was
later than c: at a token bucket because W's cost was not there yet (tat + increment > c + capacity * interval, and no
cost is over the capacity), at a leaky bucket because its server was busy until then. So the TATs of all behind W follow
from W's without a gap, and the rule, run again for them as if W had never come, starts from a TAT that is still ahead
of the clock: each is given what it would have had. Whose new turn is already past leaves now.

What the clock says may be behind the store's own time, as it is when the store is far away, but not before an answer
that the store gave already, and never ahead: then all is as if it had been done at that earlier moment, since which
nobody has come (see below). Nobody leaves early by a clock that is behind.

That holds if all behind W are known here. They are if each one's charge starts where the one before it ends, and the
TAT in the store is that of the last; else someone came after W in another process, or without waiting here, and nobody
is moved: W's place is lost. Given to a newcomer, it would let two leave at one time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from itertools import dropwhile
from typing import NamedTuple, Protocol

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge, Decision, key_bytes
from ratekeeper.gcra import refundable
from ratekeeper.limits import MAX_AHEAD_TICKS
from ratekeeper.stores.places import Bucket, Place, Waiter, bucket_of, unbroken


class _Move(NamedTuple):
    """What a waiter gets that moves up: its turn, and the TATs before and after its charges."""

    waiter: Waiter
    turn: int
    befores: list[int]
    tats: list[int]


class Buckets(Protocol):
    """What the order needs of its store, awaited."""

    async def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]: ...
    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None: ...
    async def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool: ...


class Order:
    """The waiters of one store in this process, in order for each bucket. Not safe to use in two threads at once."""

    def __init__(self, store: Buckets, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Have no waiters."""
        self._waiters: dict[Bucket, list[Waiter]] = {}
        self._gone: dict[Waiter, bool] = {}  # who gave up and has not been taken out yet: had its time begun?

    @property
    def unsettled(self) -> bool:
        """Has anyone given up who has not been taken out yet?"""
        return bool(self._gone)

    def anyone_at(self, charges: Iterable[Charge]) -> bool:
        """Does anyone wait at one of these buckets?"""
        return any(bucket_of(charge) in self._waiters for charge in charges)

    async def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        """Charge, and put the waiter in line if it must wait. Returns each charge's decision."""
        if leave_together(charges):
            charges, decisions = await self._charge_together(charges)
        else:
            decisions = await self._store.decide(charges)
        enforced = [pair for pair in zip(charges, decisions, strict=True) if not pair[0].shadow]
        delay = max((decision.delay_ticks for _, decision in enforced), default=0)
        if delay and all(decision.allowed for _, decision in enforced):
            self._enter(waiter, enforced, delay)
        return decisions

    def give_up(self, waiter: Waiter) -> None:
        """Note that a waiter will not use its turn. `settle` takes it out, once for all who give up together."""
        if waiter.places and waiter not in self._gone:
            self._gone[waiter] = self._clock.ticks() >= waiter.leaves_at

    async def settle(self) -> None:
        """Take out who gave up, and let those behind move up as far as is exact.

        If the store fails, its error is raised, and all who gave up are out: whose place was not given back, lost it.
        """
        gone, self._gone = {waiter: begun for waiter, begun in self._gone.items() if waiter.places}, {}
        groups: dict[tuple[Bucket, ...], set[Waiter]] = {}
        try:
            for waiter, begun in gone.items():
                if begun:
                    await self._give_back({waiter})
                    self.take_out({waiter})
                else:
                    groups.setdefault(tuple(waiter.buckets), set()).add(waiter)
            for buckets, group in groups.items():
                if not await self._move_up(buckets, group):
                    await self._give_back(group)
                self.take_out(group)
        finally:
            self.take_out({waiter for waiter in gone if waiter.places})

    def take_out(self, waiters: Set[Waiter]) -> None:
        """Forget waiters. Nobody moves for it."""
        for bucket in {bucket for waiter in waiters for bucket in waiter.buckets}:
            stay = [waiter for waiter in self._waiters[bucket] if waiter not in waiters]
            if stay:
                self._waiters[bucket] = stay
            else:
                del self._waiters[bucket]
        for waiter in waiters:
            waiter.places = []

    async def refund(self, charges: Sequence[Charge], at: int) -> None:
        """Give back charges that were made at `at`, beside waiters: each has its turn so much sooner."""
        now = self._clock.ticks()
        buckets = [bucket_of(charge) for charge in charges]
        lines = [_not_begun(self._waiters.get(bucket, []), now) for bucket in buckets]
        if not any(lines):
            await self._store.refund(charges, at)
            return
        alike = all(line == lines[0] for line in lines) and all(one.buckets == buckets for one in lines[0])
        if alike and unbroken(lines[0]) and _nobody_ahead(lines[0][0], now):
            tats = [
                max(now, place.before - refundable(charge.increment, now - at))
                for charge, place in zip(charges, lines[0][0].places, strict=True)
            ]
            await self._rerun(tats, lines[0], lines[0][-1].places, now)

    async def _charge_together(self, charges: Sequence[Charge]) -> tuple[Sequence[Charge], list[Decision]]:
        """Charge each bucket for when the request leaves, which may be later than the bucket itself would let it go.

        Otherwise many that wait for one limit would be charged to another while they wait, and then leave in a burst
        that the other does not allow. This is for charges of one key, whose requests all wait for each other anyway;
        one user's wait must not take from a tenant's bucket what the others could use meanwhile.

        First it asks to leave at once. What refuses that, and charges nothing, says how long the wait would be.
        """
        at_once = [charge._replace(bound=charge.tolerance) if may_wait([charge]) else charge for charge in charges]
        looked = await self._store.decide(at_once)
        enforced = [pair for pair in zip(charges, looked, strict=True) if not pair[0].shadow]  # shadow delays nobody
        if at_once == list(charges) or all(decision.allowed for _, decision in enforced):
            return at_once, looked
        delay = max(decision.delay_ticks for _, decision in enforced)
        due = []
        for charge, decision in zip(charges, looked, strict=True):
            fits = decision.delay_ticks <= charge.bound - charge.tolerance
            idle = max(0, delay - decision.debt_ticks) if fits and charge.increment else 0
            due.append(
                charge._replace(
                    increment=charge.increment + idle, tolerance=charge.tolerance + idle, bound=charge.bound + idle
                )
            )
        return due, await self._store.decide(due)

    def _enter(self, waiter: Waiter, charged: Sequence[tuple[Charge, Decision]], delay: int) -> None:
        waiter.at = charged[0][1].at_ticks
        waiter.leaves_at = waiter.at + delay
        for charge, decision in charged:
            own, tat = charge.cost * charge.limit.interval, decision.at_ticks + decision.debt_ticks
            place = Place(charge, own, tat - charge.increment, tat)
            waiter.places.append(place)
            line = self._waiters.setdefault(place.bucket, [])
            at = len(line)
            while at and line[at - 1].tat_at(place.bucket) > tat:  # answers of a store far away may overtake each other
                at -= 1
            line.insert(at, waiter)

    async def _move_up(self, buckets: tuple[Bucket, ...], gone: Set[Waiter]) -> bool:
        """Let those move up that are behind the first of `gone`, if they wait at just the same buckets."""
        now = self._clock.ticks()
        behind = _behind(self._waiters[buckets[0]], gone, now)
        if not behind or any(_behind(self._waiters[bucket], gone, now) != behind for bucket in buckets[1:]):
            return False
        stay = [waiter for waiter in behind if waiter not in gone]
        if any(tuple(waiter.buckets) != buckets for waiter in stay) or not unbroken(behind):
            return False
        tats = [max(now, place.before) for place in behind[0].places]
        return await self._rerun(tats, stay, behind[-1].places, now)

    async def _give_back(self, gone: Set[Waiter]) -> None:
        """Give back the tokens of who could not be undone, where nobody else waits: as a refund.

        Beside waiters nothing is given: they would not have their turns sooner for it, and a newcomer would leave with
        them in one burst. For those unknown here the store sees to that, by the debt that a bucket may have: its own,
        not that of a charge made for later. And who has moved up since owes less than it was charged.
        """
        for waiter in gone:
            tokens = [
                place.charge._replace(increment=place.tat - place.before, tolerance=place.charge.limit.full)
                for place in waiter.places
                if not place.charge.limit.queues and all(one in gone for one in self._waiters[place.bucket])
            ]
            if tokens:
                await self._store.refund(tokens, waiter.at)

    async def _rerun(self, tats: list[int], waiters: Sequence[Waiter], last: Sequence[Place], now: int) -> bool:
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
        try:
            moved = await self._rewind(last, tats)
        except BaseException:
            # The store may have done it. To move is right in either case, as a place is free; to stay is not, as the
            # store may give the places at the end to others.
            _move(moves)
            raise
        if moved:
            _move(moves)
        return moved

    async def _rewind(self, places: Sequence[Place], tats: Sequence[int]) -> bool:
        """Set the TATs after the last of a line back, all or none: if one fails, those before are charged anew.

        True too if that could not be done, for an outage: then to move is right, and to stay is not (see `_rerun`).
        """
        done: list[Charge] = []
        for place, tat in zip(places, tats, strict=True):
            charge = place.charge
            if not await self._store.rewind(charge.scope, charge.key, place.tat, tat):
                made = [(await self._store.decide([again]))[0] for again in done]
                return any(decision.source != "exact" for decision in made)
            back = place.tat - tat
            done.append(charge._replace(cost=0, increment=back, tolerance=MAX_AHEAD_TICKS, bound=MAX_AHEAD_TICKS))
        return True


def may_wait(charges: Iterable[Charge]) -> bool:
    """Is any caller of these willing to wait, or is none ever put in line?"""
    return any(charge.bound > charge.tolerance and not charge.shadow for charge in charges)


def leave_together(charges: Sequence[Charge]) -> bool:
    """Are these several limits on one key, which are charged for when the request leaves?"""
    return len(charges) > 1 and len({key_bytes(charge.key) for charge in charges}) == 1


def _nobody_ahead(first: Waiter, now: int) -> bool:
    """Does nobody unknown wait before the first of a line? What was owed there is then no more than a burst."""
    return all(place.before - now <= place.charge.limit.full for place in first.places)


def _not_begun(line: Sequence[Waiter], now: int, gone: Set[Waiter] = frozenset()) -> Sequence[Waiter]:
    """Return who can still be moved: those behind the last whose turn has come, though it may not have left yet."""
    begun = [place for place, waiter in enumerate(line) if waiter.leaves_at <= now and waiter not in gone]
    return line[begun[-1] + 1 :] if begun else line


def _behind(line: Sequence[Waiter], gone: Set[Waiter], now: int) -> Sequence[Waiter]:
    """Return the first of `gone` and all behind it that can still be moved."""
    return list(dropwhile(lambda waiter: waiter not in gone, _not_begun(line, now, gone)))


def _move(moves: Iterable[_Move]) -> None:
    for waiter, turn, befores, tats in moves:
        waiter.leaves_at = turn
        for place, before, tat in zip(waiter.places, befores, tats, strict=True):
            place.before, place.tat = before, tat
        waiter.wake()

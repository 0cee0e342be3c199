"""The queue of a store's waiters in this process: the common part for threads and for tasks. See `waitlist`.

It is coroutines that await nothing but the store: `WaitQueue` runs them, and `AsyncWaitQueue` awaits them.

No lock is held here while the store is asked. All changes here are short sections under one lock. A section calls no
store, and no code of others but the clock. A signal's handler or a `__del__` may yet run in the middle of one, on the
same thread, and call a verb. Giving up is then done by the section at its end. Joining and leaving raise RuntimeError.

Several limits on one key are charged for the time at which the request leaves (`for_departure`). Otherwise many waiters
of one limit would be charged to another while they wait, and then leave in a burst that the other does not allow.
Limits on different keys are charged at admission: while one user waits, others must be able to use a tenant's bucket.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from functools import partial
from typing import TypeVar

from ratekeeper.clock import Clock, local_ticks
from ratekeeper.decision import Charge, Decision, key_bytes
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.waiting.joining import Joining, delays, range_of
from ratekeeper.waiting.places import Place, Range, forget_past
from ratekeeper.waiting.waitlist import Buckets, Waiter, Waitlist

T = TypeVar("T")


class BaseWaitQueue:
    """The waitlists of one store in this process. `decide` and `rewind` are the store's verbs, awaited."""

    def __init__(
        self, decide: Callable[..., Awaitable[list[Decision]]], rewind: Callable[..., Awaitable[bool]], clock: Clock
    ) -> None:
        self._decide = decide
        self._rewind = rewind
        self._clock = clock
        self._local = local_ticks(clock)
        self.forget()

    def forget(self) -> None:
        """Have no waiters, and a lock that nobody holds."""
        for waitlist in getattr(self, "_lists", {}).values():  # a forked child's copy, or a closed loop's
            waitlist.forgotten = True
        self._lock = threading.RLock()
        self._busy = False
        self._late: deque[Waiter] = deque()  # gave up in the middle of a section
        self._lists: OrderedDict[Buckets, Waitlist] = OrderedDict()
        self._unsettled: OrderedDict[Waitlist, None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(waitlist.waiting for waitlist in self._lists.values())

    def leave(self, waiter: Waiter) -> bool:
        """Return whether the waiter's turn has come, and it has left. Else it is told when to look again."""
        waitlist = waiter.waitlist
        if waitlist is None or waiter.place is not None:  # as for most: the first of those due lets all go
            return True
        return waiter.leaves_at <= self._local() and self._section(lambda: self._leave(waiter, waitlist))

    def watch(self, waiter: Waiter) -> None:
        """Tell a waiter its turn from now on: somebody waits for it."""
        if (waitlist := waiter.waitlist) is not None:
            self._section(partial(waitlist.watch, waiter))
            self._section(partial(self._tell_first, waitlist))

    def waiting_at(self, scope: str, key: str | bytes) -> int:
        """Return how many wait for a bucket."""

        def count() -> int:
            bucket = scope, key_bytes(key)
            lists = [waitlist for waitlist in self._lists.values() if bucket in waitlist.buckets]
            for waitlist in lists:
                self._let_go(waitlist)
            return sum(waitlist.waiting for waitlist in lists)

        return self._section(count)

    def reset(self, charges: Iterable[Charge] = (), scopes: Container[str] = ()) -> None:
        """Own no spare ranges of buckets that are reset: those of charges, or of whole scopes."""
        buckets = {(charge.scope, key_bytes(charge.key)) for charge in charges}

        def forget() -> None:
            for waitlist in self._lists.values():
                waitlist.forget_spare([one for one in waitlist.buckets if one in buckets or one[0] in scopes])

        self._section(forget)

    def _section(self, change: Callable[[], T]) -> T:
        """Change what is kept here, as one step for all other threads."""
        with self._lock:
            if self._busy:
                raise RuntimeError(
                    "a signal handler or __del__ interrupted a verb, and called one that may wait: use try_acquire"
                )
            self._busy = True
            try:
                result = change()
                while self._late:
                    self._take_out(self._late.popleft())
                return result
            finally:
                self._busy = False

    def _give_up(self, waiter: Waiter) -> None:
        """Take a waiter out. Its ranges serve those behind it, and what is left is to be settled."""
        with self._lock:
            if self._busy:
                self._late.append(waiter)
            else:
                self._section(lambda: self._take_out(waiter))

    def _take_out(self, waiter: Waiter) -> None:
        waitlist = waiter.waitlist
        if waitlist is not None and not waitlist.forgotten:
            waitlist.give_up(waiter, self._let_go(waitlist))
            self._unsettled.setdefault(waitlist)
            self._tell_first(waitlist)

    def _leave(self, waiter: Waiter, waitlist: Waitlist) -> bool:
        now = self._let_go(waitlist)
        if waiter.place is None and (first := waitlist.next_turn()) is not None:  # it was woken for one that has left
            waiter.leaves_at = max(waiter.leaves_at, first[1] - waitlist.lead)
        self._forget_if_idle(waitlist, now)
        return waiter.place is not None

    def _let_go(self, waitlist: Waitlist) -> int:
        """Let all leave whose turn has come, and tell the next: they do not. Returns the time, on the buckets' axis."""
        local = self._local()
        now = local + waitlist.lead
        left = waitlist.let_go(now)
        if any(waiter.leaves_at > local for waiter in left):  # else all wake by themselves, in order
            for waiter in left:
                waiter.leaves_at = min(waiter.leaves_at, local)
                waiter.wake()
        self._tell_first(waitlist)
        return now

    def _tell_first(self, waitlist: Waitlist) -> None:
        """Tell the first waiter its turn, if that is sooner than it knows. One that cannot be told is taken out.

        If nobody waits for the first, one behind it is woken then in its place: somebody must let go and tell the next.
        """
        while (first := waitlist.next_turn()) is not None:
            waiter, turn = first[0], first[1] - waitlist.lead
            if not waiter.sleeps:
                waiter.tell(turn)
                waiter = waitlist.lookout() or waiter
            if waiter.tell(turn):
                return
            waitlist.give_up(waiter, self._local() + waitlist.lead)

    async def _join(self, one: Joining) -> list[Decision]:
        """Charge, and put the waiter into the list if it must wait. Returns each charge's decision.

        Requests that are charged for their departure must join one after the other: each looks, and then charges.
        """
        if not one.may_wait:
            return await self._decide(one.charges)
        while True:
            waitlist = self._lists.get(one.buckets)
            # A signal's handler in the middle of a section is refused there, before it is charged.
            if self._busy or (waitlist is not None and all(waitlist.spare)):
                taken = self._section(lambda: self._take_spare(one))
                if taken is not None:
                    return await self._decisions_on(one, *taken)
            decisions = await (self._charge_for_departure(one) if one.for_departure else self._charge(one))
            if decisions is not None:
                return decisions

    def _take_spare(self, one: Joining) -> tuple[Place, int] | None:
        if (waitlist := self._lists.get(one.buckets)) is None:
            return None
        now = self._let_go(waitlist)
        if (place := waitlist.take_spare(one.waiter, one.needs, now, one.max_wait)) is None:
            return None
        one.waiter.waitlist = waitlist
        one.waiter.leaves_at = place.turn - waitlist.lead
        return place, now

    async def _decisions_on(self, one: Joining, place: Place, now: int) -> list[Decision]:
        """Return the decisions on a request that has taken spare ranges. Its other charges are yet to be made."""
        made = one.taken(place, now)
        others = [charge for charge in one.charges if not delays(charge)]
        rest = iter(await self._decide(others) if others else [])
        return [made[number] if number in made else next(rest) for number in range(len(one.charges))]

    async def _charge(self, one: Joining) -> list[Decision]:
        """Charge limits that do not wait for each other."""
        decisions = await self._decide(one.charges)
        if one.passes(decisions) and (delay := max(one.each(decisions, lambda _, made: made.delay_ticks))):
            self._section(lambda: self._enter(one, decisions, one.each(decisions, range_of), delay))
        return decisions

    async def _charge_for_departure(self, one: Joining) -> list[Decision] | None:
        """Charge each bucket for when the request leaves, which may be later than the bucket itself would let it go.

        First it asks to leave at once. A refusal charges nothing, and says how long the wait would be. If
        another process charges between the two, the ranges may be short: they are given back. None: begin again.
        """
        looked = await self._decide(one.at_once())
        if one.passes(looked):
            return looked
        if any(decision.source != "exact" for decision in looked):  # an outage: it says nothing of the buckets
            return await self._charge(one)
        if not (delay := max(one.each(looked, lambda _, seen: seen.delay_ticks))):  # the table has no room
            return looked
        if any(one.each(looked, lambda charge, seen: seen.delay_ticks > charge.tolerance - charge.burst)):
            refused = await self._decide(one.charges, commit=False)
            return None if one.passes(refused) else refused
        due = one._replace(charges=one.due(looked, delay))
        decisions = await self._decide(due.charges)
        if not due.passes(decisions):  # a block refuses however long the request would wait
            refused = await self._decide(one.charges, commit=False)
            return None if one.passes(refused) else refused
        ranges = due.each(decisions, range_of)
        if (place := self._section(partial(self._enter, one, decisions, ranges, delay))) is not None:
            return one.granted(decisions, place)
        await self._take_back(self._section(lambda: self._list_for(one, self._lead())), ranges)
        return None

    def _enter(self, one: Joining, decisions: Sequence[Decision], ranges: Sequence[Range], delay: int) -> Place | None:
        """Put a request into the list that was charged these ranges. None: they are too short for it."""
        self._sweep()
        now, lead = decisions[0].at_ticks, self._lead()
        if any(decision.source != "exact" for decision in decisions):  # not the store's: never to be given back
            waitlist = Waitlist((), False, lead)
            place: Place | None = waitlist.add_alone(one.waiter, now + delay)
        else:
            waitlist = self._list_for(one, lead)
            place = waitlist.add(one.waiter, one.needs, ranges, now, max(now, self._let_go(waitlist)))
            if place is not one.waiter.charged:  # spare ranges came before, and its own are at the end of the axis
                self._unsettled.setdefault(waitlist)
        if place is not None:
            one.waiter.waitlist = waitlist
            one.waiter.leaves_at = place.turn - waitlist.lead
            self._tell_first(waitlist)
        return place

    def _list_for(self, one: Joining, lead: int) -> Waitlist:
        """Return the waitlist of these buckets: another if the store's clock has been set, for its axis has moved."""
        waitlist = self._lists.get(one.buckets)
        if waitlist is None or abs(waitlist.lead - lead) >= TICKS_PER_SECOND:
            waitlist = self._lists[one.buckets] = Waitlist(one.buckets, one.for_departure, lead)
        waitlist.lead = lead
        return waitlist

    def _lead(self) -> int:
        """Return how far the store's clock is ahead of this process's."""
        return self._clock.ticks() - self._local() if self._local != self._clock.ticks else 0

    def _sweep(self) -> None:
        """Forget the list that was looked at longest ago, if it is of no more use."""
        if len(self._lists) > 1:  # else it is the one that is joined
            buckets, waitlist = next(iter(self._lists.items()))
            self._lists.move_to_end(buckets)
            self._forget_if_idle(waitlist, self._let_go(waitlist))

    def _forget_if_idle(self, waitlist: Waitlist, now: int) -> None:
        if waitlist.idle_at(now) and self._lists.get(waitlist.buckets) is waitlist:
            del self._lists[waitlist.buckets]

    async def _settle(self) -> None:
        """Take back in the store the last ranges that were given up."""
        while self._unsettled:
            waitlist, _ = self._unsettled.popitem(last=False)
            await self._take_back(waitlist, self._section(partial(self._last_spare, waitlist)))
            self._section(partial(self._forget_if_idle, waitlist, self._local() + waitlist.lead))

    async def _take_back(self, waitlist: Waitlist, ranges: Sequence[Range | None]) -> None:
        """Take those ranges back in the store that are at the end of an axis. The others serve this process."""
        left = list(ranges)
        for place, ((scope, key), piece) in enumerate(zip(waitlist.buckets, ranges, strict=True)):
            if piece is not None and await self._rewind(scope, key, piece[1], piece[0]):
                left[place] = None
        if any(left):
            self._section(partial(self._keep, waitlist, left))

    def _keep(self, waitlist: Waitlist, left: Sequence[Range | None]) -> None:
        """Have ranges spare again that are not at the end of the axis. Others may have begun a list meanwhile."""
        if not waitlist.by_leaving:
            return
        kept = self._lists.setdefault(waitlist.buckets, waitlist)
        if abs(kept.lead - waitlist.lead) < TICKS_PER_SECOND:
            if kept.keep(left, self._let_go(kept)):  # what they had is at the end of the axis
                self._unsettled.setdefault(kept)
            self._tell_first(kept)

    def _last_spare(self, waitlist: Waitlist) -> list[Range | None]:
        """Take out the last of the spare ranges of each bucket. While the store is asked, they are nobody's."""
        now = self._let_go(waitlist)
        waitlist.settle(now)
        self._tell_first(waitlist)
        for ranges in waitlist.spare:
            forget_past(ranges, now)
        return [ranges.pop() if ranges else None for ranges in waitlist.spare]

"""Waitlist: the requests of this process that wait at the same buckets, in order, and the ranges that they own.

Pure: it knows no store, no lock and no sleep; time is an argument, on the axis of the buckets.

The k-th waiter has the k-th place. So a waiter that gives up is only removed: all behind it have the place before
theirs, and the last place is spare. Nobody is looked at for it. Where costs differ, places are cut anew, in order, each
as early as it can be (`_cut_anew`). Spare ranges lie behind the last place; they serve the next to come, or are taken
back in the store.

Nobody's turn gets later. Each waiter's first place was free when it came. Those before it end before it, whatever they
are given instead, and so leave that place alone: the earliest place that is left is never behind it.

An exception may interrupt any method between two steps, as a signal's handler may raise one. So each change is one
step, or is done again by the next call (`_finish_leaving`). A waiter whose thread is gone loses its own turn at most.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from ratekeeper.waiting.places import Need, Place, Range, Ranges, cut_in_order, fit, forget_past, put, take

Buckets: TypeAlias = tuple[tuple[str, bytes], ...]
"""Scopes and keys, in the order of a request's charges."""


@dataclass(slots=True, eq=False)
class Waiter:
    """One request that waits. `leaves_at` is its turn on this process's clock, as far as it has been told.

    Its turn may come earlier: then it is told, and woken.
    """

    wake: Callable[[], object]
    leaves_at: int = 0
    waitlist: Waitlist | None = None  # None: it never had to wait
    needs: tuple[Need, ...] = ()
    place: Place | None = None  # its own, once it has left
    charged: Place | None = None  # the place that its decisions tell
    sleeps: bool = True  # else nobody waits for it: it looks at no turn, and so lets nobody go

    def tell(self, turn: int) -> bool:
        """Tell it its turn, and wake it, if that is sooner than it knows. False: it cannot be told."""
        if turn >= self.leaves_at:
            return True
        self.leaves_at = turn
        return self.wake() is not False


class Waitlist:
    """The waiters of the same buckets.

    With `for_departure` they are charged for the time at which they leave, not for their admission: see `base_queue`.
    """

    __slots__ = (
        "_costs", "_gone", "_lookout", "_places", "_waiters", "buckets", "for_departure", "forgotten", "lead", "spare",
    )  # fmt: skip

    def __init__(self, buckets: Buckets, for_departure: bool, lead: int) -> None:
        self.buckets = buckets
        self.for_departure = for_departure
        self.forgotten = False  # its waiters are another process's, or a closed loop's: they give nothing up
        self.lead = lead  # how far the axis is ahead of this process's clock
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._lookout: Waiter | None = None  # somebody waits for it, unless it is gone; None: for nobody
        self._places: deque[Place] = deque()
        self._costs: Counter[tuple[Need, ...]] = Counter()
        self._gone: set[Waiter] = set()  # gave up, but places are to be cut anew before they are taken out
        self.spare: list[Ranges] = [deque() for _ in buckets]

    @property
    def by_leaving(self) -> bool:
        """Return whether ranges lie behind the turn, as the time of leaving is limited. Else the time of admission is.

        Only then newcomers take spare ranges: all buckets are marked. One without a mark lets a refund move them.
        """
        return self.for_departure or len(self.buckets) == 1

    @property
    def waiting(self) -> int:
        """The number of waiters."""
        return len(self._waiters) - len(self._gone)

    def idle_at(self, now: int) -> bool:
        """Return whether there is nothing left to remember."""
        for ranges in self.spare:
            forget_past(ranges, now)
        return not self._waiters and not all(self.spare)

    def take_spare(self, waiter: Waiter, needs: tuple[Need, ...], now: int, max_wait: int) -> Place | None:
        """Give a newcomer a place of the spare ranges, if its turn comes within `max_wait` ticks."""
        if not (self.by_leaving and all(self.spare)):
            return None
        place = fit(needs, self.spare, self._last_turn(now), now, self.by_leaving)
        if place is None or place.turn - now > max_wait:
            return None
        waiter.charged = place = take(place, self.spare)
        self._append(waiter, needs, place)
        return place

    def add(
        self, waiter: Waiter, needs: tuple[Need, ...], ranges: Sequence[Range], charged_at: int, now: int
    ) -> Place | None:
        """Give a newcomer a place of these ranges, which it was charged in the store; or return None if they are short.

        Its place is earlier if other ranges have become spare meanwhile. If it was charged before others that are here
        already, it is put in the list before them. The store's answer may have travelled long: spare ranges
        between `charged_at` and `now` are void, as nobody left in that time.
        """
        if self.for_departure:
            found = fit(needs, [[one] for one in ranges], charged_at, charged_at, self.by_leaving)
            if found is None:
                return None
            turn = found.turn
        else:  # the store has charged just what it needs
            turn = max(charged_at, *[end - need.burst for need, (_, end) in zip(needs, ranges, strict=True)])
        waiter.charged = place = Place(turn, tuple([(one,) for one in ranges]))
        behind = 0
        while behind < len(self._places) and self._places[-1 - behind].turn > place.turn:
            behind += 1
        if behind:
            self._insert(waiter, needs, place, behind)
            return place
        if self.by_leaving and any(self.spare):
            joined = [deque(spare) for spare in self.spare]
            for spare, one in zip(joined, ranges, strict=True):
                put(spare, one)
            earlier = fit(needs, joined, self._last_turn(now), now, self.by_leaving)
            if earlier is not None and earlier.turn <= place.turn:
                place = take(earlier, joined)
                self.spare = joined
        self._append(waiter, needs, place)
        return place

    def add_alone(self, waiter: Waiter, turn: int) -> Place:
        """Let a waiter have its turn that owns nothing which could be given back."""
        place = Place(turn, ())
        self._append(waiter, (), place)
        return place

    def next_turn(self) -> tuple[Waiter, int] | None:
        """Return the first waiter, and its turn."""
        self._finish_leaving()
        for waiter, place in zip(self._waiters, self._places, strict=False):
            if waiter not in self._gone:
                return waiter, place.turn
        return None

    def watch(self, waiter: Waiter) -> None:
        """Note that somebody waits for a waiter from now on."""
        waiter.sleeps = True
        self._lookout = self._lookout or waiter

    def lookout(self) -> Waiter | None:
        """Return a waiter that somebody waits for, kept until it is gone: there may be many for whom nobody waits."""
        if self._lookout is not None and (self._lookout not in self._waiters or self._lookout in self._gone):
            asleep = (waiter for waiter in self._waiters if waiter.sleeps and waiter not in self._gone)
            self._lookout = next(asleep, None)
        return self._lookout

    def let_go(self, now: int) -> list[Waiter]:
        """Let all leave whose turn has come, in order, and return them."""
        self._finish_leaving()
        left: list[Waiter] = []
        while self._waiters and self._places[0].turn <= now:
            waiter = next(iter(self._waiters))
            waiter.place = self._places[0]
            self._take_first_out(waiter)
            if waiter not in self._gone:
                left.append(waiter)
            self._gone.discard(waiter)
        return left

    def give_up(self, waiter: Waiter, now: int) -> None:
        """Take a waiter out that will not use its turn, after `let_go`. Its ranges serve those behind it.

        If its turn has come already, only what is not past of its ranges does.
        """
        self._finish_leaving()
        if waiter in self._waiters:
            if len(self._costs) > 1:
                self._gone.add(waiter)
                return
            del self._waiters[waiter]
            self._forget_cost(waiter)
            self._spare_last()
        elif waiter.place is not None and waiter.place.owned and len(self._costs) <= 1:
            self._reuse(waiter, now)

    def settle(self, now: int) -> None:
        """Take out those who gave up among waiters of different costs."""
        if self._gone:
            self._cut_anew(now)

    def keep(self, pieces: Sequence[Range | None], now: int) -> bool:
        """Have ranges spare that lie before others which were charged meanwhile. Return whether waiters moved up."""
        last = self._places[-1] if self._places else None
        for ranges, piece in zip(self.spare, pieces, strict=True):
            if piece is not None:
                put(ranges, piece)
        if len(self._costs) > 1:
            self._cut_anew(now)
        elif self._waiters:
            [needs] = self._costs
            while (found := fit(needs, self.spare, now, now, self.by_leaving)) and found.turn < self._places[-1].turn:
                insort(self._places, take(found, self.spare), key=lambda place: place.turn)
                self._spare_last()
        return bool(self._places) and self._places[-1] != last

    def forget_spare(self, buckets: Container[tuple[str, bytes]]) -> None:
        """Own no spare ranges of these buckets any more."""
        for bucket, ranges in zip(self.buckets, self.spare, strict=True):
            if bucket in buckets:
                ranges.clear()

    def _reuse(self, waiter: Waiter, now: int) -> None:
        """Give the first waiter the place of one that had its turn and did not use it, if it is still of use."""
        assert waiter.place is not None
        pieces = [[(max(start, now), end) for start, end in owned if end > now] for owned in waiter.place.owned]
        waiter.place = None
        again = fit(waiter.needs, pieces, now, now, self.by_leaving)
        if again is None:
            return
        if self._waiters and waiter.needs in self._costs:
            self._places.appendleft(Place(again.turn, tuple(map(tuple, pieces))))
            self._spare_last()
        elif not self._waiters:
            for spare, owned in zip(self.spare, pieces, strict=True):
                for piece in owned:
                    put(spare, piece)

    def _last_turn(self, now: int) -> int:
        return max(now, self._places[-1].turn) if self._places else now

    def _append(self, waiter: Waiter, needs: tuple[Need, ...], place: Place) -> None:
        if len(self._costs) == 1 and needs in self._costs:
            [needs] = self._costs  # one object for all of a crowd: less memory to fetch when they leave
        waiter.needs = needs
        self._costs[needs] += 1
        self._places.append(place)
        self._waiters[waiter] = None
        if waiter.sleeps and self._lookout is None:
            self._lookout = waiter

    def _insert(self, waiter: Waiter, needs: tuple[Need, ...], place: Place, behind: int) -> None:
        """Put a waiter into the list before the last `behind`. Answers of a store far away may overtake each other."""
        last = list(islice(reversed(self._waiters), behind))
        self._append(waiter, needs, place)
        self._places.pop()
        self._places.insert(len(self._places) - behind, place)
        for other in reversed(last):
            self._waiters.move_to_end(other)

    def _forget_cost(self, waiter: Waiter) -> None:
        self._costs[waiter.needs] -= 1
        if self._costs[waiter.needs] <= 0:
            del self._costs[waiter.needs]

    def _finish_leaving(self) -> None:
        """Take the first waiter out if it has been given its place. A place that nobody has is spare."""
        if self._waiters:
            waiter = next(iter(self._waiters))
            if waiter.place is not None:
                self._take_first_out(waiter)
        while len(self._places) > len(self._waiters):
            self._spare_last()

    def _take_first_out(self, waiter: Waiter) -> None:
        """Take out the first waiter, which has been given its place."""
        if self._places and self._places[0] is waiter.place:
            self._places.popleft()
        del self._waiters[waiter]
        self._forget_cost(waiter)

    def _spare_last(self) -> None:
        """Have the ranges of the last place spare."""
        place = self._places.pop()
        for spare, owned in zip(self.spare, place.owned, strict=False):
            for piece in reversed(owned):
                put(spare, piece)

    def _cut_anew(self, now: int) -> None:
        """Give each waiter that stays, in order, the earliest place in all ranges that are owned.

        Nobody's turn gets later, unless places were charged in an order that differs from bucket to bucket: then all
        keep their places, and what was given up is lost.
        """
        kept = [pair for pair in zip(self._waiters, self._places, strict=True) if pair[0] not in self._gone]
        wanted = [(waiter.needs, place.turn) for waiter, place in kept]
        cut = cut_in_order(wanted, self._places, self.spare, now, self.by_leaving)
        places, spare = cut or (deque(place for _, place in kept), self.spare)
        costs = Counter(waiter.needs for waiter, _ in kept)
        self._waiters = OrderedDict.fromkeys(waiter for waiter, _ in kept)
        self._places, self.spare, self._costs, self._gone = places, spare, costs, set()

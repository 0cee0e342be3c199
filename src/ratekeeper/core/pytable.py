"""The table of buckets in Python: the fallback where no compiler is, and the readable twin of the C core.

It makes the same decisions, with a dictionary where C has an array of cells, and a lock where C has its swaps. It keeps
no key, only fingerprints, in about 250 bytes a live bucket. It knows no system clock: a callable gives the time.

A signal handler may raise between any two steps here, and the next call must find the table in order. So no change of
the TATs needs two steps: those of a request change by one call of `dict.update`. The heap beside them is only a hint.

A signal handler or a `__del__` may also call a verb while its own thread is in another one, which holds the lock. It
has its way at once. The call that it interrupted has read what is out of date: it loses its right, and begins again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from heapq import heappop, heappush, heapreplace
from itertools import compress
from operator import setitem
from typing import Any, TypeAlias, TypeVar

from ratekeeper.core.answers import answer_to, block_of, passes, possible_charge, refused
from ratekeeper.decision import Charge, Decision, key_bytes
from ratekeeper.gcra import blocked_debt, decide, refundable
from ratekeeper.limits import TICKS_PER_SECOND

REMEMBERED = 60 * TICKS_PER_SECOND
"""How long a full bucket is still remembered, so that a clock which steps back finds the debts that there were."""

MAX_RESETS = 8190
"""Resets of whole scopes in the life of a table, in C too."""

T = TypeVar("T")
_Entry = tuple[int, int]  # a TAT and its bucket
_DISTURBED = object()


class _Disturbed(Exception):
    """Another call of this thread has changed the table meanwhile."""


_Right: TypeAlias = "list[dict[int, int]]"
"""The right of one call to change the table: the TATs. Empty, if another call of the same thread took it."""


def _use(right: _Right, change: Callable[..., object], part: object, *what: object) -> None:
    """Change a part of the table. One call of `next` looks at the right and uses it, so nothing can come in between."""
    here = compress((part,), map(id, right))
    if next(map(change, here, *((each,) for each in what)), _DISTURBED) is _DISTURBED:
        raise _Disturbed


class Table:
    """TATs by fingerprint. A TAT in the past means a full bucket, which is forgotten as newcomers come."""

    def __init__(self, max_keys: int, deny_when_full: bool, seed: bytes, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._deny_when_full = deny_when_full
        self._seed = seed
        self._tats: dict[int, int] = {}
        # A heap. Of each bucket it has an entry that is not later than its TAT; others may be out of date.
        self._by_tat: list[_Entry] = []
        # Buckets of whose axis somebody owns a range for a later departure: see rk_refund. One too many does no harm.
        self._marked: set[int] = set()
        # Of scopes that were reset: mixed into their buckets' fingerprints, so that these find no old TAT.
        self._generations: dict[str, tuple[bytes, int]] = {}
        self._resets = 0
        # The latest end of a block that was ever made. A block is a bucket too: see rk_adjust.
        self._blocked_until = 0
        self._right: _Right = []
        self._evicted_live = 0
        self._refused_full = 0
        self.forget()

    def forget(self) -> None:
        """Have a lock that nobody holds: a thread of the parent may have held the old one at the fork."""
        self._lock = threading.RLock()

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        """Decide the charges of one request: make all or none. Returns each one's own decision, in order."""
        charges = tuple(charges)  # the clock may be anybody's code, and change the caller's list
        buckets = [self._fingerprint(charge.scope, charge.key) for charge in charges]
        return self._alone(self._decide, charges, buckets, commit)

    def charge(
        self, scope: str, key: str | bytes, increment: int, burst: int
    ) -> tuple[int, tuple[bool, int, int, int, int]] | None:
        """Charge a known bucket, for a caller who does not wait. Returns the time, and the rule's answer.

        This is the hot path, which only adds to one TAT. If there is more to do, it does nothing and returns None: then
        ask `decide`.
        """
        seed = self._generations.get(scope, self._seed)
        bucket = hash((seed, scope, key.encode("utf-8", "surrogatepass") if type(key) is str else key_bytes(key)))
        with self._lock:
            while True:
                self._right.clear()
                right = self._right = [self._tats]
                now = self._clock()
                tat = self._tats.get(bucket)
                if tat is None or bucket in self._marked or now < self._blocked_until:
                    return None
                answer = decide(tat, now, increment, burst, burst)
                # As in _use, one call of `next` looks at the right and uses it. `setitem` makes no object meanwhile.
                if not answer[0] or next(map(setitem, right, (bucket,), (answer[1],)), _DISTURBED) is None:
                    return now, answer

    def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        """Give back what may still be given back of charges that were made at the time `at_ticks`."""
        for charge in charges:
            self._alone(self._refund, self._fingerprint(charge.scope, charge.key), charge, at_ticks)

    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        """Set a bucket's TAT back, if it is still what the caller believes. False, and nothing done, if it is not."""
        return self._alone(self._rewind, self._fingerprint(scope, key), expected_ticks, tat_ticks)

    def adjust(self, scope: str, key: str | bytes, back_ticks: int, block_ticks: int | None) -> bool:
        """Change a bucket by hand: see `rk_adjust`. False, and no block made, if it needs a place and finds none."""
        return self._alone(self._adjust, self._fingerprint(scope, key), back_ticks, block_ticks)

    def reset_scope(self, scope: str) -> bool:
        """Have full buckets in a scope: they get other fingerprints. False, and nothing done, after too many resets."""
        if not isinstance(scope, str):
            raise TypeError(f"a scope must be a str, not {type(scope).__name__}")
        with self._lock:
            if self._resets >= MAX_RESETS:
                return False
            self._resets += 1
            self._generations[scope] = self._seed, self._resets
            return True

    def stats(self) -> tuple[int, int, int, int]:
        """Return live buckets, live buckets evicted, newcomers refused, and retries: a lock needs none."""
        now = self._clock()
        live = sum(tat > now for tat in list(self._tats.values()))
        return live, self._evicted_live, self._refused_full, 0

    def _fingerprint(self, scope: str, key: str | bytes) -> int:
        return hash((self._generations.get(scope, self._seed), scope, key_bytes(key)))

    def _alone(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do work on the table as it is at one instant: with the right to change it, the time, and these arguments.

        The time is read while nobody else changes the table. A caller who was held up after it had read the clock could
        find a bucket forgotten that was not full at its own time.
        """
        with self._lock:
            while True:
                self._right.clear()
                right = self._right = [self._tats]
                try:
                    return work(right, self._clock(), *arguments)
                except _Disturbed:
                    pass

    def _decide(
        self, right: _Right, now: int, charges: Sequence[Charge], buckets: Sequence[int], commit: bool
    ) -> list[Decision]:
        tats = self._tats
        looked: list[Decision] = []
        if len(charges) > 1 or not commit:
            looked, without_room = self._look(right, now, charges, buckets)
            if not commit or not passes(charges, looked):
                self._refused_full += without_room if commit else 0
                return looked
        changes: dict[int, int] = {}
        decisions: list[Decision] = []
        for place, (charge, bucket) in enumerate(zip(charges, buckets, strict=True)):
            known = changes if bucket in changes else tats
            decision, new_tat = answer_to(charge, *self._seen(known, charge, bucket, now), now, commit=True)
            if new_tat and bucket not in known:
                full_for = self._make_room(right, changes, now)
                if full_for:
                    decision, new_tat = refused(decision, full_for), 0
            if new_tat:
                changes[bucket] = new_tat
            elif not decision.allowed and not charge.shadow:
                # Each fits by itself. Two of one bucket do not fit together, or the table is full.
                return [*looked[:place], decision, *looked[place + 1 :]]
            decisions.append(decision)
        if self._marked:  # a bucket that was full has lost its mark
            full = [bucket for bucket in changes if tats.get(bucket, 0) <= now]
            _use(right, set.difference_update, self._marked, full)
        made = zip(charges, buckets, decisions, strict=True)
        marked = [
            bucket
            for charge, bucket, one in made
            if one.allowed and one.delay_ticks and charge.increment and bucket in changes  # else evicted again
        ]
        if marked:
            _use(right, set.update, self._marked, marked)
        self._write(right, changes)
        return decisions

    def _look(
        self, right: _Right, now: int, charges: Sequence[Charge], buckets: Sequence[int]
    ) -> tuple[list[Decision], int]:
        """Return the decisions if nothing is charged, and for how many buckets a full table has no room."""
        looked, charged, without_room = list[Decision](), set[int](), 0
        for charge, bucket in zip(charges, buckets, strict=True):
            decision, _ = answer_to(charge, *self._seen(self._tats, charge, bucket, now), now, commit=False)
            if self._deny_when_full and decision.allowed and charge.increment:
                charged.add(bucket)
                if full_for := self._full_for(right, now, charged):
                    without_room += 1
                    charged.discard(bucket)
                    decision = refused(decision, full_for)
            looked.append(decision)
        return looked, without_room

    def _full_for(self, right: _Right, now: int, charged: Set[int]) -> int:
        """Return the ticks until the table may have room for these buckets; 0 if it has."""
        while len(self._tats) + sum(one not in self._tats for one in charged) > self._max_keys:
            tat, bucket = self._least(right) if self._tats else (now + TICKS_PER_SECOND, 0)
            if tat > now:
                return tat - now
            self._forget(right, bucket)
        return 0

    def _seen(self, tats: dict[int, int], charge: Charge, bucket: int, now: int) -> tuple[int, bool]:
        """Return the TAT by which a charge is decided, and whether it is that of a block, which refuses longest."""
        tat = tats.get(bucket, 0)
        if now < self._blocked_until and (left := self._tats.get(block_of(bucket), 0) - now) > 0:
            tolerance = charge.tolerance if charge.cost <= charge.limit.max_cost else 0
            as_tat = now + blocked_debt(left, charge.increment, tolerance)
            return max(tat, as_tat), as_tat > max(tat, now)
        return tat, False

    def _refund(self, right: _Right, now: int, bucket: int, charge: Charge, at: int) -> None:
        tat = self._tats.get(bucket, 0)
        given = refundable(possible_charge(charge), now - at)
        if tat and given and tat - now <= charge.burst and bucket not in self._marked:
            self._write(right, {bucket: max(0, tat - given)})

    def _rewind(self, right: _Right, _: int, bucket: int, expected: int, tat: int) -> bool:
        if self._tats.get(bucket) != expected or tat < 0:
            return False
        self._write(right, {bucket: tat})
        return True

    def _adjust(self, right: _Right, now: int, bucket: int, back: int, block: int | None) -> bool:
        changes, of_block = {}, block_of(bucket)
        if back and bucket in self._tats:
            changes[bucket] = max(0, self._tats[bucket] - back)
        if block == 0 and of_block in self._tats:
            changes[of_block] = 0
        elif block:
            if of_block not in self._tats and self._make_room(right, changes, now):
                return False
            changes[of_block] = until = max(self._tats.get(of_block, 0), now + block)
            self._blocked_until = max(self._blocked_until, until)  # before the block: without one it does no harm
        self._write(right, changes)
        return True

    def _forget(self, right: _Right, bucket: int) -> None:
        _use(right, dict.pop, self._tats, bucket, None)
        if self._marked:
            _use(right, set.discard, self._marked, bucket)

    def _write(self, right: _Right, changes: dict[int, int]) -> None:
        """Set TATs. Beforehand, a newcomer or a bucket that owes less than it did gets its entry in the heap."""
        for bucket, tat in changes.items():
            if bucket not in self._tats or tat < self._tats[bucket]:
                heappush(self._by_tat, (tat, bucket))
        _use(right, dict.update, self._tats, changes)
        if len(self._by_tat) > 2 * len(self._tats) + 64:  # of many refunds
            _use(right, list.__init__, self._by_tat, sorted((tat, bucket) for bucket, tat in self._tats.items()))

    def _make_room(self, right: _Right, changes: dict[int, int], now: int) -> int:
        """Return 0 if there is room for one bucket beside those in `changes`, or the ticks until there is.

        Forgets up to two buckets that have long been full for each newcomer, and a live one if all are live.
        """
        for _ in range(2):
            if self._tats and (least := self._least(right))[0] < now - REMEMBERED:
                self._forget(right, least[1])
        while len(self._tats) + sum(bucket not in self._tats for bucket in changes) >= self._max_keys:
            own = [(tat, bucket) for bucket, tat in changes.items() if bucket not in self._tats]
            tat, bucket = min([*own, self._least(right)] if self._tats else own)
            if tat > now:
                if self._deny_when_full:
                    self._refused_full += 1
                    return tat - now
                self._evicted_live += 1
                changes.pop(bucket, None)
            self._forget(right, bucket)  # a bucket that was full keeps its charge in `changes`
        return 0

    def _least(self, right: _Right) -> _Entry:
        """Return the least TAT and its bucket, bringing the top of the heap up to date."""
        while True:
            tat, bucket = self._by_tat[0]
            current = self._tats.get(bucket)
            if current is None:
                _use(right, heappop, self._by_tat)
            elif current > tat:
                _use(right, heapreplace, self._by_tat, (current, bucket))
            else:
                return current, bucket

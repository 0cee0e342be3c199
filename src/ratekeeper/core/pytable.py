"""The table of buckets in Python: the fallback where no compiler is, and the readable twin of the C core.

It makes the same decisions, with a dictionary where C has an array of cells, and a lock where C has its swaps. It keeps
no key, only fingerprints, in about 250 bytes a live bucket. It knows no system clock: a callable gives the time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush, heapreplace

from ratekeeper.decision import NEVER, Charge, Decision, PlainDecision, key_bytes
from ratekeeper.gcra import decide, refundable
from ratekeeper.limits import TICKS_PER_SECOND

REMEMBERED = 60 * TICKS_PER_SECOND
"""How long a full bucket is still remembered, so that a clock which steps back finds the debts that there were."""


class Table:
    """TATs by fingerprint. Whose is past is a full bucket, and is forgotten as newcomers come."""

    def __init__(self, max_keys: int, deny_when_full: bool, seed: bytes, clock: Callable[[], int]) -> None:
        self._clock = clock  # read before the lock is taken: it may be anybody's code
        self._max_keys = max_keys
        self._deny_when_full = deny_when_full
        self._seed = seed
        self._lock = threading.Lock()
        self._tats: dict[int, int] = {}
        self._promised: set[int] = set()  # of whose axis somebody owns a range for a later departure: see rk_refund
        # One entry (tat, fingerprint) a bucket. Its tat may be out of date, but is never later than the bucket's.
        self._by_tat: list[tuple[int, int]] = []
        self._evicted_live = 0
        self._refused_full = 0

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        """Decide the charges of one request: make all or none. Returns each one's own decision, in order."""
        charges = tuple(charges)  # the clock may be anybody's code, and change the caller's list
        buckets = [self._fingerprint(charge.scope, charge.key) for charge in charges]
        now = self._clock()
        with self._lock:
            if len(charges) > 1 or not commit:
                looked = [self._answer(*both, now, commit=False) for both in zip(charges, buckets, strict=True)]
                if not commit or not _passes(charges, looked):
                    return looked
            else:
                looked = []
            return self._charge(charges, buckets, looked, now)

    def refund(self, charges: Sequence[Charge], at: int) -> None:
        """Give back what may still be given back of charges that were made at the time `at`."""
        for charge in charges:
            bucket = self._fingerprint(charge.scope, charge.key)
            while not self._refund(bucket, charge, at):
                pass  # it was charged meanwhile

    def _refund(self, bucket: int, charge: Charge, at: int) -> bool:
        """Read the time after the bucket, as rk_refund does. False if the bucket has changed since."""
        tat = self._tats.get(bucket, 0)
        now = self._clock()
        with self._lock:
            if self._tats.get(bucket, 0) != tat:
                return False
            if tat - now <= charge.tolerance and bucket not in self._promised:
                self._put_back(bucket, max(0, tat - refundable(charge.increment, now - at)))
            return True

    def rewind(self, scope: str, key: str | bytes, expected: int, tat: int) -> bool:
        """Set a bucket's TAT back, if it is still what the caller believes. False, and nothing done, if it is not."""
        bucket = self._fingerprint(scope, key)
        with self._lock:
            if self._tats.get(bucket) != expected or tat < 0:
                return False
            self._put_back(bucket, tat)
            return True

    def reset(self, scope: str, key: str | bytes) -> None:
        """Forget a bucket: it is full again."""
        bucket = self._fingerprint(scope, key)
        with self._lock:
            self._put_back(bucket, 0)
            self._promised.discard(bucket)

    def stats(self) -> tuple[int, int, int, int]:
        """Return live buckets, live buckets evicted, newcomers refused, and retries: a lock needs none."""
        now = self._clock()
        with self._lock:
            return sum(tat > now for tat in self._tats.values()), self._evicted_live, self._refused_full, 0

    def _fingerprint(self, scope: str, key: str | bytes) -> int:
        return hash((self._seed, scope, key_bytes(key)))

    def _charge(
        self, charges: Sequence[Charge], buckets: Sequence[int], looked: Sequence[Decision], now: int
    ) -> list[Decision]:
        """Make the charges. One may yet fail although each fits: if two are of one bucket, or the table is full."""
        before = [self._tats.get(bucket, 0) for bucket in buckets]
        decisions: list[Decision] = []
        for at, (charge, bucket) in enumerate(zip(charges, buckets, strict=True)):
            decision = self._answer(charge, bucket, now, commit=True)
            if not decision.allowed and not charge.shadow:
                for charged, tat in zip(buckets[:at], before[:at], strict=True):
                    self._put_back(charged, tat)
                return [*looked[:at], decision, *looked[at + 1 :]]
            decisions.append(decision)
        return decisions

    def _answer(self, charge: Charge, bucket: int, now: int, commit: bool) -> Decision:
        """Decide one charge, and make it if it is allowed and `commit`."""
        _, key, limit, cost, increment, tolerance, bound, _, _ = charge
        allowed, new_tat, ahead, delay, retry_after = decide(
            self._tats.get(bucket, 0), now, increment, tolerance, bound
        )
        if cost > limit.max_cost:
            allowed, delay, retry_after = False, NEVER, NEVER
        if allowed and commit and increment:
            full_for = self._write(bucket, new_tat, now, promised=delay > 0)
            if not full_for:
                return PlainDecision(True, limit, key, cost, ahead, delay, retry_after, now, 0)
            allowed, retry_after = False, full_for
        return PlainDecision(allowed, limit, key, cost, ahead - increment, delay, retry_after, now, -1)

    def _write(self, bucket: int, tat: int, now: int, promised: bool) -> int:
        """Store a bucket's TAT, and mark it. Returns 0, or the ticks until there is room if there is none."""
        if promised:
            self._promised.add(bucket)
        elif self._tats.get(bucket, 0) <= now:
            self._promised.discard(bucket)
        if bucket not in self._tats:
            full_for = self._make_room(now)
            if full_for:
                self._promised.discard(bucket)
                return full_for
            heappush(self._by_tat, (tat, bucket))
        self._tats[bucket] = tat
        return 0

    def _make_room(self, now: int) -> int:
        """Forget up to two buckets that have long been full for each newcomer, and a live one if all are live."""
        for _ in range(2):
            if self._tats and self._least() < now - REMEMBERED:
                self._forget_least()
        if len(self._tats) < self._max_keys:
            return 0
        least = self._least()
        if least > now:
            if self._deny_when_full:
                self._refused_full += 1
                return least - now
            self._evicted_live += 1
        self._forget_least()
        return 0

    def _least(self) -> int:
        """Return the least TAT, bringing the top of the heap up to date."""
        while True:
            tat, bucket = self._by_tat[0]
            current = self._tats[bucket]
            if current <= tat:
                return current
            heapreplace(self._by_tat, (current, bucket))

    def _forget_least(self) -> None:
        _, bucket = heappop(self._by_tat)
        del self._tats[bucket]
        self._promised.discard(bucket)

    def _put_back(self, bucket: int, tat: int) -> None:
        """Set a bucket's TAT to an earlier one. It stays in the table, so that it keeps its one entry in the heap."""
        if bucket in self._tats:
            self._tats[bucket] = tat


def _passes(charges: Iterable[Charge], decisions: Iterable[Decision]) -> bool:
    return all(decision.allowed or charge.shadow for charge, decision in zip(charges, decisions, strict=True))

"""The promises of every store about changes by hand, and how the tests of stores ask. A part of `conformance`."""

from __future__ import annotations

from ratekeeper.clock import ManualClock
from ratekeeper.decision import Charge
from ratekeeper.limits import DEFAULT_WAIT, MAX_AHEAD_TICKS, TICKS_PER_SECOND, LeakyBucket, Limit, Timeout, TokenBucket
from ratekeeper.stores.base import Store

SECOND = TICKS_PER_SECOND


class ChangesByHand:
    """Tests of `adjust` and `reset_scope`. `StoreConformance` makes the store."""

    store: Store
    clock: ManualClock

    def test_a_bucket_goes_back_by_the_ticks_that_are_given_but_not_beyond_a_full_one(self) -> None:
        limit = TokenBucket(5, "7/minute")
        self._allowed(charge("a", limit, 5), charge("b", limit, 5))
        self.store.adjust("test/0", "a", 2 * limit.interval + 1, None)
        assert self._debt("a", limit) == 3 * limit.interval - 1
        for key in ("a", "nobody"):
            self.store.adjust("test/0", key, MAX_AHEAD_TICKS, None)
        assert [self._left(key, limit) for key in ("a", "b", "nobody")] == [5, 0, 5]

    def test_a_blocked_bucket_is_charged_nothing_until_the_end_and_owes_then_what_it_would_have_owed(self) -> None:
        limits = [TokenBucket(5, "1/hour"), TokenBucket(100, 100), LeakyBucket(3, 1)]
        other, roomy = limits[:2]
        for place, limit in enumerate(limits):
            scope, key = f"block {place}", "a" * (place + 1)
            self._allowed(charge(key, limit, scope=scope))
            owed = self._debt(key, limit, scope)
            self.store.adjust(scope, key, 0, 10 * SECOND)
            self.store.adjust(scope, key, 0, 5 * SECOND)  # it is never shortened by a block
            begun = self.clock.ticks()
            for ticks in (0, 10 * SECOND - 1):
                self.clock.set_ticks(begun + ticks)
                for timeout in (0, 3, None):
                    for cost in (0, 1, 4):
                        [refused] = self.store.decide([charge(key, other, cost, timeout, scope=scope)])
                        assert not refused.allowed
                        assert (refused.retry_ticks, refused.remaining) == (10 * SECOND - ticks, 0)
                [shadow, real] = self._allowed(charge(key, other, scope=scope, shadow=True), charge("free", roomy))
                assert (shadow, real) == (False, True)
                assert self._allowed(charge("free", roomy), charge(key, other, scope=scope)) == [True, False]
            self.clock.set_ticks(begun + 10 * SECOND)
            assert self._debt(key, limit, scope) == max(0, owed - 10 * SECOND)
            assert self._allowed(charge(key, limit, scope=scope)) == [True]

    def test_refunds_rewinds_and_grants_leave_a_block_and_only_the_end_of_a_block_ends_it(self) -> None:
        limit = TokenBucket(5, 1)
        [made] = self.store.decide([charge("a", limit, 4)])
        self.store.adjust("test/0", "a", 0, 20 * SECOND)
        self.store.refund([charge("a", limit, 1)], made.at_ticks)
        tat = made.at_ticks + made.debt_ticks - limit.interval
        assert self.store.rewind("test/0", "a", tat, tat - 1)
        self.store.adjust("test/0", "a", limit.interval, None)
        assert self.store.decide([charge("a", limit)])[0].retry_ticks == 20 * SECOND
        for key in ("a", "nobody"):
            self.store.adjust("test/0", key, 0, 0)
        assert self._debt("a", limit) == 2 * limit.interval - 1
        assert self._debt("nobody", limit) == 0
        self.store.adjust("test/0", "a", MAX_AHEAD_TICKS, 0)
        assert self._left("a", limit) == 5

    def test_a_scope_that_is_reset_has_full_buckets_and_no_other_scope_has(self) -> None:
        limit, keys = TokenBucket(1, "1/day"), [str(n) for n in range(50)] + ["6:tenant5:alice", "6:tenant3:bob"]
        for again in range(3):
            for scope in ("reset/0", "kept/0", "reset/01"):
                assert all(
                    self._allowed(charge(key, limit, scope=scope))[0] == (again == 0 or scope == "reset/0")
                    for key in keys
                )
            self.store.adjust("reset/0", "blocked", 0, 100 * limit.interval)
            self.store.reset_scope("reset/0")
        assert self._allowed(charge("blocked", limit, scope="reset/0")) == [True]
        self.store.reset_scope("never used/0")

    def _allowed(self, *charges: Charge) -> list[bool]:
        return [decision.allowed for decision in self.store.decide(charges)]

    def _debt(self, key: str, limit: Limit, scope: str = "test/0") -> int:
        return self.store.decide([charge(key, limit, 0, scope=scope)], commit=False)[0].debt_ticks

    def _left(self, key: str, limit: Limit) -> int:
        return self.store.decide([charge(key, limit, 0)], commit=False)[0].remaining


def charge(
    key: str | bytes,
    limit: Limit,
    cost: int = 1,
    timeout: Timeout = DEFAULT_WAIT,
    *,
    scope: str = "test/0",
    shadow: bool = False,
) -> Charge:
    """Build a charge for a test.

    >>> charge("alice", TokenBucket(5, 1), cost=2).key
    'alice'
    """
    return Charge.of(scope, key, limit, cost, timeout, shadow)

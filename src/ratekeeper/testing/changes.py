"""The promises of every store about changes by hand, and how the tests of stores ask. A part of `conformance`."""

from __future__ import annotations

from ratekeeper.decision import Charge
from ratekeeper.limits import DEFAULT_WAIT, MAX_AHEAD_TICKS, Limit, Timeout, TokenBucket
from ratekeeper.stores.base import Store


class ChangesByHand:
    """Tests of `adjust` and `reset_scope`. `StoreConformance` makes the store."""

    store: Store

    def test_a_bucket_that_is_to_have_no_debt_is_full_and_no_other_is(self) -> None:
        limit = TokenBucket(1, 1)
        self._allowed(charge("a", limit), charge("b", limit))
        self.store.adjust("test/0", "a", 0, 0, 0)
        assert [self._left(key, limit) for key in "ab"] == [1, 0]

    def test_a_bucket_goes_back_by_the_ticks_that_are_given_but_not_beyond_a_full_one(self) -> None:
        limit = TokenBucket(5, "7/minute")
        self.store.decide([charge("a", limit, 5)])
        self.store.adjust("test/0", "a", 2 * limit.interval + 1, 0, MAX_AHEAD_TICKS)
        assert self._debt("a", limit) == 3 * limit.interval - 1
        for key in ("a", "nobody"):
            self.store.adjust("test/0", key, MAX_AHEAD_TICKS, 0, MAX_AHEAD_TICKS)
            assert self._debt(key, limit) == 0

    def test_a_bucket_that_is_to_owe_a_least_owes_that_and_neither_a_refund_nor_a_rewind_lessens_it(self) -> None:
        limit = TokenBucket(5, 1)
        [made] = self.store.decide([charge("a", limit, 4)])
        least = 5 * limit.interval
        for key in ("a", "nobody"):
            self.store.adjust("test/0", key, 0, least, MAX_AHEAD_TICKS)
            assert self._debt(key, limit) == least
            assert self._allowed(charge(key, limit)) == [False]
            self.store.refund([charge(key, limit, 4)], made.at_ticks)
        self.store.adjust("test/0", "a", 0, limit.interval, MAX_AHEAD_TICKS)  # it owes more already
        assert not self.store.rewind("test/0", "a", made.at_ticks + least, made.at_ticks)
        assert [self._debt(key, limit) for key in ("a", "nobody")] == [least + 1, least]
        self.store.adjust("test/0", "a", 0, 0, 2 * limit.interval)
        assert self._left("a", limit) == 3

    def test_a_scope_that_is_reset_has_full_buckets_and_no_other_scope_has(self) -> None:
        limit, keys = TokenBucket(1, "1/day"), [str(n) for n in range(50)] + ["6:tenant5:alice", "6:tenant3:bob"]
        for again in range(3):
            for scope in ("reset/0", "kept/0", "reset/01"):
                assert all(
                    self._allowed(charge(key, limit, scope=scope))[0] == (again == 0 or scope == "reset/0")
                    for key in keys
                )
            self.store.adjust("reset/0", "blocked", 0, 100 * limit.interval, MAX_AHEAD_TICKS)
            self.store.reset_scope("reset/0")
        assert self._allowed(charge("blocked", limit, scope="reset/0")) == [True]
        self.store.reset_scope("never used/0")

    def _allowed(self, *charges: Charge) -> list[bool]:
        return [decision.allowed for decision in self.store.decide(charges)]

    def _debt(self, key: str, limit: Limit) -> int:
        return self.store.decide([charge(key, limit, 0)], commit=False)[0].debt_ticks

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

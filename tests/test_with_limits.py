"""limiter.with_limits(): the same buckets by other limits."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from ratekeeper import AsyncLimiter, Limiter, ManualClock, MemoryStore, TokenBucket
from ratekeeper.stores.table_store import TableStore


def test_debts_stay_whatever_the_limit(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter("60/minute", store=store, name="api")
    assert limiter.try_acquire("alice", 60)
    larger = limiter.with_limits("600/minute")
    assert larger.peek("alice", 0).remaining == 0  # the bucket is full again in a minute, by either limit
    clock.advance(30)
    assert larger.try_acquire("alice", 300)
    assert not limiter.try_acquire("alice")
    assert limiter.try_acquire("bob", 60)
    decision = limiter.with_limits("600/minute", "1000/day").try_acquire("carol", 600)
    limiter.with_limits("600/minute", "1000/day").refund(decision)
    assert limiter.try_acquire("carol", 60)


def test_asyncio_has_it_too(store: TableStore) -> None:
    limiter = AsyncLimiter("60/minute", store=store, name="api")

    async def ask() -> None:
        assert await limiter.try_acquire("alice", 60)
        assert not await limiter.with_limits("600/minute").try_acquire("alice", 541)
        assert isinstance(limiter.with_limits("600/minute"), AsyncLimiter)

    asyncio.run(ask())


def test_a_limiter_is_kept_for_the_last_limits_and_closes_no_store() -> None:
    limiter = Limiter("1/s", name="api")
    first = limiter.with_limits("2/s", TokenBucket(3, 1))
    assert limiter.with_limits("2/s", TokenBucket(3, 1)) is first
    for number in range(1000):
        limiter.with_limits(f"{number + 1}/s")
    assert limiter.with_limits("2/s", TokenBucket(3, 1)) is not first
    assert limiter._alike.cache_info().currsize <= 128
    first.close()
    assert limiter.try_acquire("alice")


def test_nothing_keeps_a_limiter_alive() -> None:
    gc.collect()
    gc.disable()
    try:
        limiter = Limiter("1/s", store=MemoryStore(100), name="api")
        limiter.with_limits("2/s").try_acquire("alice")
        gone = weakref.ref(limiter)
        del limiter
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("limits", [(), (7,), (["1/s"],), (None,), ("often",)])
def test_a_limit_that_cannot_be_is_an_error(limits: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="limit"):
        Limiter("1/s", name="api").with_limits(*limits)


class Counting(Limiter):
    """A subclass with its own verb."""

    asked = 0

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Any:
        type(self).asked += 1
        return super().try_acquire(key, cost)


def test_a_subclass_returns_its_own_kind() -> None:
    other = Counting("1/s", name="api").with_limits("2/s")
    assert other.try_acquire("alice")
    assert Counting.asked == 1

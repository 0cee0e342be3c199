"""usage: the part of each limit that a key has used, and its waiters; and the mistakes of users of other libraries."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from async_memory import AsyncMemoryStore

from ratekeeper import AsyncLimiter, LeakyBucket, Limiter, ManualClock, TokenBucket, Usage
from ratekeeper.stores.table_store import TableStore

SECOND, HOUR = TokenBucket(5, 10), TokenBucket(100, "100/hour")


def test_usage_of_each_limit_is_told_and_nothing_is_charged(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(SECOND, HOUR, store=store)
    assert limiter.usage("a") == [Usage(str(SECOND), SECOND, 0, 5, 0, 0), Usage(str(HOUR), HOUR, 0, 100, 0, 0)]
    limiter.try_acquire("a", 5)
    clock.advance(0.05)
    for _ in range(2):
        second, hour = limiter.usage("a")
        assert (second.used, second.remaining, second.reset_after, second.retry_after) == (5, 0, 0.45, 0.05)
        assert (hour.used, hour.remaining, hour.reset_after, hour.retry_after) == (5, 95, 179.95, 0)
    assert [one.used for one in limiter.usage("b")] == [0, 0]


def test_usage_counts_those_who_wait_in_this_process(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(LeakyBucket(5, 1), store=store)
    turns = [limiter.reserve("a") for _ in range(4)]
    [queue] = limiter.usage("a")
    assert (queue.used, queue.remaining, queue.waiting, queue.retry_after) == (4, 2, 3, 4)
    turns[-1].cancel()
    assert [one.waiting for one in limiter.usage("a")] == [2]
    clock.advance(1)
    assert [one.waiting for one in limiter.usage("a")] == [1]
    assert [one.waiting for one in limiter.usage("b")] == [0]


def test_usage_is_awaited_too(either_store: TableStore | AsyncMemoryStore) -> None:
    async def use() -> None:
        limiter = AsyncLimiter(SECOND, HOUR, store=either_store)
        await limiter.try_acquire("a", 3)
        assert [(one.limit, one.used) for one in await limiter.usage("a")] == [(SECOND, 3), (HOUR, 3)]
        await limiter.acquire("a", 2)
        turn = await limiter.reserve("a", 5)
        assert [one.waiting for one in await limiter.usage("a")] == [1, 1]
        turn.cancel()

    asyncio.run(use())


def test_usage_says_what_it_is_and_does_not_change(store: TableStore) -> None:
    limiter = Limiter(SECOND, store=store)
    limiter.try_acquire("a")
    [usage] = limiter.usage("a")
    assert repr(usage) == (
        "Usage('token_bucket of 5 at 10/s', used=1, remaining=4, reset_after=0.1, retry_after=0, waiting=0, "
        "limit='token_bucket of 5 at 10/s')"
    )
    with pytest.raises(FrozenInstanceError):
        usage.used = 0  # type: ignore[misc]


@pytest.mark.parametrize("verb", ["try_acquire", "acquire", "reserve", "peek", "usage", "reset"])
def test_a_key_that_is_a_number_is_an_error_that_says_what_to_write(verb: str, store: TableStore) -> None:
    limiter: Any = Limiter(SECOND, store=store)
    with pytest.raises(TypeError, match=r"^a key must be str or bytes, not int: write str\(key\)$"):
        getattr(limiter, verb)(42)
    with pytest.raises(TypeError, match=r"^a key must be str or bytes, not float$"):
        getattr(limiter, verb)(4.2)
    with pytest.raises(TypeError, match=r"not int: write str\(key\)$"):
        limiter.try_acquire_many(["a", 42])
    assert limiter.peek("a").remaining == 5

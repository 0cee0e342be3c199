"""The effect of a pause on the bucket that bears it: on every store, beside other requests, by any limit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from async_memory import AsyncMemoryStore
from redis_servers import redis_server
from servers import PATIENCE

from ratekeeper import (
    AsyncLimiter,
    Decision,
    LeakyBucket,
    Limiter,
    ManualClock,
    MemoryStore,
    RateLimitExceeded,
    RedisStore,
    TokenBucket,
)
from ratekeeper.clients import pacer
from ratekeeper.clients.pacer import AsyncPacer, Pacer, awaited_limiter
from ratekeeper.decision import Charge
from ratekeeper.limits import Limit
from ratekeeper.stores.base import ChargeGate, Gate, WaitForTurn
from ratekeeper.stores.table_store import TableStore

RETRY_AFTER_30 = [("Retry-After", "30")]


def pacer_of(limiter: Limiter, timeout: float | None = None) -> Pacer[None]:
    return Pacer([limiter], "key", 1, timeout, 0, 3600.0)


def turns(pacer: Pacer[None], number: int, cost: int = 1) -> list[float]:
    """Take turns one after the other; return after how many seconds each came."""
    clock = pacer.limiter.store.clock
    assert isinstance(clock, ManualClock)
    began, came = clock.ticks(), []
    for _ in range(number):
        pacer.take_turn("key", cost)
        came.append(round((clock.ticks() - began) / 16e9, 6))
    return came


def test_a_pause_begins_when_it_is_said_and_the_burst_is_spent_when_it_ends(store: TableStore) -> None:
    pacer = pacer_of(Limiter("10/s burst 5", store=store))
    pacer.heed("key", 1, 429, RETRY_AFTER_30)
    assert turns(pacer, 3) == [30, 30.1, 30.2]


def test_a_request_as_large_as_the_one_refused_passes_when_the_pause_is_over(store: TableStore) -> None:
    pacer = pacer_of(Limiter("10/s burst 5", store=store))
    pacer.heed("key", 4, 429, RETRY_AFTER_30)
    assert turns(pacer, 2, cost=4) == [30, 30.4]


def test_many_answers_that_say_the_same_are_one_pause(store: TableStore) -> None:
    pacer = pacer_of(Limiter("10/s burst 5", store=store))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: pacer.heed("key", 1, 429, RETRY_AFTER_30), range(100)))
    assert turns(pacer, 1) == [30]


def test_the_longest_of_several_pauses_counts(store: TableStore) -> None:
    pacer = pacer_of(Limiter("10/s burst 5", store=store))
    pacer.heed("key", 1, 429, RETRY_AFTER_30)
    pacer.heed("key", 1, 429, [("Retry-After", "2")])
    assert turns(pacer, 1) == [30]


def test_the_pause_of_a_leaky_bucket_ends_on_time_too(store: TableStore) -> None:
    pacer = pacer_of(Limiter(LeakyBucket(capacity=1000, leak_rate=10), store=store))
    pacer.heed("key", 1, 429, RETRY_AFTER_30)
    assert turns(pacer, 3) == [30, 30.1, 30.2]


def test_of_several_limits_the_fastest_bears_the_pause(store: TableStore) -> None:
    limiter = Limiter("1000/hour", TokenBucket(capacity=5, refill_rate=10), store=store)
    pacer = pacer_of(limiter)
    pacer.heed("key", 1, 429, RETRY_AFTER_30)
    assert turns(pacer, 3) == [30, 30.1, 30.2]  # the 1000 of the hour are still there


def test_a_caller_that_waits_through_a_pause_waits_no_longer_than_its_timeout_in_all(
    store: TableStore, clock: ManualClock
) -> None:
    pacer = pacer_of(Limiter("1/s", store=store), timeout=3)
    pacer.heed("key", 1, 429, RETRY_AFTER_30)
    pacer.limiter.reset("key")  # so it gets turns, but they come in the pause
    pacer.limiter.acquire("key")
    began = clock.ticks()
    with pytest.raises(RateLimitExceeded, match=r"retry after 1\.000 s"):
        pacer.take_turn("key", 1)
    assert clock.ticks() - began == 3 * 16_000_000_000


def test_a_client_that_is_willing_to_wait_for_ages_keeps_a_pause_of_ages(store: TableStore) -> None:
    pacer: Pacer[None] = Pacer([Limiter("1/s", store=store)], "key", 1, 60, 0, 1e18)
    pacer.heed("key", 1, 429, [("Retry-After", "9" * 18)])
    assert pacer.limiter.peek("key").retry_after == 1e8
    with pytest.raises(RateLimitExceeded):
        pacer.take_turn("key", 1)


def test_other_keys_go_on(store: TableStore) -> None:
    pacer = pacer_of(Limiter("10/s", store=store))
    pacer.heed("another key", 1, 429, RETRY_AFTER_30)
    assert turns(pacer, 1) == [0]


def test_another_process_with_the_same_buckets_keeps_the_pause(store: TableStore) -> None:
    pacer_of(Limiter("10/s", store=store)).heed("key", 1, 429, RETRY_AFTER_30)
    assert turns(pacer_of(Limiter("10/s", store=store)), 1) == [30]  # as it would be there: it knows only the store


def test_the_pause_is_kept_on_a_server() -> None:
    with redis_server() as server, RedisStore(server.url, timeout=PATIENCE) as store:
        limiter = Limiter("10/s burst 5", store=store)
        pacer_of(limiter).heed("key", 1, 429, RETRY_AFTER_30)
        assert 10 < limiter.peek("key").retry_after <= 30


def test_tasks_keep_the_same_pause(either_store: TableStore | AsyncMemoryStore, clock: ManualClock) -> None:
    async def take_turns() -> list[float]:
        pacer: AsyncPacer[None] = AsyncPacer(
            [AsyncLimiter("10/s burst 5", store=either_store)], "key", 1, None, 0, 3600.0
        )
        await asyncio.gather(*(pacer.heed("key", 1, 429, RETRY_AFTER_30) for _ in range(10)))
        began, came = clock.ticks(), []
        for _ in range(3):
            await pacer.take_turn("key", 1)
            came.append(round((clock.ticks() - began) / 16e9, 6))
        return came

    assert asyncio.run(take_turns()) == [30, 30.1, 30.2]


def test_a_limiter_for_threads_and_one_for_tasks_have_the_same_buckets(clock: ManualClock) -> None:
    limiter = Limiter("1/hour", store=MemoryStore(clock=clock), name="mine")
    limiter.try_acquire("key")
    assert not asyncio.run(awaited_limiter(limiter).try_acquire("key"))


class _Counting(MemoryStore):
    """A store that is asked a few times. It lets all that cost something pass, as one whose server does not answer."""

    asked = 0

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.really, self.decide = self.decide, self._decide

    def bind(self, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurn) -> Gate:
        return ChargeGate(self, scopes, limits, wait)

    def _decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        self.asked += 1
        assert self.asked < 100, "it asks again and again until the pause is over"
        if not any(one.cost for one in charges):
            return self.really(charges, commit=commit)
        at = self.clock.ticks()
        return [Decision(True, one.limit, one.key, one.cost, 0, 0, 0, at, -1, "allow") for one in charges]


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("cost", [0, 1])
def test_a_pause_that_the_bucket_does_not_bear_is_slept_through(clock: ManualClock, cost: int, awaited: bool) -> None:
    """Such a request asked the limiter without an end until then, and held up its event loop."""
    began = clock.ticks()
    limiter = Limiter("10/s", store=_Counting(clock))
    if awaited:
        tasks: AsyncPacer[None] = AsyncPacer([limiter], "key", cost, None, 0, 3600.0)

        async def go() -> None:
            await tasks.heed("key", 1, 429, RETRY_AFTER_30)
            async with asyncio.timeout(20):
                await tasks.take_turn("key", cost)

        asyncio.run(go())
    else:
        pacer = pacer_of(limiter)
        pacer.heed("key", 1, 429, RETRY_AFTER_30)
        pacer.take_turn("key", cost)
    assert clock.ticks() - began == 30 * 16e9


def test_a_pause_that_the_bucket_does_not_bear_is_refused_at_once_if_it_is_longer_than_the_timeout(
    clock: ManualClock,
) -> None:
    pacer = pacer_of(Limiter("10/s", store=MemoryStore(clock=clock)), timeout=29)
    began = clock.ticks()
    pacer.heed("key", 1, 429, RETRY_AFTER_30)
    pacer.limiter.reset("key")
    with pytest.raises(RateLimitExceeded, match=r"retry after 30\.000 s"):
        pacer.take_turn("key", 1)
    assert clock.ticks() == began


def test_a_reset_in_a_pause_does_not_end_it_nor_take_the_tokens_of_all_who_wait(clock: ManualClock) -> None:
    limiter = Limiter("10/s burst 5", store=MemoryStore(clock=clock))
    pacer = pacer_of(limiter)
    pacer.heed("key", 1, 429, RETRY_AFTER_30)
    limiter.reset("key")
    assert turns(pacer, 1) == [30]
    assert limiter.peek("key").remaining == 4


def test_the_memory_of_pauses_is_bounded_and_forgets_the_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacer, "_MOST_KEYS", 3)
    pauses = pacer._Pauses()
    for number in range(10):
        pauses.hold(f"key {number}", until=100)
    assert [number for number in range(10) if pauses.left(f"key {number}", now=99)] == [7, 8, 9]
    assert pauses.left("key 9", now=90) == 10
    assert not pauses.left("key 9", now=100)
    assert len(pauses._ends) == 2

"""Storms of cancellation: thousands of tasks with random deadlines, of which any may be cancelled at any moment.

Afterwards nobody waits, no error was lost on the way, and no bucket owes more than the last that left. The last is
told in virtual time: on a machine that is held up for a second, a server's clock seems to have been set.
"""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from random import Random
from typing import Any, NamedTuple

import pytest
from async_memory import AsyncMemoryStore
from redis_servers import Server
from test_waiting_far import FarStore
from virtual_time import LoopClock, VirtualLoop

from ratekeeper import AsyncLimiter, AsyncRedisStore, Decision, LeakyBucket, MemoryStore, RateLimitExceeded, TokenBucket
from ratekeeper.errors import StoreUnavailable
from ratekeeper.limits import Limit

KEYS = ["a", "b", "c"]
LIMITS: dict[str, tuple[Limit, ...]] = {
    "leaky, most give up": (LeakyBucket(10_000, "20/minute"),),
    "leaky": (LeakyBucket(10_000, 500),),
    "token": (TokenBucket(20, 500),),
    "token and leaky": (TokenBucket(20, 500), LeakyBucket(10_000, 700)),
    "three": (TokenBucket(20, 500), TokenBucket(300, 300), LeakyBucket(10_000, 700)),
}
Store = MemoryStore | AsyncMemoryStore | AsyncRedisStore
Open = Callable[[], AbstractAsyncContextManager[Store]]


class Storm:
    """Tasks that come within 0.3 s. The last are cancelled after a second."""

    def __init__(self, limiter: AsyncLimiter, costs: list[int], seed: int) -> None:
        self._limiter = limiter
        self._costs = costs
        self._chance = Random(seed)
        self.left: list[Decision] = []
        self.failed: list[BaseException] = []

    async def rage(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(self._come()) for _ in range(count)]
        for task in self._chance.sample(tasks, count // 2):
            loop.call_later(self._chance.random() * 0.6, task.cancel)
        await asyncio.wait(tasks, timeout=1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _come(self) -> None:
        await asyncio.sleep(self._chance.random() * 0.3)
        key, cost = self._chance.choice(KEYS), self._chance.choice(self._costs)
        timeout = self._chance.choice([None, None, 0.1, 0.5])
        patience = self._chance.choice([None, self._chance.random() * 0.5])
        try:
            self.left.append(await asyncio.wait_for(self._limiter.acquire(key, cost, timeout), patience))
        except (TimeoutError, RateLimitExceeded):
            pass
        except Exception as error:
            self.failed.append(error)


class Aftermath(NamedTuple):
    """The end of a storm: the tasks that left, and the time, debts and errors."""

    storm: Storm
    began: int
    ended: int
    debts: dict[tuple[str, int], int]
    told: list[dict[str, Any]]


async def aftermath(
    open_store: Open, limits: tuple[Limit, ...], costs: list[int], count: int, beside: Callable[[], None] | None = None
) -> Aftermath:
    """Return the end of a storm. A store that is broken `beside` it is not asked for the debts."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with open_store() as store:
        limiter = AsyncLimiter(*limits, store=store, name="it")
        for _ in range(2):  # the first opens a connection: its answer says little of the server's time
            began = (await limiter.peek("a")).at_ticks
        storm = Storm(limiter, costs, seed=count)
        await asyncio.gather(storm.rage(count), *([asyncio.to_thread(beside)] if beside else []))
        if not isinstance(store, MemoryStore):
            await store.wait_queue.settle()
        await asyncio.sleep(0)  # a local store settles in the next turn of the loop
        assert len(store.wait_queue) == 0
        ended, debts = (0, {}) if beside else await debts_of(store, limiter)
    gc.collect()  # an error that nobody retrieved is told as its task is collected
    return Aftermath(storm, began, ended, debts, told)


async def debts_of(store: Store, limiter: AsyncLimiter) -> tuple[int, dict[tuple[str, int], int]]:
    """Return the time, and when each bucket is full again, by its key and the place of its limit."""
    debts, now = {}, 0
    for key in KEYS:
        for place, charge in enumerate(limiter._charges(key, 0)):
            looked = store.decide([charge], commit=False)
            [decision] = looked if isinstance(looked, list) else await looked
            debts[key, place] = decision.at_ticks + decision.debt_ticks
            now = decision.at_ticks
    return now, debts


def in_virtual_time(limits: tuple[Limit, ...], costs: list[int], count: int, travel: float | None) -> Aftermath:
    """Return the end of a storm in memory, or on a store to which each question travels."""
    loop = VirtualLoop()

    @asynccontextmanager
    async def memory() -> AsyncIterator[Store]:
        store = MemoryStore(1000, clock=LoopClock(loop))
        yield store if travel is None else FarStore(store, travel, Random(count))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(aftermath(memory, limits, costs, count))


@pytest.fixture
def redis_store(server: Server) -> Open:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Store]:
        async with AsyncRedisStore(server.url, prefix=uuid.uuid4().hex, timeout=30) as store:
            yield store

    return connect


def check_limits(after: Aftermath, limits: tuple[Limit, ...]) -> None:
    """The tasks that left obey each limit from the first to the last."""
    for key in KEYS:
        left = [one for one in after.storm.left if one.key == key]
        for limit in limits:
            assert (
                sum(one.cost for one in left) * limit.interval <= burst(limit, left) + last(after, left) - after.began
            )


def check_debts(after: Aftermath, limits: tuple[Limit, ...]) -> None:
    """The buckets owe nothing for tasks that did not leave."""
    for key in KEYS:
        left = [one for one in after.storm.left if one.key == key]
        for place, limit in enumerate(limits):
            # One that was admitted just as it was cancelled may have nothing given back, as the bucket is marked.
            assert after.debts[key, place] <= max(last(after, left), after.ended) + burst(limit, left)


def last(after: Aftermath, left: list[Decision]) -> int:
    return max([one.at_ticks + one.delay_ticks for one in left], default=after.began)


def burst(limit: Limit, left: list[Decision]) -> int:
    largest = max([one.cost for one in left], default=1)
    return largest * limit.interval if limit.queues else limit.full


@pytest.mark.parametrize(("costs", "count"), [([1], 3000), ([1, 2, 3], 1000)], ids=["of one cost", "of three costs"])
@pytest.mark.parametrize("travel", [None, 0.004], ids=["in memory", "far away"])
@pytest.mark.parametrize("limits", LIMITS)
def test_a_storm_leaves_nobody_and_no_debt(limits: str, travel: float | None, costs: list[int], count: int) -> None:
    after = in_virtual_time(LIMITS[limits], costs, count, travel)
    assert after.storm.left
    assert not after.storm.failed
    assert not after.told
    check_limits(after, LIMITS[limits])
    check_debts(after, LIMITS[limits])


@pytest.mark.slow
@pytest.mark.parametrize("costs", [[1], [1, 2, 3]], ids=["of one cost", "of three costs"])
@pytest.mark.parametrize("limits", LIMITS)
def test_a_storm_on_a_server_leaves_nobody_and_keeps_each_limit(
    redis_store: Open, limits: str, costs: list[int]
) -> None:
    after = asyncio.run(aftermath(redis_store, LIMITS[limits], costs, 1000))
    assert not after.storm.failed
    assert not after.told
    check_limits(after, LIMITS[limits])


@pytest.mark.slow
@pytest.mark.parametrize("limits", LIMITS)
def test_a_storm_whose_connections_break_leaves_nobody_and_loses_no_error(
    server: Server, redis_store: Open, limits: str
) -> None:
    after = asyncio.run(aftermath(redis_store, LIMITS[limits], [1], 1000, partial(break_connections, server)))
    assert {type(error) for error in after.storm.failed} <= {StoreUnavailable}
    assert {one["message"] for one in after.told} <= {"places that were given up are lost: the store failed"}


def break_connections(server: Server) -> None:
    for _ in range(50):
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

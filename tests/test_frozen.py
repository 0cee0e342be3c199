"""frozen: the time of every store stands still inside it, goes on as told, and never steps back."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from needs import need
from redis_servers import Server
from servers import PATIENCE

from ratekeeper import (
    IMPLEMENTATION,
    AsyncLimiter,
    AsyncRedisStore,
    Keeper,
    LeakyBucket,
    LeakyQueue,
    Limiter,
    ManualClock,
    MemoryStore,
    Policy,
    RedisStore,
    SharedMemoryStore,
    TokenBucket,
)
from ratekeeper.clock import SystemClock, machine_ticks
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores.redis.replies import ServerClock
from ratekeeper.stores.table_store import TableStore
from ratekeeper.testing import FrozenTime, frozen

HOUR = 3600


@pytest.fixture(params=["c", "python", "shared"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], TableStore]:
    """Return a maker of stores on the system's clock."""
    need("the C core", request.param == "python" or IMPLEMENTATION == "c")
    if request.param == "shared":
        return lambda: SharedMemoryStore(tmp_path / secrets.token_hex(4), 1000)
    return lambda: MemoryStore(1000, implementation=request.param)


def test_time_stands_still_and_goes_on_by_exactly_what_it_is_told(make_store: Callable[[], TableStore]) -> None:
    before = make_store()
    with frozen() as time:
        for store in (before, make_store()):
            limiter = Limiter(TokenBucket(2, 999_983), store=store, name=secrets.token_hex(4))
            decisions = [limiter.try_acquire("a") for _ in range(1000)]
            assert [decision.allowed for decision in decisions] == [True, True] + [False] * 998
            assert {decision.at_ticks for decision in decisions} == {store.clock.ticks()}
            assert len({decision.retry_ticks for decision in decisions[2:]}) == 1
            time.advance((decisions[-1].retry_ticks - 1) / TICKS_PER_SECOND)
            assert not limiter.try_acquire("a"), "it comes a tick too early"
            time.advance(1 / TICKS_PER_SECOND)
            assert limiter.try_acquire("a")
            assert limiter.try_acquire_many(["a", "b"]) == [False, True]


def test_waiting_takes_no_time_and_moves_it_on(make_store: Callable[[], TableStore]) -> None:
    with frozen():
        store = make_store()
        limiter = Limiter(LeakyBucket(5, "1/hour"), store=store)
        began = store.clock.ticks()
        turns = [limiter.acquire("a").delay for _ in range(3)]
        assert turns == [0, HOUR, HOUR]
        assert store.clock.ticks() - began == 2 * HOUR * TICKS_PER_SECOND
        with limiter.reserve("a"):
            assert store.clock.ticks() - began == 3 * HOUR * TICKS_PER_SECOND


def test_after_it_time_goes_on_and_has_not_stepped_back(make_store: Callable[[], TableStore]) -> None:
    store = make_store()
    limiter = Limiter("2/day", store=store)
    with frozen() as time:
        time.advance(30 * HOUR)
        assert limiter.try_acquire("a", 2)
        held = store.clock.ticks()
    first = limiter.peek("a").at_ticks
    assert held <= first <= limiter.peek("a").at_ticks
    assert not limiter.try_acquire("a", 1)
    with frozen() as time:
        time.advance(12 * HOUR)
        assert limiter.try_acquire("a")
    while limiter.peek("a").at_ticks == first:  # it goes on, or this never ends
        pass


def test_a_block_that_moves_nothing_leaves_the_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SystemClock, "ahead", 0)
    with frozen():
        pass
    before = machine_ticks()
    assert before <= SystemClock().ticks() <= machine_ticks()


def test_a_block_inside_another_shares_its_time(make_store: Callable[[], TableStore]) -> None:
    clock = make_store().clock
    with frozen() as outer:
        began = clock.ticks()
        with frozen() as inner:
            inner.advance(1)
        assert clock.ticks() - began == TICKS_PER_SECOND, "it is still held"
        outer.advance(1)
        assert clock.ticks() - began == 2 * TICKS_PER_SECOND


def test_a_store_with_a_clock_of_its_own_keeps_to_it() -> None:
    clock = ManualClock(1000)
    with frozen() as time:
        limiter = Limiter("1/s", store=MemoryStore(100, clock=clock))
        limiter.try_acquire("a")
        time.advance(5)
        assert not limiter.try_acquire("a")
        clock.advance(1)
        assert limiter.try_acquire("a")


def test_policies_and_queues_are_held_too() -> None:
    keeper = Keeper(Policy.parse('[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1/hour"'))
    items: LeakyQueue[str] = LeakyQueue(5, "1/hour")
    with frozen() as time:
        assert [keeper.try_acquire({"user": "a"}).allowed for _ in range(2)] == [True, False]
        time.advance(HOUR)
        assert keeper.try_acquire({"user": "a"})
        for item in "ab":
            items.put(item)
        assert [items.get(), items.get()] == ["a", "b"]
        assert items.stats().longest_wait == HOUR


def test_all_threads_see_the_held_time() -> None:
    limiter, allowed = Limiter(TokenBucket(5, 1000)), []
    with frozen():
        threads = [
            threading.Thread(target=lambda: allowed.extend(limiter.try_acquire_many(["a"] * 100))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(allowed) == 5


# As a decorator

shared_time = frozen()


@shared_time
def ask(limiter: Limiter, key: str) -> list[bool]:
    """Ask, and ask again later."""
    answers = [bool(limiter.try_acquire(key)) for _ in range(2)]
    shared_time.advance(HOUR)
    return [*answers, bool(limiter.try_acquire(key))]


@frozen()
async def wait(limiter: AsyncLimiter) -> float:
    await limiter.acquire("a")
    await asyncio.sleep(0)
    return (await limiter.acquire("a")).delay


def test_it_is_a_decorator_of_functions_and_of_async_ones() -> None:
    limiter = Limiter("1/hour")
    assert ask(limiter, key="a") == [True, False, True]
    assert ask.__doc__ == "Ask, and ask again later."
    assert asyncio.run(wait(AsyncLimiter("1/hour"))) == HOUR
    assert SystemClock.held is None


def test_it_ends_when_the_block_or_the_function_raises() -> None:
    @frozen()
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(ValueError, match="seconds"), frozen() as time:
        time.advance(float("nan"))
    assert SystemClock.held is None


def test_what_it_cannot_hold_is_an_error() -> None:
    def generate() -> Iterator[int]:
        yield 1

    async def generate_async() -> AsyncIterator[int]:
        yield 1

    bad: list[Any] = [generate, generate_async, MemoryStore, 5]
    for each in bad:
        with pytest.raises(TypeError, match=r"elsewhere write `with frozen\(\) as time:`"):
            frozen()(each)
    with pytest.raises(RuntimeError, match="time is held only inside"):
        frozen().advance(1)


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_a_decorator_above_staticmethod_or_classmethod_is_an_error(kind: Any) -> None:
    """The class's method was called with one argument too many, or could not be called."""
    with pytest.raises(TypeError, match=rf"frozen\(\) is for functions: put it below @{kind.__name__}, not above"):
        frozen()(kind(lambda: None))


def test_a_coroutine_that_would_run_in_real_time_is_an_error() -> None:
    async def wait() -> None:
        raise AssertionError("it runs")

    def wrapped() -> Any:
        return wait()

    with pytest.raises(TypeError, match=r"wrapped.* returns a coroutine, but is not async: put frozen\(\)"):
        frozen()(wrapped)()
    assert repr(frozen()) == "frozen()"


def test_it_says_what_it_is() -> None:
    time = frozen()
    assert repr(time) == "frozen()"
    with time:
        assert repr(FrozenTime()).startswith("frozen()  # ")


# On a server


def test_a_store_on_a_server_decides_by_the_held_time(server: Server) -> None:
    prefix = secrets.token_hex(4)
    with RedisStore(server.url, prefix=prefix, timeout=PATIENCE) as store:
        limiter = Limiter(TokenBucket(2, 1), store=store)
        with frozen() as time:  # before it has any answer, it takes this machine's time for the server's
            decisions = [limiter.try_acquire("a") for _ in range(4)]
            assert [decision.allowed for decision in decisions] == [True, True, False, False]
            assert len({decision.at_ticks for decision in decisions}) == 1
            time.advance(decisions[-1].retry_after)
            assert limiter.try_acquire("a")
            assert not limiter.try_acquire("a")
            assert limiter.acquire("a").delay == 1
            time.advance(HOUR)
            assert limiter.try_acquire("a", 2)
        assert not limiter.try_acquire("a", 2), "it owes what it owed"
        limiter.reset("a")
        assert limiter.try_acquire("a", 2)


def test_before_any_answer_the_time_of_a_server_is_held_too() -> None:
    clock = ServerClock()
    with frozen() as time:
        began = clock.ticks()
        time.advance(1)
        assert clock.ticks() - began == TICKS_PER_SECOND


def test_an_awaited_store_on_a_server_decides_by_the_held_time(server: Server) -> None:
    async def use() -> None:
        store = AsyncRedisStore(server.url, prefix=secrets.token_hex(4), timeout=PATIENCE)
        limiter = AsyncLimiter("1/hour", store=store)
        assert await limiter.try_acquire("b")
        with frozen() as time:
            assert [bool(await limiter.try_acquire("a")) for _ in range(2)] == [True, False]
            assert (await limiter.acquire("a")).delay == HOUR
            time.advance(HOUR)
            assert await limiter.try_acquire("b")
        await store.close()

    asyncio.run(use())

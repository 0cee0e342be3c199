"""Exceptions of signal handlers, and tasks that are cancelled, in the middle of a call to a server.

Each bucket has a different debt, so a test sees an answer that belongs to another question.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from interrupts import Interrupted, Storm
from redis_servers import Server, cluster_url
from servers import PATIENCE

from ratekeeper import AsyncLimiter, AsyncRedisStore, Decision, RedisStore, TokenBucket
from ratekeeper.decision import Charge


@pytest.fixture(autouse=True)
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Collect what was struck in peace: a connection while it was made, a coroutine that was never awaited.

    The hook of pytest that would tell of them may be struck itself.
    """
    with warnings.catch_warnings(), monkeypatch.context() as patched:
        warnings.simplefilter("ignore")
        patched.setattr(sys, "unraisablehook", lambda _: None)
        yield
        gc.collect()


LIMIT = TokenBucket(5000, "5/day")
BUCKETS = 20
fresh = itertools.count()


def charge(bucket: int, cost: int = 0) -> Charge:
    return Charge.of("test/0", str(bucket), LIMIT, cost)


def owed(bucket: int) -> int:
    return 1 + 7 * bucket


def right(bucket: int, decision: Decision) -> bool:
    return LIMIT.capacity - decision.remaining == owed(bucket)


@pytest.fixture(params=["single", "cluster"])
def store(request: pytest.FixtureRequest, server: Server, cluster: list[Server]) -> Iterator[RedisStore]:
    url = cluster_url(cluster) if request.param == "cluster" else server.url
    with RedisStore(url, prefix=f"struck {next(fresh)}:", timeout=PATIENCE, remember_denials=False) as made:
        for bucket in range(BUCKETS):
            made.decide([charge(bucket, owed(bucket))])
        yield made


def rounds(store: RedisStore) -> int:
    return 120 if store._clustered else 1200  # a cluster's map is read anew after most strikes


@pytest.mark.parametrize("kind", [Interrupted, KeyboardInterrupt])
def test_after_an_exception_at_any_moment_no_call_reads_the_answer_to_another(
    store: RedisStore, kind: type[BaseException]
) -> None:
    storm, choice = Storm(5, kind), random.Random(5)
    for _ in range(rounds(store)):
        buckets = choice.sample(range(BUCKETS), 3)

        def look(buckets: list[int] = buckets) -> bool:
            if buckets[0] % 4:
                return right(buckets[0], store.decide([charge(buckets[0])])[0])
            if buckets[1] % 2:
                asked = store.decide([charge(bucket) for bucket in buckets])
            else:
                asked = [one for [one] in store.decide_many([[charge(bucket)] for bucket in buckets])]
            return all(right(*both) for both in zip(buckets, asked, strict=True))

        assert storm.strike(look) in (True, None)
    assert min(storm.struck, storm.spared) > 20
    assert all(right(bucket, store.decide([charge(bucket)])[0]) for bucket in range(BUCKETS))
    assert store.stats().opened == 0


def test_what_was_not_struck_is_done_once_and_what_was_struck_at_most_once(store: RedisStore) -> None:
    storm, before = Storm(6), owed(3)
    done = struck = 0
    for _ in range(rounds(store)):
        if storm.strike(lambda: store.decide([charge(3, 1)])):
            done += 1
        else:
            struck += 1
    used = LIMIT.capacity - store.decide([charge(3)])[0].remaining - before
    assert done <= used <= done + struck
    assert min(done, struck) > 20
    for _ in range(50):
        storm.strike(lambda: store.refund([charge(3, 1)], store.clock.ticks()))
        storm.strike(lambda: store.adjust("test/0", "other", 2**62 - 1, 0))
        storm.strike(lambda: store.rewind("test/0", "other", 5, 3))
    assert all(right(bucket, store.decide([charge(bucket)])[0]) for bucket in range(BUCKETS) if bucket != 3)


def test_a_signal_handler_may_ask_while_its_thread_is_asking(server: Server) -> None:
    answers: list[Decision] = []
    with RedisStore(server.url, prefix=f"struck {next(fresh)}:", timeout=PATIENCE) as store:
        before = signal.signal(signal.SIGALRM, lambda *_: answers.append(store.decide([charge(1, 1)])[0]))
        try:
            for _ in range(1000):
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-3))
                assert store.decide([charge(2, 1)])[0].source == "exact"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        used = [LIMIT.capacity - store.decide([charge(bucket)])[0].remaining for bucket in (1, 2)]
        assert used == [len(answers), 1000]
        assert len(answers) > 50


# ---- asyncio ----


def awaited_at(server: Server) -> AsyncRedisStore:
    prefix = f"struck {next(fresh)}:"
    with RedisStore(server.url, prefix=prefix, timeout=PATIENCE) as store:
        for bucket in range(BUCKETS):
            store.decide([charge(bucket, owed(bucket))])
    return AsyncRedisStore(server.url, prefix=prefix, timeout=PATIENCE, remember_denials=False)


async def look_at_all(store: AsyncRedisStore, times: int = 1) -> None:
    for _ in range(times):
        asked = [store.decide([charge(bucket)]) for bucket in range(BUCKETS)]
        answers = await asyncio.wait_for(asyncio.gather(*asked), 20)
        assert all(right(bucket, answer) for bucket, [answer] in enumerate(answers))


def test_an_event_loop_that_is_struck_at_any_moment_leaves_a_store_that_answers_right(server: Server) -> None:
    """It strikes a task of the program, a task of the store, or the loop itself. In any case the loop ends.

    (An exception that ends no loop may be taken by the loop itself, which loses a task for it: nobody can mend that.)
    """
    store, storm = awaited_at(server), Storm(8, KeyboardInterrupt)

    async def struck() -> None:
        await look_at_all(store)
        storm.arm()
        try:
            await look_at_all(store, 3)
        finally:
            storm.disarm()
        await look_at_all(store)

    for _ in range(250):
        loop = (
            asyncio.new_event_loop()
        )  # not by asyncio.run: a loop that was struck may have lost who waits for its end
        loop.set_exception_handler(lambda *_: None)
        try:
            loop.run_until_complete(struck())
            storm.note(struck=False)
        except KeyboardInterrupt:
            storm.note(struck=True)
        finally:
            storm.disarm()
            loop.close()
    asyncio.run(look_at_all(store, 10))
    assert min(storm.struck, storm.spared) > 30


@pytest.mark.parametrize("clustered", [False, True], ids=["single", "cluster"])
def test_a_storm_of_cancelled_tasks_loses_nothing_and_answers_right(
    server: Server, cluster: list[Server], clustered: bool
) -> None:
    complaints: list[dict[str, Any]] = []
    choice = random.Random(9)

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        url = cluster_url(cluster) if clustered else server.url
        async with AsyncRedisStore(
            url, prefix=f"struck {next(fresh)}:", timeout=PATIENCE, remember_denials=False
        ) as store:
            limiter = AsyncLimiter(LIMIT, store=store, name="test")
            for bucket in range(BUCKETS):
                await store.decide([charge(bucket, owed(bucket))])
            done = started = 0
            for _ in range(120):
                tasks = [asyncio.ensure_future(limiter.try_acquire("counted")) for _ in range(8)]
                looks = [asyncio.ensure_future(store.decide([charge(bucket)])) for bucket in range(BUCKETS)]
                resets = [asyncio.ensure_future(limiter.reset("other")), asyncio.ensure_future(limiter.peek("other"))]
                for _ in range(choice.randrange(12)):
                    await asyncio.sleep(0)
                for task in choice.sample([*tasks, *looks, *resets], 20):
                    task.cancel()
                await asyncio.wait_for(asyncio.gather(*tasks, *looks, *resets, return_exceptions=True), 20)
                started += len(tasks)
                done += sum(not task.cancelled() and bool(task.result()) for task in tasks)
                for bucket, look in enumerate(looks):
                    assert look.cancelled() or right(bucket, look.result()[0])
            used = LIMIT.capacity - (await limiter.peek("counted")).remaining
            assert 50 < done <= used <= started
            await look_at_all(store)
            assert store.stats().failures == 0

    asyncio.run(run())
    assert not complaints


def test_the_store_s_own_tasks_may_be_cancelled_too(server: Server) -> None:
    """Some programs cancel all tasks that they do not know: each waiter gets an error, and the next call is right."""
    choice = random.Random(10)

    async def run() -> None:
        store = awaited_at(server)
        async with store:
            for _ in range(200):
                looks = [asyncio.ensure_future(store.decide([charge(bucket)])) for bucket in range(BUCKETS)]
                for _ in range(choice.randrange(12)):
                    await asyncio.sleep(0)
                for task in asyncio.all_tasks() - {asyncio.current_task()} - {*looks}:
                    task.cancel()
                await asyncio.wait_for(asyncio.gather(*looks, return_exceptions=True), 20)
                for bucket, look in enumerate(looks):
                    assert look.cancelled() or right(bucket, look.result()[0])
            await look_at_all(store)

    asyncio.run(run())

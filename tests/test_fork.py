"""A process that forks while threads wait or hold the line: the child has none of the threads, waiters and locks.

Each test runs in another process, as a fork of this process would take along the locks of all its threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import async_memory
import pytest
from needs import need
from redis_servers import Server

from ratekeeper.core import IMPLEMENTATION

PARENT = """
    import asyncio, gc, logging, os, signal, sys, threading
    from ratekeeper import AsyncLimiter, LeakyBucket, Limiter, MemoryStore, SharedMemoryStore

    store = MemoryStore(1000)
    limiter = Limiter(LeakyBucket(10, 100), store=store)

    def in_child(work):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # a lock that nobody will ever release ends it
            work()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0, "the child could not go on"

    def in_child_while_held(lock, work):
        # the child is forked while another thread holds the lock
        held, release = threading.Event(), threading.Event()

        def hold():
            with lock:
                held.set()
                release.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        in_child(work)
        release.set()
        thread.join()
"""

HELD = """
    in_child_while_held(store.wait_queue._lock, lambda: [limiter.acquire("key") for _ in range(3)])
    limiter.acquire("key")
"""

HELD_TABLE = """
    store = MemoryStore(1000, implementation="python")
    limiter = Limiter(LeakyBucket(10, 100), store=store)
""" + HELD.replace("store.wait_queue._lock", "store._table._lock")

HELD_NAMES = """
    from ratekeeper.stores import unnamed

    in_child_while_held(unnamed._groups.lock, lambda: Limiter("5/second", store=store))
    signal.signal(signal.SIGUSR1, lambda *_: Limiter("7/second", store=store))
    with unnamed._groups.lock:
        signal.alarm(20)
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.alarm(0)
"""

PACING = """
    from ratekeeper.clients.pacer import Pacer

    pacer = Pacer([limiter], "key", 1, None, 0, 3600.0)

    def pause(*_):
        pacer.heed("key", 1, 429, [("Retry-After", "0.01")])
        pacer.take_turn("key", 1)

    in_child_while_held(pacer._pauses._lock, pause)
    signal.signal(signal.SIGUSR1, pause)
    signal.alarm(20)
    with pacer._pauses._lock:
        signal.raise_signal(signal.SIGUSR1)
"""

WAITING = """
    from ratekeeper import ManualClock

    class Held(ManualClock):
        # in the parent only its advance ends a wait, however long the child takes
        parent = os.getpid()

        def wait(self, woken, until):
            if os.getpid() != self.parent:
                super().wait(woken, until)
            while self.ticks() < until and not woken.wait(0.001):
                pass

    clock = Held(1000)
    store = MemoryStore(1000, clock=clock)
    limiter = Limiter(LeakyBucket(10, 100), store=store)
    slow = Limiter(LeakyBucket(10, 1), store=store, name="slow")
    slow.acquire("key")
    thread = threading.Thread(target=lambda: slow.acquire("key"))
    thread.start()
    while not len(store.wait_queue):
        pass

    def child():
        assert not len(store.wait_queue), "its waiters are the parent's threads"
        for _ in range(3):
            limiter.acquire("key")

    in_child(child)
    assert len(store.wait_queue)
    clock.advance(1)
    thread.join()
"""

AWAITING = """
    sys.path.insert(0, {support!r})
    from async_memory import AsyncMemoryStore

    awaited = AsyncMemoryStore(store)
    limiter = AsyncLimiter(LeakyBucket(10, 100), store=awaited)

    async def twice():
        await asyncio.gather(limiter.acquire("key"), limiter.acquire("key"))

    async def parent():
        tasks = [asyncio.create_task(limiter.acquire("key")) for _ in range(3)]
        while not awaited.waiting:
            await asyncio.sleep(0)
        forking = threading.Thread(target=lambda: in_child(lambda: asyncio.run(twice())))
        forking.start()
        await asyncio.gather(*tasks)
        while forking.is_alive():
            await asyncio.sleep(0.01)

    asyncio.run(parent())
"""


CANCELLING = """
    shared = SharedMemoryStore(f"ratekeeper-fork-{os.getpid()}", 1000)
    limiter = AsyncLimiter("1/hour burst 1", store=shared, name="a")
    reserving = Limiter("1/hour", store=shared, name="b")

    async def parent():
        await limiter.acquire("key")
        task = asyncio.create_task(limiter.acquire("key"))
        while not len(shared.wait_queue):
            await asyncio.sleep(0)
        reserving.acquire("key")
        reservation = reserving.reserve("key")

        def child():
            task.get_coro().close()  # as at the end of the child, or by its collector
            reservation.cancel()

        in_child(child)
        assert (await limiter.peek("key")).reset_after > 7100, "the parent's task still leaves at its turn"
        assert reserving.peek("key").reset_after > 7100
        task.cancel()

    try:
        asyncio.run(parent())
    finally:
        shared.unlink()
"""


REMOTE_HELD = """
    from contextlib import ExitStack
    from ratekeeper import RedisStore

    logging.disable()
    remote = RedisStore("redis://127.0.0.1:1", on_error="local", expected_nodes=1, retry=1e-9)  # nobody listens there
    fallback = remote._fallback
    with ExitStack() as held:
        for part in (remote._connections, remote._monitor, fallback, fallback._spans, fallback._table):
            held.enter_context(part._lock)
        in_child(lambda: Limiter("5/s", store=remote).acquire("key"))
"""

REMOTE_AWAITED = """
    from ratekeeper import AsyncRedisStore

    remote = AsyncRedisStore({url!r}, timeout=30)
    limiter = AsyncLimiter("100/s", store=remote)

    async def parent():
        async with remote:
            await limiter.acquire("key")
            pool = remote._connections.client().connection_pool
            pool.cycle, pool = pool, None  # so that only the collector takes it
            in_child(lambda: asyncio.run(child()))
            await limiter.acquire("key")

    async def child():
        async with remote:
            for _ in range(3):
                await limiter.acquire("key")
            gc.collect()

    asyncio.run(parent())
"""


def run(what: str, **words: str) -> None:
    need("os.fork", hasattr(os, "fork"))
    script = textwrap.dedent(PARENT) + textwrap.dedent(what)
    for word, value in words.items():
        script = script.replace(f"{{{word}!r}}", repr(value))
    ignore = "ignore:This process:DeprecationWarning"  # to fork with threads is what this is about
    done = subprocess.run([sys.executable, "-W", ignore, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_child_decides_while_a_thread_of_its_parent_holds_a_python_table_s_lock() -> None:
    run(HELD_TABLE)


def test_a_forked_child_and_a_signal_s_handler_make_a_limiter_while_another_is_made() -> None:
    run(HELD_NAMES)


def test_a_forked_child_and_a_signal_s_handler_pause_while_a_pacer_s_lock_is_held() -> None:
    run(PACING)


@pytest.mark.parametrize("what", [HELD, WAITING, AWAITING], ids=["a held line", "a waiting thread", "an event loop"])
def test_a_forked_child_waits_in_a_line_of_its_own(what: str) -> None:
    run(what, support=os.path.dirname(async_memory.__file__))


@pytest.mark.skipif(sys.platform != "linux" or IMPLEMENTATION != "c", reason="no shared memory")
def test_a_forked_child_does_not_give_up_the_places_of_its_parent() -> None:
    run(CANCELLING)


def test_a_child_that_is_forked_while_a_redis_store_s_locks_are_held_goes_on() -> None:
    run(REMOTE_HELD)


def test_a_child_awaits_an_async_redis_store_by_connections_of_its_own_and_leaves_its_parent_s_alone(
    server: Server,
) -> None:
    run(REMOTE_AWAITED, url=server.url)

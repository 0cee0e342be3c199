"""A process that forks while threads wait or hold the line: the child has no threads, no waiters and no lock of theirs.

Each runs in a process of its own, as a fork of the test's own process would take all its threads' locks with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from conftest import need

PARENT = """
    import asyncio, os, signal, sys, threading
    from ratekeeper import AsyncLimiter, LeakyBucket, Limiter, MemoryStore

    store = MemoryStore(1000)
    limiter = Limiter(LeakyBucket(10, 100), store=store)

    def in_child(work):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # a lock that nobody will ever release ends it
            work()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0, "the child could not go on"
"""

HELD = """
    held, release = threading.Event(), threading.Event()

    def hold():
        with store.line._lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    in_child(lambda: [limiter.acquire("key") for _ in range(3)])
    release.set()
    thread.join()
    limiter.acquire("key")
"""

WAITING = """
    slow = Limiter(LeakyBucket(10, 1), store=store, name="slow")
    slow.acquire("key")
    thread = threading.Thread(target=lambda: slow.acquire("key"))
    thread.start()
    while not store.line._order._waiters:
        pass

    def child():
        assert not store.line._order._waiters, "its waiters are the parent's threads"
        for _ in range(3):
            limiter.acquire("key")

    in_child(child)
    assert store.line._order._waiters
    thread.join()
"""

AWAITING = """
    sys.path.insert(0, {tests!r})
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


@pytest.mark.parametrize("what", [HELD, WAITING, AWAITING], ids=["a held line", "a waiting thread", "an event loop"])
def test_a_forked_child_waits_in_a_line_of_its_own(what: str) -> None:
    need("os.fork", hasattr(os, "fork"))
    script = textwrap.dedent(PARENT) + textwrap.dedent(what.replace("{tests!r}", repr(os.path.dirname(__file__))))
    ignore = "ignore:This process:DeprecationWarning"  # to fork with threads is what this is about
    done = subprocess.run([sys.executable, "-W", ignore, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")

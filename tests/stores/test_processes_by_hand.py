"""Support grants and blocks while worker processes ask: exact, seen by all, on shared memory and on a server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from needs import need
from redis_servers import redis_server, wait_for
from servers import PATIENCE

from ratekeeper import IMPLEMENTATION, Limiter, TokenBucket
from ratekeeper.stores.base import Store
from ratekeeper.stores.spec import StoreSpec

pytestmark = pytest.mark.slow

WORKERS = 4
LIMIT = TokenBucket(500, "1/day")
"""Its capacity refills in more than a year, so nothing does while a test runs."""
MONTH = 30 * 86_400
"""In seconds: longer than workers that took the last token owe, so a block for a month always counts."""
MANY = TokenBucket(100_000, "3/hour")


class Shared(NamedTuple):
    """Counts for each worker: its requests, its admissions, and those after a block; and whether there is a block."""

    asked: Any
    admitted: Any
    admitted_late: Any
    blocked: Any


def opened(store: str) -> Store:
    """Open a store that waits for a server on a machine that is slow and shared."""
    return StoreSpec(store, timeout=PATIENCE).open()


def hammer(number: int, store: str, shared: Shared) -> None:
    """Ask for the key, until killed. An admission is late if the block was there before the request."""
    limiter = Limiter(LIMIT, store=opened(store), name="support")
    while True:
        late = shared.blocked.value
        admitted = bool(limiter.try_acquire("hot"))
        shared.admitted[number] += admitted
        shared.admitted_late[number] += admitted and late
        shared.asked[number] += 1


class Crew:
    """Workers that ask all the time."""

    def __init__(self, store: str) -> None:
        context = multiprocessing.get_context("spawn")
        asked, admitted, late = [context.Array("q", WORKERS, lock=False) for _ in range(3)]
        self.shared = Shared(asked, admitted, late, context.Value("b", 0, lock=False))
        self.workers: list[SpawnProcess] = [
            context.Process(target=hammer, args=(number, store, self.shared), daemon=True) for number in range(WORKERS)
        ]
        for worker in self.workers:
            worker.start()
        self.alive = list(range(WORKERS))

    @property
    def admitted(self) -> int:
        return sum(self.shared.admitted)

    def ask_on(self) -> None:
        """Return when each living worker has asked some hundred times more: memories of denials have ended too."""
        end, before = time.monotonic() + 1.1, list(self.shared.asked)
        wait_for(lambda: time.monotonic() > end and all(self.shared.asked[n] > before[n] + 200 for n in self.alive))

    def kill(self, number: int) -> None:
        os.kill(self.workers[number].pid or 0, signal.SIGKILL)
        self.workers[number].join()
        self.alive.remove(number)


@contextmanager
def crew_on(store: str) -> Iterator[Crew]:
    crew = Crew(store)
    try:
        yield crew
    finally:
        for number in list(crew.alive):
            crew.kill(number)


@pytest.fixture(params=["shared memory", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "valkey":
        with redis_server() as server:
            yield server.url
        return
    need("the C core", IMPLEMENTATION == "c")
    yield f"shared:{tmp_path / 'table'}"


def test_of_a_key_under_load_exactly_the_granted_tokens_pass_and_after_a_block_none(store: str) -> None:
    support = Limiter(LIMIT, store=opened(store), name="support")
    with crew_on(store) as crew:
        wait_for(lambda: crew.admitted == 500)
        for granted in (1, 200):
            before = crew.admitted
            support.grant("hot", granted)
            wait_for(lambda all_of_it=before + granted: crew.admitted >= all_of_it)  # type: ignore[misc]
            crew.ask_on()
            assert crew.admitted == before + granted
        granted_in_all = crew.admitted + 200
        support.grant("hot", 200)
        support.block("hot", time.time() + MONTH)
        crew.shared.blocked.value = 1
        after = crew.admitted
        crew.ask_on()
        assert sum(crew.shared.admitted_late) == 0
        assert crew.admitted <= after + WORKERS  # those that were under way
        assert MONTH - 100 < support.usage("hot")[0].retry_after <= MONTH
        crew.shared.blocked.value = 0
        for change, more in ((support.unblock, 0), (support.reset, 500), (lambda _: support.reset_all(), 1000)):
            change("hot")
            wait_for(lambda more=more: crew.admitted >= granted_in_all + more)  # type: ignore[misc]
            crew.ask_on()
            assert crew.admitted == granted_in_all + more  # and the block has taken nothing


def test_workers_that_are_killed_meanwhile_lose_at_most_the_request_each_was_at(store: str) -> None:
    support = Limiter(LIMIT, store=opened(store), name="support")
    with crew_on(store) as crew:
        wait_for(lambda: crew.admitted == 500)
        for number in (0, 1):
            for _ in range(50):
                support.grant("hot", 4)
            crew.kill(number)
        wait_for(lambda: support.peek("hot").remaining == 0)
        crew.ask_on()
        assert 900 - 2 <= crew.admitted <= 900
        assert support.peek("hot").remaining == 0
        support.block("hot", time.time() + 3600)
        crew.shared.blocked.value = 1
        crew.ask_on()
        assert sum(crew.shared.admitted_late) == 0


def grant_and_block(_: int, store: str, told: Any) -> None:
    """Grant to one key, and block others, until killed."""
    limiter = Limiter(MANY, store=opened(store), name="support")
    while True:
        limiter.grant("hot", 1)
        told[0] += 1
        for key in range(50):
            limiter.block(f"key {key}", time.time() + MONTH)


def test_a_granter_that_is_killed_leaves_nothing_half_done(store: str) -> None:
    context = multiprocessing.get_context("spawn")
    support = Limiter(MANY, store=opened(store), name="support")
    told = context.Array("q", 1, lock=False)
    assert support.try_acquire("hot", MANY.capacity)
    for kills in range(1, 4):
        granter = context.Process(target=grant_and_block, args=(0, store, told), daemon=True)
        before = told[0]
        granter.start()
        wait_for(lambda before=before: told[0] > before + 20)  # type: ignore[misc]
        os.kill(granter.pid or 0, signal.SIGKILL)
        granter.join()
        assert told[0] <= support.peek("hot").remaining <= told[0] + kills
        for key in range(50):
            assert not support.try_acquire(f"key {key}")
            assert support.try_acquire(f"another {kills} {key}")

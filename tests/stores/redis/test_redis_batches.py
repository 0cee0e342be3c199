"""Batches: what travels together, how much is under way, and what becomes of those whose carrier is cancelled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence

import pytest

from ratekeeper.stores.redis.async_store import MAX_CALLS, Batches
from ratekeeper.stores.redis.replies import Reply
from ratekeeper.stores.redis.script import Request
from ratekeeper.stores.redis.store import MAX_BATCH

REQUEST = Request([b"name"], b"", 1)


class Server:
    """Answers a call when it is told to, or else after some turns of the event loop. Counts what travels."""

    def __init__(self, turns: int = 5) -> None:
        self.sizes: list[int] = []
        self.under_way = self.most_under_way = 0
        self.turns = turns
        self.go = asyncio.Event()
        self.go.set()

    async def call(self, requests: Sequence[Request]) -> list[Reply]:
        self.sizes.append(len(requests))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            await self.go.wait()
        finally:
            self.under_way -= 1
        return [Reply(number, [], 0) for number in range(len(requests))]


def batches_of(server: Server) -> Batches:
    return Batches(server.call, clustered=False, renew=lambda: None)


async def ask_often(batches: Batches, times: int) -> None:
    for _ in range(times):
        await batches.send(REQUEST)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        await asyncio.wait_for(test(), 30)

    asyncio.run(within())


@pytest.mark.parametrize(("tasks", "later"), [(64, {32}), (65, {32, 33}), (16, {16}), (1, {1})])
def test_tasks_that_ask_on_and_on_travel_in_two_batches_that_take_turns(tasks: int, later: set[int]) -> None:
    async def test() -> None:
        server = Server()
        batches = batches_of(server)
        await asyncio.gather(*(ask_often(batches, 50) for _ in range(tasks)))
        assert server.sizes[0] == tasks
        assert set(server.sizes[1:]) == later
        assert sum(server.sizes) == 50 * tasks
        assert server.most_under_way == len(range(0, tasks, max(later)))

    run(test)


def test_only_so_many_are_under_way_and_the_next_is_the_larger() -> None:
    async def test() -> None:
        server = Server()
        server.go.clear()
        batches = batches_of(server)
        coming = [batches.send(REQUEST) for _ in range(MAX_BATCH * MAX_CALLS)]
        for _ in range(20):
            await asyncio.sleep(0)
            coming.append(batches.send(REQUEST))
        assert server.sizes == [MAX_BATCH] * MAX_CALLS
        server.go.set()
        await asyncio.gather(*coming)
        assert server.sizes[MAX_CALLS:] == [20]

    run(test)


@pytest.mark.parametrize("turns", range(12))
def test_who_waits_is_answered_whenever_what_carries_others_is_cancelled(turns: int) -> None:
    """As by a program that cancels all tasks that it does not know."""

    async def test() -> None:
        batches = batches_of(Server(3))
        first = [batches.send(REQUEST) for _ in range(40)]
        for _ in range(turns):
            await asyncio.sleep(0)
        more = [batches.send(REQUEST) for _ in range(40)]
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if "Batches" in str(task):
                task.cancel()
        done = await asyncio.gather(*first, *more, return_exceptions=True)
        assert {type(one) for one in done} <= {list, asyncio.CancelledError}
        [reply] = await batches.send(REQUEST)
        assert isinstance(reply, Reply)

    run(test)


def test_what_is_under_way_when_its_event_loop_is_closed_ends_quietly() -> None:
    async def ask_and_leave() -> None:
        server = Server()
        server.go.clear()
        batches_of(server).send(REQUEST).add_done_callback(print)
        await asyncio.sleep(0)
        server.go = asyncio.Event()  # nothing holds the call any more

    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask_and_leave())
    loop.close()
    gc.collect()  # what is raised then fails the test

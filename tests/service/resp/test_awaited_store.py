"""A connection of a Redis client on a store that must be awaited: order, bounds, outages, the end."""

from __future__ import annotations

import asyncio
from typing import Any

from async_memory import AsyncMemoryStore
from resp_wires import Client, answers_in, make_core, request

from ratekeeper import ManualClock, MemoryStore
from ratekeeper.errors import StoreUnavailable
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.wire import NEVER


class _SlowStore(AsyncMemoryStore):
    """Answers when the test says so. Counts the questions under way."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(1000, clock=ManualClock()))
        self.gate = asyncio.Event()
        self.under_way = self.most = 0
        self.error: Exception | None = None

    async def decide(self, charges: Any, *, commit: bool = True) -> Any:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            return await super().decide(charges, commit=commit)
        finally:
            self.under_way -= 1


def test_an_answer_that_waits_holds_back_the_later_ones() -> None:
    async def story() -> None:
        store = _SlowStore()
        client = Client(make_core(store=store), Bounds(pipelined=4))
        asked = request("PING") + request("CL.THROTTLE", "a", 1, 1, 1) * 3 + request("ECHO", "x")
        assert client.send(asked + request("PING")) == [b"PONG"]
        await asyncio.sleep(0)
        assert store.under_way == 3
        assert client.wire.unanswered == 4
        assert client.channel.paused
        assert client.wire.deadline == NEVER
        store.gate.set()
        await client.channel.settle()
        answers = answers_in(client.channel.taken())
        assert [one[:3] for one in answers[:3]] == [[0, 2, 1], [0, 2, 0], [1, 2, 0]]
        assert answers[3:] == [b"x", b"PONG"]
        assert not client.channel.paused
        assert client.wire.unanswered == 0
        assert client.ask("PING") == b"PONG"

    asyncio.run(story())


def test_no_more_are_asked_at_once_than_the_bound_and_nothing_more_is_read() -> None:
    async def story() -> None:
        store = _SlowStore()
        client = Client(make_core(store=store), Bounds(pipelined=4))
        client.wire.receive(request("CL.THROTTLE", "a", 9, 1, 1) * 10 + request("PING"))
        await asyncio.sleep(0)
        assert store.under_way == 4
        assert client.channel.paused
        store.gate.set()
        await client.channel.settle()
        answers = answers_in(client.channel.taken())
        assert [one[2] for one in answers[:10]] == list(range(9, -1, -1))
        assert answers[10:] == [b"PONG"]
        assert store.most == 4

    asyncio.run(story())


def test_a_reset_begins_after_the_decisions_before_it_and_ends_before_those_after_it() -> None:
    async def story() -> None:
        store = _SlowStore()
        client = Client(make_core(store=store))
        check = request("RK.CHECK", "path", "/api/x", "api_key", "k", "COST", "3")
        client.wire.receive(check * 2 + request("RK.RESET", "path", "/api/x", "api_key", "k") + check * 2)
        store.gate.set()
        await client.channel.settle()
        answers = answers_in(client.channel.taken())
        assert [one if one == b"OK" else one[1] for one in answers] == [1, 0, b"OK", 1, 0]

    asyncio.run(story())


def test_an_outage_is_an_error_and_never_a_yes() -> None:
    async def story() -> None:
        store = _SlowStore()
        store.gate.set()
        store.error = StoreUnavailable("redis://secret@host does not answer")
        client = Client(make_core(store=store))
        client.wire.receive(
            request("CL.THROTTLE", "a", 1, 1, 1)
            + request("RK.CHECK", "path", "/api/x", "api_key", "k")
            + request("RK.USAGE", "path", "/api/x", "api_key", "k")
            + request("PING")
        )
        await client.channel.settle()
        answers = answers_in(client.channel.taken())
        assert [str(one) for one in answers[:3]] == [
            "ERR The rate limiter cannot tell at the moment if the request is within its limits: try again soon."
        ] * 3
        assert answers[3:] == [b"PONG"]

    asyncio.run(story())


def test_as_the_service_stops_a_waiting_answer_is_given_and_then_the_connection_ends() -> None:
    async def story() -> None:
        store = _SlowStore()
        client = Client(make_core(store=store))
        client.wire.receive(request("CL.THROTTLE", "a", 1, 1, 1) + request("PING"))
        client.wire.finish()
        assert not client.channel.closed
        store.gate.set()
        await client.channel.settle()
        assert answers_in(client.channel.taken()) == [[0, 2, 1, -1, 1], b"PONG"]
        assert client.channel.closed

    asyncio.run(story())


def test_who_is_cut_off_is_told() -> None:
    async def story() -> None:
        client = Client(make_core(store=_SlowStore()))
        client.wire.receive(request("CL.THROTTLE", "a", 1, 1, 1) * 2 + request("PING"))
        assert client.wire.unanswered == 3
        client.wire.cut_off()
        assert [str(one) for one in answers_in(client.channel.taken())] == ["ERR the service stops: ask again"] * 3
        assert client.channel.closed
        client.channel.lose(client.wire)
        await client.channel.settle()

    asyncio.run(story())


def test_a_lost_connection_writes_no_more() -> None:
    async def story() -> None:
        store = _SlowStore()
        client = Client(make_core(store=store))
        client.wire.receive(request("CL.THROTTLE", "a", 1, 1, 1) * 2)
        client.channel.lose(client.wire)
        store.gate.set()
        await client.channel.settle()
        assert not client.channel.writes

    asyncio.run(story())


def test_a_connection_that_is_lost_while_a_request_waits_for_its_turn_leaves_nothing() -> None:
    async def story() -> None:
        core = make_core()
        client = Client(core)
        waiting = request("RK.CHECK", "path", "/reports", "TIMEOUT", 5)
        client.wire.receive(waiting * 2)
        await asyncio.sleep(0)
        assert (client.wire.unanswered, core.limiter.waiting) == (1, 1)
        client.channel.lose(client.wire)
        await client.channel.settle()
        assert (client.wire.unanswered, core.limiter.waiting) == (0, 0)

    asyncio.run(story())

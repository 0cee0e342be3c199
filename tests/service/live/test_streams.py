"""Answers that go on, without a socket: their order, their end, slow clients, and what a client sends meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from async_memory import AsyncMemoryStore
from wire_client import WireClient, answers_in

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.wire import HttpWire
from ratekeeper.service.live import events
from ratekeeper.service.operator_options import OperatorOptions

POLICY = Policy.parse("rules = [{name = 'all', limit = '1000/day'}]")
EVENTS = b"GET /v1/status/events HTTP/1.1\r\n\r\n"
STATUS = b"GET /v1/status HTTP/1.1\r\n\r\n"
CHECK = b"GET /check HTTP/1.1\r\n\r\n"


def core_of(store: Any = None, *, page: bool = True) -> Core:
    core = Core(POLICY, store or MemoryStore(100))
    core.operator = OperatorOptions(page=page, recording_bytes=0)
    return core


def connection(core: Core, peer: str | None = "192.0.2.1", **bounds: Any) -> WireClient:
    return WireClient(lambda channel: HttpWire(core, channel, Bounds(**bounds)), peer)


def parts(data: bytes) -> tuple[bytes, list[tuple[str, Any]]]:
    """Return the head of a stream, and its events, each with its data."""
    head, _, body = data.partition(b"\r\n\r\n")
    return head, [event_of(block) for block in body.decode().split("\n\n") if block.startswith("event: ")]


def event_of(block: str) -> tuple[str, Any]:
    kind, data = block.split("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_a_stream_begins_with_the_history_and_the_status_and_gets_a_status_each_tick() -> None:
    core = core_of()
    client = connection(core)
    head, begun = parts(client.send(EVENTS))
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-type: text/event-stream" in head
    assert b"connection: close" in head
    assert b"content-length" not in head
    assert [kind for kind, _ in begun] == ["history", "status"]
    assert not client.closed
    assert client.wait(100_000) is False, "a page stays open for as long as it likes"
    for _ in range(3):
        client.taken()
        core.live.tick()
        assert [kind for kind, _ in parts(b"\r\n\r\n" + client.taken())[1]] == ["status"]


def test_all_open_pages_get_the_same_bytes_of_one_status(monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of()
    clients = [connection(core) for _ in range(20)]
    for client in clients:
        client.send(EVENTS)
        client.taken()
    made = Mock(side_effect=core.live._status.read)
    monkeypatch.setattr(core.live._status, "read", made)
    core.live.tick()
    made.assert_called_once()
    [[one]] = {tuple(client.writes) for client in clients}
    assert all(client.writes[0] is one for client in clients)


def test_a_head_gets_no_stream() -> None:
    core = core_of()
    client = connection(core)
    head = client.send(EVENTS.replace(b"GET", b"HEAD"))
    assert head.endswith(b"\r\n\r\n")
    assert client.closed
    assert not core.live._pages


@pytest.mark.parametrize("before", [0, 3])
def test_a_stream_comes_behind_the_answers_before_it_and_ends_all_others(before: int) -> None:
    core = core_of()
    client = connection(core)
    data = client.send(CHECK * before + EVENTS + CHECK * 5, CHECK, b"\0" * 100_000)
    answers, _, stream = data.rpartition(b"HTTP/1.1 ")
    assert [answer.status for answer in answers_in(answers)] == [200] * before
    assert b"text/event-stream" in stream
    assert core.metrics.slot.cells.tolist()[0] == before, "no request behind it was answered"
    client.taken()
    core.live.tick()
    assert parts(b"\r\n\r\n" + client.taken())[1][0][0] == "status"
    assert not client.paused


def test_a_stream_behind_an_answer_that_waits_begins_after_it() -> None:
    async def use() -> None:
        store = AsyncMemoryStore(MemoryStore(100))
        store.holds["before"] = asyncio.Event()
        client = connection(core_of(store), head_bytes=100)
        assert client.send(CHECK + EVENTS + CHECK * 20, CHECK * 20) == b""
        assert client.paused
        store.holds["before"].set()
        await client.answered()
        answer, _mark, stream = client.sent.rpartition(b"HTTP/1.1 200 OK\r\n")
        assert [one.status for one in answers_in(answer)] == [200]
        assert b"text/event-stream" in stream
        assert not client.paused, "else nobody would notice that the client hangs up"
        await client.hang_up()

    asyncio.run(use())


def test_a_slow_client_gets_nothing_more_until_it_reads_again() -> None:
    core = core_of()
    client = connection(core)
    client.send(EVENTS)
    client.taken()
    client.full = True
    for _ in range(100):
        core.live.tick()
    assert client.taken() == b""
    client.full = False
    core.live.tick()
    assert len(parts(b"\r\n\r\n" + client.taken())[1]) == 1


END: dict[str, Callable[[WireClient], object]] = {
    "the server stops": lambda client: client.wire.finish(),
    "the server stops now": lambda client: client.wire.cut_off(),
    "the client hangs up": lambda client: client.lose(client.wire),
}


@pytest.mark.parametrize("end", END.values(), ids=END.keys())
def test_a_stream_ends_at_once_and_gives_its_place_back(end: Callable[[WireClient], object]) -> None:
    core = core_of()
    client = connection(core)
    client.send(EVENTS)
    assert client.wire.unanswered == 0
    end(client)
    assert client.closed
    assert not core.live._pages
    core.live.tick()


def test_a_stream_that_is_asked_for_while_the_server_stops_ends_at_its_beginning() -> None:
    core = core_of()
    client = connection(core)
    client.wire.finish()
    client.send(EVENTS)
    assert client.closed
    assert not core.live._pages


def test_there_are_at_most_so_many_streams_and_further_ones_are_told_when_to_come_back() -> None:
    core = core_of()
    clients = [connection(core) for _ in range(events.MOST_STREAMS + 3)]
    answers = [client.send(EVENTS) for client in clients]
    assert all(b"text/event-stream" in answer for answer in answers[: events.MOST_STREAMS])
    for client, answer in list(zip(clients, answers, strict=True))[events.MOST_STREAMS :]:
        [refused] = answers_in(answer)
        assert (refused.status, refused.headers["content-type"]) == (503, "application/problem+json")
        assert json.loads(refused.body)["status"] == 503
        assert int(refused.headers["retry-after"]) > 0
        assert not client.closed or refused.headers["connection"] == "close"
    assert answers_in(connection(core).send(STATUS))[0].status == 200, "it can still be asked for"
    clients[0].lose(clients[0].wire)
    assert b"text/event-stream" in connection(core).send(EVENTS)


def test_no_client_keeps_others_from_opening_a_page() -> None:
    core = core_of()
    addresses = [f"2001:db8::{n:x}" for n in range(events.MOST_STREAMS)]  # of one client, as they are of one network
    greedy = [connection(core, address) for address in addresses]
    assert all(b"text/event-stream" in client.send(EVENTS) for client in greedy)
    others = [connection(core, peer) for peer in ("192.0.2.1", "192.0.2.2", "192.0.2.1", None)]
    for client in others:
        assert b"text/event-stream" in client.send(EVENTS)
    assert [client.closed for client in greedy] == [True] * 4 + [False] * (len(greedy) - 4), "the oldest end"
    assert answers_in(connection(core, addresses[0]).send(EVENTS))[0].status == 503
    core.live.tick()
    assert not any(client.closed for client in others)
    assert len(core.live._pages) == events.MOST_STREAMS
    for client in [*greedy, *others]:
        client.lose(client.wire)
    assert not core.live._pages


def test_clients_share_the_places_evenly_and_then_none_takes_a_place_of_another() -> None:
    core = core_of()
    for _ in range(events.MOST_STREAMS):
        connection(core, "192.0.2.1").send(EVENTS)
    for _ in range(events.MOST_STREAMS // 2):
        assert b"text/event-stream" in connection(core, "192.0.2.2").send(EVENTS)
    assert answers_in(connection(core, "192.0.2.2").send(EVENTS))[0].status == 503
    assert Counter(core.live._pages.values()) == {"192.0.2.1": 64, "192.0.2.2": 64}


def test_one_connection_has_one_status_in_one_piece() -> None:
    [answer] = answers_in(connection(core_of()).send(STATUS * 500))
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/", "/page/icon.svg", "/v1/status", "/v1/status/events"])
def test_without_the_page_there_is_nothing_to_see(path: str) -> None:
    core = core_of(page=False)
    [answer] = answers_in(connection(core).send(f"GET {path} HTTP/1.1\r\n\r\n".encode()))
    assert answer.status == 404
    core.live.tick()
    assert not core.live._history._samples


@pytest.mark.parametrize("path", ["/page/icon.svg", "/v1/status", "/v1/status/events", "/metrics", "/openapi.json"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_can_only_be_read(path: str, method: str) -> None:
    [answer] = answers_in(connection(core_of()).send(f"{method} {path} HTTP/1.1\r\n\r\n".encode()))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")

"""A process that has all the connections that it may have: idle clients make room, over every protocol.

Redis clients and gateways keep idle connections for hours. So a client that asks nothing could hold all places.
"""

from __future__ import annotations

import asyncio

import pytest
from async_memory import AsyncMemoryStore
from questions import EACH, POLICY, PROTOCOLS
from service_process import RawClient, poll
from service_thread import InThread, serving_in_thread

from ratekeeper import MemoryStore
from ratekeeper.service.core import Core

pytestmark = pytest.mark.slow

GOAWAY = b"\0\0\x08\x07" + bytes(5)
"""The head of the frame by which an HTTP/2 connection announces its end."""


def ask(client: RawClient, kind: str) -> None:
    """Ask, and read until all questions are answered."""
    client.send(PROTOCOLS[kind][0]())
    read_answers(client, kind)


def read_answers(client: RawClient, kind: str) -> bytes:
    received = b""
    while received.count(PROTOCOLS[kind][1]) < EACH:
        piece = client.receive()
        assert piece, received
        received += piece
    return received


def look(server: InThread, now: float) -> None:
    """Have the server look at its connections at a time that the test chooses, as if others waited for a place."""

    def expire() -> None:
        for connection in list(server._server.connections):
            connection.expire(now, crowded=True)

    server.call(expire)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_idle_clients_make_room_for_those_that_wait(kind: str) -> None:
    with serving_in_thread(Core(POLICY, MemoryStore(100)), kind=kind, connections=3, idle_time=0.2) as server:
        idle = [server.client()]
        ask(idle[0], kind)
        idle.append(server.client())
        ask(idle[1], kind)
        idle.append(server.client())  # takes the last place, so idle clients are closed from now on. It never asks
        ask(server.client(), kind)
        for client in idle:
            client.answers()  # to its end: it was closed


@pytest.mark.parametrize("kind", ["http", "resp"])  # gRPC's bytes are those of a connection's first questions
def test_a_client_that_asks_now_and_then_keeps_its_place(kind: str) -> None:
    with serving_in_thread(Core(POLICY, MemoryStore(100)), kind=kind, idle_time=60) as server:
        asks, idle = server.client(), server.client()
        for client in (asks, idle):
            ask(client, kind)
        look(server, 0.0)
        for now in (59.0, 60.0, 119.0):
            ask(asks, kind)
            look(server, now)
        idle.answers()
        ask(asks, kind)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_client_that_waits_for_its_answer_keeps_its_place(kind: str) -> None:
    store = AsyncMemoryStore(MemoryStore(100))
    store.holds["before"] = asyncio.Event()
    with serving_in_thread(Core(POLICY, store), kind=kind, idle_time=60) as server:
        client = server.client()
        client.send(PROTOCOLS[kind][0]())
        poll(lambda: store.asking > 0)
        for now in (0.0, 1000.0, 2000.0):
            look(server, now)
        server.call(store.holds["before"].set)
        assert GOAWAY not in read_answers(client, kind)
        if kind != "grpc":
            ask(client, kind)

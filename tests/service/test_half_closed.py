"""Clients that end their side of a connection after their questions, as `nc -N` does: they get what is due.

Such a client may also be gone. So an answer that does not come soon is given up.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from async_memory import AsyncMemoryStore
from questions import EACH, POLICY, PROTOCOLS
from servers import PATIENCE
from service_process import poll
from service_thread import InThread, serving_in_thread

from ratekeeper import MemoryStore
from ratekeeper.service.core import Core


@contextmanager
def asked(server: InThread, kind: str) -> Iterator[socket.socket]:
    """Yield a connection whose client has asked, and ended its side."""
    with socket.create_connection(server.address, PATIENCE) as client:
        client.sendall(PROTOCOLS[kind][0]())
        client.shutdown(socket.SHUT_WR)
        yield client


def read_to_its_end(client: socket.socket) -> bytes:
    """Return all bytes, to the end of the connection, which must be calm."""
    received = b""
    while data := client.recv(65_536):
        received += data
    return received


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize("store", [MemoryStore, lambda: AsyncMemoryStore(MemoryStore(100))], ids=["local", "awaited"])
def test_the_answers_are_sent_and_then_the_connection_closes(kind: str, store: Callable[[], MemoryStore]) -> None:
    with serving_in_thread(Core(POLICY, store()), kind=kind, ended_time=3600) as server, asked(server, kind) as client:
        received = read_to_its_end(client)
        assert received.count(PROTOCOLS[kind][1]) == EACH, received
        poll(lambda: server.open == 0)


def held_store() -> AsyncMemoryStore:
    """Return a store that never answers."""
    store = AsyncMemoryStore(MemoryStore(100))
    store.holds["before"] = asyncio.Event()
    return store


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_an_answer_that_does_not_come_soon_is_given_up(kind: str) -> None:
    kept, freed = held_store(), held_store()
    with (
        serving_in_thread(Core(POLICY, kept), kind=kind, ended_time=3600) as patient,
        serving_in_thread(Core(POLICY, freed), kind=kind, ended_time=0.1) as hurried,
        asked(patient, kind),
        asked(hurried, kind),
    ):
        poll(lambda: kept.asking > 0 and freed.asked)
        poll(lambda: hurried.open == freed.asking == 0)
        assert patient.open == 1
        assert kept.asking > 0

"""Clients that end their side of a connection after their questions, as `nc -N` does: they get what is due.

Such a client may also be gone. So an answer that does not come soon is given up.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ngh2
import pytest
import rls_messages as real
from async_memory import AsyncMemoryStore
from grpc_in_memory import SHOULD_RATE_LIMIT
from resp_wires import request
from servers import PATIENCE
from service_process import poll
from service_thread import InThread, serving_in_thread

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.status import framed

POLICY = Policy.parse('[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1000000/day"\n')
EACH = 3
BODY = b'{"attributes": {"user": "a"}}'


def http_questions() -> bytes:
    return b"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY) * EACH


def grpc_questions() -> bytes:
    engine = ngh2.Connection(ngh2.Role.CLIENT)
    engine.initiate_connection({})
    message = framed(real.rls_request("d", {"user": "a"}).SerializeToString())
    for _ in range(EACH):
        stream = engine.send_request(
            [(b":method", b"POST"), (b":scheme", b"http"), (b":path", SHOULD_RATE_LIMIT), (b":authority", b"test"),
             (b"te", b"trailers"), (b"content-type", b"application/grpc")]
        )  # fmt: skip
        engine.send_data(stream, message, end_stream=True)
    return engine.data_to_send()


def resp_questions() -> bytes:
    return request("RK.CHECK", "user", "a") * EACH


PROTOCOLS: dict[str, tuple[Callable[[], bytes], bytes]] = {
    "http": (http_questions, b"HTTP/1.1 200"),
    "grpc": (grpc_questions, b"\tratelimit\x12"),
    "resp": (resp_questions, b"allowed"),
}


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

"""Hostile bytes at the gRPC wire: it stays up or closes, memory stays bounded, and other connections are answered."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import ngh2
import pytest
import rls_messages as real
from grpc_in_memory import PREFACE, SHOULD_RATE_LIMIT, MemoryChannel, MemoryClient, frame

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.status import framed
from ratekeeper.service.grpc.wire import GrpcWire

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
QUESTION = real.rls_request("d", {"remote_address": "192.0.2.1"}).SerializeToString()
MOST_MEMORY = 4 * 2**20
"""More than a connection's own bounds: 256 KiB of half-sent messages, 64 KiB of headers, 256 streams."""


def core(policy: str = 'rules = [{name = "all", limit = "1000000/s"}]') -> Core:
    return Core(Policy.parse(policy), MemoryStore(1000, clock=ManualClock()))


def bytes_of_a_call(message: bytes = QUESTION) -> bytes:
    """Return the bytes of a client: preface, settings, and one call."""
    engine = ngh2.Connection(ngh2.Role.CLIENT)
    engine.initiate_connection()
    headers = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", SHOULD_RATE_LIMIT), (b":authority", b"a"),
        (b"content-type", b"application/grpc"),
    ]  # fmt: skip
    stream = engine.send_request(headers)
    engine.send_data(stream, framed(message), end_stream=True)
    return engine.data_to_send()


def grown(attack: Callable[[], Any]) -> int:
    """Return the bytes that an attack leaves allocated at its worst."""
    tracemalloc.start()
    try:
        attack()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def is_over(client: MemoryClient) -> bool:
    return client.channel.closed or client.channel.aborted


def answers_others(of: Core) -> bool:
    return MemoryClient(of).call(QUESTION).status == 0


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """Change, insert and delete bytes after the preface."""
    bad = bytearray(whole)
    for _ in range(chance.randint(1, 3)):
        how, place = chance.randint(0, 2), chance.randrange(len(PREFACE) - 9, len(bad))
        if how == 0:
            bad[place] = chance.randrange(256)
        elif how == 1:
            bad[place:place] = chance.randbytes(chance.randint(1, 20))
        else:
            del bad[place : place + chance.randint(1, 9)]
    return bytes(bad)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_frames_end_the_connection_or_go_on(seed: int) -> None:
    chance, whole, served = random.Random(seed), bytes_of_a_call(), core()
    ended = 0
    for _ in range(50):
        channel = MemoryChannel()
        wire = GrpcWire(served, channel, Bounds())
        bad = damaged(whole, chance)
        while bad:
            size = chance.randint(1, len(bad))
            wire.receive(bad[:size])
            bad = bad[size:]
        ended += channel.closed
        channel.time = 3601
        wire.expire()
        wire.lost()
        assert wire.unanswered == 0
    assert 0 < ended < 50
    assert answers_others(served)


@pytest.mark.parametrize("seed", range(20))
def test_random_frames_end_the_connection_or_go_on(seed: int) -> None:
    chance = random.Random(seed)
    served = core()
    for _ in range(20):
        client = MemoryClient(served)
        for _ in range(chance.randint(1, 60)):
            kind = chance.choice([*range(10), 16, 255])
            size = chance.choice([0, 1, 4, 5, 6, 8, 9, 40, 300])
            client.wire.receive(frame(kind, chance.randrange(256), chance.randrange(0, 9), chance.randbytes(size)))
        client.wire.lost()
    assert answers_others(served)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_messages_are_answered_with_a_status(seed: int) -> None:
    chance = random.Random(seed)
    client = MemoryClient(core())
    for _ in range(40):
        bad = bytearray(QUESTION * chance.randint(1, 3))
        for _ in range(chance.randint(1, 5)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        answer = client.call(bytes(bad[: chance.randint(0, len(bad))]))
        assert answer.status in (0, 3)
    assert not is_over(client)


def test_a_rapid_reset_of_answered_calls_ends_the_connection() -> None:
    served = core()
    client = MemoryClient(served, resets=100)
    for _ in range(1000):
        stream = client.start(SHOULD_RATE_LIMIT)
        data = client.engine.data_to_send()
        client.wire.receive(data + frame(RST, 0, stream, (8).to_bytes(4)))
        if is_over(client):
            break
    assert is_over(client)
    assert client.wire.unanswered == 0
    assert answers_others(served)


def test_a_rapid_reset_of_calls_that_wait_is_bounded() -> None:
    queue = '[[rules]]\nname = "q"\nalgorithm = "leaky_bucket"\ncapacity = 10000\nleak_rate = "1/hour"'

    async def attack() -> None:
        served = Core(Policy.parse(queue), MemoryStore(1000))
        client = MemoryClient(served, calls=16)
        most = 0
        for _ in range(300):
            stream = client.begin(QUESTION)
            data = client.engine.data_to_send()
            client.engine.reset_stream(stream)
            client.wire.receive(data + client.engine.data_to_send())
            most = max(most, client.wire.unanswered)
        assert most == 2 * 16
        await asyncio.gather(*client.channel.running)
        assert client.wire.unanswered == 0

    asyncio.run(attack())


def test_more_calls_at_a_time_than_allowed_are_refused() -> None:
    client = MemoryClient(core(), calls=8)
    streams = [client.start(SHOULD_RATE_LIMIT) for _ in range(8)]
    client.exchange()
    # The client's own library keeps to the bound; a hostile one does not.
    client.wire.receive(frame(HEADERS, 0x4, streams[-1] + 2, b"\x83\x86\x84\x41\x01a"))
    client.read()
    assert not client.answers
    assert not is_over(client)


@pytest.mark.parametrize(("name", "flood"), [
    ("settings", frame(SETTINGS, 0, 0)),
    ("pings", frame(PING, 0, 0, b"12345678")),
])  # fmt: skip
def test_a_flood_that_is_read_at_once_ends_the_connection(name: str, flood: bytes) -> None:
    served = core()
    client = MemoryClient(served)
    assert grown(lambda: client.wire.receive(flood * 20_000)) < MOST_MEMORY
    assert is_over(client)
    assert answers_others(served)


def test_a_flood_of_continuations_ends_the_connection() -> None:
    client = MemoryClient(core())
    client.wire.receive(frame(HEADERS, 0, 1, b"\x83"))
    for _ in range(1000):
        client.wire.receive(frame(CONTINUATION, 0, 1, b""))
    assert is_over(client)


def test_headers_that_unpack_to_megabytes_end_the_connection() -> None:
    client = MemoryClient(core())
    literal = b"\x40\x01x\x7f\x81\x1e" + b"a" * 4000  # an entry of the table, and then references to it
    block = b"\x83\x86\x84\x41\x01a" + literal + b"\xbe" * 10_000

    def attack() -> None:
        client.wire.receive(frame(HEADERS, 0x4, 1, block))

    assert grown(attack) < MOST_MEMORY
    assert is_over(client)


def test_half_sent_messages_of_many_calls_are_bounded() -> None:
    client = MemoryClient(core())

    def attack() -> None:
        for _ in range(60):
            stream = client.start(SHOULD_RATE_LIMIT)
            client.engine.send_data(stream, b"\0\0\0\x7f\xff" + b"x" * 20_000)
            client.exchange()

    assert grown(attack) < MOST_MEMORY
    refused = [answer for answer in client.answers.values() if answer.status == 8]
    assert len(refused) == 60 - 1_048_576 // 20_005
    assert not is_over(client)


def test_answers_that_the_window_holds_back_are_bounded_and_end_in_time() -> None:
    served = core()
    client = MemoryClient(served, {ngh2.Setting.INITIAL_WINDOW_SIZE: 0}, write_time=30)

    def attack() -> None:
        for _ in range(1000):
            client.begin(QUESTION)
            client.exchange()

    assert grown(attack) < MOST_MEMORY
    assert not client.answers
    client.channel.time = 30
    client.wire.expire()
    assert client.channel.aborted
    assert answers_others(served)


def test_a_body_in_tiny_pieces_costs_no_more_than_its_bytes() -> None:
    client = MemoryClient(core())
    stream = client.start(SHOULD_RATE_LIMIT)
    client.exchange()
    body = framed(QUESTION)
    for place in range(len(body)):
        client.wire.receive(frame(DATA, 0, stream, body[place : place + 1]) + frame(DATA, 0, stream) * 20)
    client.wire.receive(frame(DATA, 1, stream))
    client.read()
    assert client.answers[stream].status == 0


@pytest.mark.parametrize(
    "hello", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"*1\r\n$4\r\nPING\r\n"]
)
def test_another_protocol_is_told_to_go(hello: bytes) -> None:
    channel = MemoryChannel()
    wire = GrpcWire(core(), channel, Bounds())
    wire.receive(hello * 3)
    assert channel.closed
    assert channel.writes[-1][3] == GOAWAY

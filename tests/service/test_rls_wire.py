"""gRPC over HTTP/2 without a socket: answers, their status, and their deadlines."""

from __future__ import annotations

import asyncio
from typing import Any

import ngh2
import pytest
import rls_messages as real
from async_memory import AsyncMemoryStore
from grpc_in_memory import CHECK, SHOULD_RATE_LIMIT, MemoryChannel, MemoryClient
from servers import PATIENCE

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.status import framed
from ratekeeper.service.grpc.wire import GrpcWire

POLICY = """
[[rules]]
name = "each client"
key = ["client"]
limit = "5/minute"
"""
QUEUE = """
[[rules]]
name = "queue"
algorithm = "leaky_bucket"
capacity = 1
leak_rate = "1/hour"
"""
ALICE = real.rls_request("d", {"remote_address": "192.0.2.1"}).SerializeToString()


def core(policy: str = POLICY, store: Any = None) -> Core:
    return Core(Policy.parse(policy), MemoryStore(100, clock=ManualClock()) if store is None else store)


def code(answer: Any) -> int:
    return int(real.RateLimitResponse.FromString(answer.messages[5:]).overall_code)


def test_a_call_is_answered_by_one_write() -> None:
    client = MemoryClient(core())
    streams = [client.begin(ALICE) for _ in range(6)]
    client.wire.receive(client.engine.data_to_send())
    assert len(client.channel.writes) == 1
    client.read()
    assert [code(client.answers[stream]) for stream in streams] == [1, 1, 1, 1, 1, 2]
    assert all(client.answers[stream].status == 0 for stream in streams)
    assert client.wire.unanswered == 0


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 6, 20])
def test_a_message_may_come_in_pieces(cut: int) -> None:
    client, body = MemoryClient(core()), framed(ALICE)
    stream = client.start(SHOULD_RATE_LIMIT)
    for place in range(0, len(body), cut):
        client.engine.send_data(stream, body[place : place + cut])
        client.exchange()
        assert stream not in client.answers
    client.engine.end_stream(stream)
    client.exchange()
    assert code(client.answers[stream]) == 1


def test_a_message_may_end_with_trailers() -> None:
    client = MemoryClient(core())
    stream = client.start(SHOULD_RATE_LIMIT)
    client.engine.send_data(stream, framed(ALICE))
    client.engine.send_trailers(stream, [(b"x-checksum", b"1")])
    client.exchange()
    assert code(client.answers[stream]) == 1


@pytest.mark.parametrize(("body", "status", "text"), [
    (b"", 12, "no whole message"),
    (b"\0\0\0", 3, "no whole message"),
    (b"\0\0\0\0\x09abc", 3, "truncated"),
    (framed(ALICE) * 2, 12, "more than one message"),
    (b"\x01" + framed(ALICE)[1:], 3, "marked as compressed"),
    (b"\x07" + framed(ALICE)[1:], 3, "marked as compressed"),
    (framed(b"\x0a\x09abc"), 3, "truncated"),
    (framed(b"x" * 131_073), 8, "at most 131072 bytes"),
    (b"\0\xff\xff\xff\xff" + b"x" * 140_000, 8, "at most 131072 bytes"),
])  # fmt: skip
def test_a_body_that_is_not_one_message_has_its_status(body: bytes, status: int, text: str) -> None:
    client = MemoryClient(core())
    stream = client.start(SHOULD_RATE_LIMIT)
    client.engine.send_data(stream, body, end_stream=True)
    client.exchange()
    answer = client.answers[stream]
    assert (answer.http, answer.status, answer.messages) == (200, status, b"")
    assert text in answer.text
    assert code(client.call(ALICE)) == 1  # the connection goes on


def test_compressed_messages_unknown_methods_and_bad_deadlines_have_their_status() -> None:
    client = MemoryClient(core())
    stream = client.start(SHOULD_RATE_LIMIT, (b"grpc-encoding", b"gzip"))
    client.engine.send_data(stream, b"\x01" + framed(ALICE)[1:], end_stream=True)
    client.exchange()
    compressed = client.answers[stream]
    assert (compressed.status, compressed.headers["grpc-accept-encoding"]) == (12, "identity")
    unknown = client.call(ALICE, b"/a.B/C")
    assert unknown.status == 12
    assert "ShouldRateLimit" in unknown.text
    assert client.call(ALICE, SHOULD_RATE_LIMIT, (b"grpc-timeout", b"20")).status == 3
    assert client.call(ALICE, SHOULD_RATE_LIMIT, (b"grpc-timeout", b"123456789S")).status == 3
    assert code(client.call(ALICE, SHOULD_RATE_LIMIT, (b"grpc-timeout", b"20m"))) == 1


def test_what_is_not_grpc_is_told_by_http() -> None:
    client = MemoryClient(core())
    json = client.start(SHOULD_RATE_LIMIT, kind=b"application/json")
    web = client.start(SHOULD_RATE_LIMIT, kind=b"application/grpc-web")
    get = client.engine.send_request(
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a"),
         (b"content-type", b"application/grpc")], end_stream=True,
    )  # fmt: skip
    client.exchange()
    assert [client.answers[stream].http for stream in (json, web, get)] == [415, 415, 405]
    assert client.answers[json].status == 3


def test_health_is_that_of_the_store_and_ends_with_the_server() -> None:
    client = MemoryClient(core())

    def health(service: str) -> Any:
        answer = client.call(real.HealthCheckRequest(service=service).SerializeToString(), CHECK)
        return answer.status or real.HealthCheckResponse.FromString(answer.messages[5:]).status

    assert health("") == 1
    assert health("envoy.service.ratelimit.v3.RateLimitService") == 1
    assert health("else") == 5
    assert client.call(b"\xff", CHECK).status == 3
    client.wire.finish()
    assert health("") == 2


def test_a_store_that_does_not_answer_is_unhealthy_and_the_call_unavailable() -> None:
    async def ask() -> None:
        store = AsyncMemoryStore(MemoryStore(100, clock=ManualClock()))
        store.away = True
        client = MemoryClient(core(store=store))
        streams = [client.begin(ALICE), client.begin(b"", CHECK)]
        client.exchange()
        assert client.wire.unanswered == 2
        for answering in client.channel.running:
            await answering
        client.read()
        assert client.answers[streams[0]].status == 14
        assert client.answers[streams[1]].messages == b"\0\0\0\0\x02\x08\x02"
        assert client.wire.unanswered == 0

    asyncio.run(ask())


def test_a_call_that_waits_for_its_turn_leaves_its_place_when_it_is_given_up() -> None:
    async def ask() -> None:
        store = MemoryStore(100)
        client = MemoryClient(core(QUEUE, store))
        assert code(client.call(ALICE)) == 1
        stream = client.begin(ALICE)
        client.exchange()
        [task] = client.channel.running
        await asyncio.sleep(0.01)
        assert client.wire.unanswered == 1
        third = client.begin(ALICE)
        client.exchange()
        await client.channel.running[1]
        client.read()
        assert code(client.answers[third]) == 2  # the only place is taken
        client.engine.reset_stream(stream, ngh2.ErrorCode.CANCEL)
        client.exchange()
        await asyncio.wait_for(task, PATIENCE)
        assert client.wire.unanswered == 0
        assert stream not in client.answers
        second = client.begin(ALICE)
        client.exchange()
        assert client.wire.unanswered == 1  # it has the place
        client.wire.cut_off()
        client.read()
        assert client.answers[second].status == 14
        await client.channel.running[-1]

    asyncio.run(ask())


@pytest.mark.parametrize(("timeout", "waits"), [(b"30M", False), (b"2H", True)])
def test_a_call_waits_no_longer_than_its_client(timeout: bytes, waits: bool) -> None:
    async def ask() -> None:
        client = MemoryClient(core(QUEUE, MemoryStore(100)))
        assert code(client.call(ALICE)) == 1
        stream = client.begin(ALICE, SHOULD_RATE_LIMIT, (b"grpc-timeout", timeout))
        client.exchange()
        [task] = client.channel.running
        await asyncio.sleep(0.01)
        client.read()
        assert (client.wire.unanswered, stream in client.answers) == (int(waits), not waits)
        client.wire.cut_off()
        await task

    asyncio.run(ask())


# Deadlines


def test_a_client_that_sends_no_preface_is_closed_in_time() -> None:
    channel = MemoryChannel()
    wire = GrpcWire(core(), channel, Bounds(head_time=10))
    wire.receive(b"PRI * HTTP")
    assert wire.deadline == 10
    channel.time = 10
    wire.expire()
    assert channel.closed


def test_an_idle_connection_is_told_to_go_and_closed() -> None:
    client = MemoryClient(core(), call_idle_time=60)
    assert client.wire.deadline == 60
    client.channel.time = 50
    client.call(ALICE)
    assert client.wire.deadline == 110
    client.channel.time = 110
    client.wire.expire()
    client.read()
    assert (client.farewell, client.channel.closed) == (0, True)


def test_a_half_sent_call_ends_in_time_and_the_others_go_on() -> None:
    client = MemoryClient(core(), body_time=30)
    half = client.start(SHOULD_RATE_LIMIT)
    client.engine.send_data(half, framed(ALICE)[:9])
    client.exchange()
    assert client.wire.deadline == 30
    client.channel.time = 29
    younger = client.start(SHOULD_RATE_LIMIT)
    client.exchange()
    client.channel.time = 30
    client.wire.expire()
    client.read()
    assert client.answers[half].status == 4
    assert younger not in client.answers
    assert client.wire.deadline == 59
    assert code(client.call(ALICE)) == 1


def test_a_client_that_never_opens_its_window_is_cut_off() -> None:
    client = MemoryClient(core(), {ngh2.Setting.INITIAL_WINDOW_SIZE: 0}, write_time=30)
    streams = [client.begin(ALICE) for _ in range(3)]
    client.exchange()
    assert client.wire.deadline == 30
    client.engine.set_local_window_size(1000, stream_id=streams[0])
    client.exchange()
    assert code(client.answers[streams[0]]) == 1
    assert client.wire.deadline == 30  # two more are not read
    client.channel.time = 30
    client.wire.expire()
    assert client.channel.aborted


# The end


def test_the_end_is_announced_and_calls_on_their_way_are_answered() -> None:
    client = MemoryClient(core(), last_time=0.5)
    client.channel.time = 100
    on_its_way = client.begin(ALICE)
    late = client.engine.data_to_send()
    client.wire.finish()
    client.read()
    assert client.farewell == 0
    assert not client.channel.closed
    client.wire.receive(late)
    client.read()
    assert code(client.answers[on_its_way]) == 1
    assert client.wire.deadline == 100.5
    client.channel.time = 100.5
    client.wire.expire()
    assert client.channel.closed


def test_nothing_is_answered_after_the_end() -> None:
    client = MemoryClient(core())
    client.begin(ALICE)
    data = client.engine.data_to_send()
    client.wire.cut_off()
    assert client.channel.closed
    client.wire.receive(data)
    client.wire.lost()
    client.wire.receive(data)
    assert client.wire.unanswered == 0

"""The bounds on a client: bytes, lines, requests, connections and time that it can make the service spend.

The bounds of HTTP alone, and the order of its answers, are in test_http_wire, without sockets.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from async_memory import AsyncMemoryStore
from needs import need
from servers import PATIENCE
from service_process import RawClient, Running, poll, running
from service_thread import serving_in_thread

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.bounds import RESERVED
from ratekeeper.service.core import Core

pytestmark = pytest.mark.slow

POLICY = '[attributes]\nuser = "header:x-user"\n[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1000000/day"\n'
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CHECK = b"GET /check HTTP/1.1\r\nHost: x\r\nX-Forwarded-Uri: /x\r\n%s\r\n"
QUESTION = b"POST /v1/check HTTP/1.1\r\nHost: x\r\n"
MEGABYTE = 2**20


@pytest.fixture
def core() -> Core:
    return Core(Policy.parse(POLICY), MemoryStore(100))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


# A request's head


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n" + b"Cookie: a=b\r\n" * 200, b"200"),
        (b"GET /healthz HTTP/1.1\r\n" + b"Cookie: a=b\r\n" * 40_000, b"431"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 60_000 + b"\r\n", b"200"),
        (b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n", b"414"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 1_000_000, b"400"),
        (QUESTION + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000, b"413"),
    ],
)
def test_what_is_beyond_its_bounds_gets_one_error_and_the_connection_closes(
    core: Core, head: bytes, status: bytes
) -> None:
    with serving_in_thread(core) as server:
        client = server.client()
        client.send(head + b"\r\n")
        answer = client.answer()
        assert answer.startswith(b"HTTP/1.1 " + status)
        if status != b"200":
            assert b"connection: close" in answer
            assert client.answers() == b""
            poll(lambda: server.open == 0)


@pytest.mark.parametrize(
    ("first", "again", "status"),
    [(b"GET / HTTP/1.1\r\n", b"Cookie: a=b\r\n" * 1000, b"431"), (b"GET / HTTP/1.1\r\nX: ", b"x" * 10_000, b"431"),
     (b"GET / HTTP/1.1\r\n", b"x" * 10_000, b"431"), (b"GET /", b"x" * 10_000, b"414"),
     (b"", b"\r\n" * 10_000, b"400"), (QUESTION + b"Content-Length: 99999999\r\n\r\n", b"x" * 10_000, b"413")],
)  # fmt: skip
def test_what_does_not_end_is_cut_at_its_bound(core: Core, first: bytes, again: bytes, status: bytes) -> None:
    with serving_in_thread(core) as server:
        client = server.client()
        client.send(first)
        while client.send(again):
            pass
        poll(lambda: server.open == 0)
        assert client.answers()[:12] in (b"HTTP/1.1 " + status, b""), "a client that sends on may lose its answer"


@pytest.mark.parametrize("more", [b"", HEALTH, HEALTH * 1_000])
def test_a_hang_up_ends_what_waits_also_with_other_requests_behind(more: bytes) -> None:
    store = AsyncMemoryStore(MemoryStore(100))
    store.holds["before"] = asyncio.Event()
    with serving_in_thread(Core(Policy.parse(POLICY), store)) as server:
        client = server.client()
        client.send(CHECK % b"" + more)
        poll(lambda: store.asking == 1)
        client.close()
        poll(lambda: store.asking == 0)
        poll(lambda: server.open == 0)


# Time


@pytest.mark.parametrize(
    ("bound", "sent"),
    [
        ("head_time", b""),
        ("head_time", b"GET / HTTP/1.1\r\nHost: x\r\n"),
        ("idle_time", HEALTH),
        ("pause", QUESTION + b"Content-Length: 5\r\n\r\nab"),
        ("body_time", QUESTION + b"Content-Length: 5\r\n\r\nab"),
    ],
)
def test_a_client_that_does_not_go_on_is_cut_off_by_one_bound_and_no_other(core: Core, bound: str, sent: bytes) -> None:
    with serving_in_thread(core) as server:
        patient = server.client()
        patient.send(sent)
        poll(lambda: server.open == 1)
        short: dict[str, Any] = {bound: 0.1}
        with serving_in_thread(core, **short) as hurried:
            client = hurried.client()
            client.send(sent)
            poll(lambda: hurried.open == 0)
        assert server.open == 1


def test_a_client_that_reads_no_answer_is_not_read_and_then_cut_off(core: Core) -> None:
    with serving_in_thread(core) as server:
        client = server.client()
        poll(lambda: server.open == 1)
        while client.send_now(HEALTH * 10_000):
            pass
        assert server.open == 1
    with serving_in_thread(core, write_time=0.1) as hurried:
        client = hurried.client()
        while client.send(HEALTH * 10_000):
            pass
        poll(lambda: hurried.open == 0)


def test_a_request_that_is_slow_to_come_takes_no_answer_from_the_one_before() -> None:
    store = AsyncMemoryStore(MemoryStore(100))
    store.holds["before"] = asyncio.Event()
    with serving_in_thread(Core(Policy.parse(POLICY), store), head_time=60) as server:
        client, other = server.client(), server.client()
        client.send(CHECK % b"" + b"GET /slow")
        other.send(b"GET /slow")
        poll(lambda: store.asking == 1 and server.open == 2)
        server.look(later=100)
        assert other.answers() == b"", "its time has passed, and so has that of the first"
        server.call(store.holds["before"].set)
        assert client.answer().startswith(b"HTTP/1.1 200")
        server.look(later=100)
        assert client.answers() == b""


def test_the_answers_to_one_read_are_not_kept_for_a_client_that_reads_none(core: Core) -> None:
    """Each question of 18 bytes has an answer of 300, and a read may bring 14,000 of them."""
    with serving_in_thread(core) as server:
        clients = [server.client() for _ in range(4)]
        for client in clients:
            client.send_now(b"GET / HTTP/1.1\r\n\r\n" * 100_000, 0.2)

        def unsent() -> list[int]:
            return [connection._transport.get_write_buffer_size() for connection in server._server.connections]

        poll(lambda: sum(size > 0 for size in unsent()) == 4)
        assert max(unsent()) < MEGABYTE
        assert all(client.answer().startswith(b"HTTP/1.1 404") for client in clients)


# Connections


def test_further_connections_wait_until_others_close_which_is_told_once(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    with serving_in_thread(core, connections=10) as server:
        clients = [server.client() for _ in range(30)]
        for number, client in enumerate(clients):
            client.send(b"GET /%d HTTP/1.1\r\n\r\n" % number)
        for number in range(10):
            assert b"there is no '/%d'" % number in clients[number].answer()
        assert server.open == 10
        for number, client in enumerate(clients[10:], 10):
            clients[number - 10].close()
            assert b"there is no '/%d'" % number in client.answer()
            assert server.open <= 10
    assert caplog.text.count("all 10 connections are open: others wait until one closes") == 1


# The real service: what it holds is flat


def grown(service: Running, before: int) -> int:
    return service.memory() - before


def still_answers(service: Running) -> bool:
    return service.check().status_code == 200


@pytest.mark.parametrize(
    ("first", "piece", "most"),
    [
        (b"GET / HTTP/1.1\r\n", b"X: " + b"x" * 60_000 + b"\r\n", 200 * MEGABYTE),
        (b"GET / HTTP/1.1\r\nX: ", b"x" * 65_536, 200 * MEGABYTE),
        (b"GET /", b"x" * 65_536, 100 * MEGABYTE),
        (b"", b"\r\n" * 30_000, 20 * MEGABYTE),
        (b"POST /v1/check HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 65_536, 50 * MEGABYTE),
        (b"POST /v1/check HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 10_000, 20 * MEGABYTE),
        (b"POST /v1/check HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n", b"x" * 65_536, 100 * MEGABYTE),
        (b"", HEALTH * 2000, 20 * MEGABYTE),
    ],
    ids=["headers", "header", "target", "newlines", "extension", "trailers", "body", "pipelined"],
)
def test_nothing_that_one_client_sends_is_kept(policy: Path, first: bytes, piece: bytes, most: int) -> None:
    with running(policy) as service:
        assert still_answers(service)
        before, client, sent = service.memory(), RawClient(service.address), 0
        client.send(first)
        while sent < most and client.send_now(piece):
            sent += len(piece)
        assert still_answers(service)
        assert grown(service, before) < 30 * MEGABYTE
        client.close()


def test_forty_thousand_cookies_cost_next_to_nothing(policy: Path) -> None:
    with running(policy) as service:
        clients = [RawClient(service.address) for _ in range(20)]
        for client in clients:
            client.send(CHECK % (b"Cookie: a=b\r\n" * 40_000))
        assert {client.answer()[:12] for client in clients} <= {b"HTTP/1.1 431", b""}
        assert still_answers(service)


def test_800_unfinished_connections_keep_nobody_out_and_leave_nothing_behind(policy: Path) -> None:
    with running(policy) as service:
        assert still_answers(service)
        descriptors, memory = service.descriptors(), service.memory()
        starts = [b"", b"GET /check HT", CHECK[:-2] % b"", b"POST /v1/check HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"]
        for _ in range(3):
            clients = [RawClient(service.address) for _ in range(800)]
            for number, client in enumerate(clients):
                client.send(starts[number % 4])
            assert all(still_answers(service) for _ in range(20))
            assert grown(service, memory) < 60 * MEGABYTE
            for client in clients:
                client.close()
            poll(lambda: service.descriptors() <= descriptors + 2)
        assert grown(service, memory) < 60 * MEGABYTE
        assert service.log == ""


def test_a_process_with_few_descriptors_keeps_some_and_answers_when_others_close(policy: Path) -> None:
    need("Linux", sys.platform == "linux")
    allowed = 20
    with running(policy, before=f"ulimit -n {RESERVED + allowed}; ") as service:
        clients = [RawClient(service.address) for _ in range(allowed * 3)]
        for client in clients:
            client.send(HEALTH)
        for client in clients[:allowed]:
            assert client.answer().startswith(b"HTTP/1.1 200")
        assert service.descriptors() <= RESERVED + allowed
        for client in clients:
            client.close()
        with httpx.Client(timeout=PATIENCE) as honest:
            assert honest.get(f"{service.url}/healthz").status_code == 200
        [told] = service.log.splitlines()
        assert f"all {allowed} connections are open" in told

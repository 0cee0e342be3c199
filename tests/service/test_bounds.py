"""The bounds on a client: bytes, lines, requests, connections and time that it can make the service spend."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from needs import need
from servers import PATIENCE
from service_process import RawClient, Running, poll, running
from service_thread import serving_in_thread

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.bounds import RESERVED
from ratekeeper.service.make_core import make_core

pytestmark = pytest.mark.slow

POLICY = '[attributes]\nuser = "header:x-user"\n[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1000000/day"\n'
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CHECK = b"GET /check HTTP/1.1\r\nHost: x\r\nX-Forwarded-Uri: /x\r\n%s\r\n"
MEGABYTE = 2**20
BRIEF = {"head_time": 0.3, "idle_time": 0.3, "pause": 0.3, "body_time": 0.6, "write_time": 0.3, "last_time": 0.2}


class Echo:
    """An application that answers with its question, when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.gone = 0
        self.seen: list[MutableMapping[str, Any]] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            while not self.go.is_set():
                await asyncio.sleep(0.005)
        elif scope["path"] == "/hold":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.gone += 1
            return
        elif scope["path"] == "/body":
            while (message := await receive()).get("more_body"):
                pass
            self.gone += message["type"] == "http.disconnect"
        self.seen.append(scope)
        body = b"." * 2 * MEGABYTE if scope["path"] == "/long" else scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def replace(self, policy: Policy) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        pass


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


# A request's head


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 8_191 + b" HTTP/1.1\r\n", b"200"),
        (b"GET /" + b"x" * 8_192 + b" HTTP/1.1\r\n", b"414"),
        (b"GET /?" + b"x" * 8_191 + b" HTTP/1.1\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"Cookie: a=b\r\n" * 200, b"200"),
        (b"GET / HTTP/1.1\r\n" + b"Cookie: a=b\r\n" * 201, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"Cookie: a=b\r\n" * 40_000, b"431"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (65_536 - 5) + b"\r\n", b"200"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (65_536 - 4) + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + (b"X: " + b"x" * 1000 + b"\r\n") * 65, b"200"),
        (b"GET / HTTP/1.1\r\n" + (b"X: " + b"x" * 1000 + b"\r\n") * 66, b"431"),
        (b"G E T / HTTP/1.1\r\n", b"400"),
        (b"GET http://[/ HTTP/1.1\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
)
def test_a_head_beyond_its_bounds_gets_one_error_and_the_connection_closes(
    echo: Echo, head: bytes, status: bytes
) -> None:
    with serving_in_thread(echo) as server:
        client = server.client()
        client.send(head + b"\r\n")
        answer = client.answer()
        assert answer.startswith(b"HTTP/1.1 " + status)
        if status != b"200":
            assert b"connection: close" in answer
            client.answers()
            assert echo.seen == []
            poll(lambda: server.open == 0)


@pytest.mark.parametrize(
    ("first", "again", "status"),
    [(b"GET / HTTP/1.1\r\n", b"Cookie: a=b\r\n" * 1000, b"431"), (b"GET / HTTP/1.1\r\nX: ", b"x" * 10_000, b"431"),
     (b"GET / HTTP/1.1\r\nX:", b" " * 10_000, b"431"), (b"GET / HTTP/1.1\r\n", b"x" * 10_000, b"431"),
     (b"GET /", b"x" * 10_000, b"414")],
)  # fmt: skip
def test_a_head_that_does_not_end_is_cut_at_its_bound(echo: Echo, first: bytes, again: bytes, status: bytes) -> None:
    with serving_in_thread(echo) as server:
        client = server.client()
        client.send(first)
        while client.send(again):
            pass
        poll(lambda: server.open == 0)
        assert client.answers()[:12] in (b"HTTP/1.1 " + status, b""), "a client that sends on may lose its answer"


def test_trailers_are_not_headers(echo: Echo) -> None:
    with serving_in_thread(echo) as server:
        client = server.client()
        client.send(b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        client.send(b"0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
        assert client.answer().startswith(b"HTTP/1.1 200")
        assert [name for name, _ in echo.seen[0]["headers"]] == [b"host", b"transfer-encoding"]


# Answers belong to their requests


@pytest.mark.parametrize(
    "second",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"Cookie: a=b\r\n" * 201 + b"\r\n", b"GET /" + b"x" * 9000],
)
def test_a_bad_request_takes_no_answer_from_the_one_before(echo: Echo, second: bytes) -> None:
    echo.go.clear()
    with serving_in_thread(echo) as server:
        client = server.client()
        client.send(b"GET /wait HTTP/1.1\r\n\r\n" + second)
        poll(lambda: server.open == 1)
        echo.go.set()
        got = client.answers()
        assert got.startswith(b"HTTP/1.1 200")
        assert got.endswith(b"\r\n\r\n/wait")
        assert b"connection: close" in got


def test_a_body_that_turns_bad_after_its_answer_gets_no_second_one(echo: Echo) -> None:
    with serving_in_thread(echo) as server:
        client = server.client()
        client.send(b"POST /early HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        assert client.answer().endswith(b"/early")
        client.send(b"nonsense\r\n")
        assert client.answers() == b""


def test_pipelined_requests_are_answered_in_order_and_so_many_are_kept_and_no_more(echo: Echo) -> None:
    echo.go.clear()
    with serving_in_thread(echo, pipelined=5) as server:
        client = server.client()
        client.send(b"GET /wait HTTP/1.1\r\n\r\n" + b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % n for n in range(50)))
        poll(lambda: server.open == 1)
        echo.go.set()
        got = client.answers()
        assert [scope["path"] for scope in echo.seen] == ["/wait", "/0", "/1", "/2", "/3"]
        assert got.count(b"HTTP/1.1 200") == 5
        assert got.count(b"connection: close") == 1


@pytest.mark.parametrize("more", [b"", b"GET /next HTTP/1.1\r\n\r\n"])
def test_the_application_learns_of_a_hang_up_also_with_another_request_behind(echo: Echo, more: bytes) -> None:
    with serving_in_thread(echo) as server:
        client = server.client()
        client.send(b"GET /hold HTTP/1.1\r\n\r\n" + more)
        poll(lambda: server.open == 1)
        client.close()
        poll(lambda: echo.gone == 1)
        poll(lambda: server.open == 0)


@pytest.mark.parametrize(
    "upgrade",
    [b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YQ==\r\n",
     b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
     b"Connection: upgrade\r\nUpgrade: anything\r\nContent-Length: 3\r\n"],
    ids=["websocket", "h2c", "with a body"],
)  # fmt: skip
def test_an_upgrade_that_a_gateway_hands_on_is_answered_as_any_request_is(upgrade: bytes) -> None:
    policy = Policy.parse(POLICY.replace("1000000/day", "2/day"))
    with serving_in_thread(make_core(policy, lambda: MemoryStore(100))) as server:
        answers = []
        for _ in range(3):
            client = server.client()
            client.send(CHECK % upgrade)
            if b"Content-Length" in upgrade:
                client.send(b"abc")
            answers.append(client.answers())  # the connection closes, for nobody knows what would follow
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200", b"HTTP/1.1 200", b"HTTP/1.1 429"]


# Time


@pytest.mark.parametrize(
    ("bound", "sent"),
    [
        ("head_time", b""),
        ("head_time", b"GET / HT"),
        ("head_time", b"GET / HTTP/1.1\r\nHost: x\r\n"),
        ("head_time", b"\r\n\r\n\r\n"),
        ("idle_time", b"GET / HTTP/1.1\r\n\r\n"),
        ("idle_time", b"GET / HTTP/1.1\r\n\r\n\r\n\r\n"),
        ("head_time", b"GET / HTTP/1.1\r\n\r\nGET"),
        ("pause", b"POST /body HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"),
        ("pause", b"POST /early HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"),
        ("pause", b"POST /body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5"),
        ("write_time", b"GET /long HTTP/1.1\r\n\r\n" * 20),
    ],
)
def test_a_client_that_does_not_go_on_is_cut_off_by_one_bound_and_no_other(echo: Echo, bound: str, sent: bytes) -> None:
    with serving_in_thread(echo) as server:
        patient = server.client()
        patient.send(sent)
        with serving_in_thread(echo, **{bound: 0.1}) as hurried:
            client = hurried.client()
            client.send(sent)
            poll(lambda: hurried.open == 0)
        assert server.open == 1


@pytest.mark.parametrize(
    ("bound", "first", "drip"),
    [
        ("head_time", b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        ("head_time", b"", b"\r\n"),
        ("idle_time", b"GET / HTTP/1.1\r\n\r\n", b"\r\n"),
        ("body_time", b"POST /body HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n", b"x"),
        ("pause", b"POST /early HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n", b"x"),
        ("body_time", b"POST /body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    ],
)
def test_a_client_that_goes_on_by_drips_is_cut_off_as_well(echo: Echo, bound: str, first: bytes, drip: bytes) -> None:
    with serving_in_thread(echo, head_lines=10**9, **{bound: 0.2}) as server:
        client = server.client()
        client.send(first)
        poll(lambda: not client.send(drip))
        poll(lambda: server.open == 0)


def test_each_piece_of_a_body_allows_another_pause(echo: Echo) -> None:
    with serving_in_thread(echo, head_time=500, pause=2000) as server:
        client = server.client()
        client.send(b"POST /body HTTP/1.1\r\nContent-Length: 2\r\n\r\n")
        poll(lambda: server.open == 1)
        connections: Any = server._server.connections
        [connection] = connections
        poll(lambda: connection.wire.deadline - server._loop.time() > 1000)
        before = connection.wire.deadline
        poll(lambda: server._loop.time() + 2000 > before + 0.01)
        client.send(b"x")
        poll(lambda: connection.wire.deadline > before)
        client.send(b"y")
        assert client.answer().endswith(b"/body")


def test_a_request_that_is_slow_to_come_takes_no_answer_from_the_one_before(echo: Echo) -> None:
    echo.go.clear()
    with serving_in_thread(echo, head_time=0.05) as server:
        client = server.client()
        client.send(b"GET /wait HTTP/1.1\r\n\r\nGET /slow")
        poll(lambda: server.open == 1)
        other = server.client()
        other.send(b"GET /slow")
        assert other.answers() == b"", "its time has passed, and so has that of the first"
        echo.go.set()
        assert client.answers().endswith(b"/wait")


def test_a_request_that_the_application_holds_is_under_no_bound(echo: Echo) -> None:
    echo.go.clear()
    with serving_in_thread(echo, **{**BRIEF, "head_time": 0.1, "idle_time": 0.1}) as server:
        client, idle = server.client(), server.client()
        client.send(b"GET /wait HTTP/1.1\r\n\r\n")
        idle.send(b"GET / HTTP/1.1\r\n\r\n")
        assert idle.answers().endswith(b"\r\n\r\n/")
        poll(lambda: server.open == 1)
        echo.go.set()
        assert client.answer().endswith(b"/wait")


# Connections


def test_further_connections_wait_until_others_close(echo: Echo) -> None:
    with serving_in_thread(echo, connections=10) as server:
        clients = [server.client() for _ in range(30)]
        for number, client in enumerate(clients):
            client.send(b"GET /%d HTTP/1.1\r\n\r\n" % number)
        for number in range(10):
            assert clients[number].answer().endswith(b"/%d" % number)
        assert server.open == 10
        for number, client in enumerate(clients[10:], 10):
            clients[number - 10].close()
            assert client.answer().endswith(b"/%d" % number)
            assert server.open <= 10


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
        assert service.log == ""

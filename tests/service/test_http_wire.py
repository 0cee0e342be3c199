"""HTTP/1.1 without a socket: bounds on a client's bytes, the order of answers, deadlines, and the end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from async_memory import AsyncMemoryStore
from wire_client import HttpAnswer, WireClient, answers_in

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http import routes
from ratekeeper.service.http.route import Route
from ratekeeper.service.http.wire import HttpWire

POLICY = """
[attributes]
user = "header:x-user"
[[rules]]
name = "each"
key = ["user"]
limit = "1/day"
"""
GET = b"GET /healthz HTTP/1.1\r\n"
CHECK = b"GET /check HTTP/1.1\r\nX-User: %b\r\n\r\n"
SCRAPE = b"GET /metrics HTTP/1.1\r\n"
POST = b"POST /v1/check HTTP/1.1\r\n"
QUESTION = b'{"attributes": {"user": "a"}}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def core_of(store: Any = None) -> Core:
    return Core(Policy.parse(POLICY), store or MemoryStore(100))


def connection(core: Core | None = None, **bounds: Any) -> WireClient:
    chosen = core or core_of()
    return WireClient(lambda channel: HttpWire(chosen, channel, Bounds(**bounds)))


def answers_to(*pieces: bytes, **bounds: Any) -> list[HttpAnswer]:
    return answers_in(connection(**bounds).send(*pieces))


def statuses(*pieces: bytes, **bounds: Any) -> list[int]:
    return [answer.status for answer in answers_to(*pieces, **bounds)]


def held(use: Callable[[WireClient, asyncio.Event], Any], **bounds: Any) -> None:
    """Use a connection, whose questions to the store wait for an event."""

    async def run() -> None:
        store = AsyncMemoryStore(MemoryStore(100))
        store.holds["before"] = asyncio.Event()
        await use(connection(core_of(store), **bounds), store.holds["before"])

    asyncio.run(run())


# Questions


def test_one_connection_has_one_scrape_as_it_takes_long() -> None:
    client = connection()
    [checked, scraped] = answers_in(client.send(GET + b"\r\n" + (SCRAPE + b"\r\n") * 500))
    assert ("connection" in checked.headers, scraped.headers["connection"], client.closed) == (False, "close", True)

    async def use(client: WireClient, go: asyncio.Event) -> None:
        client.send(CHECK % b"a" + (SCRAPE + b"\r\n") * 3 + CHECK % b"b")
        go.set()
        await client.answered()
        answers = answers_in(client.sent)
        assert [(one.status, one.headers.get("connection")) for one in answers] == [(200, None), (200, "close")]
        assert client.closed

    held(use)


@pytest.mark.parametrize("accept", [b"text/plain;version=a.b.c", b"application/openmetrics-text; version=x", b";;=,,"])
def test_a_scrape_in_a_format_that_is_unknown_is_answered_in_the_usual_one(accept: bytes) -> None:
    [usual] = answers_to(SCRAPE + b"\r\n")
    [answer] = answers_to(SCRAPE + b"Accept: %b\r\n\r\n" % accept)
    assert (answer.status, answer.headers["content-type"]) == (200, usual.headers["content-type"])


def test_an_answer_has_a_date_a_length_and_what_the_connection_becomes() -> None:
    [answer] = answers_to(GET + b"\r\n")
    date = answer.headers.pop("date")
    assert date.endswith(" GMT")
    assert answer == (200, {"content-type": "text/plain", "content-length": "3"}, b"ok\n")
    client = connection()
    [answer] = answers_in(client.send(GET + b"Connection: close\r\n\r\n" + GET + b"\r\n"))
    assert (answer.headers["connection"], client.closed) == ("close", True)


@pytest.mark.parametrize(
    ("version", "connection_line", "told"),
    [
        (b"1.0", b"", "close"),
        (b"1.0", b"Connection: keep-alive\r\n", "keep-alive"),
        (b"1.0", b"Connection: close\r\n", "close"),
        (b"1.1", b"", None),
        (b"1.1", b"Connection: close\r\n", "close"),
        (b"1.1", b"Connection: x, Close\r\n", "close"),
    ],
)
def test_a_connection_is_kept_as_its_client_asks(version: bytes, connection_line: bytes, told: str | None) -> None:
    client = connection()
    for _ in range(1 if told == "close" else 3):
        [answer] = answers_in(client.send(b"GET /healthz HTTP/%b\r\n%b\r\n" % (version, connection_line)))
        assert (answer.status, answer.headers.get("connection")) == (200, told)
    assert client.closed == (told == "close")


def test_head_has_no_body_and_the_length_that_it_would_have() -> None:
    [answer] = answers_in(connection().send(b"HEAD /healthz HTTP/1.1\r\n\r\n"), to_head=True)
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "3", b"")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/healthz?a=/check", 200),
        (b"/%68ealthz", 200),
        (b"/healthz#a", 200),
        (b"http://other.example/healthz?x", 200),
        (b"http://other.example", 404),
        (b"*", 404),
        (b"/healthz/", 404),
        (b"//healthz", 404),
        (b"/check/", 200),
        (b"/check/%34%30%33", 200),
        (b"http://[/healthz", 400),
        (b"/\xff", 400),
    ],
)
def test_a_target_is_read_in_each_of_its_forms(target: bytes, status: int) -> None:
    assert statuses(b"GET %b HTTP/1.1\r\n\r\n" % target) == [status]


def test_a_method_that_only_tunnels_use_is_a_400() -> None:
    assert statuses(b"CONNECT example.com:443 HTTP/1.1\r\n\r\n") == [400]


@pytest.mark.parametrize("byte", [*range(9), *range(10, 32), 127])
def test_a_control_character_in_a_header_is_a_400(byte: int) -> None:
    """So a header of ASCII has no other spaces than blanks and tabs, which the path of a client's request relies on."""
    for value in (b"%c/a", b"/a%c", b"/a%c ", b" %c/a", b"/%ca"):
        request = GET + b"X-Forwarded-Uri: " + value % byte + b"\r\n\r\n"
        assert statuses(request)[:1] == [400], request


@pytest.mark.parametrize("space", [b"\xa0", b"\x85", b"\xc2\xa0", b"\xc2\x85", b"\xe2\x80\x83", b"\xe3\x80\x80"])
def test_a_space_beyond_ascii_at_the_end_of_a_path_leads_to_no_exemption(space: bytes) -> None:
    """It is a letter of the path that the gateway hands on, and no space around a header's value."""
    policy = 'exempt = [{ path = "/healthz" }]\nrules = [{ name = "all", limit = "1/day" }]'
    core = Core(Policy.parse(policy), MemoryStore(100))
    for path, status in [(b"/healthz" + space, 200), (b"/healthz" + space, 429), (b"/healthz", 200)]:
        request = b"GET /check HTTP/1.1\r\nX-Forwarded-Uri: %b\r\n\r\n" % path
        assert [one.status for one in answers_in(connection(core).send(request))] == [status]


@pytest.mark.parametrize("framing", [b"Content-Length: 29\r\n\r\n%b", CHUNKED + b"\r\n1d\r\n%b\r\n0\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_body_may_come_whole_or_in_chunks(framing: bytes, size: int) -> None:
    sent = POST + framing % QUESTION + GET + b"\r\n"
    first, second = answers_to(*(sent[start : start + size] for start in range(0, len(sent), size)))
    assert (first.status, json.loads(first.body)["allowed"], second.status) == (200, True, 200)


def test_trailers_are_not_headers() -> None:
    client = connection()
    body = CHUNKED + b"\r\n1\r\na\r\n0\r\nX-User: b\r\n\r\n"
    for status in (200, 429):
        assert [one.status for one in answers_in(client.send(b"POST /check HTTP/1.1\r\nX-User: a\r\n" + body))] == [
            status
        ]
    assert [one.status for one in answers_in(client.send(CHECK % b"b"))] == [200]


@pytest.mark.parametrize(
    ("head", "goes_on"),
    [
        (b"Content-Length: 29\r\nExpect: 100-Continue\r\n\r\n", True),
        (CHUNKED + b"Expect: 100-continue\r\n\r\n", True),
        (b"Content-Length: 29\r\n\r\n", False),
        (b"Content-Length: 29\r\nExpect: 100-continue\r\n\r\n{", False),
    ],
)
def test_a_client_that_waits_is_told_to_send_its_body(head: bytes, goes_on: bool) -> None:
    client = connection()
    assert client.send(POST + head) == (b"HTTP/1.1 100 Continue\r\n\r\n" if goes_on else b"")
    assert client.send(b"") == b""
    assert client.send(POST.replace(b"1.1", b"1.0"))[:12] in (b"", b"HTTP/1.1 400")


def test_a_client_of_http_1_0_is_never_told_to_go_on() -> None:
    assert connection().send(b"POST /v1/check HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n") == b""


@pytest.mark.parametrize(
    "upgrade",
    [b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YQ==\r\n",
     b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"],
    ids=["websocket", "h2c"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_a_request_that_asks_for_an_upgrade_is_answered_as_any_other(upgrade: bytes, size: int) -> None:
    question = b"POST /v1/check HTTP/1.1\r\n" + upgrade
    length, chunks = b"Content-Length: 29\r\n\r\n%b" % QUESTION, CHUNKED + b"\r\n1d\r\n%b\r\n0\r\n\r\n" % QUESTION
    check = CHECK.replace(b"\r\n\r\n", b"\r\n" + upgrade + b"\r\n") % b"b"
    sent = question + length + check + question + chunks + check + GET + b"Content-Length: 0\r\n" + upgrade + b"\r\n"
    got = answers_to(*(sent[start : start + size] for start in range(0, len(sent), size)))
    assert [answer.status for answer in got] == [200, 200, 200, 429, 200]
    assert [json.loads(got[number].body)["allowed"] for number in (0, 2)] == [True, False]


# Bounds


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /healthz?" + b"x" * 8_183 + b" HTTP/1.1\r\n", 200),
        (b"GET /healthz?" + b"x" * 8_184 + b" HTTP/1.1\r\n", 414),
        (GET + b"Cookie: a=b\r\n" * 200, 200),
        (GET + b"Cookie: a=b\r\n" * 201, 431),
        (GET + b"Cookie: a=b\r\n" * 40_000, 431),
        (GET + b"X: " + b"x" * (65_536 - 5) + b"\r\n", 200),
        (GET + b"X: " + b"x" * (65_536 - 4) + b"\r\n", 431),
        (GET + (b"X: " + b"x" * 1000 + b"\r\n") * 65, 200),
        (GET + (b"X: " + b"x" * 1000 + b"\r\n") * 66, 431),
        (GET + b"X: " + b" " * 200_000 + b"\r\n", 431),
        (b"G E T / HTTP/1.1\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", 400),
        (b"\r\n" * 100_000, 400),
    ],
)
@pytest.mark.parametrize("size", [997, 10_000_000])
def test_a_head_beyond_its_bounds_gets_one_error_and_the_connection_closes(head: bytes, status: int, size: int) -> None:
    sent, client = head + b"\r\n", connection()
    [answer] = answers_in(client.send(*(sent[start : start + size] for start in range(0, len(sent), size))))
    assert answer.status == status
    assert answer.headers.get("connection") == (None if status == 200 else "close")
    assert client.closed == (status != 200)


@pytest.mark.parametrize(
    ("first", "again", "status"),
    [(GET, b"Cookie: a=b\r\n", 431), (GET + b"X: ", b"x" * 100, 431), (GET + b"X:", b" " * 100, 431),
     (GET, b"x" * 100, 431), (b"GET /", b"x" * 100, 414), (POST + CHUNKED + b"\r\n1;", b"x" * 100, 431),
     (POST + CHUNKED + b"\r\n0\r\nX: ", b"x" * 100, 431), (POST + CHUNKED + b"\r\n0\r\n", b"X: y\r\n", 431),
     (POST + b"Content-Length: 1000000000\r\n\r\n", b"x" * 100, 413), (b"", b"\r\n" * 10, 400)],
)  # fmt: skip
def test_what_does_not_end_is_cut_at_its_bound(first: bytes, again: bytes, status: int) -> None:
    client = connection()
    client.send(first)
    for _ in range(8_000):
        client.send(again)
    assert [answer.status for answer in answers_in(client.sent)] == [status]
    assert client.closed


def test_the_body_of_a_question_that_reads_none_is_dropped() -> None:
    client = connection()
    client.send(b"POST /check HTTP/1.1\r\nX-User: a\r\nContent-Length: 10000000\r\n\r\n")
    for _ in range(100):
        client.send(b"x" * 100_000)
    assert [answer.status for answer in answers_in(client.sent)] == [200]
    assert statuses(POST + b"Content-Length: 65536\r\n\r\n" + b" " * 65_536) == [400]
    assert statuses(POST + b"Content-Length: 65537\r\n\r\n" + b" " * 65_537) == [413]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 3\r\n" + CHUNKED,
        CHUNKED + b"Content-Length: 3\r\n",
        b"Content-Length: 3\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\ncontent-length: 4\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: -3\r\n",
        b"Content-Length: 0x3\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        CHUNKED * 2,
        b"Content-Length : 3\r\n",
        b"X : y\r\n",
        b"X: y\r\n z\r\n",
        b" X: y\r\n",
        b"X: y\n",
        b"X: y\rz\r\n",
        b"X: y\0z\r\n",
        b": y\r\n",
        b"X\r\n",
        b"Connection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: identity\r\n",
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_a_400(head: bytes) -> None:
    client = connection()
    sent = POST + head + b"\r\nabc" + GET + b"\r\n"
    [answer] = answers_in(client.send(sent))
    assert (answer.status, client.closed) == (400, True)


@pytest.mark.parametrize("framing", [b"Content-Length: 3\r\n\r\nabc", CHUNKED + b"\r\n3\r\nabc\r\n0\r\n\r\n"])
def test_a_tunnel_with_a_body_is_a_400(framing: bytes) -> None:
    client = connection()
    [answer] = answers_in(client.send(b"CONNECT /check HTTP/1.1\r\n" + framing + GET + b"\r\n"))
    assert (answer.status, client.closed) == (400, True)


@pytest.mark.parametrize(
    "chunk", [b"1\na\n", b"0x1\r\na\r\n", b"1 \r\na\r\n", b"1\r\nabc\r\n", b"f" * 17 + b"\r\n", b"x\r\n"]
)
def test_a_chunk_that_can_be_read_in_two_ways_is_a_400(chunk: bytes) -> None:
    assert statuses(POST + CHUNKED + b"\r\n" + chunk + b"0\r\n\r\n") == [400]


# The order of answers


def test_pipelined_questions_are_answered_in_order_by_one_write() -> None:
    client = connection()
    answers = answers_in(client.send(b"".join(CHECK % user for user in (b"a", b"b", b"a")) + GET + b"\r\n" + POST))
    assert [answer.status for answer in answers] == [200, 200, 429, 200]
    assert len(client.writes) == 1


@pytest.mark.parametrize(
    ("bad", "status"),
    [(b"nonsense\r\n\r\n", 400), (GET + b"Cookie: a=b\r\n" * 999, 431), (b"GET /" + b"x" * 9000, 414)],
)
def test_a_bad_request_takes_no_answer_from_the_ones_before(bad: bytes, status: int) -> None:
    async def use(client: WireClient, go: asyncio.Event) -> None:
        client.send(CHECK % b"a" + GET + b"\r\n" + bad)
        assert (client.sent, client.wire.unanswered > 0) == (b"", True)
        go.set()
        await client.answered()
        assert [answer.status for answer in answers_in(client.sent)] == [200, 200, status]
        assert client.closed

    held(use)


@pytest.mark.parametrize("pipelined", [1, 2, 5, 32])
def test_while_an_answer_waits_few_requests_are_read_and_all_are_answered(pipelined: int) -> None:
    async def use(client: WireClient, go: asyncio.Event) -> None:
        client.send(CHECK % b"a" + b"GET / HTTP/1.1\r\n\r\n" * 500)
        assert 1 <= client.wire.unanswered <= max(2, pipelined)
        assert not client.paused
        client.send(b"GET / HTTP/1.1\r\n\r\n" * 5_000)
        assert client.paused
        assert client.wire.unanswered <= max(2, pipelined)
        go.set()
        await client.answered()
        assert not client.paused
        assert [answer.status for answer in answers_in(client.sent)] == [200, *[404] * 5_500]

    held(use, pipelined=pipelined)


def test_each_question_waits_until_the_one_before_is_answered() -> None:
    async def use(client: WireClient, go: asyncio.Event) -> None:
        client.send((CHECK % b"a") * 3 + CHECK % b"b")
        await asyncio.sleep(0)
        assert len(client.tasks) == 1
        go.set()
        while client.wire.unanswered:
            await client.answered()
        assert [answer.status for answer in answers_in(client.sent)] == [200, 429, 429, 200]

    held(use)


def test_a_hang_up_ends_what_waits_also_with_other_requests_behind() -> None:
    async def use(client: WireClient, go: asyncio.Event) -> None:
        client.send(CHECK % b"a" + CHECK % b"b")
        await asyncio.sleep(0)
        [task] = client.tasks
        await client.hang_up()
        assert task.cancelled()
        assert (client.sent, client.wire.unanswered) == (b"", 0)

    held(use)


def test_a_mistake_of_ours_is_a_500_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError

    async def broken_later(*_: object) -> Any:
        raise ZeroDivisionError

    async def use() -> None:
        for handler in (broken, broken_later):
            monkeypatch.setitem(routes._ALL, b"/broken", Route(handler))
            client = connection()
            client.send(b"GET /broken HTTP/1.1\r\n\r\n" + GET + b"\r\n")
            await client.answered()
            assert [answer.status for answer in answers_in(client.sent)] == [500, 200]

    asyncio.run(use())
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


# Time

TIMES: dict[str, Any] = {"head_time": 3.0, "idle_time": 5.0, "pause": 7.0, "body_time": 20.0, "last_time": 0.5}


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
        ("pause", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"),
        ("pause", POST + b"Content-Length: 5\r\n\r\n"),
        ("pause", POST + CHUNKED + b"\r\n5"),
    ],
)
def test_a_client_that_does_not_go_on_is_cut_off_at_its_bound(bound: str, sent: bytes) -> None:
    client = connection(**TIMES)
    client.send(sent)
    before = client.sent
    assert not client.wait(TIMES[bound] - 0.01)
    assert client.wait(0.02)
    assert client.sent == before, "there is no answer to what is not a request"


@pytest.mark.parametrize(
    ("bound", "first", "drip"),
    [
        ("head_time", GET, b"X: y\r\n"),
        ("head_time", b"", b"\r\n"),
        ("idle_time", GET + b"\r\n", b"\r\n"),
        ("body_time", POST + b"Content-Length: 1000000000\r\n\r\n", b"x"),
        ("pause", POST + CHUNKED + b"\r\n1;", b"x"),
        ("body_time", POST + CHUNKED + b"\r\n", b"1\r\na\r\n"),
    ],
)
def test_a_client_that_goes_on_by_drips_is_cut_off_as_well(bound: str, first: bytes, drip: bytes) -> None:
    client = connection(**TIMES)
    client.send(first)
    while not client.wait(0.5):
        client.send(drip)
    assert TIMES[bound] <= client.time <= TIMES[bound] + 0.5


def test_a_second_body_has_the_time_of_a_first() -> None:
    client = connection(**TIMES)
    body = POST + b"Content-Length: 1\r\n\r\n"
    client.send(body)
    client.wait(6)
    client.send(b"x" + body)
    assert client.wire.deadline == 6 + 7
    for _ in range(2):
        client.wait(6.5)
        client.send(b"x" + body)
    assert client.wire.deadline == client.time + 7


def test_a_request_that_is_held_is_under_no_bound_and_the_next_has_its_own_time() -> None:
    async def use(client: WireClient, go: asyncio.Event) -> None:
        client.send(CHECK % b"a" + b"GET /slow")
        assert client.wire.deadline == inf
        client.wait(1000)
        client.send(b" HTTP/1.1\r\n")
        go.set()
        await client.answered()
        assert [answer.status for answer in answers_in(client.sent)] == [200]
        assert client.wire.deadline == 1003
        client.send(b"\r\n")
        await client.answered()
        assert client.wire.deadline == 1005

    held(use, **TIMES)


# The server stops


def test_a_connection_without_a_question_waits_for_one_for_a_moment_as_the_server_stops() -> None:
    for sent in (b"", GET):
        client = connection(**TIMES)
        client.send(sent)
        client.wire.finish()
        assert not client.closed
        assert client.wire.deadline == 0.5
        [answer] = answers_in(client.send((GET + b"\r\n")[len(sent) :] + GET + b"\r\n"))
        assert (answer.status, answer.headers["connection"], client.closed) == (200, "close", True)


def test_the_answers_that_are_due_are_given_as_the_server_stops() -> None:
    async def use(client: WireClient, go: asyncio.Event) -> None:
        client.send(CHECK % b"a" + GET + b"\r\n" + b"GET / HTTP/1.1\r\n\r\n" * 100)
        due = client.wire.unanswered
        client.wire.finish()
        assert not client.wait(1000)
        go.set()
        await client.answered()
        answers = answers_in(client.sent)
        assert len(answers) == due
        assert [answer.headers.get("connection") for answer in answers] == [*[None] * (due - 1), "close"]
        assert client.closed

    held(use, **TIMES)


def test_a_question_that_is_cut_off_gets_a_503() -> None:
    async def use(client: WireClient, go: asyncio.Event) -> None:
        client.send(CHECK % b"a" + GET + b"\r\n")
        client.wire.cut_off()
        [answer] = answers_in(client.sent)
        assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")
        assert client.closed
        go.set()
        await client.answered()
        assert answers_in(client.sent) == [answer]

    held(use)
    idle = connection()
    idle.wire.cut_off()
    assert (idle.sent, idle.closed) == (b"", True)


WITHOUT_C = """
import asyncio
from test_http_wire import CHECK, answers_in, connection, core_of
from async_memory import AsyncMemoryStore
from ratekeeper import MemoryStore

async def ask():
    client = connection(core_of(AsyncMemoryStore(MemoryStore(100))))
    client.send(CHECK % b"a")
    await client.answered()
    client.send(CHECK % b"a", b"", CHECK % b"b")
    await client.answered()
    print([answer.status for answer in answers_in(client.sent)])

asyncio.run(ask())
"""


def test_questions_that_wait_for_a_store_are_answered_without_the_c_core() -> None:
    environment = {**os.environ, "RATEKEEPER_CORE": "python", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_C], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[200, 429, 200]\n", "")

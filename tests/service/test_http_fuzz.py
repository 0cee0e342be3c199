"""Any bytes, seeded: the answers to a stream depend on its bytes alone, and not on the pieces in which they come."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from wire_client import HttpAnswer, WireClient, answers_in

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.wire import HttpWire

POLICY = Policy.parse("""
[attributes]
user = "header:x-user"
[[rules]]
name = "each"
match = { path = "/items/*" }
key = ["user", "client"]
limit = "3/day"
cost = "header:x-cost"
""")
GATEWAY = b"X-Forwarded-Uri: /items/7\r\nX-Forwarded-For: 192.0.2.9\r\n"
QUESTION = b'{"attributes": {"user": "a", "path": "/items/7", "client": "192.0.2.9"}}'
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n%b" % (len(QUESTION), QUESTION)
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(QUESTION), QUESTION)
REQUESTS = [
    b"GET /check HTTP/1.1\r\nHost: x\r\nX-User: a\r\n" + GATEWAY + b"\r\n",
    b"GET /check/403?q HTTP/1.1\r\nX-User: a\r\nX-Cost: 2\r\n" + GATEWAY + b"\r\n",
    b"HEAD /healthz HTTP/1.1\r\nConnection: keep-alive\r\n\r\n",
    b"GET http://x/healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST /v1/check HTTP/1.1\r\n" + LENGTH,
    b"POST /v1/check HTTP/1.1\r\n" + CHUNKS,
    b"GET /check HTTP/1.1\r\nX-User: b\r\n" + UPGRADE + GATEWAY + b"\r\n",
    b"POST /v1/check HTTP/1.1\r\n" + UPGRADE + LENGTH,
    b"POST /v1/check HTTP/1.1\r\n" + UPGRADE + CHUNKS,
    b"POST /nowhere HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde\r\n",
    b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n",
]  # fmt: skip
PIECES = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b";", b",", b"\xff", b"GET ", b"HTTP/1.1", b"HTTP/1.0",
    b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Upgrade: x\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n", b"X-Forwarded-Uri: /\r\n", b"x" * 9_000,
    b"A: b\r\n" * 250, b"?", b"0\r\n\r\n", b"%2f", b"99999999999999999999",
]  # fmt: skip


def connection() -> WireClient:
    core = Core(POLICY, MemoryStore(100, clock=ManualClock(1_800_000_000)))
    return WireClient(lambda channel: HttpWire(core, channel, Bounds()))


def answers_to(*pieces: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Return the answers, without what may differ: the date, the kind of a refusal, and the order to go on."""
    client = connection()
    client.send(*pieces)
    data = client.sent.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    return [told(answer) for answer in answers_of(data)]


def answers_of(data: bytes) -> list[HttpAnswer]:
    """Return the answers; those to HEAD have a length and no body, and another answer or nothing follows."""
    answers = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        to_head = rest[:9] == b"HTTP/1.1 " or not rest
        size = len(data) if to_head and not rest else len(head) + 4
        if not to_head:
            size += int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        answers += answers_in(data[:size], to_head=to_head)
        data = data[size:]
    return answers


def told(answer: HttpAnswer) -> tuple[int, dict[str, str], bytes]:
    headers = {name: value for name, value in answer.headers.items() if name != "date"}
    if answer.status in (400, 414, 431) and headers.get("connection") == "close":
        return 400, {}, b""
    return answer.status, headers, answer.body


def streams(seed: int, count: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    for _ in range(count):
        stream = b"".join(chance.choices(REQUESTS, k=chance.randint(1, 5)))
        for _ in range(chance.choice([0, 0, 1, 1, 2, 5])):
            at = chance.randrange(len(stream) + 1)
            kind = chance.randrange(5)
            if kind == 0:
                stream = stream[:at] + stream[at + chance.randint(1, 20) :]
            elif kind == 1:
                stream = stream[:at] + chance.choice(PIECES) + stream[at:]
            elif kind == 2:
                stream = stream[:at] + bytes([chance.randrange(256)]) + stream[at + 1 :]
            elif kind == 3:
                other = chance.randrange(len(stream) + 1)
                stream = stream[:at] + stream[min(at, other) : max(at, other)] + stream[at:]
            else:
                stream = stream[:at] + chance.randbytes(chance.randint(1, 30)) + stream[at:]
        yield stream


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_that_is_split_at_any_byte_has_the_same_answer(request_: bytes) -> None:
    whole = answers_to(request_)
    assert len(whole) == 1
    assert answers_to(*(bytes([byte]) for byte in request_)) == whole
    for at in range(len(request_)):
        assert answers_to(request_[:at], request_[at:]) == whole


@pytest.mark.parametrize("seed", range(8))
def test_the_answers_are_the_same_however_a_stream_is_split(seed: int) -> None:
    chance = random.Random(-1 - seed)
    for stream in streams(seed, 60):
        whole = answers_to(stream)
        cuts = sorted(chance.choices(range(len(stream) + 1), k=chance.randint(1, 8)))
        pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        assert answers_to(*pieces) == whole, (stream, cuts)
        if len(stream) < 1_000:
            assert answers_to(*(bytes([byte]) for byte in stream)) == whole, stream


@pytest.mark.parametrize("seed", range(4))
def test_noise_gets_at_most_one_refusal(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(300):
        client = connection()
        for _ in range(chance.randint(1, 5)):
            client.send(chance.randbytes(chance.randint(1, 300)))
        assert len(answers_of(client.sent)) <= 1
        assert client.closed == bool(client.sent)

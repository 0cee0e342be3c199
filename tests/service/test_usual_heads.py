"""The head of a usual request, read in C: it is what httptools would read, and whatever is unusual is left to that."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from wire_client import WireClient, answers_in

from ratekeeper import MemoryStore, Policy, core
from ratekeeper.http.header_lines import defined_value
from ratekeeper.http.line_steps import Step
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.parser import IDLE, RefusedError, RequestParser
from ratekeeper.service.http.wire import HttpWire

pytestmark = pytest.mark.skipif(core.read_head is None, reason="the C core is not in use")

MOST_LINES = 5
USUAL = b"GET /check?a=b&c=%20 HTTP/1.1\r\nHost: a.example\r\nX_User:  al ice\r\nx!#$%&'*+-.^_`|~9: ~!\r\n\r\n"
FRAGMENTS = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b": ", b"::", b"\x7f", b"\x80", b"\xff", b"#", b"?", b"/", b"GET ",
    b"POST ", b"HEAD ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"HTTP/1.1", b"Content-Length: 0\r\n",
    b"content-length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"cOnnection: x\r\n",
    b"Proxy-Connection: close\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Trailer: a\r\n", b"TE: x\r\n",
    b"Host: b\r\n", b"A:\r\n", b"A: \r\n", b" folded\r\n", b"\tfolded\r\n", b"A : b\r\n", b": b\r\n", b"A: b \r\n",
    b"\r\n\r\n", b"abcde", b"A: b\n", b"{}", b"\\", b'"', b"<>", b"[]", b"@", b"(),;=",
]  # fmt: skip


class Requests:
    """The requests that httptools finds in a piece, and whether it is ready for the next one behind them."""

    def __init__(self, piece: bytes) -> None:
        self.found: list[tuple[Any, ...]] = []
        parser = RequestParser(Bounds(head_lines=MOST_LINES), self._take, lambda *_: 0)
        with suppress(RefusedError):
            parser.feed(piece)
            self.ready = parser.phase == IDLE and not parser.ended
            parser.feed(b"GET /next HTTP/1.1\r\n\r\n")

    def _take(self, verb: bytes, target: bytes, lines: Sequence[Any], body: bytes, connection: bytes) -> None:
        self.found.append((verb, target, list(lines), body, connection))


def read(piece: bytes, most_lines: int = MOST_LINES) -> Any:
    assert core.read_head is not None
    return core.read_head(piece, most_lines)


def check_as_httptools(piece: bytes) -> bool:
    """Return whether a piece is usual. Then httptools must find the same request, and nothing else."""
    head = read(piece)
    if head is None:
        return False
    requests = Requests(piece)
    assert requests.found == [
        (b"GET", head.target, list(head), b"", b""), (b"GET", b"/next", [], b"", b"")
    ], piece  # fmt: skip
    assert requests.ready, piece
    return True


def mutated(seed: int) -> Iterator[bytes]:
    """Yield heads that are nearly usual."""
    chance = random.Random(seed)
    for _ in range(1_000):
        piece = bytearray(USUAL)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(piece) + 1)
            cut = chance.choice((0, 0, 1, 2, 9))
            piece[at : at + cut] = chance.choice(FRAGMENTS) if chance.random() < 0.8 else chance.randbytes(1)
        yield bytes(piece)


@pytest.mark.parametrize("seed", range(20))
def test_a_usual_head_is_what_httptools_reads(seed: int) -> None:
    usual = sum(check_as_httptools(piece) for piece in mutated(seed))
    assert 50 < usual < 800


@pytest.mark.parametrize("place", range(len(USUAL)))
def test_each_byte_at_each_place_is_read_as_httptools_reads_it(place: int) -> None:
    for byte in range(256):
        check_as_httptools(USUAL[:place] + bytes([byte]) + USUAL[place + 1 :])
        check_as_httptools(USUAL[:place] + bytes([byte]) + USUAL[place:])
    assert not check_as_httptools(USUAL[:place])


def test_a_usual_head_is_read_in_c() -> None:
    head = read(USUAL)
    lines = [(b"Host", b"a.example"), (b"X_User", b"al ice"), (b"x!#$%&'*+-.^_`|~9", b"~!")]
    assert (head.target, list(head), len(head), head[-1]) == (b"/check?a=b&c=%20", lines, 3, lines[2])
    with pytest.raises(IndexError, match=r"^line 3 is out of range$"):
        head[3]
    assert list(read(b"GET / HTTP/1.1\r\n\r\n")) == []


def head_with(*lines: bytes, first: bytes = b"GET / HTTP/1.1\r\n") -> bytes:
    return first + b"".join(lines) + b"\r\n"


@pytest.mark.parametrize(
    "piece",
    [
        b"",
        USUAL + b"\r\n",
        USUAL + b"a",
        USUAL * 2,
        b"\r\n" + USUAL,
        head_with(first=b"HEAD / HTTP/1.1\r\n"),
        head_with(first=b"POST / HTTP/1.1\r\n"),
        head_with(first=b"get / HTTP/1.1\r\n"),
        head_with(first=b"GET  / HTTP/1.1\r\n"),
        head_with(first=b"GET / HTTP/1.0\r\n"),
        head_with(first=b"GET / HTTP/1.1\n"),
        head_with(first=b"GET * HTTP/1.1\r\n"),
        head_with(first=b"GET http://x/ HTTP/1.1\r\n"),
        head_with(first=b"GET /#a HTTP/1.1\r\n"),
        head_with(first=b"GET /\xe9 HTTP/1.1\r\n"),
        head_with(b"Content-Length: 0\r\n"),
        head_with(b"CONTENT-LENGTH: 0\r\n"),
        head_with(b"Transfer-Encoding: chunked\r\n"),
        head_with(b"Connection: close\r\n"),
        head_with(b"Proxy-Connection: close\r\n"),
        head_with(b"Upgrade: h2c\r\n"),
        head_with(b"A:\r\n"),
        head_with(b"A: b \r\n"),
        head_with(b"A: b\tc\r\n"),
        head_with(b"A: \xe9\r\n"),
        head_with(b"A: b\r\n", b" folded\r\n"),
        head_with(b"A : b\r\n"),
        head_with(b": b\r\n"),
        head_with(b"A: b\n"),
        head_with(*[b"A: b\r\n"] * (MOST_LINES + 1)),
        head_with(b"A: " + b"b" * 8192 + b"\r\n"),
    ],
)
def test_whatever_is_unusual_is_left_to_httptools(piece: bytes) -> None:
    assert read(piece) is None


def test_the_most_lines_and_bytes_are_read() -> None:
    assert len(read(head_with(*[b"A: b\r\n"] * MOST_LINES))) == MOST_LINES
    assert (len(read(head_with(*[b"A: b\r\n"] * 64), 200)), read(head_with(*[b"A: b\r\n"] * 65), 200)) == (64, None)
    rest = 8192 - len(head_with(b"A: \r\n"))
    assert len(read(head_with(b"A: " + b"b" * rest + b"\r\n"))) == 1


@pytest.mark.parametrize(
    "arguments", [(), (b"",), ("GET", 5), (bytearray(USUAL), 5), (b"", 5, 6), (b"", "5"), (b"", 2**70)]
)
def test_wrong_arguments_are_errors(arguments: tuple[Any, ...]) -> None:
    assert core.read_head is not None
    with pytest.raises((TypeError, OverflowError)):
        core.read_head(*arguments)


@pytest.mark.parametrize("name", ["host", "x-user", "x_user", "accept", "missing"])
def test_a_header_is_found_in_a_head_as_in_its_lines(name: str) -> None:
    head = read(head_with(b"Host: a\r\n", b"X-User: b\r\n", b"Accept: c\r\n", b"aCcept: d\r\n"))
    assert core.find_header is not None
    assert core.find_header(head, name, False) == core.find_header(list(head), name, False)
    if name != "x_user":
        assert defined_value(head, name) == defined_value(list(head), name)
    assert core.line_reader is not None
    found = [core.line_reader((Step(name, name, False, False),)).read(lines, None) for lines in (head, list(head))]
    assert found[0] == found[1]


POLICY = '[attributes]\nuser = "header:x-user"\n[[rules]]\nname = "each"\nkey = ["user"]\nlimit = "3/day"\n'


@pytest.mark.parametrize("bounds", [{"head_lines": 1}, {"head_bytes": 30}, {"target_bytes": 40}])
def test_the_bounds_of_a_server_hold_for_usual_heads(bounds: dict[str, int]) -> None:
    target = b"/check?" + b"a" * 40 if "target_bytes" in bounds else b"/check"
    piece = head_with(b"X-User: a\r\n", b"X-Other: bcdefghijkl\r\n", first=b"GET %b HTTP/1.1\r\n" % target)
    assert read(piece) is not None
    client = WireClient(lambda channel: HttpWire(Core(Policy.parse(POLICY), MemoryStore(9)), channel, Bounds(**bounds)))
    [answer] = answers_in(client.send(piece))
    assert answer.status == (414 if "target_bytes" in bounds else 431)
    assert client.closed


def test_empty_lines_before_each_usual_request_never_add_up_to_a_long_head() -> None:
    bounds = Bounds(head_bytes=100, target_bytes=100)
    client = WireClient(lambda channel: HttpWire(Core(Policy.parse(POLICY), MemoryStore(9)), channel, bounds))
    for _ in range(100):
        client.send(b"\r\n" * 10, b"GET /check HTTP/1.1\r\nX-User: a\r\n\r\n")
    assert {answer.status for answer in answers_in(client.sent)} == {200, 429}
    assert not client.closed


def test_usual_and_other_requests_of_a_connection_take_turns() -> None:
    client = WireClient(lambda channel: HttpWire(Core(Policy.parse(POLICY), MemoryStore(9)), channel, Bounds()))
    usual = b"GET /check HTTP/1.1\r\nX-User: a\r\n\r\n"
    client.send(usual, usual[:20], usual[20:], b"\r\n", usual, usual + usual[:5], usual[5:])
    assert [answer.status for answer in answers_in(client.sent)] == [200, 200, 200, 429, 429]
    assert not client.closed

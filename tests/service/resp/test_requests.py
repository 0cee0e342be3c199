"""Requests are read with bounds, in any pieces, and the same in C as in Python; other bytes end the connection."""

from __future__ import annotations

import random
import re
import tracemalloc

import pytest
from needs import need
from resp_wires import Client, make_core, pieces, request

from ratekeeper import core
from ratekeeper.service.resp.requests import MOST_ARGUMENTS, MOST_BYTES, ProtocolError, RequestReader, read_requests

BOMBS = [
    b"*1000000000\r\n",
    b"*100\r\n",
    b"*2147483648\r\n",
    b"*99999999999999999999\r\n",
    b"*1\r\n$2000000000\r\n",
    b"*1\r\n$131073\r\n",
    b"*2\r\n$131072\r\n" + b"x" * MOST_BYTES + b"\r\n$1\r\n",
    b"*" + b"1" * 40,
    b"*1\r\n$" + b"1" * 40,
    b"*1\r\n*1\r\n" * 30_000,
    b"x" * (MOST_BYTES + 1),
]


def read_all(data: list[bytes]) -> list[list[bytes] | str]:
    """Return the requests, and the text of the error that ends them."""
    reader = RequestReader()
    found: list[list[bytes] | str] = []
    for piece in data:
        reader.feed(piece)
        try:
            while (taken := reader.take()) is not None:
                found.append(taken)
        except ProtocolError as error:
            return [*found, str(error)]
    return found


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: repr(bomb[:24]))
def test_a_request_that_would_be_too_large_is_refused_at_its_header(bomb: bytes) -> None:
    for before in (b"", request("PING")):
        client = Client()
        tracemalloc.start()
        client.wire.receive(before + bomb)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        answer = client.channel.taken()
        assert answer.removeprefix(b"+PONG\r\n").startswith(b"-ERR Protocol error: ")
        assert answer.count(b"\r\n") == 1 + bool(before)
        assert client.channel.closed
        assert peak < 20 * len(bomb) + 100_000


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n+PING\r\n", "expected '$', got '+'"),
        (b"*1\r\n=8\r\ntxt:PING\r\n", "expected '$', got '='"),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", "expected '$', got '*'"),
        (b"*1\r\n\x00\r\n", "expected '$', got '\\x00'"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$01\r\na\r\n", "invalid bulk length"),
        (b"*1\r\n$ 1\r\na\r\n", "invalid bulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*1.0\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
    ],
)
def test_bytes_that_are_no_request_end_the_connection_and_say_why(sent: bytes, error: str) -> None:
    client = Client()
    client.wire.receive(request("PING") + sent + request("PING"))
    assert client.channel.taken().startswith(b"+PONG\r\n-ERR Protocol error: " + error.encode())
    assert client.channel.closed
    client.wire.receive(request("PING"))
    assert not client.channel.writes


def test_an_empty_request_gets_no_answer_as_in_redis() -> None:
    client = Client()
    assert client.send(b"*0\r\n" + request("PING") + b"*-1\r\n*-7\r\n\r\n" + request("PING")) == [b"PONG"] * 2
    assert client.send(b"*0\r\n") == []


@pytest.mark.parametrize("count", [1, MOST_ARGUMENTS])
def test_the_largest_requests_are_read(count: int) -> None:
    arguments = [b"x" * (MOST_BYTES // count)] * count
    data = request(*arguments)
    assert read_all([data]) == [arguments]
    assert read_all(pieces(data, range(0, len(data), 999))) == [arguments]
    assert core.read_requests is None or read_requests(data) == ([arguments], len(data))


def test_words_in_a_line_are_a_request_too() -> None:
    client = Client()
    assert client.send(b"PING\r\n  echo   hi \nPING") == [b"PONG", b"hi"]
    assert client.send(b"\r\n") == [b"PONG"]


@pytest.mark.parametrize("line", [b"POST / HTTP/1.1\r\n", b"Host: localhost\r\n"])
def test_a_page_that_speaks_http_to_us_gets_nothing(line: bytes) -> None:
    """So a page that a person visits cannot have the person's browser ask for resets."""
    client = Client()
    client.wire.receive(line + b"RK.RESET path /api/x api_key k\r\n")
    assert client.channel.closed
    assert not client.channel.writes


@pytest.mark.parametrize("name", [b"POST", b"Host:"])
@pytest.mark.parametrize("split", [False, True])
def test_a_command_that_pages_send_ends_the_connection_in_any_form(name: bytes, split: bool) -> None:
    client, asked = Client(), request(b"PING") + request(name, b"/") + request(b"PING")
    for piece in pieces(asked, range(1, len(asked))) if split else [asked]:
        client.wire.receive(piece)
    assert client.channel.closed
    assert b"".join(client.channel.writes) == b"+PONG\r\n"


def some_requests(chance: random.Random) -> bytes:
    """Requests with all that may confuse a reader in their arguments."""
    spice = [
        b"", b"\r\n", b"*3\r\n$1\r\n", b"*123", b"$5\r\n", b"\n+", b"\n=", b"~1\r\n", b"\x00\xff", b"PING", b"a" * 300,
    ]  # fmt: skip
    data = b""
    for _ in range(chance.randint(1, 5)):
        count = chance.choice([0, 1, 1, 2, 5, 6, 12])
        data += request(*[b"".join(chance.choices(spice, k=chance.randint(0, 2))) for _ in range(count)])
    return data


@pytest.mark.parametrize("seed", range(40))
def test_a_cut_at_any_byte_changes_no_request(seed: int) -> None:
    chance = random.Random(seed)
    data = some_requests(chance)
    whole = read_all([data])
    for cut in range(1, len(data)):
        assert read_all([data[:cut], data[cut:]]) == whole
    assert read_all([bytes([byte]) for byte in data]) == whole


def mutated(chance: random.Random, data: bytes) -> bytes:
    kinds = b"*$+-:_#,(!=%~>|\r\n0123456789\x00P"
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed))
        match chance.randrange(4):
            case 0:
                changed[at] = chance.choice(kinds)
            case 1:
                del changed[at : at + chance.randint(1, 4)]
            case 2:
                changed[at:at] = bytes(chance.choices(kinds, k=chance.randint(1, 4)))
            case _:
                changed[at] = chance.randrange(256)
        if not changed:
            return b"*"
    return bytes(changed)


@pytest.mark.parametrize("seed", range(20))
def test_the_c_core_finds_the_requests_of_the_definition_in_any_bytes(seed: int) -> None:
    need("the C core", core.read_requests is not None)
    chance = random.Random(seed)
    used = 0
    for _ in range(300):
        data = some_requests(chance)
        if chance.random() < 0.8:
            data = mutated(chance, data)
        requests, length = read_requests(data)
        used += length < len(data) and bool(requests)
        assert requests == read_all([data[:length]]), data
        assert [*requests, *read_all([data[length:]])] == read_all([data]), data
    assert used > 5


def test_the_c_core_reads_whole_usual_requests_and_nothing_else() -> None:
    need("the C core", core.read_requests is not None)
    ping, echo = request("PING"), request("ECHO", b"\x00*9\r\n$3\r\n")
    assert read_requests(ping + echo) == ([[b"PING"], [b"ECHO", b"\x00*9\r\n$3\r\n"]], len(ping + echo))
    assert read_requests(request("a", b"", b"x" * 1000))[0] == [[b"a", b"", b"x" * 1000]]
    assert read_requests(b"*1\r\n$4\r\nPINGxx") == ([[b"PING"]], len(ping))
    for end in range(1, len(echo)):
        assert read_requests(ping + echo[:end]) == ([[b"PING"]], len(ping))
    unusual = [
        *(b"PING\r\n", b"*0\r\n", b"*-1\r\n", b"*01\r\n$1\r\na\r\n", b"*+1\r\n$1\r\na\r\n", b"*1\n$1\r\na\r\n"),
        *(
            b"*1\r\n$-1\r\n",
            b"*1\r\n$01\r\na\r\n",
            b"*1\r\n$\r\n\r\n",
            b"*\r\n",
            b"*1\r\n$1 \r\na\r\n",
            b"*1\r\n:1\r\n",
        ),
        *(b"~1\r\n$4\r\nPING\r\n", b"%1\r\n$4\r\nECHO\r\n$1\r\na\r\n", b"*1\r\n*1\r\n$1\r\na\r\n", *BOMBS),
        request(*[b"a"] * (MOST_ARGUMENTS + 1)),
        request(b"x" * MOST_BYTES, b"y"),
    ]
    for data in unusual:
        assert read_requests(data) == ([], 0), data[:60]
        assert read_requests(ping + data + ping) == ([[b"PING"]], len(ping)), data[:60]
    with pytest.raises(TypeError, match="bytearray"):
        read_requests(bytearray(ping))  # type: ignore[arg-type]


@pytest.mark.parametrize("bomb", [b"*99\r\n", b"*99\r\n$0\r\n\r\n", b"*1\r\n$0\r\n\r\n"])
def test_the_c_core_makes_room_for_no_more_than_came(bomb: bytes) -> None:
    data = bomb * 3000
    tracemalloc.start()
    read_requests(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * len(data) + 10_000


@pytest.mark.parametrize("kind", [b"~", b"|", b">", b"%"])
@pytest.mark.parametrize("end", [b"\r\n", b"xx"])
def test_a_header_of_another_type_makes_no_room_for_its_length(kind: bytes, end: bytes) -> None:
    client = Client()
    tracemalloc.start()
    client.wire.receive(b"*1\r\n$4\r\nPING" + end + kind + b"10000000\r\n")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert b"unknown command '" + kind + b"10000000'" in client.channel.taken()
    assert peak < 100_000


@pytest.mark.parametrize("seed", range(10))
def test_any_bytes_get_the_same_answers_whole_and_in_pieces(seed: int) -> None:
    chance = random.Random(seed)
    core = make_core()
    for _ in range(20):
        data = b"".join(
            chance.choice([
                request("PING"), request("ECHO", b"\r\n*1"), b"PING\r\n", request("NO", "x"), b"*0\r\n",
                request("CL.THROTTLE", chance.choice("ab"), 5, 1, 1), request("HELLO", 3), some_requests(chance),
            ])
            for _ in range(4)
        )  # fmt: skip
        if chance.random() < 0.5:
            data = mutated(chance, data)
        answers = []
        for cuts in ([], chance.sample(range(len(data)), min(5, len(data))), range(len(data))):
            core.store.reset_scope("CL.THROTTLE")
            client = Client(core)
            for piece in pieces(data, cuts):
                client.wire.receive(piece)
            answers.append((re.sub(rb"\$2\r\nid\r\n:[0-9]+", b"", client.channel.taken()), client.channel.closed))
        assert answers[0] == answers[1] == answers[2], data

"""A connection of a Redis client: answers in order, bounds in number and time, the end, passwords."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Literal

import pytest
from needs import need
from resp_wires import Client, answers_in, make_core, request

from ratekeeper import ManualClock, MemoryStore, core
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.resp.requests import RequestReader
from ratekeeper.service.wire import NEVER

HALF = request("PING")[:9]


def test_all_answers_to_one_piece_leave_in_one_write() -> None:
    client = Client()
    client.wire.receive(request("PING") * 3 + request("CL.THROTTLE", "a", 1, 1, 1) + request("NO") + b"PING\r\n" + HALF)
    assert len(client.channel.writes) == 1
    assert [str(one)[:7] for one in answers_in(client.channel.taken())] == [
        *["b'PONG'"] * 3, "[0, 2, ", "ERR unk", "b'PONG'",
    ]  # fmt: skip


def test_a_long_pipeline_is_read_in_c_wherever_its_pieces_end(monkeypatch: pytest.MonkeyPatch) -> None:
    need("the C core", core.read_requests is not None)
    taken: list[object] = []
    take = RequestReader.take

    def noted(reader: RequestReader) -> list[bytes] | None:
        taken.append(take(reader))
        return None

    monkeypatch.setattr(RequestReader, "take", noted)
    sent = request("CL.THROTTLE", "a", 9999, 1, 1000) * 300
    for size in (1000, 997, 64):
        client = Client()
        for at in range(0, len(sent), size):
            client.wire.receive(sent[at : at + size])
        answers = answers_in(client.channel.taken())
        assert [one[2] for one in answers] == list(range(9999, 9699, -1))
        assert client.wire.deadline == NEVER
    assert set(taken) == {None}


@pytest.mark.parametrize("seed", range(10))
def test_what_comes_in_any_pieces_is_answered_as_what_comes_at_once(seed: int) -> None:
    chance = random.Random(seed)
    some = [
        *(request("PING"), request("CL.THROTTLE", "a", 5, 1, 1000), request("NO"), request("ECHO", b"x" * 300)),
        *(b"PING\r\n", b"*0\r\n", b"\r\n", request("RESET"), request("HELLO", "3"), request("CLIENT", "GETNAME")),
    ]
    sent = b"".join(chance.choices(some, [8, 8, 2, 2, 1, 1, 1, 1, 1, 1], k=200)) + chance.choice(
        [b"", b"*1\r\n:", HALF]
    )
    whole, cut = Client(), Client()
    whole.wire.receive(sent)
    at = 0
    while at < len(sent):
        size = chance.choice([1, 7, 40, 400, 3000])
        cut.wire.receive(sent[at : at + size])
        at += size
    assert cut.channel.taken() == whole.channel.taken()
    assert cut.channel.closed == whole.channel.closed
    assert cut.channel.closed or (cut.wire.deadline == NEVER) == (whole.wire.deadline == NEVER)


# The bounds in time


def test_an_idle_connection_may_stay_and_half_a_request_may_not() -> None:
    client = Client(bounds=Bounds(head_time=10))
    assert client.wire.deadline == NEVER
    client.channel.time = 100
    client.wire.receive(HALF)
    assert client.wire.deadline == 110
    client.channel.time = 109
    client.wire.receive(request("PING")[9:-1])
    assert client.wire.deadline == 110
    client.wire.receive(b"\n")
    assert client.wire.deadline == NEVER
    client.wire.receive(request("PING") + HALF)
    assert client.wire.deadline == 119
    client.channel.taken()
    client.wire.expire()
    assert b"did not come in time" in client.channel.taken()
    assert client.channel.closed


def test_each_half_request_has_its_own_time() -> None:
    client = Client(bounds=Bounds(head_time=10))
    client.wire.receive(HALF)
    client.channel.time = 9
    client.wire.receive(request("PING")[9:] + HALF)
    assert client.wire.deadline == 19


# Passwords


def test_without_the_password_nothing_but_the_way_in_is_open() -> None:
    client = Client(make_core(password=b"open sesame"), Bounds(head_time=10))
    assert client.wire.deadline == 10
    for closed in (["PING"], ["CL.THROTTLE", "a", 1, 1, 1], ["RK.CHECK", "path", "/api/x"], ["COMMAND"], ["NO"]):
        assert str(client.ask(*closed)) == "NOAUTH Authentication required."
    assert "already authenticated" in str(client.ask("HELLO", 3))
    for wrong in (["open"], ["admin", "open sesame"], ["default", "open sesame "], [""]):
        assert "invalid username-password pair" in str(client.ask("AUTH", *wrong))
    assert "invalid username-password pair" in str(client.ask("HELLO", 3, "AUTH", "default", "x"))
    assert client.wire.deadline == 10
    assert client.ask("AUTH", "open sesame") == b"OK"
    assert client.wire.deadline == NEVER
    assert client.ask("PING") == b"PONG"
    assert client.ask("RESET") == b"RESET"
    assert str(client.ask("PING")) == "NOAUTH Authentication required."
    client.channel.time = 5
    assert client.ask("HELLO", 3, "AUTH", "default", "open sesame", "SETNAME", "a")[b"proto"] == 3
    assert client.ask("CLIENT", "GETNAME") == b"a"


def test_a_reset_locks_also_the_rest_of_its_piece() -> None:
    client = Client(make_core(password=b"x"))
    client.ask("AUTH", "x")
    assert [str(one) for one in client.send(request("RESET") + request("PING"))] == [
        "b'RESET'", "NOAUTH Authentication required.",
    ]  # fmt: skip


def test_a_stranger_who_sends_nothing_is_shown_out() -> None:
    client = Client(make_core(password=b"x"), Bounds(head_time=10))
    client.wire.expire()
    assert client.channel.closed


def test_a_stranger_has_tighter_bounds() -> None:
    for sent in (b"*11\r\n", b"*1\r\n$16385\r\n", b"x" * 16_385):
        client = Client(make_core(password=b"x"))
        client.wire.receive(sent)
        assert client.channel.taken().startswith(b"-ERR Protocol error: ")
        client = Client(make_core(password=b"x"))
        client.ask("AUTH", "x")
        client.wire.receive(sent)
        assert not client.channel.closed


# The end


def test_as_the_service_stops_a_request_on_its_way_is_still_answered() -> None:
    client = Client(bounds=Bounds(last_time=0.5))
    client.wire.finish()
    assert not client.channel.closed
    assert client.wire.deadline == 0.5
    assert client.ask("PING") == b"PONG"
    assert client.channel.closed


def test_as_the_service_stops_an_idle_connection_ends_without_a_word() -> None:
    client = Client()
    client.wire.finish()
    client.wire.expire()
    assert client.channel.closed
    assert not client.channel.writes


def test_after_quit_nothing_more_is_done() -> None:
    core = make_core()
    client = Client(core)
    for more in (b"", b"PING\r\n"):
        client = Client(core)
        assert client.send(request("QUIT") + request("CL.THROTTLE", "a", 0, 1, 9) + more) == [b"OK"]
        assert client.channel.closed
    assert Client(core).ask("CL.THROTTLE", "a", 0, 1, 9)[0] == 0


def test_long_answers_that_nobody_reads_are_bounded() -> None:
    client = Client()
    client.wire.receive(request("COMMAND") * 10_000)
    assert client.channel.closed
    assert 500_000 < len(client.channel.taken()) < 1_200_000
    client = Client()
    for _ in range(300):
        assert len(client.ask("COMMAND", "DOCS")) > 10


@pytest.mark.parametrize("implementation", ["c", "python"])
def test_one_connections_half_request_is_not_seen_by_another(implementation: Literal["c", "python"]) -> None:
    clock = ManualClock()
    core = make_core(clock, MemoryStore(100, clock=clock, implementation=implementation))
    for half in (
        request("ECHO", "secret")[:-1],
        request("ECHO", "secret")[:-12],
        b"*2\r\n$4\r\nECHO\r\n",
        b"*",
        b"*2\r\n$",
    ):
        first, second = Client(core), Client(core)
        assert first.send(request("PING") + half) == [b"PONG"]
        assert second.send(request("PING")) == [b"PONG"]
        assert first.send((request("ECHO", "secret"))[len(half) :]) == [b"secret"]


def test_a_service_that_is_over_is_forgotten_with_its_commands() -> None:
    client = Client()
    assert client.ask("PING") == b"PONG"
    known = weakref.ref(client.core)
    del client
    gc.collect()
    assert known() is None

"""The commands: what each answers in RESP2 and RESP3, and what it says of bad arguments."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from typing import Any

import pytest
from resp_wires import POLICY, Client, answers_in, make_core, request

import ratekeeper
from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.service.core import Core
from ratekeeper.service.http.json_check import report
from ratekeeper.service.resp.checks import MOST_NAMES

REPORTED = [
    "allowed", "rule", "missing", "denied", "undecided", "message", "remaining", "retry_after", "reset_after", "delay",
]  # fmt: skip


def flat(answer: list[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(answer[::2], answer[1::2], strict=True)}


def named(answer: dict[bytes, Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in answer.items()}


def test_a_check_names_its_parts_as_v1_check_does() -> None:
    client = Client()
    ask = ("RK.CHECK", "path", "/api/x", "api_key", "k", "COST", 2)
    assert flat(client.ask(*ask)) == {
        "allowed": 1, "rule": b"each key", "missing": None, "denied": 0, "undecided": 0, "message": None,
        "remaining": 1, "retry_after": b"0.0", "reset_after": b"2400.0", "delay": b"0.0",
    }  # fmt: skip
    client.ask("HELLO", 3)
    assert named(client.ask(*ask)) == {
        "allowed": False, "rule": b"each key", "missing": None, "denied": False, "undecided": False, "message": None,
        "remaining": 1, "retry_after": 1200.0, "reset_after": 2400.0, "delay": 1200.0,
    }  # fmt: skip
    decision = client.core.policy.keeper.compiled.try_acquire({"path": "/api/x", "api_key": "k"}, 0)  # type: ignore[misc]
    assert [*report(decision, held=True)] == [*REPORTED, "rules"]
    assert [*named(client.ask(*ask))] == REPORTED


def test_a_check_that_no_wait_would_help_says_never() -> None:
    client = Client()
    client.ask("HELLO", 3)
    assert client.ask("RK.CHECK", "path", "/api/x", "api_key", "k", "COST", 4)[b"retry_after"] is None
    answer = client.ask("RK.CHECK", "path", "/api/x")
    assert (answer[b"allowed"], answer[b"missing"], answer[b"retry_after"]) == (False, b"api_key", None)
    answer = client.ask("RK.CHECK", "path", "/else")
    assert (answer[b"allowed"], answer[b"rule"], answer[b"remaining"]) == (True, None, None)


def test_any_name_of_a_rule_is_told() -> None:
    for name in ("100 %d of %b", "jeder Schlüssel"):
        core = Core(Policy.parse(f'rules = [{{name = "{name}", limit = "9/hour"}}]'), MemoryStore(10))
        for version in (2, 3):
            client = Client(core)
            client.ask("HELLO", version)
            answer = client.ask("RK.CHECK", "path", b"\xff")
            assert (flat(answer) if version == 2 else named(answer))["rule"] == name.encode()


def test_after_a_reload_names_mean_what_they_mean_to_the_new_policy() -> None:
    client = Client()
    for _ in range(2):
        assert flat(client.ask("RK.CHECK", "path", "/api/x", "api_key", "k"))["rule"] == b"each key"
    client.core.replace(Policy.parse(POLICY.replace("api_key", "user")))
    for _ in range(2):
        assert "knows no attribute 'api_key'" in str(client.ask("RK.CHECK", "path", "/api/x", "api_key", "k"))
    assert flat(client.ask("RK.CHECK", "path", "/api/x", "user", "k"))["rule"] == b"each key"


def test_few_and_short_names_are_remembered() -> None:
    client = Client(Core(Policy.parse('rules = [{name = "all", limit = "1000000/hour"}]'), MemoryStore(10)))
    tracemalloc.start()
    for number in range(2 * MOST_NAMES):
        for name in (f"{number}", f"{number}".zfill(100_000)):
            assert flat(client.ask("RK.CHECK", name, "x"))["allowed"] == 1
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < MOST_NAMES * 3000


def test_attributes_are_spelled_as_a_requests_would_be() -> None:
    client = Client()
    for path in ("/api/x", "/api//x", "/api/%78", "/api/./x"):
        client.ask("RK.CHECK", "path", path, "api_key", "k")
    assert flat(client.ask("RK.CHECK", "path", "/api/x", "api_key", "k"))["allowed"] == 0


def test_a_reservation_is_answered_at_once_and_says_its_delay() -> None:
    async def story() -> None:
        client = Client(make_core(ManualClock()))
        client.ask("HELLO", 3)
        ask = ("RK.CHECK", "path", "/reports", "TIMEOUT", "inf", "WAIT", "no")
        assert [client.ask(*ask)[b"delay"] for _ in range(3)] == [0.0, 0.5, 1.0]

    asyncio.run(story())


def test_a_check_that_waits_for_its_turn_is_answered_at_the_turn() -> None:
    async def story() -> None:
        client = Client(make_core(store=MemoryStore(100)))
        check = request("RK.CHECK", "path", "/reports", "TIMEOUT", "inf")
        client.wire.receive(check * 2 + request("PING"))
        assert len(answers_in(client.channel.taken())) == 1
        assert client.wire.unanswered == 1
        await client.channel.settle()
        [answer, pong] = answers_in(client.channel.taken())
        assert (answer[1], flat(answer)["delay"], pong) == (1, b"0.0", b"PONG")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["path"], "wrong number of arguments for 'rk.check' command"),
        (["path", "/api/x", "api_key"], "each attribute needs a value: RK.CHECK attribute value"),
        (["api_kay", "k"], "the policy knows no attribute 'api_kay': did you mean 'api_key'?"),
        (["path", "/x", "path", "/y"], "'path' is there twice"),
        (["path", "/x", "COST", "1", "COST", "2"], "'COST' is there twice"),
        (["path", "/x", "cost", "1"], "write the option COST in capitals"),
        (["path", "/x", "Timeout", "1"], "write the option TIMEOUT in capitals"),
        (["path", "/x", "COST", "-1"], "COST must be a whole number, 0 or more"),
        (["path", "/x", "COST", "1.5"], "COST must be a whole number"),
        (["path", "/x", "COST", "9" * 30], "COST must be a whole number"),
        (["path", "/x", "TIMEOUT", "-1"], "TIMEOUT must be 0 or more seconds"),
        (["path", "/x", "TIMEOUT", "nan"], "TIMEOUT must be 0 or more seconds"),
        (["path", "/x", "TIMEOUT", "soon"], "TIMEOUT must be 0 or more seconds"),
        (["path", "/x", "WAIT", "maybe"], "WAIT must be yes"),
        (["path", "/x", "RULE", "each key"], "the policy knows no attribute 'RULE'"),
    ],
)
def test_a_bad_check_is_an_error_that_says_what_would_be_right(arguments: list[str], error: str) -> None:
    client = Client()
    answer = client.ask("RK.CHECK", *arguments)
    assert isinstance(answer, Exception), answer
    assert error in str(answer)
    assert "\n" not in str(answer)
    assert client.ask("PING") == b"PONG"


def test_usage_and_reset_are_of_the_same_buckets() -> None:
    client = Client()
    client.ask("HELLO", 3)
    about = ("path", "/api/x", "api_key", "k")
    client.ask("RK.CHECK", *about, "COST", 2)
    [usage] = client.ask("RK.USAGE", *about)
    assert named(usage) == {
        "name": b"each key", "limit": b"token_bucket of 3 at 3/hour", "used": 2, "remaining": 1,
        "reset_after": 2400.0, "retry_after": 0.0, "waiting": 0,
    }  # fmt: skip
    assert str(client.ask("RK.RESET", *about, "RULE", "each")).startswith("ERR the policy has no rule 'each'")
    assert client.ask("RK.USAGE", *about)[0][b"used"] == 2
    assert client.ask("RK.RESET", *about, "RULE", "each key") == b"OK"
    assert client.ask("RK.USAGE", *about)[0][b"used"] == 0
    client.ask("RK.CHECK", *about)
    assert client.ask("RK.RESET", *about) == b"OK"
    assert client.ask("RK.USAGE", *about)[0][b"used"] == 0


# Asked by clients as they connect


def test_hello_chooses_the_protocol_and_a_bad_one_changes_nothing() -> None:
    client = Client()
    assert flat(client.ask("HELLO"))["proto"] == 2
    about = named(client.ask("hello", 3, "setname", "worker-1"))
    assert about["proto"] == 3
    assert about["server"] == b"ratekeeper"
    assert about["version"] == ratekeeper.__version__.encode()
    assert client.ask("CLIENT", "GETNAME") == b"worker-1"
    for bad in ((4,), ("x",), (2, "SETNAME"), (2, "SETNAME", "a b"), (2, "NAME", "x"), (2, "AUTH", "x")):
        assert isinstance(client.ask("HELLO", *bad), Exception)
    assert client.ask("HELLO")[b"proto"] == 3
    assert flat(client.ask("HELLO", 2))["proto"] == 2


def test_each_connection_has_a_number_and_a_name() -> None:
    core = make_core()
    first, second = Client(core), Client(core)
    assert first.ask("CLIENT", "ID") != second.ask("CLIENT", "ID")
    assert first.ask("CLIENT", "GETNAME") is None
    assert first.ask("CLIENT", "SETNAME", "one") == b"OK"
    assert isinstance(first.ask("CLIENT", "SETNAME", "a\nb"), Exception)
    assert isinstance(first.ask("CLIENT", "SETNAME", "x" * 200), Exception)
    assert first.ask("CLIENT", "GETNAME") == b"one"
    assert second.ask("CLIENT", "GETNAME") is None
    assert first.ask("CLIENT", "SETINFO", "LIB-NAME", "redis-py") == b"OK"
    assert first.ask("client", "setinfo", "lib-ver", "8.1.0") == b"OK"
    for bad in (["SETINFO", "LIB", "x"], ["KILL", "x"], ["ID", "x"], ["SETNAME"]):
        assert isinstance(first.ask("CLIENT", *bad), Exception)
    assert first.ask("RESET") == b"RESET"
    assert first.ask("CLIENT", "GETNAME") is None


def test_there_is_one_database() -> None:
    client = Client()
    assert client.ask("SELECT", 0) == b"OK"
    assert "DB index is out of range" in str(client.ask("SELECT", 1))


def test_ping_and_echo_return_any_bytes() -> None:
    client = Client()
    assert client.ask("PING") == b"PONG"
    assert client.ask("ping", b"\r\n\x00") == b"\r\n\x00"
    assert client.ask("Echo", b"*1\r\n") == b"*1\r\n"
    assert "wrong number of arguments for 'echo'" in str(client.ask("ECHO"))


def test_info_says_what_clients_look_for() -> None:
    info = Client().ask("INFO", "server").decode()
    assert f"ratekeeper_version:{ratekeeper.__version__}\r\n" in info
    assert {"loading:0", "role:master", "redis_mode:standalone"} <= set(info.split("\r\n"))


def test_command_tells_all_commands() -> None:
    client = Client()
    client.ask("HELLO", 3)
    everything = client.ask("COMMAND")
    assert len(everything) == client.ask("COMMAND", "COUNT") == len(client.ask("COMMAND", "LIST"))
    assert {one[0] for one in everything} == set(client.ask("COMMAND", "LIST")) == set(client.ask("COMMAND", "DOCS"))
    [throttle, nothing] = client.ask("COMMAND", "INFO", "CL.THROTTLE", "get")
    assert throttle[:6] == [b"cl.throttle", -5, [b"fast"], 1, 1, 1]
    assert nothing is None
    assert [*client.ask("COMMAND", "DOCS", "rk.check", "x")] == [b"rk.check"]
    assert isinstance(client.ask("COMMAND", "GETKEYS"), Exception)


def test_an_unknown_command_answers_as_redis_with_a_hint_and_without_its_arguments() -> None:
    client = Client()
    assert str(client.ask("GET", "secret")).startswith("ERR unknown command 'GET': limits are asked by CL.THROTTLE")
    assert str(client.ask("cl.throtle", "secret")).startswith("ERR unknown command 'cl.throtle': limits are asked by")
    assert str(client.ask(b"\x00\r\n\xff" * 100)).startswith("ERR unknown command '?")
    assert client.ask("PING") == b"PONG"


def test_no_key_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = Client()
    for asked in (
        ("CL.THROTTLE", "secret", 0, 1, 1), ("CL.THROTTLE", "secret", 0, 1), ("NO", "secret"),
        ("RK.CHECK", "path", "/api/x", "api_key", "secret"), ("RK.USAGE", "path", "/api/x", "api_key", "secret"),
        ("RK.RESET", "path", "/api/x", "api_key", "secret"),
    ):  # fmt: skip
        client.wire.receive(request(*asked))
        client.wire.receive(request(*asked)[:-1] + b"x*1")
        client = Client()
    assert "secret" not in caplog.text

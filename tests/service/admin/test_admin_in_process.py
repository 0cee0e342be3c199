"""The admin API within this process: the names of rules, and a pause that another process of the service has begun."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from async_memory import AsyncMemoryStore
from wire_client import HttpAnswer, WireClient, answers_in

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.admin.policies import rules
from ratekeeper.service.admin.what_if import MOST_POLICY_BODY
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.wire import HttpWire
from ratekeeper.service.metrics.slots import shown_name
from ratekeeper.service.operator_options import OperatorOptions, token_digest

TOKEN = "a-token-of-an-admin-in-tests"
ADDRESS = {"client": "192.0.2.1"}
NUMBERS = itertools.count(10_000_000)
LONG = ["long " * 60 + name for name in "ab"]


def served(*names: str, store: MemoryStore | AsyncMemoryStore | None = None) -> Core:
    rules = tuple(f"[[rules]]\nname = {json.dumps(name)}\nkey = ['client']\nlimit = '5/day'\n" for name in names)
    core = Core(Policy.parse("\n".join(rules)), store or MemoryStore(100))
    core.operate(OperatorOptions(recording_bytes=0, tokens={"alice": token_digest(TOKEN)}))
    return core


def two_processes() -> tuple[Core, Core]:
    """Return two processes of one service, neither of which looks for pauses by itself."""
    store = MemoryStore(100)
    return served("one", "two", store=store), served("one", "two", store=store)


async def ask(core: Core, operation: str, *, status: int = 200, **body: Any) -> Any:
    data = json.dumps(body)
    client = WireClient(lambda channel: HttpWire(core, channel, Bounds()))
    lines = f"Authorization: Bearer {TOKEN}\r\nIdempotency-Key: key-{next(NUMBERS)}\r\nContent-Length: {len(data)}\r\n"
    client.send(f"POST /v1/admin/{operation} HTTP/1.1\r\n{lines}\r\n{data}".encode())
    await client.answered()
    [answer] = answers_in(client.sent)
    assert isinstance(answer, HttpAnswer)
    assert answer.status == status, answer.body
    return json.loads(answer.body)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("explain", {"attributes": ADDRESS}), ("block", {"attributes": ADDRESS, "seconds": 60}),
        ("pause", {"rule": "one", "seconds": 60}), ("reload", {}),
    ],
)  # fmt: skip
def test_an_admin_is_told_that_the_store_does_not_answer(operation: str, body: dict[str, Any]) -> None:
    core = served("one", store=(store := AsyncMemoryStore(MemoryStore(100))))
    store.away = True
    told = asyncio.run(ask(core, operation, status=503, **body))
    assert told["detail"] == "no answer", "in the store's words, and not in those for a client"


def test_a_long_name_is_known_whole_and_as_the_status_shows_it() -> None:
    core = served(*LONG)
    shown = [rule["name"] for rule in json.loads(core.live.status())["rules"]]
    assert len(set(shown)) == 2
    assert not set(shown) & set(LONG)

    async def steer() -> None:
        for name in (shown[1], LONG[1]):
            assert (await ask(core, "pause", rule=name, seconds=60))["name"] == LONG[1]
            assert core.pauses.until.keys() == {LONG[1]}
            assert (await ask(core, "resume", rule=name))["name"] == LONG[1]
        await ask(core, "block", attributes=ADDRESS, rule=[shown[0]], seconds=60)
        first, second = (await ask(core, "usage", attributes=ADDRESS, rule=shown))["rules"]
        assert first["blocked_until"] is not None
        assert second["blocked_until"] is None

    asyncio.run(steer())


def test_a_name_that_a_rule_has_is_that_rules_own() -> None:
    shown = shown_name(LONG[1])
    core = served(shown, *LONG)

    async def steer() -> None:
        assert (await ask(core, "pause", rule=shown, seconds=60))["name"] == shown

    asyncio.run(steer())


@pytest.mark.parametrize(
    ("name", "token", "size", "status"),
    [
        ("what-if", TOKEN, 65_536, 503), ("what-if", TOKEN, 65_537, 503), ("what-if", TOKEN, MOST_POLICY_BODY, 503),
        ("what-if", TOKEN, MOST_POLICY_BODY + 1, 413), ("what-if", TOKEN + "x", 65_537, 413),
        ("what-if", TOKEN + "x", 65_536, 401), ("usage", TOKEN, 65_537, 413),
    ],
)  # fmt: skip
def test_an_admin_may_try_the_longest_policy(name: str, token: str, size: int, status: int) -> None:
    core = served("one")
    body = b'{"policy": "rules = 7 #%b"}'
    body %= b"x" * (size - len(body) + 2)
    lines = f"Authorization: Bearer {token}\r\nContent-Length: {size}\r\n"

    async def steer() -> None:
        client = WireClient(lambda channel: HttpWire(core, channel, Bounds()))
        client.send(f"POST /v1/admin/{name} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        await client.answered()
        [answer] = answers_in(client.sent)
        assert isinstance(answer, HttpAnswer)
        assert answer.status == status, answer.body

    asyncio.run(steer())


@pytest.mark.parametrize("operation", ["explain", "usage", "reset"])
def test_a_pause_is_told_at_once_by_a_process_that_has_not_seen_it(operation: str) -> None:
    here, there = two_processes()

    async def steer() -> None:
        paused = await ask(here, "pause", rule="one", seconds=60)
        first, second = (await ask(there, operation, attributes=ADDRESS))["rules"]
        assert first["paused_until"] == pytest.approx(paused["paused_until"], abs=1)
        assert second["paused_until"] is None
        assert (first["shadow"], second["shadow"]) == (True, False)
        await ask(here, "resume", rule="one")
        first, _ = (await ask(there, operation, attributes=ADDRESS))["rules"]
        assert (first["paused_until"], first["shadow"]) == (None, False)

    asyncio.run(steer())


def test_the_list_of_rules_has_a_pause_that_its_process_has_not_seen() -> None:
    here, there = two_processes()

    async def steer() -> None:
        paused = await ask(here, "pause", rule="one", seconds=60)
        first, second = (await rules(there, {}))["rules"]
        assert first["paused_until"] == pytest.approx(paused["paused_until"], abs=1)
        assert second["paused_until"] is None

    asyncio.run(steer())


def test_no_process_blocks_a_key_of_a_paused_rule_also_if_it_has_not_seen_the_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "ratekeeper.admin")
    here, there = two_processes()

    async def steer() -> None:
        await ask(here, "pause", rule="one", seconds=60)
        refused = await ask(there, "block", status=400, attributes=ADDRESS, rule="one", seconds=60)
        assert "resume it first" in refused["detail"]
        assert caplog.messages[-1].endswith(": not done: BadRequestError")
        await ask(here, "resume", rule="one")
        await ask(there, "block", attributes=ADDRESS, rule="one", seconds=60)

    asyncio.run(steer())


def test_explain_names_the_bucket_of_the_reading_that_its_rule_is_for() -> None:
    rule = '[[rules]]\nname = "{0}"\nmatch = {{ path = "{0}" }}\nkey = ["path"]\nlimit = "5/day"\n'
    core = Core(Policy.parse(rule.format("/login") + rule.format("/other")), MemoryStore(100))
    core.operate(OperatorOptions(recording_bytes=0, tokens={"alice": token_digest(TOKEN)}))
    login, other = asyncio.run(ask(core, "explain", attributes={"path": "//any/login"}))["rules"]
    assert (login["applies"], login["key"]) == (True, {"path": "/login"})
    assert (other["applies"], other["key"]) == (False, {"path": "/any/login"})


@pytest.mark.parametrize("operation", ["explain", "usage", "reset"])
@pytest.mark.parametrize("when", range(1, 8))
def test_a_reload_amid_an_operation_pairs_no_bucket_with_another_rule(operation: str, when: int) -> None:
    rule = "[[rules]]\nname = '{}'\nkey = ['client']\nlimit = '{}/day'\n"
    one, two = rule.format("one", 5), rule.format("two", 7)
    store = AsyncMemoryStore(MemoryStore(100))
    core = Core(Policy.parse(one + two), store)
    core.operate(OperatorOptions(recording_bytes=0, tokens={"alice": token_digest(TOKEN)}))

    def asked() -> int:
        if store.asked.total() >= when:
            store.turns = lambda: 1
            core.replace(Policy.parse(two + one))
        return 1

    async def steer() -> None:
        store.turns = asked
        rules = (await ask(core, operation, attributes=ADDRESS))["rules"]
        named = [(one["name"], one["bucket"]) if operation == "explain" else (one["rule"], one) for one in rules]
        assert sorted((name, bucket["capacity"]) for name, bucket in named) == [("one", 5), ("two", 7)]

    asyncio.run(steer())

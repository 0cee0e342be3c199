"""The names of rules in the admin API: a rule's own, and that which the status shows in place of a long one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from wire_client import HttpAnswer, WireClient, answers_in

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.wire import HttpWire
from ratekeeper.service.metrics.slots import shown_name
from ratekeeper.service.operator_options import OperatorOptions, token_digest

TOKEN = "a-token-of-an-admin-in-tests"
LONG = ["long " * 60 + name for name in "ab"]


def served(*more: str) -> Core:
    names = (*more, *LONG)
    rules = tuple(f"[[rules]]\nname = {json.dumps(name)}\nkey = ['client']\nlimit = '5/day'\n" for name in names)
    core = Core(Policy.parse("\n".join(rules)), MemoryStore(100))
    core.operate(OperatorOptions(recording_bytes=0, tokens={"alice": token_digest(TOKEN)}))
    return core


async def ask(core: Core, operation: str, **body: Any) -> Any:
    data = json.dumps(body)
    client = WireClient(lambda channel: HttpWire(core, channel, Bounds()))
    lines = f"Authorization: Bearer {TOKEN}\r\nIdempotency-Key: key-{id(client)}\r\nContent-Length: {len(data)}\r\n"
    client.send(f"POST /v1/admin/{operation} HTTP/1.1\r\n{lines}\r\n{data}".encode())
    await client.answered()
    [answer] = answers_in(client.sent)
    assert isinstance(answer, HttpAnswer)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def test_a_long_name_is_known_whole_and_as_the_status_shows_it() -> None:
    core = served()
    shown = [rule["name"] for rule in json.loads(core.live.status())["rules"]]
    assert len(set(shown)) == 2
    assert not set(shown) & set(LONG)

    async def steer() -> None:
        for name in (shown[1], LONG[1]):
            assert (await ask(core, "pause", rule=name, seconds=60))["name"] == LONG[1]
            assert core.pauses.until.keys() == {LONG[1]}
            assert (await ask(core, "resume", rule=name))["name"] == LONG[1]
        attributes = {"client": "192.0.2.1"}
        await ask(core, "block", attributes=attributes, rule=[shown[0]], seconds=60)
        first, second = (await ask(core, "usage", attributes=attributes, rule=shown))["rules"]
        assert first["blocked_until"] is not None
        assert second["blocked_until"] is None

    asyncio.run(steer())


def test_a_name_that_a_rule_has_is_that_rules_own() -> None:
    shown = shown_name(LONG[1])
    core = served(shown)

    async def steer() -> None:
        assert (await ask(core, "pause", rule=shown, seconds=60))["name"] == shown

    asyncio.run(steer())

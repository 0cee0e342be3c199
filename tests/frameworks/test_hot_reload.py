"""A policy file that changes while an application runs. The promises of a watch by itself are in test_reload."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import threading
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_apps import application
from redis_servers import wait_for
from servers import PATIENCE
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ratekeeper import Policy
from ratekeeper.frameworks.asgi import RateLimitMiddleware, rate_limit
from ratekeeper.http.limiter import AsyncRequestLimiter

RULE = '[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "{}/minute"'


def test_a_changed_policy_file_takes_effect_without_a_restart_and_a_broken_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(RULE.format(3))
    app = RateLimitMiddleware(application, file)

    async def ask() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return (await client.get("/")).headers["ratelimit-policy"]

    def quota() -> str:
        return asyncio.run(ask())

    assert quota() == '"each";q=3;w=60'
    file.write_text(RULE.format(5))
    wait_for(lambda: quota() == '"each";q=5;w=60')
    file.write_text(RULE.format("many"))
    wait_for(lambda: "is ignored" in caplog.text)
    assert quota() == '"each";q=5;w=60'
    asyncio.run(app.limiter.close())


def test_a_policy_that_lacks_what_nobody_gives_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(RULE.format(3))
    app = RateLimitMiddleware(application, file)
    file.write_text(RULE.format(4).replace("client", "user"))
    wait_for(lambda: "nothing gives the attribute 'user'" in caplog.text)
    [told] = caplog.records
    assert "policy.toml is ignored: the last good one stays in use" in told.getMessage()
    assert told.exc_info is None, "a mistake in a policy is no failure of the program's: there is no traceback"
    asyncio.run(app.limiter.close())


def test_a_policy_with_a_rule_that_is_named_as_an_endpoints_limit_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(RULE.format(3))
    limits = AsyncRequestLimiter(file)
    own = rate_limit("1/minute", name="own")
    limits.policy_of(own)
    caplog.set_level(logging.INFO, "ratekeeper")
    file.write_text(RULE.format(3).replace("each", "own"))
    wait_for(lambda: "both named 'own'" in caplog.text)
    file.write_text(RULE.format(4))
    wait_for(lambda: "is in use" in caplog.text)
    limits.policy_of(own)
    asyncio.run(limits.close())


def test_an_applications_options_stay_through_a_reload_and_a_reopening() -> None:
    rules = '[[rules]]\nname = "each"\nkey = ["client", "user"]\nlimit = "{}/minute"'
    own = rate_limit("20/minute", name="own", key="client", cost=3)(answer)
    app = Starlette(routes=[Route("/", own)])
    clients = count(1)
    middleware = RateLimitMiddleware(
        app, Policy.parse(rules.format(30)), cost=2, trusted_proxies=1, headers=("ietf", "x-delta"),
        attributes={"user": lambda scope: "alice"}, exempt=lambda scope: scope["query_string"] == b"free",
    )  # fmt: skip

    async def use() -> None:
        limits = middleware.limiter
        transport = httpx.ASGITransport(middleware, client=("192.0.2.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def told(query: str = "") -> Any:
                forwarded = {"x-forwarded-for": f"198.51.100.{next(clients)}"}
                headers = (await client.get(f"/?{query}", headers=forwarded)).headers
                return re.findall(r'"(\w+)";r=(\d+)', headers.get("ratelimit", "")), "x-ratelimit-reset" in headers

            assert await told() == ([("each", "28"), ("own", "17")], True)
            limits.replace(Policy.parse(rules.format(40)))
            assert await told() == ([("each", "38"), ("own", "17")], True)
            for _ in range(2):
                await limits.close()
                limits.reopen()
                assert await told() == ([("each", "38"), ("own", "17")], True)
                assert await told("free") == ([], False)
            await limits.close()

    asyncio.run(use())


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("")


def test_the_watch_ends_with_the_application_also_where_nobody_closes_it(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(RULE.format(3))
    before = {*threading.enumerate()}
    app = RateLimitMiddleware(application, file)
    (watching,) = {*threading.enumerate()} - before
    del app
    gc.collect()
    watching.join(PATIENCE)
    assert not watching.is_alive()

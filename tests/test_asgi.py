"""Limits in ASGI applications: what a client gets, and what the application does not notice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from redis_servers import wait_for

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.frameworks.starlette import RateLimit, RateLimitMiddleware, rate_limit

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/minute"')


async def get(app: Any, *paths: str, **headers: str) -> list[httpx.Response]:
    """Ask one after the other, in process."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return [await client.get(path, headers=headers) for path in paths]


def application(**options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, store=MemoryStore(clock=ManualClock()), **options)

    @app.get("/items/{item}")
    async def item(item: int) -> int:
        return item

    @app.get("/search/{query}", dependencies=[Depends(RateLimit("2/minute"))])
    async def search(query: str) -> str:
        return query

    @app.get("/send/{text}")
    @rate_limit("1/hour", key=lambda request: request.headers["x-user"])
    def send(text: str) -> str:
        return text

    return app


def test_over_the_limit_a_client_gets_429_with_a_problem_and_when_to_come_back() -> None:
    *allowed, refused = asyncio.run(get(application(policy=EACH), *["/items/1"] * 4))
    assert [one.status_code for one in allowed] == [200, 200, 200]
    assert [one.headers["ratelimit"] for one in allowed] == ['"each";r=2;t=20', '"each";r=1;t=20', '"each";r=0;t=20']
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "20"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["violated-policies"] == ["each"]


def test_an_endpoints_own_limit_counts_for_its_route_whatever_the_path() -> None:
    answers = asyncio.run(get(application(), "/search/a", "/search/b", "/search/c", "/items/1"))
    assert [one.status_code for one in answers] == [200, 200, 429, 200]


def test_a_decorator_needs_no_argument_of_the_endpoint_and_limits_a_function_that_is_not_async() -> None:
    app = application()
    assert [one.status_code for one in asyncio.run(get(app, "/send/a", "/send/b", **{"x-user": "alice"}))] == [200, 429]
    assert [one.status_code for one in asyncio.run(get(app, "/send/a", **{"x-user": "bob"}))] == [200]


def test_a_changed_policy_file_takes_effect_without_a_restart_and_a_broken_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "policy.toml"
    rule = '[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "{}/minute"'
    file.write_text(rule.format(3))
    app = application(policy=file)

    def quota() -> str:
        [answer] = asyncio.run(get(app, "/items/1"))
        return answer.headers["ratelimit-policy"]

    assert quota() == '"each";q=3;w=60'
    file.write_text(rule.format(5))
    wait_for(lambda: quota() == '"each";q=5;w=60')
    file.write_text(rule.format("many"))
    wait_for(lambda: "is not taken" in caplog.text)
    assert quota() == '"each";q=5;w=60'

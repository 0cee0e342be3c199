"""Applications inside others, each with its own limits: a request that the inner one refuses costs nothing outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import flask
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from werkzeug.test import Client

from ratekeeper import Limiter, ManualClock, MemoryStore, Policy
from ratekeeper.frameworks import aiohttp, starlette, wsgi
from ratekeeper.frameworks.flask import RateLimits
from ratekeeper.http.rate_limit import rate_limit

Answer = tuple[int, str]
"""The status, and what is left outside, as the response tells it."""


def policy(name: str, limit: str) -> dict[str, Any]:
    text = f'[[rules]]\nname = "{name}"\nkey = ["client"]\nlimit = "{limit}"'
    return {"policy": Policy.parse(text), "store": MemoryStore(clock=ManualClock())}


OUTER = "9/hour"
ENDPOINT: dict[str, Callable[[], Any]] = {
    "policy": lambda: lambda function: function,
    "endpoint": lambda: rate_limit("1/hour", name="once"),
    "view": lambda: rate_limit("1/hour", name="once", enforce=False),
}


def left(headers: Any) -> str:
    values = headers.getall("RateLimit") if hasattr(headers, "getall") else [headers["RateLimit"]]
    return next(part for part in ", ".join(values).split(", ") if part.startswith('"outer"'))


def of_starlette(mark: Any, inner: dict[str, Any], count: int) -> list[Answer]:
    async def once(request: Request) -> PlainTextResponse:
        return PlainTextResponse("", 200 if request.state.ratekeeper.decision else 429)

    inside = Starlette(routes=[Route("/", mark(once))])
    inside.add_middleware(starlette.RateLimitMiddleware, **inner)
    outside = Starlette(routes=[Mount("/in", inside)])
    outside.add_middleware(starlette.RateLimitMiddleware, **policy("outer", OUTER))

    async def ask() -> list[Answer]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(outside), base_url="http://test") as client:
            answers = [await client.get("/in/") for _ in range(count)]
        return [(answer.status_code, left(answer.headers)) for answer in answers]

    return asyncio.run(ask())


def of_aiohttp(mark: Any, inner: dict[str, Any], count: int) -> list[Answer]:
    async def once(request: web.Request) -> web.Response:
        return web.Response(status=200 if request[aiohttp.request_limits].decision else 429)

    inside, outside = web.Application(), web.Application()
    inside.router.add_get("/", mark(once))
    aiohttp.setup(inside, **inner)
    aiohttp.setup(outside, **policy("outer", OUTER))
    outside.add_subapp("/in", inside)

    async def ask() -> list[Answer]:
        async with TestClient(TestServer(outside)) as client:
            answers = [await client.get("/in/") for _ in range(count)]
        return [(answer.status, left(answer.headers)) for answer in answers]

    return asyncio.run(ask())


def of_flask(mark: Any, inner: dict[str, Any], count: int) -> list[Answer]:
    def once() -> tuple[str, int]:
        return "", 200 if flask.g.ratekeeper.decision else 429

    inside = flask.Flask("inside")
    inside.get("/", endpoint="once")(mark(once))
    RateLimits(inside, **inner)
    client = Client(wsgi.RateLimitMiddleware(inside, **policy("outer", OUTER)))
    answers = [client.get("/") for _ in range(count)]
    return [
        (answer.status_code, left({"RateLimit": ", ".join(answer.headers.getlist("RateLimit"))})) for answer in answers
    ]


@pytest.mark.parametrize("kind", ENDPOINT)
@pytest.mark.parametrize("ask", [of_starlette, of_aiohttp, of_flask])
def test_a_request_that_an_inner_application_refuses_costs_nothing_in_the_outer_one(ask: Any, kind: str) -> None:
    inner = policy("inner", "1/hour" if kind == "policy" else "50/hour")
    assert ask(ENDPOINT[kind](), inner, 4) == [(200, '"outer";r=8;t=400')] + [(429, '"outer";r=8;t=400')] * 3


def test_a_request_that_the_application_in_between_answers_after_all_stays_charged() -> None:
    class Forgiving:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def send_ok(message: Any) -> None:
                await send({**message, "status": 203} if message["type"] == "http.response.start" else message)

            await self.app(scope, receive, send_ok)

    inside = starlette.RateLimitMiddleware(Starlette(), **policy("inner", "1/hour"))
    outside = starlette.RateLimitMiddleware(Forgiving(inside), **policy("outer", "3/hour"))

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(outside), base_url="http://test") as client:
            return [(await client.get("/")).status_code for _ in range(5)]

    assert asyncio.run(ask()) == [203, 203, 203, 429, 429]


def test_the_outer_application_knows_of_the_refusal_of_a_limiter_inside() -> None:
    limiter = Limiter("1/hour", store=MemoryStore(clock=ManualClock()))

    async def once(request: Request) -> PlainTextResponse:
        limiter.acquire("k", timeout=0)
        return PlainTextResponse("")

    answers = of_starlette(lambda _: once, policy("inner", "9/hour"), 3)
    assert answers == [(200, '"outer";r=8;t=400')] + [(429, '"outer";r=8;t=400')] * 2


def test_a_refusal_that_is_left_to_a_view_inside_gives_no_wrong_password_back_outside() -> None:
    async def login(request: Request) -> PlainTextResponse:
        return PlainTextResponse("", 403)

    mark = rate_limit("1/hour", name="once", enforce=False)
    answers = of_starlette(lambda _: mark(login), policy("inner", "99/hour"), 11)
    assert [status for status, _ in answers] == [403] * 9 + [429] * 2


def test_a_rejection_inside_that_answers_403_costs_nothing_outside() -> None:
    inner = policy("inner", "1/hour")
    inner["rejection"] = lambda *_: PlainTextResponse("", 403)
    assert of_starlette(lambda function: function, inner, 3)[1:] == [(403, '"outer";r=8;t=400')] * 2

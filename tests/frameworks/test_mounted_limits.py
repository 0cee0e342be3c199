"""An application inside another one, and limits in both: each middleware knows those of its endpoints."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from asgi_servers import startup_failure
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route
from starlette_apps import statuses

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.frameworks import aiohttp
from ratekeeper.frameworks.starlette import RateLimitMiddleware, exempt, rate_limit

OUTER = Policy.parse('[[rules]]\nname = "outer"\nlimit = "6/hour"')
INNER = Policy.parse('[[rules]]\nname = "inner"\nlimit = "1/hour"')
OWN: Any = {"attributes": {"user": lambda request: request.headers.get("x-user")}}
ASKED = ["/sub/free"] * 9 + ["/sub/own"] * 3 + ["/sub/page"] * 2 + ["/page"] * 4
"""The limit of /sub/own is 2/hour, by an attribute of the application inside, in the place of its rule."""
ANSWERS = [200] * 9 + [200, 200, 429] + [200, 429] + [200, 200, 200, 429]


def memory() -> MemoryStore:
    return MemoryStore(clock=ManualClock())


def own(function: Any) -> Any:
    return rate_limit("2/hour", key="user", replaces=["inner"])(function)


def answering(response: Any) -> Any:
    async def answer(request: Any) -> Any:
        return response()

    return answer


page = answering(PlainTextResponse)


def inside(place: str) -> list[Any]:
    """Return the route of an application of Starlette, whose middleware stands in one of several places."""
    limits = Middleware(RateLimitMiddleware, INNER, store=memory(), **OWN)
    routes = [
        Route("/free", exempt(answering(PlainTextResponse))),
        Route("/own", own(answering(PlainTextResponse))),
        Route("/page", page),
    ]
    if place == "application":
        return [Mount("/sub", app=Starlette(routes=routes, middleware=[limits]))]
    if place == "mount":
        return [Mount("/sub", routes=routes, middleware=[limits])]
    if place == "host":
        return [Host("127.0.0.1", app=Starlette(routes=[Mount("/sub", Starlette(routes=routes, middleware=[limits]))]))]
    around = RateLimitMiddleware(Starlette(routes=routes), INNER, store=memory(), **OWN)
    return [Mount("/sub", app=around)]


@pytest.mark.parametrize("place", ["application", "mount", "around"])
def test_in_starlette_the_middleware_inside_knows_the_limits_of_its_endpoints(place: str) -> None:
    outer = Middleware(RateLimitMiddleware, OUTER, store=memory())
    app = Starlette(routes=[*inside(place), Route("/page", page)], middleware=[outer])
    assert startup_failure(app) is None
    begin = 9 if place == "around" else 0  # the middleware outside finds no endpoints there, so no exempt ones
    assert statuses(app, *ASKED[begin:]) == ANSWERS[begin:]


def test_in_starlette_a_middleware_of_a_route_knows_the_limits_of_that_route() -> None:
    limits = Middleware(RateLimitMiddleware, INNER, store=memory(), **OWN)
    outer = Middleware(RateLimitMiddleware, OUTER, store=memory())
    app = Starlette(routes=[Route("/own", own(answering(PlainTextResponse)), middleware=[limits])], middleware=[outer])
    assert startup_failure(app) is None
    assert statuses(app, *["/own"] * 3) == [200, 200, 429]


def test_in_starlette_a_host_with_its_own_middleware_knows_the_limits_of_its_endpoints() -> None:
    outer = Middleware(RateLimitMiddleware, OUTER, store=memory())
    app = Starlette(routes=inside("host"), middleware=[outer])
    assert startup_failure(app) is None
    assert statuses(app, *ASKED[:14]) == ANSWERS[:14]


def test_in_aiohttp_the_limits_of_an_application_inside_know_its_handlers() -> None:
    async def ask() -> list[int]:
        app, between, sub = web.Application(), web.Application(), web.Application()
        aiohttp.setup(app, OUTER, store=memory())
        aiohttp.setup(sub, INNER, store=memory(), **OWN)
        sub.router.add_get("/free", exempt(answering(web.Response)))
        sub.router.add_get("/own", own(answering(web.Response)))
        sub.router.add_get("/page", answering(web.Response))
        between.add_subapp("/sub/", sub)
        app.add_subapp("/in/", between)
        app.router.add_get("/page", answering(web.Response))
        async with TestClient(TestServer(app)) as client:
            return [(await client.get(path.replace("/sub", "/in/sub"))).status for path in ASKED]

    assert asyncio.run(ask()) == ANSWERS

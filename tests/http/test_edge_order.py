"""Where the middleware goes, as docs/frameworks.md says: wrong guesses, which another part answers, are counted."""

from __future__ import annotations

import asyncio
from typing import Any

import flask
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from asgi_apps import EACH, limited

from ratekeeper import ManualClock, MemoryStore
from ratekeeper.frameworks import wsgi
from ratekeeper.frameworks.aiohttp import setup
from ratekeeper.frameworks.flask import RateLimits

COUNTED = [401, 401, 401, 429, 429]


def memory() -> MemoryStore:
    return MemoryStore(clock=ManualClock())


def test_in_flask_the_extension_comes_before_who_signs_in() -> None:
    app = flask.Flask(__name__)
    RateLimits(app, EACH, store=memory())
    app.before_request(lambda: ("who are you?", 401))
    assert [app.test_client().get("/").status_code for _ in range(5)] == COUNTED


def test_in_aiohttp_setup_comes_before_the_middleware_that_signs_in() -> None:
    @web.middleware
    async def sign_in(request: web.Request, handler: Any) -> web.StreamResponse:
        return web.Response(status=401)

    async def ask() -> list[int]:
        app = web.Application()
        setup(app, EACH, store=memory())
        app.middlewares.append(sign_in)
        async with TestClient(TestServer(app)) as client:
            return [(await client.get("/")).status for _ in range(5)]

    assert asyncio.run(ask()) == COUNTED


def test_a_wsgi_application_is_wrapped_last() -> None:
    def sign_in(environ: Any, start_response: Any) -> list[bytes]:
        start_response("401 Unauthorized", [])
        return [b""]

    app, seen = wsgi.RateLimitMiddleware(sign_in, EACH, store=memory()), []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": "192.0.2.1"}
    for _ in range(5):
        app(dict(environ), lambda status, headers: seen.append(int(status[:3])))
    assert seen == COUNTED


def test_an_asgi_application_is_wrapped_last() -> None:
    async def sign_in(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask() -> list[int]:
        app, seen = limited(EACH, sign_in), []

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            if "status" in message:
                seen.append(message["status"])

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}
        for _ in range(5):
            await app(dict(scope), receive, send)
        return seen

    assert asyncio.run(ask()) == COUNTED

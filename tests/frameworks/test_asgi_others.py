"""Limits in Litestar and Quart, by the plain ASGI middleware around the whole application, behind a real uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import litestar
import pytest
import quart
import websockets.sync.client
from asgi_apps import EACH, limited
from asgi_servers import serving
from litestar.response import Stream
from oracles import structured

from ratekeeper.frameworks.asgi import rate_limit


async def parts() -> AsyncIterator[bytes]:
    for part in (b"one", b"\x00\xff" * 5_000, b"three"):
        yield part


def litestar_app() -> Any:
    @litestar.get("/")
    async def index() -> str:
        return "hello"

    @litestar.get("/stream")
    async def stream() -> Stream:
        return Stream(parts())

    @litestar.get("/fails")
    async def fails() -> None:
        raise RuntimeError("an error of the application's own")

    @litestar.get("/send")
    @rate_limit("1/minute", name="send", key=lambda scope: dict(scope["headers"])[b"x-user"].decode())
    async def send() -> str:
        return "sent"

    @litestar.get("/sync", sync_to_thread=True)
    @rate_limit("1/minute", name="sync")
    def sync() -> str:
        return "done"

    @litestar.websocket_listener("/ws")
    async def echo(data: str) -> str:
        return data

    return litestar.Litestar([index, stream, fails, send, sync, echo], logging_config=None)


def quart_app() -> Any:
    app = quart.Quart("tests")

    @app.get("/")
    async def index() -> str:
        return "hello"

    @app.get("/stream")
    async def stream() -> Any:
        return parts()

    @app.get("/fails")
    async def fails() -> str:
        raise RuntimeError("an error of the application's own")

    @app.get("/send")
    @rate_limit("1/minute", name="send", key=lambda scope: dict(scope["headers"])[b"x-user"].decode())
    async def send() -> str:
        return "sent"

    @app.get("/sync")
    @rate_limit("1/minute", name="sync")
    def sync() -> str:
        return "done"

    @app.websocket("/ws")
    async def echo() -> None:
        while True:
            await quart.websocket.send(await quart.websocket.receive())

    return app


@pytest.fixture(params=[litestar_app, quart_app], ids=["Litestar", "Quart"])
def app(request: pytest.FixtureRequest) -> Any:
    return request.param()


def statuses(url: str, number: int, **headers: str) -> list[int]:
    return [httpx.get(url, headers=headers).status_code for _ in range(number)]


def test_over_the_limit_a_client_gets_429_with_a_problem_and_the_headers(app: Any) -> None:
    with serving(limited(EACH, app)) as url:
        *allowed, refused = [httpx.get(url) for _ in range(4)]
    assert [one.text for one in allowed] == ["hello"] * 3
    assert [structured(one.headers["ratelimit"])[0][1] for one in allowed] == [{"r": n, "t": 20} for n in (2, 1, 0)]
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "20")
    assert refused.json()["violated-policies"] == ["each"]


def test_streams_websockets_and_errors_are_the_same_with_limits_and_without(app: Any) -> None:
    seen = []
    for one in (app, limited(EACH, app)):
        with serving(one) as url:
            with websockets.sync.client.connect(f"{url.replace('http', 'ws')}/ws") as socket:
                socket.send("x" * 70_000)
                echoed = socket.recv()
            fails, stream = httpx.get(f"{url}/fails"), httpx.get(f"{url}/stream")
            seen.append((echoed, fails.status_code, fails.content, stream.content))
    assert seen[0] == seen[1]
    assert seen[0][1] == 500
    assert len(seen[0][3]) > 10_000


def test_a_decorated_endpoint_answers_429_also_where_the_framework_makes_a_500_of_what_it_does_not_know(
    app: Any,
) -> None:
    with serving(limited(None, app)) as url:
        assert statuses(f"{url}/send", 2, **{"x-user": "alice"}) == [200, 429]
        assert statuses(f"{url}/send", 2, **{"x-user": "bob"}) == [200, 429]
        assert statuses(f"{url}/sync", 2) == [200, 429]
        refused = httpx.get(f"{url}/sync")
        assert refused.json()["violated-policies"] == ["sync"]
        assert refused.headers["retry-after"] == "60"

"""The sites of `edge_sites` in asynchronous frameworks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import litestar
import quart
from aiohttp import web
from asgi_servers import serving
from edge_sites import BELOW, PLAIN, Call, Site, cookie_of, decorated, route_of
from fastapi import FastAPI
from litestar.enums import MediaType
from raw_client import RawClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ratekeeper.frameworks import aiohttp as own_aiohttp
from ratekeeper.frameworks import asgi, starlette

NAMES = (*BELOW, *PLAIN, "items", "any", "inner", "both", "own")


@contextmanager
def site_of(app: Any, calls: list[Call], **options: Any) -> Iterator[Site]:
    with serving(app, proxy_headers=False, **options) as url, closing(RawClient(url)) as client:
        yield Site(client, calls)


@contextmanager
def asgi_site(**options: Any) -> Iterator[Site]:
    calls: list[Call] = []

    def run_of(name: str) -> Any:
        async def run(call: Call) -> None:
            calls.append(call)

        return decorated(name, run)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        headers = {key.decode(): value.decode("latin-1") for key, value in scope["headers"]}
        name, item = route_of(scope["path"])
        cookie = cookie_of(headers.get("cookie", ""))
        if name:
            key, authorization = headers.get("x-api-key"), headers.get("authorization")
            await runs[name](Call(name, scope["method"], key, cookie, authorization, item))
        status = 200 if name else 404
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    runs = {name: run_of(name) for name in NAMES}
    with site_of(asgi.RateLimitMiddleware(application, **options), calls, lifespan="off") as site:
        yield site


class _Any:
    """An endpoint for every method."""

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._calls.append(Call("any", scope["method"], None, None, None))
        await PlainTextResponse("")(scope, receive, send)


def _starlette_run(name: str, calls: list[Call]) -> Any:
    async def run(request: Request) -> PlainTextResponse:
        headers, item = request.headers, request.path_params.get("item")
        key, cookie = headers.get("x-api-key"), request.cookies.get("session")
        calls.append(Call(name, request.method, key, cookie, headers.get("authorization"), item))
        return PlainTextResponse("")

    return decorated(name, run)


def _path(name: str, below: str, one: str) -> str:
    return f"/{name}{below if name in BELOW else one if name == 'items' else ''}"


@contextmanager
def starlette_site(**options: Any) -> Iterator[Site]:
    calls: list[Call] = []
    routes = [
        Route(_path(name, "/{item:path}", "/{item}"), _starlette_run(name, calls), methods=["GET", "POST"])
        for name in NAMES
        if name != "any"
    ]
    app = Starlette(routes=[*routes, Route("/any", _Any(calls))])
    app.add_middleware(starlette.RateLimitMiddleware, **options)
    with site_of(app, calls) as site:
        yield site


@contextmanager
def fastapi_site(**options: Any) -> Iterator[Site]:
    calls: list[Call] = []
    app = FastAPI()
    for name in NAMES:
        if name != "any":
            path, run = _path(name, "/{item:path}", "/{item}"), _starlette_run(name, calls)
            app.add_api_route(path, run, methods=["GET", "HEAD", "POST"], response_model=None)
    app.router.routes.append(Route("/any", _Any(calls)))
    app.add_middleware(starlette.RateLimitMiddleware, **options)
    with site_of(app, calls) as site:
        yield site


@contextmanager
def litestar_site(**options: Any) -> Iterator[Site]:
    calls: list[Call] = []

    def handler(name: str) -> Any:
        async def run(request: litestar.Request[Any, Any, Any]) -> str:
            headers, item = request.headers, request.path_params.get("item")
            key, cookie = headers.get("x-api-key"), request.cookies.get("session")
            calls.append(Call(name, request.method, key, cookie, headers.get("authorization"), item))
            return ""

        methods: Any = ["GET", "HEAD", "POST"]
        return litestar.route(
            _path(name, "/{item:path}", "/{item:str}"), http_method=methods, status_code=200, media_type=MediaType.TEXT
        )(decorated(name, run))

    app = litestar.Litestar([handler(name) for name in NAMES], logging_config=None, openapi_config=None)
    with site_of(asgi.RateLimitMiddleware(app, **options), calls) as site:  # type: ignore[arg-type]
        yield site


@contextmanager
def quart_site(**options: Any) -> Iterator[Site]:
    calls: list[Call] = []
    app = quart.Quart("tests")

    def run_of(name: str) -> Any:
        async def run(item: str | None = None) -> str:
            headers = quart.request.headers
            key, cookie = headers.get("x-api-key"), quart.request.cookies.get("session")
            calls.append(Call(name, quart.request.method, key, cookie, headers.get("authorization"), item))
            return ""

        return decorated(name, run)

    for name in NAMES:
        path = _path(name, "/<path:item>", "/<item>")
        app.add_url_rule(path, endpoint=name, view_func=run_of(name), methods=["GET", "POST"])
    around: Any = app
    around.asgi_app = asgi.RateLimitMiddleware(around.asgi_app, **options)
    with site_of(app, calls) as site:
        yield site


@contextmanager
def aiohttp_site(**options: Any) -> Iterator[Site]:
    calls: list[Call] = []
    app = web.Application()

    def run_of(name: str) -> Any:
        async def run(request: web.Request) -> web.Response:
            headers, item = request.headers, request.match_info.get("item")
            key, cookie = headers.get("x-api-key"), request.cookies.get("session")
            calls.append(Call(name, request.method, key, cookie, headers.get("authorization"), item))
            return web.Response()

        return decorated(name, run)

    for name in NAMES:
        resource = app.router.add_resource(_path(name, "/{item:.+}", "/{item}"))
        run = run_of(name)
        for method in ("*",) if name == "any" else ("GET", "HEAD", "POST"):
            resource.add_route(method, run)
    own_aiohttp.setup(app, **options)
    with serving_aiohttp(app) as url, closing(RawClient(url)) as client:
        yield Site(client, calls)


@contextmanager
def serving_aiohttp(app: web.Application) -> Iterator[str]:
    """An aiohttp application on a real server in its own thread; yields its URL."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app)

    async def start() -> str:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

"""A request's limits after the framework's call: in a body that is streamed, and in a handler of errors outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django_site  # noqa: F401  it sets Django up
import fastapi
import flask
import httpx
import pytest
from asgi_servers import serving as serving_asgi
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, StreamingHttpResponse
from django.test import override_settings
from django.urls import path
from starlette.responses import PlainTextResponse
from starlette_apps import limited
from web_sites import memory, serving
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from ratekeeper import Policy
from ratekeeper.frameworks import wsgi
from ratekeeper.frameworks.flask import RateLimits

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/hour"')
LEFT = ["each=2", "each=3"]
"""Left in the first line of each body, and left after the refund in its second line."""


def told(limits: Any) -> str:
    return f"each={limits.usage()[0].remaining}\n"


def asked_twice(url: str) -> list[list[str]]:
    return [httpx.get(url).text.split() for _ in range(2)]


def of_wsgi() -> list[list[str]]:
    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield told(environ["ratekeeper"]).encode()
        environ["ratekeeper"].refund()
        yield told(environ["ratekeeper"]).encode()

    with serving(wsgi.RateLimitMiddleware(application, EACH, store=memory())) as client:
        return asked_twice(str(client.base_url))


def of_flask() -> list[list[str]]:
    app = flask.Flask("f")
    RateLimits(app, EACH, store=memory())

    @app.get("/")
    def stream() -> flask.Response:
        def parts() -> Iterator[str]:
            yield told(flask.g.ratekeeper)
            flask.g.ratekeeper.refund()
            yield told(flask.g.ratekeeper)

        return flask.Response(flask.stream_with_context(parts()))

    with serving(app) as client:
        return asked_twice(str(client.base_url))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    limits: Any = request

    def parts() -> Iterator[str]:
        yield told(limits.ratekeeper)
        limits.ratekeeper.refund()
        yield told(limits.ratekeeper)

    return StreamingHttpResponse(parts())


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    limits: Any = request

    async def parts() -> AsyncIterator[str]:
        yield f"each={(await limits.ratekeeper.usage())[0].remaining}\n"
        await limits.ratekeeper.refund()
        yield f"each={(await limits.ratekeeper.usage())[0].remaining}\n"

    return StreamingHttpResponse(parts())


urlpatterns = [path("sync", stream), path("async", stream_async)]


def of_django() -> list[list[str]]:
    with (
        override_settings(RATEKEEPER={"policy": EACH, "store": memory()}, ROOT_URLCONF=__name__),
        serving(get_wsgi_application()) as client,
    ):
        return asked_twice(str(client.base_url.join("/sync")))


def of_django_asgi() -> list[list[str]]:
    with (
        override_settings(RATEKEEPER={"policy": EACH, "store": memory()}, ROOT_URLCONF=__name__),
        serving_asgi(get_asgi_application(), lifespan="off") as url,
    ):
        return asked_twice(f"{url}/async")


def test_applications_that_are_mounted_within_flask_keep_their_own_limits() -> None:
    inner = flask.Flask("inner")
    RateLimits(inner, Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "7/hour"'), store=memory())
    inner.get("/")(lambda: flask.Response(flask.stream_with_context(told(flask.g.ratekeeper) for _ in range(1))))

    def bare(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"bare"]

    outer = flask.Flask("outer")
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/inner": inner, "/bare": bare})  # type: ignore[method-assign]
    RateLimits(outer, EACH, store=memory())
    with serving(outer) as client:
        assert [client.get(path).text for path in ("/inner/", "/bare")] == ["each=6\n", "bare"]


@pytest.mark.parametrize("ask", [of_wsgi, of_flask, of_django, of_django_asgi])
def test_a_body_that_is_streamed_may_use_the_limits_of_its_request(ask: Any) -> None:
    assert ask() == [LEFT, LEFT]


def test_a_handler_of_all_errors_may_give_the_charge_back() -> None:
    app = limited(fastapi.FastAPI(), policy=EACH)

    @app.exception_handler(Exception)  # type: ignore[untyped-decorator]
    async def apologise(request: fastapi.Request, error: Exception) -> PlainTextResponse:
        await request.state.ratekeeper.refund()
        return PlainTextResponse("sorry", 500)

    def fail() -> None:
        raise KeyError("the application's own")

    app.add_api_route("/", fail)

    async def ask() -> list[str]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [(await client.get("/")).text for _ in range(5)]

    assert asyncio.run(ask()) == ["sorry"] * 5

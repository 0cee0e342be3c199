"""One site in each framework that tells a request's endpoint, with endpoints that are decorated as a test says.

An endpoint answers what the limits of its request say to the verb in the header X-Verb: see `said`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from inspect import isawaitable
from typing import Any, TypeAlias, cast

import django_site  # noqa: F401  it sets Django up
import flask
from aiohttp import web
from asgi_servers import serving as serving_asgi
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from edge_asgi_sites import serving_aiohttp
from fastapi import FastAPI
from fastapi import Response as FastResponse
from raw_client import RawClient
from rest_framework.response import Response
from rest_framework.views import APIView
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from web_sites import serving

from ratekeeper.frameworks import aiohttp as own_aiohttp
from ratekeeper.frameworks import flask as own_flask
from ratekeeper.frameworks import starlette
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.usage import Usage

Decorators: TypeAlias = Mapping[str, Callable[[Any], Any]]
"""The decorator of each endpoint, by its path without the slash."""
MakeSite: TypeAlias = Callable[..., AbstractContextManager[RawClient]]

METHODS = ["GET", "HEAD", "POST"]
WRONG_PASSWORD = "wrong-password"
"""The verb to which an endpoint says 403."""


async def said_async(limits: Any, verb: str | None) -> tuple[str, int]:
    """Return what a request's limits say to a verb, and the status of the answer."""
    value = _answer(limits, verb)
    return _text(await value if isawaitable(value) else value), _status(limits, verb)


def said(limits: Any, verb: str | None) -> tuple[str, int]:
    """As `said_async`, called."""
    return _text(_answer(limits, verb)), _status(limits, verb)


def _answer(limits: Any, verb: str | None) -> Any:
    """Return what limits say to a verb with its arguments, such as "grant 2 each"."""
    name, *words = ("decision" if verb in {None, WRONG_PASSWORD} else str(verb)).split()
    arguments = [int(word) if word.isdigit() else word for word in words]
    answer = getattr(limits, name)
    return answer(*arguments) if callable(answer) else answer


def _text(value: Any) -> str:
    if isinstance(value, PolicyDecision):
        return " ".join(f"{rule.name}={rule.decision.remaining}" for rule in value.rules)
    if isinstance(value, tuple | list):
        return " ".join(f"{one.name}={one.used}" if isinstance(one, Usage) else f"[{_text(one)}]" for one in value)
    return str(value)


def _status(limits: Any, verb: str | None) -> int:
    """Return the status of an endpoint that answers a refusal itself, or one that forbids something else."""
    if verb == WRONG_PASSWORD:
        return 403
    return 200 if limits.decision.allowed else 429 if verb is None else 202


@contextmanager
def _asking(server: AbstractContextManager[str]) -> Iterator[RawClient]:
    with server as url, closing(RawClient(url)) as client:
        yield client


def _starlette_endpoint(name: str, decorate: Callable[[Any], Any]) -> Any:
    async def endpoint(request: Request) -> PlainTextResponse:
        text, status = await said_async(request.state.ratekeeper, request.headers.get("x-verb"))
        return PlainTextResponse(text, status)

    return decorate(endpoint)


def starlette_site(decorators: Decorators, **options: Any) -> AbstractContextManager[RawClient]:
    app = Starlette(
        routes=[Route(f"/{name}", _starlette_endpoint(name, own), methods=METHODS) for name, own in decorators.items()]
    )
    app.add_middleware(starlette.RateLimitMiddleware, **options)
    return _asking(serving_asgi(app, proxy_headers=False))


def fastapi_site(decorators: Decorators, **options: Any) -> AbstractContextManager[RawClient]:
    app = FastAPI()

    def endpoint(name: str, decorate: Callable[[Any], Any]) -> Any:
        async def run(request: Request, response: FastResponse) -> str:
            text, response.status_code = await said_async(request.state.ratekeeper, request.headers.get("x-verb"))
            return text

        return decorate(run)

    for name, own in decorators.items():
        app.add_api_route(f"/{name}", endpoint(name, own), methods=METHODS)
    app.add_middleware(starlette.RateLimitMiddleware, **options)
    return _asking(serving_asgi(app, proxy_headers=False))


def aiohttp_site(decorators: Decorators, **options: Any) -> AbstractContextManager[RawClient]:
    app = web.Application()

    def endpoint(name: str, decorate: Callable[[Any], Any]) -> Any:
        async def run(request: web.Request) -> web.Response:
            text, status = await said_async(request[own_aiohttp.request_limits], request.headers.get("x-verb"))
            return web.Response(text=text, status=status)

        return decorate(run)

    for name, own in decorators.items():
        resource, run = app.router.add_resource(f"/{name}"), endpoint(name, own)
        for method in METHODS:
            resource.add_route(method, run)
    own_aiohttp.setup(app, **options)
    return _asking(serving_aiohttp(app))


@contextmanager
def _serving(app: Any) -> Iterator[str]:
    with serving(app) as client:
        yield str(client.base_url)


def flask_site(decorators: Decorators, **options: Any) -> AbstractContextManager[RawClient]:
    app = flask.Flask(__name__)

    def endpoint(name: str, decorate: Callable[[Any], Any]) -> Any:
        def run() -> tuple[str, int]:
            return said(flask.g.ratekeeper, flask.request.headers.get("x-verb"))

        return decorate(run)

    for name, own in decorators.items():
        app.add_url_rule(f"/{name}", endpoint=name, view_func=endpoint(name, own), methods=METHODS)
    own_flask.RateLimits(app, **options)
    return _asking(_serving(app))


def _django_view(name: str, decorate: Callable[[Any], Any]) -> Any:
    def view(request: HttpRequest) -> HttpResponse:
        text, status = said(cast("Any", request).ratekeeper, request.headers.get("x-verb"))
        return HttpResponse(text, status=status)

    return decorate(view)


def _django_async_view(name: str, decorate: Callable[[Any], Any]) -> Any:
    async def view(request: HttpRequest) -> HttpResponse:
        text, status = await said_async(cast("Any", request).ratekeeper, request.headers.get("x-verb"))
        return HttpResponse(text, status=status)

    return decorate(view)


def _drf_view(name: str, decorate: Callable[[Any], Any]) -> Any:
    class View(APIView):  # type: ignore[misc]
        authentication_classes = ()

        @decorate
        def get(self, request: Any) -> Response:
            text, status = said(request.ratekeeper, request.headers.get("x-verb"))
            return Response(text, status)

        post = get

    return View.as_view()


@contextmanager
def django_site_of(under: str, view: Any, decorators: Decorators, **options: Any) -> Iterator[RawClient]:
    urls = tuple(path(name, view(name, own)) for name, own in decorators.items())
    middleware = ["ratekeeper.frameworks.django.RateLimitMiddleware"]
    with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=middleware, RATEKEEPER=options):
        if under == "ASGI":
            server: Any = serving_asgi(get_asgi_application(), lifespan="off", proxy_headers=False)
        else:
            server = _serving(get_wsgi_application())
        with _asking(server) as client:
            yield client


SITES: dict[str, MakeSite] = {
    "Starlette": starlette_site,
    "FastAPI": fastapi_site,
    "aiohttp": aiohttp_site,
    "Flask": flask_site,
    "Django": partial(django_site_of, "WSGI", _django_view),
    "Django-ASGI": partial(django_site_of, "ASGI", _django_async_view),
    "DRF": partial(django_site_of, "WSGI", _drf_view),
}

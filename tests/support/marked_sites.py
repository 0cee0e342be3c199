"""One site in each framework that tells a request's endpoint, with endpoints that are decorated as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import Any, TypeAlias

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

Decorators: TypeAlias = Mapping[str, Callable[[Any], Any]]
"""The decorator of each endpoint, by its path without the slash."""
MakeSite: TypeAlias = Callable[..., AbstractContextManager[RawClient]]

METHODS = ["GET", "HEAD", "POST"]


@contextmanager
def _asking(server: AbstractContextManager[str]) -> Iterator[RawClient]:
    with server as url, closing(RawClient(url)) as client:
        yield client


def _starlette_endpoint(name: str, decorate: Callable[[Any], Any]) -> Any:
    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse(name)

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
        def run() -> str:
            return name

        return decorate(run)

    for name, own in decorators.items():
        app.add_api_route(f"/{name}", endpoint(name, own), methods=METHODS)
    app.add_middleware(starlette.RateLimitMiddleware, **options)
    return _asking(serving_asgi(app, proxy_headers=False))


def aiohttp_site(decorators: Decorators, **options: Any) -> AbstractContextManager[RawClient]:
    app = web.Application()

    def endpoint(name: str, decorate: Callable[[Any], Any]) -> Any:
        async def run(request: web.Request) -> web.Response:
            return web.Response(text=name)

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
        def run() -> str:
            return name

        return decorate(run)

    for name, own in decorators.items():
        app.add_url_rule(f"/{name}", endpoint=name, view_func=endpoint(name, own), methods=METHODS)
    own_flask.RateLimits(app, **options)
    return _asking(_serving(app))


def _django_view(name: str, decorate: Callable[[Any], Any]) -> Any:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(name)

    return decorate(view)


def _drf_view(name: str, decorate: Callable[[Any], Any]) -> Any:
    class View(APIView):  # type: ignore[misc]
        authentication_classes = ()

        @decorate
        def get(self, request: Any) -> Response:
            return Response(name)

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
    "Django-ASGI": partial(django_site_of, "ASGI", _django_view),
    "DRF": partial(django_site_of, "WSGI", _drf_view),
}

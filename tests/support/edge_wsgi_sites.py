"""The sites of `edge_sites` in frameworks that call, in Django under ASGI too, and behind a gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import django_site  # noqa: F401  it sets Django up
import flask
from asgi_servers import serving as serving_asgi
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from edge_sites import BELOW, PLAIN, Call, Site, cookie_of, decorated, memory, route_of
from raw_client import Answer, Header, RawClient
from service_thread import serving_in_thread
from web_sites import serving

from ratekeeper.frameworks import flask as own_flask
from ratekeeper.frameworks import wsgi
from ratekeeper.service.core import Core

NAMES = (*BELOW, *PLAIN, "items", "any", "inner", "both", "own")
HOP_BY_HOP = {b"connection", b"content-length"}


@contextmanager
def site_of(app: Any, calls: list[Call]) -> Iterator[Site]:
    with serving(app) as http, closing(RawClient(str(http.base_url))) as client:
        yield Site(client, calls)


def plain_application(calls: list[Call]) -> Any:
    runs = {name: decorated(name, calls.append) for name in ("inner", "both", "own")}

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        name, item = route_of(environ["PATH_INFO"])
        cookie = cookie_of(environ.get("HTTP_COOKIE", ""))
        if name:
            key, authorization = environ.get("HTTP_X_API_KEY"), environ.get("HTTP_AUTHORIZATION")
            call = Call(name, environ["REQUEST_METHOD"], key, cookie, authorization, item)
            runs.get(name, calls.append)(call)
        start_response("200 OK" if name else "404 Not Found", [("Content-Length", "0")])
        return []

    return application


@contextmanager
def wsgi_site(**options: Any) -> Iterator[Site]:
    calls: list[Call] = []
    with site_of(wsgi.RateLimitMiddleware(plain_application(calls), **options), calls) as site:
        yield site


@contextmanager
def flask_site(**options: Any) -> Iterator[Site]:
    calls: list[Call] = []
    app = flask.Flask(__name__)

    def run_of(name: str) -> Any:
        def run(item: str | None = None) -> str:
            headers = flask.request.headers
            key, cookie = headers.get("x-api-key"), flask.request.cookies.get("session")
            calls.append(Call(name, flask.request.method, key, cookie, headers.get("authorization"), item))
            return ""

        return decorated(name, run)

    for name in NAMES:
        rule = f"/{name}{'/<path:item>' if name in BELOW else '/<item>' if name == 'items' else ''}"
        app.add_url_rule(rule, endpoint=name, view_func=run_of(name), methods=["GET", "POST"])
    own_flask.RateLimits(app, **options)
    with site_of(app, calls) as site:
        yield site


def django_urls(calls: list[Call]) -> tuple[Any, ...]:
    def view_of(name: str) -> Any:
        def view(request: HttpRequest, item: str | None = None) -> HttpResponse:
            headers = request.headers
            key, cookie = headers.get("x-api-key"), request.COOKIES.get("session")
            calls.append(Call(name, request.method or "", key, cookie, headers.get("authorization"), item))
            return HttpResponse("")

        return decorated(name, view)

    below = {**dict.fromkeys(BELOW, "/<path:item>"), "items": "/<item>"}
    return tuple(path(f"{name}{below.get(name, '')}", view_of(name)) for name in NAMES)


@contextmanager
def django_site_of(serve: Any, **options: Any) -> Iterator[Site]:
    calls: list[Call] = []
    own = {"ROOT_URLCONF": django_urls(calls), "MIDDLEWARE": ["ratekeeper.frameworks.django.RateLimitMiddleware"]}
    with override_settings(RATEKEEPER=options, **own), serve() as url, closing(RawClient(url)) as client:
        yield Site(client, calls)


@contextmanager
def django_wsgi_site(**options: Any) -> Iterator[Site]:
    @contextmanager
    def serve() -> Iterator[str]:
        with serving(get_wsgi_application()) as http:
            yield str(http.base_url)

    with django_site_of(serve, **options) as site:
        yield site


@contextmanager
def django_asgi_site(**options: Any) -> Iterator[Site]:
    def serve() -> Any:
        return serving_asgi(get_asgi_application(), lifespan="off", proxy_headers=False)

    with django_site_of(serve, **options) as site:
        yield site


class GatewayClient(RawClient):
    """Asks /check of each request, as Caddy's `forward_auth` does, and the application if that says so."""

    def __init__(self, url: str, service: str) -> None:
        super().__init__(url)
        self._service = RawClient(service)

    def send(self, target: str | bytes, *headers: Header, method: bytes = b"GET", body: bytes = b"") -> Answer:
        raw = target.encode() if isinstance(target, str) else target
        handed_on = [header for header in headers if header[0].lower() not in HOP_BY_HOP]
        said = [(b"X-Forwarded-Method", method), (b"X-Forwarded-Uri", raw), (b"X-Forwarded-For", b"192.0.2.1")]
        answer = self._service.send("/check", *handed_on, *said)
        if answer.status != 200:
            return answer
        return super().send(target, *headers, method=method, body=body)._replace(headers=answer.headers)

    def close(self) -> None:
        super().close()
        self._service.close()


@contextmanager
def gateway_site(policy: Any, store: Any = None, **options: Any) -> Iterator[Site]:
    calls: list[Call] = []
    core = Core(policy, store or memory(), **options)
    with (
        serving(plain_application(calls)) as http,
        serving_in_thread(core) as service,
        closing(GatewayClient(str(http.base_url), service.url)) as client,
    ):
        yield Site(client, calls)

"""One small site in each framework, limited as a test says, on a real server in this process, on whose clock tests are.

/items/1    says 1                          /stream   sends BODY in pieces
/send       once an hour for each x-user    /own      raises the application's own RateLimitExceeded
/boom       raises an error
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django_site  # noqa: F401  it sets Django up
import flask
import httpx
from asgi_servers import serving as serving_asgi
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import override_settings
from site_parts import PIECES, exceed_a_limit_of_its_own, of_user

from ratekeeper import ManualClock, MemoryStore
from ratekeeper.frameworks import wsgi
from ratekeeper.frameworks.flask import RateLimits
from ratekeeper.frameworks.wsgi import rate_limit


@contextmanager
def wsgi_site(**options: Any) -> Iterator[httpx.Client]:
    @rate_limit("1/hour", key=of_user)
    def send() -> list[bytes]:
        return [b"sent"]

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/boom":
            raise ValueError("boom")
        if path == "/own":
            exceed_a_limit_of_its_own()
        bodies: dict[str, Callable[[], Iterable[bytes]]] = {"/stream": lambda: iter(PIECES), "/send": send}
        body = bodies.get(path, lambda: [b"1"])()
        start_response("404 Not Found" if path == "/none" else "200 OK", [("Content-Type", "text/plain")])
        return body

    with serving(wsgi.RateLimitMiddleware(application, **options)) as client:
        yield client


def flask_app() -> flask.Flask:
    app = flask.Flask(__name__)
    app.get("/items/<int:item>")(lambda item: f"{item}")
    app.get("/send", endpoint="send")(rate_limit("1/hour", key=of_user)(lambda: "sent"))
    app.get("/stream", endpoint="stream")(lambda: flask.Response(iter(PIECES)))
    app.get("/own", endpoint="own")(exceed_a_limit_of_its_own)

    @app.get("/boom")
    def boom() -> str:
        raise ValueError("boom")

    return app


@contextmanager
def flask_site(**options: Any) -> Iterator[httpx.Client]:
    app = flask_app()
    RateLimits(app, **options)
    with serving(app) as client:
        yield client


@contextmanager
def django_wsgi_site(**options: Any) -> Iterator[httpx.Client]:
    with override_settings(RATEKEEPER=options), serving(get_wsgi_application()) as client:
        yield client


@contextmanager
def django_asgi_site(**options: Any) -> Iterator[httpx.Client]:
    with (
        override_settings(RATEKEEPER=options),
        serving_asgi(get_asgi_application(), lifespan="off", proxy_headers=False) as url,
        httpx.Client(base_url=url) as client,
    ):
        yield client


SITES = {"wsgi": wsgi_site, "flask": flask_site, "django": django_wsgi_site, "django-asgi": django_asgi_site}


def own_rejection(framework: str) -> Any:
    """Return the framework's own answer to a refused request: a 418."""
    if framework == "wsgi":
        return lambda environ, start_response: (start_response("418 I'm a teapot", []), [b"own"])[1]
    return ("own", 418) if framework == "flask" else HttpResponse("own", status=418)


def memory() -> MemoryStore:
    return MemoryStore(clock=ManualClock())


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return str(self.client_address[0])


@contextmanager
def serving(application: Any) -> Iterator[httpx.Client]:
    """A WSGI application on a real server; yields a client of it."""
    with make_server("127.0.0.1", 0, application, _Server, _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
                yield client
        finally:
            server.shutdown()
            thread.join()

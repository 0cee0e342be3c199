"""`python -m benchmarks.frameworks`: what limits add to a bare Starlette and a bare Flask request, in this process.

Processor time, headers on, beside slowapi and Flask-Limiter where they are installed. Applications are called as a
server would call them. Rounds are interleaved, so that all share the noise. The added time is a round's time less that
of the bare application in the same round. Ratios count.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from platform import python_version
from statistics import median
from typing import Any

import flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.report import machine
from ratekeeper import Policy
from ratekeeper.frameworks import flask as ours_in_flask
from ratekeeper.frameworks import starlette as ours_in_starlette

ROUNDS, REQUESTS = 60, 300
LIMIT = "1000000/hour"
POLICY = Policy.parse(f'[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "{LIMIT}"')
BARE, MIDDLEWARE, DECORATOR = "bare", "ratekeeper, policy", "ratekeeper, rate_limit"

Serve = Callable[[int], list[str]]
"""Serves so many requests; returns the names of the headers of the last."""


# ---- Starlette ----


def starlette_app(endpoint: Callable[..., Any], **middleware: Any) -> Starlette:
    app = Starlette(routes=[Route("/items/{item}", endpoint)])
    if middleware:
        app.add_middleware(ours_in_starlette.RateLimitMiddleware, **middleware)
    return app


def starlette_apps() -> dict[str, Starlette]:
    async def item(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    apps = {
        BARE: starlette_app(item),
        MIDDLEWARE: starlette_app(item, policy=POLICY),
        DECORATOR: starlette_app(ours_in_starlette.rate_limit(LIMIT)(item), policy=None),
    }
    if find_spec("slowapi"):
        slowapi: Any = import_module("slowapi")
        client = import_module("slowapi.util").get_remote_address
        limiter = slowapi.Limiter(client, headers_enabled=True)
        apps["slowapi, decorator"] = starlette_app(limiter.limit(LIMIT)(item))
        apps["slowapi, decorator"].state.limiter = limiter

        async def other(request: Request) -> PlainTextResponse:
            return PlainTextResponse("hello")

        app = apps["slowapi, ASGI middleware"] = starlette_app(other)
        app.state.limiter = slowapi.Limiter(client, headers_enabled=True, default_limits=[LIMIT])
        app.add_middleware(import_module("slowapi.middleware").SlowAPIASGIMiddleware)
    return apps


def served_by_asgi(app: Any) -> Serve:
    heads: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200
            heads[:] = [name.decode() for name, _ in message["headers"]]

    async def serve(requests: int) -> None:
        for _ in range(requests):
            scope = {
                "type": "http", "method": "GET", "path": "/items/1", "raw_path": b"/items/1", "query_string": b"",
                "root_path": "", "scheme": "http", "http_version": "1.1", "server": ("127.0.0.1", 80),
                "client": ("192.0.2.7", 4711), "headers": [(b"host", b"localhost"), (b"accept", b"*/*")],
            }  # fmt: skip
            await app(scope, receive, send)

    loop = asyncio.new_event_loop()
    return lambda requests: loop.run_until_complete(serve(requests)) or heads


# ---- Flask ----


def hello() -> str:
    return "hello"


def flask_app(view: Callable[[], str]) -> flask.Flask:
    app = flask.Flask(__name__)
    app.get("/")(view)
    return app


def flask_apps() -> dict[str, flask.Flask]:
    apps = {BARE: flask_app(hello), MIDDLEWARE: flask_app(hello)}
    ours_in_flask.RateLimits(apps[MIDDLEWARE], POLICY)
    apps[DECORATOR] = flask_app(ours_in_flask.rate_limit(LIMIT)(hello))
    ours_in_flask.RateLimits(apps[DECORATOR])
    if find_spec("flask_limiter"):
        theirs: Any = import_module("flask_limiter")
        client = import_module("flask_limiter.util").get_remote_address
        limiter = theirs.Limiter(client, storage_uri="memory://", headers_enabled=True)
        apps["Flask-Limiter, decorator"] = flask_app(limiter.limit(LIMIT)(hello))
        limiter.init_app(apps["Flask-Limiter, decorator"])
        app = apps["Flask-Limiter, default limits"] = flask_app(hello)
        theirs.Limiter(client, app=app, storage_uri="memory://", headers_enabled=True, default_limits=[LIMIT])
    return apps


def served_by_wsgi(app: flask.Flask) -> Serve:
    heads: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        assert status == "200 OK"
        heads[:] = [name for name, _ in headers]

    def serve(requests: int) -> list[str]:
        for _ in range(requests):
            environ = {
                "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": "",
                "REMOTE_ADDR": "192.0.2.7", "SERVER_NAME": "localhost", "SERVER_PORT": "80", "HTTP_HOST": "localhost",
                "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.version": (1, 0), "wsgi.input": None,
                "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
            }  # fmt: skip
            for _ in app.wsgi_app(environ, start_response):  # type: ignore[arg-type]
                pass
        return heads

    return serve


# ---- both ----


def time_rounds(title: str, cases: dict[str, Serve]) -> dict[str, list[float]]:
    """Return us a request in each round."""
    for name, serve in cases.items():
        tells = any("ratelimit" in header.lower() for header in serve(REQUESTS))
        assert tells is (name != BARE), f"{name} does not tell its limits, or should not"
    gc.collect()
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(ROUNDS):
        if sys.stderr.isatty():
            print(f"\r{title}: {turn + 1} of {ROUNDS}", end="\n" * (turn + 1 == ROUNDS), file=sys.stderr)
        for name in random.sample(list(cases), len(cases)):
            began = time.process_time_ns()
            cases[name](REQUESTS)
            taken[name].append((time.process_time_ns() - began) / 1e3 / REQUESTS)
    return taken


def report(title: str, taken: dict[str, list[float]], peer: str, most: float) -> None:
    bare = taken[BARE]
    best = {name: min(times) - min(bare) for name, times in taken.items()}
    typical = {name: median(a - b for a, b in zip(times, bare, strict=True)) for name, times in taken.items()}
    theirs = peer if peer in taken else None
    print(f"\n### {title}: bare {min(bare):.1f} / {median(bare):.1f} us\n")
    print("| best / median | us added |" + (f" x {theirs} |" if theirs else ""))
    print("| --- | ---: |" + (" ---: |" if theirs else ""))
    for name in list(taken)[1:]:
        ratio = f" {best[name] / best[theirs]:.3f} / {typical[name] / typical[theirs]:.3f} |" if theirs else ""
        print(f"| {name} | {best[name]:.1f} / {typical[name]:.1f} |{ratio}")
    if theirs:
        print(f"\nTarget: at most {most} x {theirs}")


def versions() -> str:
    names = ("starlette", "flask", "slowapi", "flask-limiter")
    known = [f"{name} {version(name)}" for name in names if find_spec(name.replace("-", "_"))]
    return ", ".join([f"CPython {python_version()}", *known])


def main() -> None:
    print(f"Machine: {machine()}\n\nVersions: {versions()}")
    asgi = {name: served_by_asgi(app) for name, app in starlette_apps().items()}
    report("Starlette", time_rounds("Starlette", asgi), "slowapi, decorator", 0.2)
    wsgi = {name: served_by_wsgi(app) for name, app in flask_apps().items()}
    report("Flask", time_rounds("Flask", wsgi), "Flask-Limiter, decorator", 0.1)


if __name__ == "__main__":
    main()

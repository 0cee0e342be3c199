"""`python -m benchmarks.frameworks`: what limits add to a bare Starlette and a bare Flask request, in this process.

Processor time, headers on, beside slowapi and Flask-Limiter where they are installed. Applications are called as a
server would call them. Rounds are interleaved, so that all share the noise. The added time is a round's time less that
of the bare application in the same round. A refused request never reaches the endpoint.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

import flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks import results
from benchmarks.policy import EXAMPLE, NONE, PLENTY, with_limit
from benchmarks.results import Row, Table, ratio, rounded, target
from ratekeeper import Policy
from ratekeeper.frameworks import flask as ours_in_flask
from ratekeeper.frameworks import starlette as ours_in_starlette

ROUNDS, REQUESTS = 40, 200
PATH = "/api/items"
BARE, ONE_RULE, EXAMPLE_POLICY, DECORATOR = (
    "bare",
    "ratekeeper, one rule",
    "ratekeeper, four rules",
    "ratekeeper, rate_limit",
)
STARLETTE_TARGETS, FLASK_TARGETS = {ONE_RULE: 0.1, EXAMPLE_POLICY: 0.15}, {ONE_RULE: 0.07}
ONE = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "1/day"')


class Kind(NamedTuple):
    """Whether requests are admitted or refused, and the limit for that: for a policy, and in words for decorators."""

    status: int
    name: str
    one: Policy
    example: Policy
    words: str


ADMITTED = Kind(200, "admitted", with_limit(ONE, PLENTY), with_limit(Policy.load(EXAMPLE), PLENTY), "1000000/hour")
REFUSED = Kind(429, "refused", with_limit(ONE, NONE), with_limit(Policy.load(EXAMPLE), NONE), "1/day")

Serve = Callable[[int], list[str]]
"""Serves so many requests; returns the names of the headers of the last."""


# ---- Starlette ----


def starlette_app(endpoint: Callable[..., Any], **middleware: Any) -> Starlette:
    app = Starlette(routes=[Route(PATH, endpoint)])
    if middleware:
        app.add_middleware(ours_in_starlette.RateLimitMiddleware, **middleware)
    return app


def new_endpoint() -> Callable[..., Any]:
    """Return an endpoint. Each application has its own, as decorators and slowapi know them by name."""

    async def item(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    return item


def starlette_apps(kind: Kind) -> Iterator[tuple[str, Starlette]]:
    yield ONE_RULE, starlette_app(new_endpoint(), policy=kind.one)
    yield EXAMPLE_POLICY, starlette_app(new_endpoint(), policy=kind.example)
    yield DECORATOR, starlette_app(ours_in_starlette.rate_limit(kind.words)(new_endpoint()), policy=None)
    if find_spec("slowapi"):
        slowapi: Any = import_module("slowapi")
        client = import_module("slowapi.util").get_remote_address
        limiter = slowapi.Limiter(client, headers_enabled=True)
        app = starlette_app(limiter.limit(kind.words)(new_endpoint()))
        yield "slowapi, decorator", with_slowapi(app, limiter)
        limiter = slowapi.Limiter(client, headers_enabled=True, default_limits=[kind.words])
        app = with_slowapi(starlette_app(new_endpoint()), limiter)
        app.add_middleware(import_module("slowapi.middleware").SlowAPIASGIMiddleware)
        yield "slowapi, ASGI middleware", app


def with_slowapi(app: Starlette, limiter: Any) -> Starlette:
    slowapi: Any = import_module("slowapi")
    app.state.limiter = limiter
    app.add_exception_handler(slowapi.errors.RateLimitExceeded, slowapi._rate_limit_exceeded_handler)
    return app


def served_by_asgi(app: Any, status: int) -> Serve:
    heads: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == status, message["status"]
            heads[:] = [name.decode() for name, _ in message["headers"]]

    async def serve(requests: int) -> None:
        for _ in range(requests):
            scope = {
                "type": "http", "method": "GET", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
                "root_path": "", "scheme": "http", "http_version": "1.1", "server": ("127.0.0.1", 80),
                "client": ("192.0.2.7", 4711),
                "headers": [(b"host", b"localhost"), (b"accept", b"*/*"), (b"x-api-key", b"k-alice")],
            }  # fmt: skip
            await app(scope, receive, send)

    loop = asyncio.new_event_loop()
    return lambda requests: loop.run_until_complete(serve(requests)) or heads


# ---- Flask ----


def new_view() -> Callable[[], str]:
    def hello() -> str:
        return "hello"

    return hello


def flask_app(view: Callable[[], str]) -> flask.Flask:
    app = flask.Flask(__name__)
    app.get(PATH)(view)
    return app


def flask_apps(kind: Kind) -> Iterator[tuple[str, flask.Flask]]:
    for name, policy in ((ONE_RULE, kind.one), (EXAMPLE_POLICY, kind.example)):
        app = flask_app(new_view())
        ours_in_flask.RateLimits(app, policy)
        yield name, app
    app = flask_app(ours_in_flask.rate_limit(kind.words)(new_view()))
    ours_in_flask.RateLimits(app)
    yield DECORATOR, app
    if find_spec("flask_limiter"):
        theirs: Any = import_module("flask_limiter")
        client = import_module("flask_limiter.util").get_remote_address
        limiter = theirs.Limiter(client, storage_uri="memory://", headers_enabled=True)
        app = flask_app(limiter.limit(kind.words)(new_view()))
        limiter.init_app(app)
        yield "Flask-Limiter, decorator", app
        app = flask_app(new_view())
        theirs.Limiter(client, app=app, storage_uri="memory://", headers_enabled=True, default_limits=[kind.words])
        yield "Flask-Limiter, default limits", app


def served_by_wsgi(app: flask.Flask, status: int) -> Serve:
    heads: list[str] = []

    def start_response(line: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        assert line.startswith(str(status)), line
        heads[:] = [name for name, _ in headers]

    def serve(requests: int) -> list[str]:
        for _ in range(requests):
            environ = {
                "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": PATH, "QUERY_STRING": "",
                "REMOTE_ADDR": "192.0.2.7", "SERVER_NAME": "localhost", "SERVER_PORT": "80", "HTTP_HOST": "localhost",
                "HTTP_X_API_KEY": "k-alice",
                "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.version": (1, 0), "wsgi.input": None,
                "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
            }  # fmt: skip
            for _ in app.wsgi_app(environ, start_response):  # type: ignore[arg-type]
                pass
        return heads

    return serve


# ---- both ----

Case = tuple[str, str]
"""An application's name, and whether its requests are admitted or refused."""


def served(
    bare: Serve, apps: Callable[[Kind], Iterator[tuple[str, Any]]], serve: Callable[[Any, int], Serve]
) -> dict[Case, Serve]:
    cases: dict[Case, Serve] = {(BARE, ADMITTED.name): bare}
    for kind in (ADMITTED, REFUSED):
        for name, app in apps(kind):
            if kind is REFUSED:
                _use_up(serve(app, ADMITTED.status), name)
            cases[name, kind.name] = serve(app, kind.status)
    return cases


def _use_up(serve: Serve, name: str) -> None:
    heads = serve(1)
    assert any("ratelimit" in head.lower() for head in heads), f"{name} does not tell its limits"


def time_rounds(title: str, cases: Mapping[Case, Serve], rounds: int) -> dict[Case, list[float]]:
    """Return us a request in each round."""
    for serve in cases.values():
        serve(REQUESTS)
    gc.collect()
    taken: dict[Case, list[float]] = {case: [] for case in cases}
    progress = results.say_round(title)
    for turn in range(rounds):
        progress(turn, rounds)
        for case in random.sample(list(cases), len(cases)):
            began = time.process_time_ns()
            cases[case](REQUESTS)
            taken[case].append((time.process_time_ns() - began) / 1e3 / REQUESTS)
    return taken


def added(name: str, times: list[float], bare: list[float]) -> Row:
    """Return the us that a request takes more than a bare one."""
    difference = median(a - b for a, b in zip(times, bare, strict=True))
    notes = {"us in all": results.pair(min(times), median(times)), "us, bare": results.pair(min(bare), median(bare))}
    return Row(name, rounded(min(times) - min(bare)), rounded(difference), notes)


def tables(title: str, taken: Mapping[Case, list[float]], peer: str, targets: Mapping[str, float]) -> Iterator[Table]:
    """Return the tables of a framework. `targets` are the most times of its peer that our cases may take."""
    bare = taken[BARE, ADMITTED.name]
    rows = {case: added(case[0], times, bare) for case, times in taken.items() if case[0] != BARE}
    admitted = {name: row for (name, kind), row in rows.items() if kind == ADMITTED.name}
    theirs = admitted.get(peer)
    references = [replace(theirs, name=f"x {peer}")] if theirs else []
    yield Table(f"{title}: added to a bare request", "us added", list(admitted.values()), references)
    promises = [
        target(f"{name}, x {peer}: at most {most}", ratio(admitted[name], theirs), most=most)
        for name, most in targets.items()
        if theirs
    ]
    refused = []
    for (name, kind), times in taken.items():
        if kind == REFUSED.name:
            passed = taken[name, ADMITTED.name]
            both = median(a / b for a, b in zip(times, passed, strict=True))
            shown = {"us, admitted": min(passed), "us, refused": min(times)}
            notes = {column: results.figure(value) for column, value in shown.items()}
            refused.append(Row(name, rounded(min(times) / min(passed)), rounded(both), notes))
            if name.startswith("ratekeeper"):
                measured = min(times) / min(passed), both
                promises.append(target(f"{name}, refused, x admitted: at most 1", measured, most=1))
    yield Table(f"{title}: a refused request", "x the same one admitted", refused)
    yield Table(f"Targets of {title}", "measured", promises)


def measure(quick: bool) -> list[Table]:
    rounds = 5 if quick else ROUNDS
    asgi = served(served_by_asgi(starlette_app(new_endpoint()), 200), starlette_apps, served_by_asgi)
    wsgi = served(served_by_wsgi(flask_app(new_view()), 200), flask_apps, served_by_wsgi)
    return [
        *tables("Starlette", time_rounds("Starlette", asgi, rounds), "slowapi, decorator", STARLETTE_TARGETS),
        *tables("Flask", time_rounds("Flask", wsgi, rounds), "Flask-Limiter, decorator", FLASK_TARGETS),
    ]


if __name__ == "__main__":
    results.main("frameworks", measure, ("starlette", "flask", "slowapi", "flask-limiter"))

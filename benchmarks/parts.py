"""`python -m benchmarks.parts`: where the time of a limited request goes, and what a framework's own error costs.

The parts are those of the ASGI middleware, each called alone. The errors are raised without a limit.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from statistics import median
from typing import Any

import flask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from benchmarks import results
from benchmarks.frameworks import (
    ADMITTED,
    EXAMPLE_POLICY,
    ONE_RULE,
    PATH,
    flask_app,
    new_endpoint,
    new_view,
    served_by_asgi,
    served_by_wsgi,
    starlette_app,
)
from benchmarks.results import Row, Table, rounded
from ratekeeper import Policy
from ratekeeper.frameworks.starlette import RateLimitMiddleware
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.http.headers import rate_limit_lines

ROUNDS, CALLS = 40, 200
HEADERS = [(b"host", b"localhost"), (b"accept", b"*/*"), (b"x-api-key", b"k-alice")]
SCOPE = {
    "type": "http", "method": "GET", "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "root_path": "",
    "client": ("192.0.2.7", 4711), "headers": HEADERS, "state": {},
}  # fmt: skip


def drive(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine that does not suspend."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it suspended")


async def nothing(*_: object) -> None:
    """Do nothing, as an application, and as a server's functions."""


def parts_of(policy: Policy) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the parts of the way of an admitted request through the middleware."""
    middleware = RateLimitMiddleware(nothing, policy)
    limiter = middleware.limiter
    in_use: Any = limiter.in_use

    def arrived() -> Any:
        return middleware.exchange_type(middleware, SCOPE, nothing, nothing)  # type: ignore[arg-type]

    exchange = arrived()
    readers = {name: AttributeReader(policy.attributes, None, {name}) for name in ("path", "client", "api_key")}
    attributes = exchange.read(in_use.reader)
    decide = in_use.at_once
    yield "nothing: an empty function", lambda: None
    yield "make the exchange", arrived
    for name, reader in readers.items():
        if name in attributes:
            yield f"read `{name}`", lambda reader=reader: exchange.read(reader)  # type: ignore[misc]
    yield "decide", lambda: decide(attributes, 1)
    yield "decide, and write the headers", lambda: rate_limit_lines(decide(attributes, 1))
    yield "charge, all of it", lambda: drive(limiter.charge_async(arrived()))


def time_parts(title: str, parts: Mapping[str, Callable[[], object]], rounds: int) -> Table:
    taken: dict[str, list[float]] = {name: [] for name in parts}
    progress = results.say_round(title)
    for turn in range(rounds):
        progress(turn, rounds)
        for name in random.sample(list(parts), len(parts)):
            call = parts[name]
            began = time.perf_counter_ns()
            for _ in range(CALLS):
                call()
            taken[name].append((time.perf_counter_ns() - began) / 1e3 / CALLS)
    rows = [Row(name, rounded(min(times)), rounded(median(times))) for name, times in taken.items()]
    return Table(title, "us a call", rows)


async def refusing(request: Request) -> PlainTextResponse:
    """Refuse as an endpoint of Starlette does."""
    raise HTTPException(429)


def refusing_view() -> str:
    """Refuse as a view of Flask does."""
    flask.abort(429)


def error_table(rounds: int) -> Table:
    """Return what a framework takes for an endpoint that raises its own 429, in units of one that answers."""
    pairs = {
        "Starlette, HTTPException(429)": (
            served_by_asgi(starlette_app(new_endpoint()), 200), served_by_asgi(starlette_app(refusing), 429),
        ),
        "Flask, abort(429)": (
            served_by_wsgi(flask_app(new_view()), 200), served_by_wsgi(flask_app(refusing_view), 429),
        ),
    }  # fmt: skip
    rows = []
    for name, both in pairs.items():
        taken: tuple[list[float], list[float]] = [], []
        for turn in range(1 + rounds):
            for serve, times in zip(both, taken, strict=True):
                began = time.process_time_ns()
                serve(CALLS)
                if turn:  # the first round warms up
                    times.append(float(time.process_time_ns() - began))
        best = min(taken[1]) / min(taken[0])
        rows.append(Row(name, rounded(best), rounded(median(b / a for a, b in zip(*taken, strict=True)))))
    return Table("A framework's own error, without a limit", "x the same endpoint that answers", rows)


def measure(quick: bool) -> list[Table]:
    rounds = 5 if quick else ROUNDS

    async def timed() -> list[Table]:
        named = ((ONE_RULE, ADMITTED.one), (EXAMPLE_POLICY, ADMITTED.example))
        return [
            time_parts(f"Parts of a request in Starlette: {name}", dict(parts_of(policy)), rounds)
            for name, policy in named
        ]

    return [*asyncio.run(timed()), error_table(rounds)]


if __name__ == "__main__":
    results.main("parts", measure, ("starlette", "flask"))

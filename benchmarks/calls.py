"""`python -m benchmarks.calls`: how many function calls limits add to a request in Starlette and in Flask.

Counts, and not times: they are the same on every machine, however busy it is. In Python, time follows them. A resumed
coroutine counts as a call.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from benchmarks import results
from benchmarks.frameworks import (
    ADMITTED,
    BARE,
    Case,
    Serve,
    flask_app,
    flask_apps,
    new_endpoint,
    new_view,
    served,
    served_by_asgi,
    served_by_wsgi,
    starlette_app,
    starlette_apps,
)
from benchmarks.results import Row, Table, rounded

WARM_UP, REQUESTS = 200, 100
PYTHON, C = "call", "c_call"
"""The events of `sys.setprofile` for a call of a function in Python and of a function in C."""


def calls_of(serve: Serve) -> Mapping[str, float]:
    """Return the calls of a request, by kind."""
    found: Counter[str] = Counter()

    def note(_: object, event: str, __: object) -> None:
        found[event] += 1

    serve(WARM_UP)
    sys.setprofile(note)
    try:
        serve(REQUESTS)
    finally:
        sys.setprofile(None)
    return {event: count / REQUESTS for event, count in found.items()}


def tables(title: str, cases: Mapping[Case, Serve], peer: str) -> Iterator[Table]:
    """Return the calls that are added to a bare request. The figures are of functions in Python."""
    counted = {case: calls_of(serve) for case, serve in cases.items()}
    bare = counted[BARE, ADMITTED.name]
    rows: dict[Case, Row] = {}
    for case, calls in counted.items():
        python, others = (rounded(calls[kind] - bare[kind]) for kind in (PYTHON, C))
        rows[case] = Row(case[0], python, python, {"functions in C": results.figure(others)})
    for kind in ("admitted", "refused"):
        named = {name: row for (name, own), row in rows.items() if own == kind and name != BARE}
        theirs = [replace(named[peer], name=f"x {peer}")] if peer in named else []
        yield Table(f"{title}: calls added to a bare request, {kind}", "functions in Python", [*named.values()], theirs)


def measure(_: bool) -> list[Table]:
    asgi = served(served_by_asgi(starlette_app(new_endpoint()), 200), starlette_apps, served_by_asgi)
    wsgi = served(served_by_wsgi(flask_app(new_view()), 200), flask_apps, served_by_wsgi)
    return [
        *tables("Starlette", asgi, "slowapi, decorator"),
        *tables("Flask", wsgi, "Flask-Limiter, decorator"),
    ]


if __name__ == "__main__":
    results.main("calls", measure, ("starlette", "flask", "slowapi", "flask-limiter"))

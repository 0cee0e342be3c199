"""The start of an application of Starlette or FastAPI: a mistake in its limits is told then, and stops a server.

Starlette makes its middlewares in its first call. uvicorn takes an error there for an application without a lifespan,
and would serve it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgi_servers import startup_failure
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette_apps import ask

from ratekeeper import Policy
from ratekeeper.frameworks.starlette import RateLimitMiddleware

BY_USER = Policy.parse('[[rules]]\nname = "each"\nkey = ["user"]\nlimit = "1/minute"')

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"policy": "none.toml"}, "none.toml: no such file"),
    ({"policy": BY_USER}, "nothing gives the attribute 'user'"),
    ({"trusted_proxy": 1}, "did you mean 'trusted_proxies'?"),
    ({"store": "redsi://localhost"}, "redsi"),
]


@pytest.mark.parametrize("make", [Starlette, FastAPI])
@pytest.mark.parametrize(("options", "words"), WRONG)
def test_a_wrong_option_or_policy_stops_the_start_and_the_server_tells_it(
    make: Callable[[], Any], options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = make()
    app.add_middleware(RateLimitMiddleware, **options)
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    assert words in (startup_failure(app) or "")


def test_without_a_start_each_request_raises_the_mistake_and_nothing_grows() -> None:
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, policy=BY_USER)
    depths = []
    for _ in range(3):
        with pytest.raises(Exception, match="nothing gives the attribute 'user'") as raised:
            ask(app)
        depths.append(len(traceback.extract_tb(raised.value.__traceback__)))
    assert depths == depths[:1] * 3


def test_around_an_application_or_a_route_a_wrong_option_is_an_error_at_once() -> None:
    with pytest.raises(TypeError, match="trusted_proxies"):
        RateLimitMiddleware(FastAPI(), trusted_proxy=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="trusted_proxies"):
        Route("/", PlainTextResponse("x"), middleware=[Middleware(RateLimitMiddleware, trusted_proxy=1)])  # type: ignore[call-arg]


def test_around_an_application_without_routes_the_error_names_the_middleware_for_it() -> None:
    with pytest.raises(TypeError, match=r"has no routes.* take the middleware of ratekeeper\.frameworks\.asgi"):
        ask(RateLimitMiddleware(PlainTextResponse("")))

"""Starlette and FastAPI: the ASGI middleware, with their requests and their routes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from ratekeeper.errors import MissingExtraError
from ratekeeper.frameworks import asgi
from ratekeeper.http.rate_limit import RateLimit, rate_limit

try:
    from starlette.requests import HTTPConnection, Request
    from starlette.routing import Host, Match, Mount
except ImportError:
    raise MissingExtraError("ratekeeper.frameworks.starlette", "starlette") from None

__all__ = ["RateLimit", "RateLimitMiddleware", "rate_limit"]


class RateLimitMiddleware(asgi.RateLimitMiddleware):
    """`app.add_middleware(RateLimitMiddleware, policy="policy.toml")`: see `ratekeeper.frameworks.asgi`.

    Functions of the user's are given Starlette's `Request` (of a websocket, its `HTTPConnection`), without the body,
    which is the endpoint's to read. `rejection` returns a Starlette response. The attribute `route` is the route's
    template, such as "/items/{id}", and `endpoint` that with the method; what no route takes has neither.
    """

    tells_routes: ClassVar[bool] = True

    def native(self, scope: asgi.Scope) -> HTTPConnection:
        return Request(scope) if scope["type"] == "http" else HTTPConnection(scope)

    def route(self, scope: asgi.Scope) -> str | None:
        app: Any = scope.get("app") or self.app  # the middleware may also stand around the whole application
        return _template(app.router.routes, scope)


def _template(routes: Iterable[Any], scope: asgi.Scope) -> str | None:
    """Return the template of the route that takes a request, as the router will find it."""
    for route in routes:
        match, found = route.matches(scope)
        if match is not Match.FULL:
            continue
        if included := getattr(route, "effective_candidates", None):  # FastAPI's, of a router that it includes
            return _template(included(), scope)
        route = getattr(route, "starlette_route", None) or route  # noqa: PLW2901
        if not isinstance(route, Mount | Host):
            return getattr(route, "path", None)
        below = _template(route.routes, {**scope, **found})
        return (route.path if isinstance(route, Mount) else "") + (below or "/*")
    return None

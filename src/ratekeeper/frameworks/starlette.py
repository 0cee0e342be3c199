"""Starlette and FastAPI: the ASGI middleware, with their requests and their routes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, ClassVar

from ratekeeper.errors import MissingExtraError
from ratekeeper.frameworks import asgi
from ratekeeper.http.header_lines import text_of
from ratekeeper.http.limiter import AsyncRequestLimiter
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
    template, such as "/items/{id}", and `endpoint` that with the method; what no route takes has neither. When the
    application starts, a limit on an endpoint that cannot be used, or that limits nothing, is an error.
    """

    _tells_routes: ClassVar[bool] = True

    def _exchange(self, scope: asgi.Scope, receive: asgi.Receive) -> asgi.ScopeExchange:
        return _Exchange(self.limits, scope, receive, self._routes(scope))

    def _endpoints(self, scope: asgi.Scope) -> Iterable[Any]:
        return _endpoints(self._routes(scope))

    def _routes(self, scope: asgi.Scope) -> Iterable[Any]:
        app: Any = scope.get("app") or self.app  # the middleware may also stand around the whole application
        routes: Iterable[Any] = app.router.routes
        return routes


class _Exchange(asgi.ScopeExchange):
    """A scope that Starlette reads."""

    def __init__(
        self, limits: AsyncRequestLimiter, scope: asgi.Scope, receive: asgi.Receive, routes: Iterable[Any]
    ) -> None:
        super().__init__(limits, scope, receive)
        self._routes = routes
        # FastAPI(root_path="/api") takes "/api/x" for "/x", whether a proxy has taken "/api" away or not.
        self.prefix = self.prefix or getattr(scope.get("app"), "root_path", "")
        # Routers write into the scope which way a request goes; a template is asked for from where it came in.
        self._arrived = dict(scope)

    @cached_property
    def native(self) -> HTTPConnection:
        return Request(self.scope) if self.scope["type"] == "http" else HTTPConnection(self.scope)

    def cookie(self, name: str, /) -> str | None:
        value = HTTPConnection(self._arrived).cookies.get(name)
        return text_of(value.encode("latin-1", "replace")) if value else None

    def route(self) -> str | None:
        return _template(self._routes, self._arrived)


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


def _endpoints(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield the functions that requests come to, and what they depend on."""
    for route in routes:
        if included := getattr(route, "effective_candidates", None):
            yield from _endpoints(included())
            continue
        route = getattr(route, "starlette_route", None) or route  # noqa: PLW2901
        yield from _endpoints(getattr(route, "routes", None) or ())
        yield getattr(route, "endpoint", None)
        yield from _depended_on(getattr(route, "dependant", None))


def _depended_on(dependant: Any) -> Iterator[Any]:
    for dependency in getattr(dependant, "dependencies", ()):
        yield dependency.call
        yield from _depended_on(dependency)

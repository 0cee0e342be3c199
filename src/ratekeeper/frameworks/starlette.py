"""Starlette: the ASGI middleware, with Starlette's requests and routes, and those of FastAPI."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from functools import cached_property
from os import PathLike
from types import TracebackType
from typing import Any, ClassVar, Unpack

from ratekeeper.errors import MissingExtraError
from ratekeeper.frameworks import asgi
from ratekeeper.frameworks.asgi_exchange import AnsweredExchange, Scope
from ratekeeper.http.endpoints import exempt
from ratekeeper.http.header_lines import text_of
from ratekeeper.http.options import Options
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.request_limits import AsyncRequestLimits
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store

try:
    from starlette.middleware.exceptions import ExceptionMiddleware
    from starlette.requests import HTTPConnection, Request
    from starlette.routing import Host, Match, Mount
except ImportError:
    raise MissingExtraError("ratekeeper.frameworks.starlette", "starlette") from None

__all__ = ["AsyncRequestLimits", "RateLimitMiddleware", "exempt", "rate_limit"]


class _Exchange(AnsweredExchange):
    """A request, as Starlette reads it."""

    middleware: RateLimitMiddleware
    _known: tuple[Any, str] | None = None  # the endpoint that was known before the policy decided, and the method

    @property
    def prefix(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        # FastAPI(root_path="/api") takes "/api/x" for "/x", whether a proxy has taken "/api" away or not.
        arrived = self.arrived
        return getattr(self.middleware.inside(arrived), "root_path", "") or arrived.get("root_path", "")

    @cached_property
    def native(self) -> HTTPConnection:  # pyright: ignore[reportIncompatibleMethodOverride]  # cached
        return Request(self.scope) if self.scope["type"] == "http" else HTTPConnection(self.scope)

    def cookie(self, name: str, /) -> str | None:
        value = HTTPConnection(self.scope).cookies.get(name)
        return text_of(value.encode("latin-1", "replace")) if value else None

    def _match(self) -> tuple[str | None, tuple[Any, ...]]:
        # A template is found by the values before routing.
        app, path_params = self.arrived.get("app"), self.arrived.get("path_params") or {}
        scope = {**self.scope, "app": app, "root_path": self.prefix, "path_params": path_params}
        return _match(_routes_of(self.middleware.inside(self.arrived)), scope)

    def route(self) -> str | None:
        return self._match()[0]

    def functions(self) -> tuple[Any, ...]:
        found = self._match()[1]
        route = found[-1] if found else None
        endpoint = getattr(route, "endpoint", None)
        if endpoint is None:
            return ()
        self.limited_inside = any(_is_limited(one, self.middleware) for one in found)
        self._known = endpoint, self.method
        overrides = getattr(getattr(route, "dependency_overrides_provider", None), "dependency_overrides", {})
        depended_on = _depended_on(getattr(route, "dependant", None))
        return (endpoint, *[function for function in depended_on if function not in overrides])

    def strayed(self) -> bool:
        # A middleware inside ours may have changed the path or the method. The router notes the endpoint in the scope.
        # Without a note, a middleware has answered itself, or has sent on a copy of the scope, which may say anything.
        return super().strayed() if self._known is None else (self.scope.get("endpoint"), self.method) != self._known


class RateLimitMiddleware(asgi.RateLimitMiddleware):
    """`app.add_middleware(RateLimitMiddleware, policy="policy.toml")`: see `ratekeeper.frameworks.asgi`.

    The user's functions get Starlette's `Request` (of a websocket, its `HTTPConnection`), without the body, which the
    endpoint reads. `rejection` returns a Starlette response. The attribute `route` is the route's template, such as
    "/items/{id}", and `endpoint` is the method and the route; a request without a route has neither. When the
    application starts, an endpoint's limit that cannot be used, or that limits nothing, is an error.
    """

    _tells_routes: ClassVar[bool] = True
    exchange_type: ClassVar[type[AnsweredExchange]] = _Exchange

    def __init__(
        self,
        app: asgi.App,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | AsyncStore | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        # Starlette makes its middlewares in its first call. Servers take an error there for an application without a
        # lifespan, and serve it. So the error is told when the application starts.
        self._failure: tuple[Exception, TracebackType | None] | None = None
        try:
            super().__init__(app, policy, store=store, **options)
        except Exception as error:
            if not _is_in_a_stack(app):
                raise
            self.app, self._checked = app, False
            self._failure = error, error.__traceback__

    def _check(self, scope: Scope) -> None:
        if self._failure is not None:
            error, place = self._failure
            raise error.with_traceback(place)  # so that no request makes it longer
        super()._check(scope)

    def _endpoints(self, scope: Scope) -> Iterable[Any]:
        return _endpoints(_routes_of(self.inside(scope)), self)

    def inside(self, scope: Scope) -> Any:
        """Return the application or router inside. `scope["app"]` may be another, in which it is mounted."""
        return self._router or scope.get("app") or self.app

    @cached_property
    def _router(self) -> Any:
        inside: Any = self.app
        while inside is not None and not hasattr(inside, "routes"):
            inside = getattr(inside, "app", None)  # of another middleware
        return inside


def _is_in_a_stack(inside: Any) -> bool:
    """Return whether a middleware stands in Starlette's own stack, and not around an application or a route."""
    while inside is not None and not hasattr(inside, "routes"):
        if isinstance(inside, ExceptionMiddleware):
            return True
        inside = getattr(inside, "app", None)
    return False


def _routes_of(inside: Any) -> Iterable[Any]:
    router = inside if hasattr(inside, "routes") else getattr(inside, "router", None)
    routes: Iterable[Any] | None = getattr(router, "routes", None)
    if routes is None:
        raise TypeError(
            f"{inside!r} has no routes, as an application of Starlette has: put this middleware around that one, or "
            "take the middleware of ratekeeper.frameworks.asgi"
        )
    return routes


def _match(routes: Iterable[Any], scope: Scope) -> tuple[str | None, tuple[Any, ...]]:
    """Return the template of a request's route, and the route, as the router will find it, after those around it."""
    for route in routes:
        match, found = route.matches(scope)
        if match is not Match.FULL:
            continue
        if included := getattr(route, "effective_candidates", None):  # FastAPI's included router
            return _match(included(), scope)
        route = getattr(route, "starlette_route", None) or route  # noqa: PLW2901
        if not isinstance(route, Mount | Host):
            return getattr(route, "path", None), (route,)
        below, inner = _match(route.routes, {**scope, **found})
        return (route.path if isinstance(route, Mount) else "") + (below or "/*"), (route, *inner)
    return None, ()


def _endpoints(routes: Iterable[Any], asking: RateLimitMiddleware) -> Iterator[Any]:
    """Yield the functions that answer requests, and their dependencies. A middleware inside checks its own."""
    for route in routes:
        if included := getattr(route, "effective_candidates", None):
            yield from _endpoints(included(), asking)
            continue
        route = getattr(route, "starlette_route", None) or route  # noqa: PLW2901
        if _is_limited(route, asking):
            continue
        yield from _endpoints(getattr(route, "routes", None) or (), asking)
        yield getattr(route, "endpoint", None)
        yield from _depended_on(getattr(route, "dependant", None))


def _is_limited(route: Any, asking: RateLimitMiddleware) -> bool:
    """Return whether a route, or the application that it mounts, has one of our middlewares inside the asking one."""
    app, limited = getattr(route, "app", None), False
    while app is not None:
        own = [one.cls for one in getattr(app, "user_middleware", ())]
        limited = app is not asking and (limited or any(_is_ours(one) for one in (type(app), *own)))
        app = getattr(app, "app", None)
    return limited


def _is_ours(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, asgi.RateLimitMiddleware)


def _depended_on(dependant: Any) -> Iterator[Any]:
    for dependency in getattr(dependant, "dependencies", ()):
        yield dependency.call
        yield from _depended_on(dependency)

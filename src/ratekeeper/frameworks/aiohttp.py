"""aiohttp's server: limits for an `aiohttp.web.Application`. Does not know aiohttp's client.

A middleware decides. A signal adds headers to each response before it is sent: a stream sends its headers before its
handler returns. Bodies, streams and websockets pass through as they are.
"""

from __future__ import annotations

from asyncio import get_running_loop, sleep
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import cached_property
from os import PathLike
from typing import Any, TypeAlias, Unpack

from ratekeeper.errors import MissingExtraError
from ratekeeper.http.endpoints import check_endpoints, exempt
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.limiter import AsyncRequestLimiter, refusal_in
from ratekeeper.http.options import Options, wrong_rejection
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.request_limits import ASYNC_LIMITS, AsyncRequestLimits
from ratekeeper.http.responses import Response
from ratekeeper.http.workers import warn_if_limits_multiply
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store

try:
    from aiohttp import web
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.frameworks.aiohttp", "aiohttp") from None

__all__ = ["AsyncRequestLimits", "exempt", "rate_limit", "request_limits", "setup"]

_LOOKS_EVERY = 0.5
"""The seconds between two looks at whether the client of a held request has hung up."""

request_limits: Any = web.RequestKey("ratekeeper", AsyncRequestLimits) if hasattr(web, "RequestKey") else "ratekeeper"
"""The key of a request's limits: `await request[request_limits].usage()`. Before aiohttp 3.14 it is a string."""

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


def setup(
    app: web.Application,
    policy: Policy | str | PathLike[str] | None = None,
    *,
    store: Store | AsyncStore | str | None = None,
    **options: Unpack[Options],
) -> None:
    """Limit an application, before it is started: `setup(app, "policy.toml")`.

    `policy` is a `Policy`, or the name of its file. Without one, only the handlers' own limits count (`rate_limit`).
    `store` is a store, or its string, such as "redis://localhost"; the default is the policy's, or else the process's
    memory. A store that is opened here is closed when the application ends. The options are
    `ratekeeper.http.options.Options`. Their functions get the `web.Request`, and may be async. `rejection` returns
    a `web.Response`.

    The middleware goes behind those that the application has already, so its functions see their results. The attribute
    `route` is the resource's template, such as "/items/{id}", and `endpoint` is the method and the route; a request
    without a route has neither. The handshake of a websocket is a request; its messages are not. When the application
    starts, a handler's limit that cannot be used, or that limits nothing, is an error.
    """
    if not isinstance(app, web.Application):
        raise TypeError(f"setup is for a web.Application, as in setup(app, 'policy.toml'), not for {app!r}")
    limited = _Limited(AsyncRequestLimiter(policy, store=store, **options))
    app.middlewares.append(limited.answer)
    app.on_response_prepare.append(limited.add_headers)
    app.cleanup_ctx.append(limited.run)


class _Limited:
    """The parts that are added to an application. A request without a response keeps its exchange."""

    def __init__(self, limiter: AsyncRequestLimiter) -> None:
        self.limiter = limiter
        name = f"exchange {id(self):#x}"  # one each: an application inside another may have its own limits
        self._key: Any = web.RequestKey(name, Exchange) if hasattr(web, "RequestKey") else name  # before aiohttp 3.14

    @web.middleware
    async def answer(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        request[request_limits] = ASYNC_LIMITS
        exchange = request[self._key] = _Exchange(self.limiter, request)
        token = CURRENT.set(exchange)
        try:
            refusal = await self.limiter.charge_async(exchange)
            if refusal is None:
                return await handler(request)
        except Exception as error:
            refusal = refusal_in(error)  # from a handler's limit, or from the application's own limiter
            if refusal is None or self._key not in request:
                raise
        finally:
            CURRENT.reset(token)
        answer = await self.limiter.answer_async(exchange, refusal)
        if isinstance(answer, Response):
            return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)
        if not isinstance(answer, web.StreamResponse):
            raise wrong_rejection(answer, "a web.Response")
        return answer

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        exchange: Exchange | None = request.pop(self._key, None)
        if exchange is not None:  # if it is missing, another middleware has answered
            await self.limiter.answered_async(exchange, response.status)
            told = exchange.limit_headers()
            if "Retry-After" in dict(told):  # a response may have one, and ours is exact
                response.headers.popall("Retry-After", None)
            response.headers.extend(told)

    async def run(self, app: web.Application) -> AsyncIterator[None]:
        """Check the handlers' limits at the application's start. Close the limiter at its end."""
        check_endpoints(_handlers(app), self.limiter.policy_of)
        warn_if_limits_multiply(self.limiter.store)
        self.limiter.reopen()
        yield
        await self.limiter.close()


def _limiters_of(app: web.Application) -> list[AsyncRequestLimiter]:
    """Return the limiters that `setup` has given an application."""
    middlewares = (getattr(middleware, "__self__", None) for middleware in app.middlewares)
    return [limited.limiter for limited in middlewares if isinstance(limited, _Limited)]


def _handlers(app: web.Application) -> Iterator[Any]:
    """Yield the handlers of an application, and of those inside that have no limiter: theirs checks its own."""
    for resource in app.router.resources():
        inside: Any = resource.get_info().get("app")
        if inside is None:
            yield from (route.handler for route in resource)
        elif not _limiters_of(inside):
            yield from _handlers(inside)


class _Exchange(Exchange):
    """A request, as aiohttp reads it."""

    def __init__(self, limiter: AsyncRequestLimiter, request: web.Request) -> None:
        super().__init__(limiter)
        self.around = CURRENT.get()
        self.loop = get_running_loop()
        self._request = request

    @property
    def native(self) -> web.Request:
        return self._request

    @property
    def method(self) -> str:
        return self._request.method

    @property
    def path(self) -> bytes:
        return self._request.raw_path.encode("utf-8", "surrogateescape")

    @cached_property
    def lines(self) -> Sequence[tuple[bytes, bytes]]:  # pyright: ignore[reportIncompatibleMethodOverride]  # cached
        # aiohttp's `headers` has only the first of repeated lines.
        return [(name.lower(), value) for name, value in self._request.raw_headers]

    @property
    def peer(self) -> str | None:
        # Not `remote`, which others may have set by a header.
        name = self._request.get_extra_info("peername")
        return name[0] if isinstance(name, tuple) else None

    def cookie(self, name: str, /) -> str | None:
        return self._request.cookies.get(name) or None

    def route(self) -> str | None:
        resource = self._request.match_info.route.resource
        return resource.canonical if resource is not None else None

    def functions(self) -> tuple[Any, ...]:
        found = self._request.match_info
        limiters = next(filter(None, map(_limiters_of, reversed(found.apps))), ())
        self.limited_inside = self.limiter not in limiters
        return (found.handler,)

    async def hung_up(self) -> None:
        while self._request.transport is not None:  # aiohttp does not tell a handler of a hang-up
            await sleep(_LOOKS_EVERY)

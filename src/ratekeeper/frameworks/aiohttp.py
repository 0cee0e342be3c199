"""aiohttp's server: limits for an `aiohttp.web.Application`. Knows nothing of aiohttp's client.

A middleware decides, and a signal adds headers to each response when it is about to be sent: what streams has sent its
own before its handler returns. Bodies, streams and websockets pass through as they are.
"""

from __future__ import annotations

from asyncio import get_running_loop, sleep
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import cached_property
from os import PathLike
from typing import Any, TypeAlias, Unpack

from ratekeeper.errors import MissingExtraError
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.limiter import REFUSALS, AsyncRequestLimiter
from ratekeeper.http.options import Options
from ratekeeper.http.rate_limit import RateLimit, check_endpoints, rate_limit
from ratekeeper.http.response import Response
from ratekeeper.http.workers import warn_if_limits_multiply
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store

try:
    from aiohttp import web
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.frameworks.aiohttp", "aiohttp") from None

__all__ = ["RateLimit", "rate_limit", "setup"]

_LOOKS_EVERY = 0.5
"""Seconds between two looks at whether the client of a request that waits is still there."""

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


def setup(
    app: web.Application,
    policy: Policy | str | PathLike[str] | None = None,
    *,
    store: Store | AsyncStore | str | None = None,
    **options: Unpack[Options],
) -> None:
    """Limit an application, before it is started: `setup(app, "policy.toml")`.

    `policy` is the name of its file, or a `Policy`; without one, only handlers' own limits count (`rate_limit`).
    `store` is where buckets live, a store or its string, such as "redis://localhost"; by default the policy's, or else
    the process's memory. One that is opened here is closed when the application ends. For the options see
    `ratekeeper.http.options`; their functions are given the `web.Request`, and may be async. `rejection` returns a
    `web.Response`.

    The middleware goes behind those that the application has already, so its functions see what these have found out.
    The attribute `route` is the resource's template, such as "/items/{id}", and `endpoint` that with the method; what
    no route takes has neither. The handshake of a websocket is a request like any other; what comes after it is free.
    When the application starts, a limit on a handler that cannot be used, or that limits nothing, is an error.
    """
    limited = _Limited(AsyncRequestLimiter(policy, store=store, **options))
    app.middlewares.append(limited.answer)
    app.on_response_prepare.append(limited.add_headers)
    app.cleanup_ctx.append(limited.run)


class _Limited:
    """What is added to an application. While a request has no answer yet, its exchange is kept on the request."""

    def __init__(self, limits: AsyncRequestLimiter) -> None:
        self._limits = limits
        name = f"exchange {id(self):#x}"  # one each: an application inside another may have limits of its own
        self._key: Any = web.RequestKey(name, Exchange) if hasattr(web, "RequestKey") else name  # before aiohttp 3.14

    @web.middleware
    async def answer(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        exchange = request[self._key] = _Exchange(self._limits, request)
        token = CURRENT.set(exchange)
        try:
            refusal = await self._limits.charge_async(exchange)
            if refusal is None:
                return await handler(request)
        except REFUSALS as error:  # of a handler's limit, or of a limiter of the application's own
            if self._key not in request:
                raise
            refusal = error
        finally:
            CURRENT.reset(token)
        answer = await self._limits.answer_async(exchange, refusal)
        if isinstance(answer, Response):
            return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)
        return answer  # type: ignore[no-any-return]  # the user's own

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        exchange: Exchange | None = request.pop(self._key, None)
        if exchange is not None:  # else another middleware has answered
            await self._limits.answered_async(exchange, response.status)
            response.headers.extend(exchange.limit_headers())

    async def run(self, app: web.Application) -> AsyncIterator[None]:
        """From the application's start to its end."""
        check_endpoints((route.handler for route in app.router.routes()), self._limits.policy_of)
        warn_if_limits_multiply(self._limits.store)
        self._limits.reopen()
        yield
        await self._limits.close()


class _Exchange(Exchange):
    """A request of aiohttp's, of which nothing is read before a policy looks at it."""

    def __init__(self, limits: AsyncRequestLimiter, request: web.Request) -> None:
        super().__init__(limits)
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
    def lines(self) -> Sequence[tuple[bytes, bytes]]:
        # Its own `headers` gives the first of those that are repeated.
        return [(name.lower(), value) for name, value in self._request.raw_headers]

    @property
    def peer(self) -> str | None:
        # Not `remote`, which others may have set to what a header says.
        name = self._request.get_extra_info("peername")
        return name[0] if isinstance(name, tuple) else None

    def cookie(self, name: str, /) -> str | None:
        return self._request.cookies.get(name) or None

    def route(self) -> str | None:
        resource = self._request.match_info.route.resource
        return resource.canonical if resource is not None else None

    async def hung_up(self) -> None:
        while self._request.transport is not None:  # aiohttp does not tell a handler when it goes
            await sleep(_LOOKS_EVERY)

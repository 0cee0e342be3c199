"""ASGI: limits for any asynchronous application. Knows no framework: Starlette's and FastAPI's own is `starlette`.

Pure ASGI: bodies, streams, websockets and the lifespan pass through as they are. Only the headers of a response are
added to, and a refused request is answered here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from os import PathLike
from typing import Any, ClassVar, TypeAlias, Unpack

from ratekeeper.errors import RatekeeperError
from ratekeeper.http.attributes import Request, header_map
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.limits import AsyncLimits, Options
from ratekeeper.http.rate_limit import RateLimit, rate_limit
from ratekeeper.http.response import Response
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store

__all__ = ["RateLimit", "RateLimitMiddleware", "rate_limit"]

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_TRY_AGAIN_LATER = 1013


class RateLimitMiddleware:
    """Decide each HTTP request by a policy, and tell the client its limits.

    `policy` is the name of its file, or a `Policy`; without one, only endpoints' own limits count (`RateLimit`).
    `store` is where buckets live, a store or its text, such as "redis://localhost"; by default the policy's, or else
    the process's memory. For the options see `ratekeeper.http.limits.Options`; their functions are given the scope, and
    may be async. `rejection` returns an ASGI application.

    A refusal is 429 with a problem body (RFC 9457), or 503 if the store does not answer. Websockets are limited by the
    limits of their endpoints only. A request whose rules let it wait is held until its turn.
    """

    tells_routes: ClassVar[bool] = False

    def __init__(
        self,
        app: App,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | AsyncStore | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.app = app
        self.limits = AsyncLimits(policy, store=store, routes=self.tells_routes, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def native(self, scope: Scope) -> Any:
        """Return what the user's functions are given."""
        return scope

    def route(self, scope: Scope) -> str | None:
        """Return the template of the route that a request takes, if it can be told."""
        return None

    def _exchange(self, scope: Scope) -> Exchange:
        peer = scope.get("client")
        request = Request(
            scope.get("method", "GET"),  # a websocket's handshake has none
            scope.get("raw_path") or scope["path"],
            _Headers(scope["headers"]),
            peer[0] if peer else None,
            partial(self.route, scope),
        )
        return Exchange(self.limits, request, partial(self.native, scope), asyncio.get_running_loop())

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._exchange(scope)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *_raw(exchange.headers())]}
            await send(message)

        token = CURRENT.set(exchange)
        try:
            answer = await self.limits.admit(exchange)
            if answer is None:
                try:
                    return await self.app(scope, receive, send_with_headers)
                except RatekeeperError as error:
                    if error is not exchange.error or started:
                        raise
                    answer = await self.limits.refusal(exchange, error)
            if isinstance(answer, Response):
                await _send(send_with_headers, answer)
            else:
                await answer(scope, receive, send_with_headers)
        finally:
            CURRENT.reset(token)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._exchange(scope)
        token = CURRENT.set(exchange)
        try:
            await self.app(scope, receive, send)
        except RatekeeperError as error:
            if error is not exchange.error:
                raise
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "rate limit exceeded"})
        finally:
            CURRENT.reset(token)


class _Headers:
    """A scope's headers, read when the first is asked for: most policies ask for none."""

    __slots__ = ("_by_name", "_raw")

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._by_name: dict[str, str] | None = None

    def get(self, name: str, /) -> str | None:
        if self._by_name is None:
            self._by_name = header_map(self._raw)
        return self._by_name.get(name)


def _raw(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _send(send: Send, response: Response) -> None:
    headers = [*_raw(list(response.headers)), (b"content-length", b"%d" % len(response.body))]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})

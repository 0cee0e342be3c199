"""ASGI: limits for any asynchronous application. Knows no framework: Starlette's and FastAPI's own is `starlette`.

Pure ASGI: bodies, streams, websockets and the lifespan pass through as they are. Only the headers of a response are
added to, and a refused request is answered here.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import cached_property, lru_cache, partial
from os import PathLike
from typing import Any, ClassVar, TypeAlias, Unpack

from ratekeeper.errors import RatekeeperError
from ratekeeper.http.attributes import header_map
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
        if scope["type"] != "http":
            return await self._pass(scope, receive, send)
        exchange = _Exchange(self, scope)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *_raw(exchange.limit_headers())]}
            await send(message)

        token = CURRENT.set(exchange)
        try:
            await self.limits.charge_async(exchange)
            return await self.app(scope, receive, send_with_headers)
        except RatekeeperError as error:
            if error is not exchange.error or started:
                raise
            answer = await self.limits.refusal(exchange, error)
            if isinstance(answer, Response):
                answer = partial(_answer, answer)
            await answer(scope, receive, send_with_headers)
        finally:
            CURRENT.reset(token)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through what is no HTTP request. A websocket whose endpoint's limit refuses it is closed."""
        if scope["type"] != "websocket":
            return await self.app(scope, receive, send)
        exchange = _Exchange(self, scope)
        token = CURRENT.set(exchange)
        try:
            await self.app(scope, receive, send)
        except RatekeeperError as error:
            if error is not exchange.error:
                raise
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "rate limit exceeded"})
        finally:
            CURRENT.reset(token)

    def native(self, scope: Scope) -> Any:
        """Return what the user's functions are given."""
        return scope

    def route(self, scope: Scope) -> str | None:
        """Return the template of the route that a request takes, if it can be told."""
        return None


class _Exchange(Exchange):
    """A scope, which is its own request: policies look at little of it, so nothing is read before it is asked for."""

    def __init__(self, middleware: RateLimitMiddleware, scope: Scope) -> None:
        self.limits = middleware.limits
        self.decisions = []
        self.loop = get_running_loop()
        self._middleware = middleware
        self._scope = scope

    @property
    def request(self) -> _Exchange:
        return self

    @property
    def native(self) -> Any:
        if self._native is None:
            self._native = self._middleware.native(self._scope)
        return self._native

    @property
    def method(self) -> str:
        return str(self._scope.get("method", "GET"))  # a websocket's handshake has none

    @property
    def path(self) -> str | bytes:
        path: str | bytes = self._scope.get("raw_path") or self._scope["path"]
        return path

    @cached_property
    def headers(self) -> dict[str, str]:
        return header_map(self._scope["headers"])

    @property
    def peer(self) -> str | None:
        client = self._scope.get("client")
        return client[0] if client else None

    def route(self) -> str | None:
        return self._middleware.route(self._scope)


def _raw(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(_raw_name(name), value.encode("latin-1")) for name, value in headers]


@lru_cache(maxsize=64)
def _raw_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    headers = [*_raw(response.headers), (b"content-length", b"%d" % len(response.body))]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})

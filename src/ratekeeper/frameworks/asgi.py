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
from urllib.parse import quote

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
_UNKNOWN_ERROR = 500
_HANDSHAKE_ANSWER = "websocket.http.response"
_CLOSING = {"websocket.close", f"{_HANDSHAKE_ANSWER}.start"}
_ENDINGS = {"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"}
_STARTS = {"http.response.start", f"{_HANDSHAKE_ANSWER}.start"}


class RateLimitMiddleware:
    """Decide each HTTP request by a policy, and tell the client its limits.

    `policy` is the name of its file, or a `Policy`; without one, only endpoints' own limits count (`RateLimit`).
    `store` is where buckets live, a store or its text, such as "redis://localhost"; by default the policy's, or else
    the process's memory. For the options see `ratekeeper.http.options`; their functions are given the scope, and may be
    async. `rejection` returns an ASGI application.

    A refusal is 429 with a problem body (RFC 9457), or 503 if the store does not answer. Websockets are limited by the
    limits of their endpoints only: refused before they are accepted they get the same answer, later a close with code
    1013. A request whose rules let it wait is held until its turn. A store that the middleware has opened is closed at
    the end of the application's lifespan.
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
            await self._pass(scope, receive, send)
            return
        exchange = _Exchange(self, scope)
        reply = _Reply(self, exchange, scope, receive, send)
        token = CURRENT.set(exchange)
        try:
            await self.limits.charge_async(exchange)
            await self.app(scope, receive, reply.send)
        except RatekeeperError as error:
            if error is reply.replaced:
                return
            if error is not exchange.error or reply.started:
                raise
            await reply.refuse(error)
        finally:
            CURRENT.reset(token)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through what is no HTTP request."""
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            self.limits.reopen()
            await self.app(scope, receive, partial(self._send_closing, send))
        else:
            await self.app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(self, scope)
        sent: set[str] = set()

        async def send_noting(message: Message) -> None:
            sent.add(message["type"])
            await send(message)

        token = CURRENT.set(exchange)
        try:
            await self.app(scope, receive, send_noting)
        except RatekeeperError as error:
            if error is not exchange.error or not sent.isdisjoint(_CLOSING):
                raise
            if "websocket.accept" in sent or _HANDSHAKE_ANSWER not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "rate limit exceeded"})
            else:
                await _Reply(self, exchange, scope, receive, send).refuse(error)
        finally:
            CURRENT.reset(token)

    async def _send_closing(self, send: Send, message: Message) -> None:
        """Close the store, if it is the middleware's own, once the application has ended."""
        if message["type"] in _ENDINGS:
            await self.limits.close()
        await send(message)

    def native(self, scope: Scope) -> Any:
        """Return what the user's functions are given."""
        return scope

    def route(self, scope: Scope) -> str | None:
        """Return the template of the route that a request takes, if it can be told."""
        return None


class _Reply:
    """What the application sends, on its way out: with the headers about limits.

    What does not know our error makes a 500 of it: some frameworks do, and mounted applications. The refusal is sent in
    place of that, at once, as such an application may not return before the client has had an answer.
    """

    __slots__ = ("_exchange", "_limits", "_receive", "_scope", "_send", "replaced", "started")

    def __init__(
        self, middleware: RateLimitMiddleware, exchange: Exchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._limits = middleware.limits
        self._exchange = exchange
        self._scope = scope
        self._receive = receive
        self._send = send
        self.started = False
        self.replaced: RatekeeperError | None = None

    async def send(self, message: Message) -> None:
        if message["type"] in _STARTS:
            error = self._exchange.error
            if error is not None and message["status"] == _UNKNOWN_ERROR:
                await self.refuse(error)
                self.replaced = error
                return
            self.started = True
            headers = _raw(self._exchange.limit_headers())
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        if self.replaced is None:
            await self._send(message)

    async def refuse(self, error: RatekeeperError) -> None:
        """Answer a request that a limit has refused. Raises an error that has no answer."""
        self._exchange.error = None
        answer = await self._limits.refusal(self._exchange, error)
        app = partial(_answer, answer) if isinstance(answer, Response) else answer
        await app(self._scope, self._receive, self.send)


class _Exchange(Exchange):
    """A scope, which is its own request: policies look at little of it, so nothing is read before it is asked for."""

    def __init__(self, middleware: RateLimitMiddleware, scope: Scope) -> None:
        self.limits = middleware.limits
        self.decisions = []
        self.loop = get_running_loop()
        self._middleware = middleware
        self._scope = scope
        # Routers write into the scope which way a request goes; a template is asked for from where it came in.
        self._arrived = dict(scope) if middleware.tells_routes else scope

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
        path: str | bytes = self._scope.get("raw_path") or quote(self._scope["path"])
        return path

    @cached_property
    def headers(self) -> dict[str, str]:
        return header_map(self._scope["headers"])

    @property
    def peer(self) -> str | None:
        client = self._scope.get("client")
        return client[0] if client else None

    def route(self) -> str | None:
        return self._middleware.route(self._arrived)


def _raw(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(_raw_name(name), value.encode("latin-1")) for name, value in headers]


@lru_cache(maxsize=64)
def _raw_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    headers = [*_raw(response.headers), (b"content-length", b"%d" % len(response.body))]
    kind = "http.response" if scope["type"] == "http" else _HANDSHAKE_ANSWER
    await send({"type": f"{kind}.start", "status": response.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": response.body})

"""ASGI: limits for any asynchronous application. Knows no framework; `starlette` is built on it.

Pure ASGI: bodies, streams, websockets and the lifespan pass through as they are. The middleware only adds headers to a
response, and answers a refused request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from functools import lru_cache
from os import PathLike
from typing import Any, ClassVar, TypeAlias, Unpack
from urllib.parse import quote, unquote_to_bytes

from ratekeeper.errors import ClientDisconnected, PolicyError, RatekeeperError
from ratekeeper.frameworks.asgi_inbox import Inbox, Message, Receive
from ratekeeper.http.endpoints import check_endpoints
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.header_lines import raw_lines
from ratekeeper.http.limiter import REFUSALS, AsyncRequestLimiter
from ratekeeper.http.options import Options
from ratekeeper.http.paths import USUAL_PATH
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.request_limits import ASYNC_LIMITS, AsyncRequestLimits
from ratekeeper.http.responses import Response
from ratekeeper.http.workers import warn_if_limits_multiply
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store

__all__ = ["AsyncRequestLimits", "RateLimitMiddleware", "rate_limit"]

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_TRY_AGAIN_LATER = 1013
_UNKNOWN_ERROR = 500
_HANDSHAKE_ANSWER = "websocket.http.response"
_STARTS = {"http.response.start", f"{_HANDSHAKE_ANSWER}.start"}
_ACCEPT, _CLOSE = "websocket.accept", "websocket.close"
_LIMITED = {"http", "websocket"}
_ENDINGS = {"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"}


class RateLimitMiddleware:
    """Decide each HTTP request by a policy, and tell the client its limits.

    `policy` is a `Policy`, or the name of its file. Without one, only the endpoints' own limits count (`rate_limit`).
    `store` is a store, or its string, such as "redis://localhost"; the default is the policy's, or else the process's
    memory. The options are `ratekeeper.http.options.Options`. Their functions get the scope, and may be async.
    `rejection` returns an ASGI application.

    A refused request gets a 429 with a problem body (RFC 9457), or a 503 if the store does not answer. The handshake of
    a websocket counts as a GET. A handshake that is refused gets the same answer; a websocket that is refused later is
    closed with code 1013. A request whose rules let it wait is held until its turn, or until its client hangs up. A
    store that the middleware has opened is closed at the end of the application's lifespan.
    """

    _tells_routes: ClassVar[bool] = False

    def __init__(
        self,
        app: App,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | AsyncStore | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.app = app
        self.limiter = AsyncRequestLimiter(policy, store=store, routes=self._tells_routes, **options)
        self._checked = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in _LIMITED:
            await self._pass(scope, receive, send)
            return
        if not self._checked:
            self._check(scope)
        if "state" in scope:
            scope["state"]["ratekeeper"] = ASYNC_LIMITS
        else:
            scope["state"] = {"ratekeeper": ASYNC_LIMITS}
        exchange = self._exchange(scope, receive, send)
        token = CURRENT.set(exchange)
        try:
            refusal = await self.limiter.charge_async(exchange)
            if refusal is None:
                await self.app(scope, exchange.receive, exchange.send)
        except REFUSALS as error:  # from an endpoint's limit, or from the application's own limiter
            refusal = error
            if exchange.ended:
                raise
        finally:
            CURRENT.reset(token)
            exchange.end()
        if refusal is not None and refusal is not exchange.replaced and not isinstance(refusal, ClientDisconnected):
            await exchange.send_refusal(refusal)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a lifespan through. Open the store again at its start and close it at its end, if it was opened here."""
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except PolicyError as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise  # test clients look for that
        self.limiter.reopen()

        async def send_closing(message: Message) -> None:
            if message["type"] in _ENDINGS:
                await self.limiter.close()
            await send(message)

        await self.app(scope, receive, send_closing)

    def _exchange(self, scope: Scope, receive: Receive, send: Send) -> AnsweredExchange:
        return AnsweredExchange(self.limiter, scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise `PolicyError`, at the start, for an endpoint's limit that cannot be used, or that limits nothing."""
        check_endpoints(self._endpoints(scope), self.limiter.policy_of)
        warn_if_limits_multiply(self.limiter.store)
        self._checked = True

    def _endpoints(self, scope: Scope) -> Iterable[Any]:
        """Return the functions of the application that answer requests, if the application tells them."""
        functions = getattr(self.app, "view_functions", None)  # Quart's
        return functions.values() if isinstance(functions, dict) else ()


class ScopeExchange(Exchange):
    """A request, as its scope has it."""

    limiter: AsyncRequestLimiter  # pyright: ignore[reportIncompatibleVariableOverride]  # it is set once
    _inbox: Inbox | None = None

    def __init__(self, limiter: AsyncRequestLimiter, scope: Scope, receive: Receive) -> None:
        super().__init__(limiter)
        self.loop = asyncio.get_running_loop()
        self.scope = scope
        self.prefix = scope.get("root_path", "")  # routers change it on the way of a request
        self._receive = receive

    @property
    def native(self) -> Any:
        return self.scope

    @property
    def method(self) -> str:
        return str(self.scope.get("method", "GET"))  # a websocket's handshake has none

    @property
    def path(self) -> str | bytes:
        path: str = self.scope["path"]
        raw: bytes | None = self.scope.get("raw_path")
        usual = len(path) + len(raw or b"") <= 2 * USUAL_PATH
        return (_target if usual else _target.__wrapped__)(path, raw)

    @property
    def lines(self) -> Sequence[tuple[bytes, bytes]]:
        headers = self.scope["headers"]
        return headers if isinstance(headers, list) else list(headers)

    @property
    def peer(self) -> str | None:
        client = self.scope.get("client")
        return client[0] if client else None

    async def hung_up(self) -> None:
        if self._inbox is None:
            self._inbox = Inbox(self._receive)
        await self._inbox.hung_up()

    def receive(self) -> Awaitable[Message]:
        """Receive for the application, which may have begun before its request had to wait."""
        return (self._receive if self._inbox is None else self._inbox.receive)()

    def strayed(self) -> bool:
        """Return whether another endpoint answers than the one that was known before: its rules are to be charged."""
        return self.method != "OPTIONS"  # a preflight, of which a middleware inside has made another request

    def end(self) -> None:
        """Stop waiting for the client."""
        if self._inbox is not None:
            self._inbox.close()


class AnsweredExchange(ScopeExchange):
    """A request, and the application's response on its way to the client, with the headers about limits.

    Some frameworks, and mounted applications, make a 500 of an error that they do not know. The refusal is sent in
    place of that 500, at once: such an application may not return before the client has an answer.
    """

    ended = False
    """Whether the application has begun a response, or closed its websocket."""
    replaced: RatekeeperError | None = None
    """The refusal that was sent in place of the application's 500."""
    _accepted = False

    def __init__(self, limiter: AsyncRequestLimiter, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(limiter, scope, receive)
        self._send = send

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message of the application. It is not a coroutine: most messages only pass through."""
        kind = message["type"]
        if kind in _STARTS:
            if self.watched:
                return self._send_watched(message)
            self.begun = self.ended = True
            return self._send(self._told(message))
        if kind == _ACCEPT:
            return self._send_watched(message)
        if self.replaced is not None:
            return asyncio.sleep(0)  # the application's own response is dropped
        self.ended = self.ended or kind == _CLOSE
        return self._send(message)

    async def send_refusal(self, refusal: RatekeeperError) -> None:
        """Answer a request that a limit has refused."""
        scope, limiter = self.scope, self.limiter
        answerable = not self._accepted and _HANDSHAKE_ANSWER in (scope.get("extensions") or {})
        if scope["type"] == "websocket" and not answerable:
            await limiter.give_back_async(self)
            await self._send({"type": _CLOSE, "code": _TRY_AGAIN_LATER, "reason": "rate limit exceeded"})
            return
        answer = await limiter.answer_async(self, refusal)
        if not isinstance(answer, Response):
            await answer(scope, self.receive, self._send_of_rejection)
            return
        start, body = messages_of(answer, scope)
        self.begun = True
        await self._send(self._told(start))
        await self._send(body)

    def _send_of_rejection(self, message: Message) -> Awaitable[None]:
        return (self._send_told if message["type"] in _STARTS else self._send)(message)

    async def _send_watched(self, message: Message) -> None:
        """Begin a response, or accept a websocket. A refusal may take its place."""
        begins = message["type"] in _STARTS
        if self.left_out and self.strayed():
            self.replaced = await self.limiter.charge_left_out_async(self)
        elif begins and message["status"] == _UNKNOWN_ERROR:
            self.replaced = self.error
        if self.replaced is not None:
            await self.send_refusal(self.replaced)
            return
        self.ended, self._accepted = begins, not begins
        await self._send_told(message)

    async def _send_told(self, message: Message) -> None:
        """Begin a response, or accept a websocket, with the headers about limits."""
        await self.limiter.answered_async(self, message.get("status", 101))
        own, lines = message.get("headers") or (), self.limit_lines()
        if b"retry-after" in dict(lines):  # a response may have one, and ours is exact
            own = [line for line in own if line[0].lower() != b"retry-after"]
        await self._send({**message, "headers": [*own, *lines]})

    def _told(self, message: Message) -> Message:
        return {**message, "headers": [*(message.get("headers") or ()), *self.limit_lines()]}


@lru_cache(maxsize=1024)
def _target(path: str, raw: bytes | None) -> str | bytes:
    """Return a target as the application reads it: the server has decoded `path`, and others may have rewritten it."""
    if raw is not None and (unquote_to_bytes(raw) if b"%" in raw else raw) == path.encode("utf-8", "surrogatepass"):
        return raw
    return quote(path, errors="surrogatepass")


def messages_of(response: Response, scope: Scope) -> tuple[Message, Message]:
    """Return the messages that send a response."""
    headers = [*raw_lines(response.headers), (b"content-length", b"%d" % len(response.body))]
    kind = "http.response" if scope["type"] == "http" else _HANDSHAKE_ANSWER
    start = {"type": f"{kind}.start", "status": response.status, "headers": headers}
    return start, {"type": f"{kind}.body", "body": response.body}

"""One request to an ASGI application, as its scope and its messages have it. Knows no framework, and no policy."""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from ratekeeper.frameworks.asgi_inbox import Inbox, Message, Receive
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.header_lines import header_value, raw_lines
from ratekeeper.http.options import wrong_rejection
from ratekeeper.http.paths import USUAL_PATH
from ratekeeper.http.responses import Response

if TYPE_CHECKING:
    from ratekeeper.errors import RatekeeperError
    from ratekeeper.frameworks.asgi import RateLimitMiddleware
    from ratekeeper.http.limiter import AsyncRequestLimiter

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_TRY_AGAIN_LATER = 1013
_UNKNOWN_ERROR = 500
_HANDSHAKE_ANSWER = "websocket.http.response"
_STARTS = {"http.response.start", f"{_HANDSHAKE_ANSWER}.start"}
_ACCEPT, _CLOSE = "websocket.accept", "websocket.close"


class ScopeExchange(Exchange):
    """A request, as its scope has it."""

    limiter: AsyncRequestLimiter  # pyright: ignore[reportIncompatibleVariableOverride]  # set once
    inbox: Inbox | None = None
    """The messages of a client that may hang up while its request waits for its turn."""

    # One constructor for all subclasses, without `super`: every request pays for it.
    def __init__(self, middleware: RateLimitMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self.middleware = middleware
        self.limiter = middleware.limiter  # pyright: ignore[reportIncompatibleVariableOverride]
        self.decisions = []
        # A server may begin a request in the context of another one, so the context alone would name a stranger.
        self.around = CURRENT.get() if "ratekeeper" in scope.get("state", ()) else None
        self.loop = get_running_loop()
        self.scope = scope
        self.arrived = dict(scope)
        """The scope as it was at first: routers and mounted applications write into it on the way of a request."""
        self._receive = receive
        self._send = send

    @property
    def prefix(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        root: str = self.arrived.get("root_path", "")
        return root

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

    def header(self, name: str, /) -> str | None:
        headers = self.scope["headers"]
        return header_value(headers if isinstance(headers, list) else list(headers), name)

    @property
    def peer(self) -> str | None:
        client = self.scope.get("client")
        return client[0] if client else None

    async def hung_up(self) -> None:
        if self.inbox is None:
            self.inbox = Inbox(self._receive)
        await self.inbox.hung_up()

    def receive(self) -> Awaitable[Message]:
        """Receive for the application, which may have begun before its request had to wait."""
        return (self._receive if self.inbox is None else self.inbox.receive)()

    def strayed(self) -> bool:
        """Return whether another endpoint answers than the one that was known before: its rules are to be charged."""
        return self.method != "OPTIONS"  # a preflight, of which a middleware inside has made another request


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
            if not callable(answer):
                raise wrong_rejection(answer, "an ASGI application, such as a response of Starlette or FastAPI")
            await answer(scope, self.receive, self._send_of_rejection)  # pyright: ignore[reportGeneralTypeIssues]
            return
        start, body = messages_of(answer, scope)
        self.begun = True
        await self._send(self._told(start))
        await self._send(body)

    async def failed(self) -> None:
        """Charge the rules that were left out, if another endpoint has failed. A refusal takes the place of a 500."""
        if self.left_out and not self.ended and self.strayed():
            self.replaced = await self.limiter.charge_left_out_async(self)
            if self.replaced is not None:
                await self.send_refusal(self.replaced)

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

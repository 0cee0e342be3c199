"""ASGI: limits for any asynchronous application. Knows no framework; `starlette` is built on it.

Pure ASGI: bodies, streams, websockets and the lifespan pass through as they are. The middleware only adds headers to a
response, and answers a refused request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from os import PathLike
from typing import Any, ClassVar, TypeAlias, Unpack

from ratekeeper.errors import ClientDisconnected, RatekeeperError
from ratekeeper.frameworks.asgi_exchange import AnsweredExchange, Scope, Send
from ratekeeper.frameworks.asgi_inbox import Message, Receive
from ratekeeper.http.endpoints import check_endpoints, views_of
from ratekeeper.http.exchange import CURRENT
from ratekeeper.http.limiter import AsyncRequestLimiter, refusal_in
from ratekeeper.http.options import Options, check_application
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.request_limits import ASYNC_LIMITS, AsyncKeptLimits, AsyncRequestLimits
from ratekeeper.http.workers import warn_if_limits_multiply
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store

__all__ = ["AsyncRequestLimits", "RateLimitMiddleware", "rate_limit"]

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

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
    exchange_type: ClassVar[type[AnsweredExchange]] = AnsweredExchange

    def __init__(
        self,
        app: App,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | AsyncStore | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_application(app, 'RateLimitMiddleware(app, "policy.toml")')
        self.app = app
        self.limiter = AsyncRequestLimiter(policy, store=store, routes=self._tells_routes, **options)
        self._checked = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in _LIMITED:
            await self._pass(scope, receive, send)
            return
        if not self._checked:
            self._check(scope)
        exchange = self.exchange_type(self, scope, receive, send)
        if "state" in scope:
            scope["state"]["ratekeeper"] = ASYNC_LIMITS
        else:
            scope["state"] = {"ratekeeper": ASYNC_LIMITS}
        token = CURRENT.set(exchange)
        try:
            charged = self.limiter.charge_now(exchange)
            refusal = charged if charged is None or isinstance(charged, RatekeeperError) else await charged
            if refusal is None:
                await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            refusal = refusal_in(error)  # from an endpoint's limit, or from the application's own limiter
            if refusal is None:
                scope["state"]["ratekeeper"] = AsyncKeptLimits(exchange)  # for a handler outside, as Starlette's
                await exchange.failed()
            if refusal is None or exchange.ended:
                raise
        finally:
            CURRENT.reset(token)
            if exchange.inbox is not None:
                exchange.inbox.close()
        if refusal is not None and refusal is not exchange.replaced and not isinstance(refusal, ClientDisconnected):
            await exchange.send_refusal(refusal)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a lifespan through. Open the store again at its start and close it at its end, if it was opened here."""
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Exception as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise  # test clients look for that
        self.limiter.reopen()

        async def send_closing(message: Message) -> None:
            if message["type"] in _ENDINGS:
                await self.limiter.close()
            await send(message)

        await self.app(scope, receive, send_closing)

    def _check(self, scope: Scope) -> None:
        """Raise `PolicyError`, at the start, for an endpoint's limit that cannot be used, or that limits nothing."""
        check_endpoints(self._endpoints(scope), self.limiter.policy_of)
        warn_if_limits_multiply(self.limiter.store)
        self._checked = True

    def _endpoints(self, scope: Scope) -> Iterable[Any]:
        """Return the functions of the application that answer requests, if the application tells them."""
        return views_of(self.app)

"""The stand-alone service as an ASGI application: it answers the questions of gateways and programs. Knows no server.

A gateway's question and a program's are exchanges like those of a framework, and the same limiter decides them.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import cast

from ratekeeper.errors import (
    BadRequestError,
    ClientDisconnected,
    PolicyError,
    RatekeeperError,
    StoreUnavailable,
)
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.frameworks.asgi import Scope, ScopeExchange, Send, messages_of
from ratekeeper.frameworks.asgi_inbox import Receive
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.http.exchange import Exchange
from ratekeeper.http.header_styles import DEFAULT, HeaderStyles
from ratekeeper.http.limiter import REFUSALS, AsyncRequestLimiter
from ratekeeper.http.request_policy import RequestPolicy
from ratekeeper.http.responses import Response, explained, problem
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.lookups.lookup import LimitFunctions
from ratekeeper.policy.model import Policy
from ratekeeper.service.json_check import CheckRequest, parse_check, report
from ratekeeper.stores.base import AsyncStore, Store

MOST_BODY = 65_536
"""Bytes of the longest body that is accepted."""

_JSON = ("Content-Type", "application/json")
_PLAIN = ("Content-Type", "text/plain")
_NO_STORE = ("Cache-Control", "no-store")
_CHECK, _CHECK_JSON = "/check", "/v1/check"
_STATUSES = {str(status.value): status.value for status in HTTPStatus if 400 <= status.value < 500}


class Service:
    """Answers `/check` (for gateways), `/v1/check` (JSON), `/healthz` and `/readyz`, by a policy that may be replaced.

    The gateway in front is the one trusted proxy unless the policy says otherwise, so a request's `client` is the
    address that the gateway saw. At most `max_waiting` requests wait for their turn at once; more are refused, as if
    no rule let them wait. `headers` are the styles of the headers about limits. Knows no lifespan: the server calls
    `close` when it stops.
    """

    def __init__(
        self,
        policy: Policy,
        store: Store | AsyncStore,
        *,
        max_waiting: int | None = None,
        headers: HeaderStyles = DEFAULT,
        limits: LimitFunctions | None = None,
    ) -> None:
        self._limiter = _Limiter(
            policy,
            store=store,
            routes=False,
            trusted_proxies=1,
            max_waiting=max_waiting,
            headers=headers,
            limits=limits,
        )

    def replace(self, policy: Policy) -> None:
        """Decide by another policy from the next request on.

        Raises `PolicyError` if gateways could ask before, and could not any more.
        """
        self._limiter.replace(policy)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._respond(scope, receive)
        except ClientDisconnected:
            return
        except REFUSALS as error:
            response = self._limiter.response_to(error)
        for message in messages_of(response, scope):
            await send(message)

    async def close(self) -> None:
        """Close the store. No request may come after this."""
        close = getattr(self._limiter.store, "close", None)
        closing = close() if close is not None else None
        if closing is not None:
            await closing

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        path: str = scope["path"]
        # A status to deny with is a part of the path: a client's own query goes through some gateways to here.
        place, _, status = path.rpartition("/") if path.startswith(f"{_CHECK}/") else (path, "", "")
        if place == _CHECK and (not status or status in _STATUSES):
            return await self._check(GatewayExchange(self._limiter, scope, receive), _STATUSES.get(status))
        if path == _CHECK_JSON:
            if scope["method"] != "POST":
                return explained(405, "ask by POST, with a JSON body", ("Allow", "POST"))
            return await self._check_json(scope, receive)
        if path == "/healthz":
            return Response(200, [_PLAIN], b"ok\n")
        if path == "/readyz":
            return await self._ready()
        if place == _CHECK:
            return explained(404, f"a request can be denied with a status from 400 to 499, not with {status[:20]!r}")
        return explained(404, f"there is no {path[:100]!r}: ask /check, /v1/check, /healthz or /readyz")

    async def _check(self, exchange: GatewayExchange, deny_status: int | None) -> Response:
        policy = self._limiter.policy
        if policy.lacking:
            what = f"the policy looks at {policy.lacking[0]!r}, which nothing in a gateway's request tells"
            raise BadRequestError(f"{what}: say in [attributes] which header does, or ask /v1/check", 500)
        for needed in policy.gateway_headers:
            if not exchange.header(needed):
                raise BadRequestError(f"the gateway must say what the request is for, but sent no {needed}")
        refusal = await self._charge(exchange)
        limits = exchange.limit_headers()
        if refusal is None:
            return Response(200, limits)
        response = problem(exchange.decisions[-1], deny_status)
        return response._replace(headers=[*limits, *response.headers])

    async def _check_json(self, scope: Scope, receive: Receive) -> Response:
        asked = parse_check(await _read_body(receive), self._limiter.policy.names)
        exchange = ProgramExchange(self._limiter, scope, receive, asked)
        await self._charge(exchange)
        answer = json.dumps(report(exchange.decisions[-1], asked.wait)).encode()
        return Response(200, [*exchange.limit_headers(), _JSON, _NO_STORE], answer)

    async def _charge(self, exchange: ScopeExchange) -> RatekeeperError | None:
        """Return None, or that a limit is exceeded. Raises another refusal."""
        try:
            refusal = await self._limiter.charge_async(exchange)
        finally:
            exchange.end()
        if refusal is not None and not isinstance(refusal, RateLimitExceeded):
            raise refusal
        return refusal

    async def _ready(self) -> Response:
        try:
            await self._limiter.ready()
        except StoreUnavailable:
            return Response(503, [_PLAIN, _NO_STORE], b"the store does not answer\n")
        return Response(200, [_PLAIN, _NO_STORE], b"ready\n")


class _Limiter(AsyncRequestLimiter):
    """A limiter for gateways and programs. Its policy may look at attributes that only programs can state."""

    @property
    def policy(self) -> RequestPolicy[AsyncKeeper]:
        return cast("RequestPolicy[AsyncKeeper]", self.in_use)

    def _check(self, policy: RequestPolicy[AsyncKeeper]) -> None:
        if policy.lacking and self.in_use is not None and not self.in_use.lacking:
            raise PolicyError(
                f"{policy.keeper.policy.source}: nothing in a gateway's request tells {policy.lacking[0]!r}: say in "
                "[attributes] which header does, or restart, if only programs ask, at /v1/check"
            )

    async def _wait(
        self,
        policy: RequestPolicy[AsyncKeeper],
        exchange: Exchange,
        attributes: dict[str, str],
        cost: int,
        decision: PolicyDecision,
    ) -> PolicyDecision:
        """Decide a request that may have to wait; a program's by the verb that it asks for."""
        if isinstance(exchange, ProgramExchange):
            if exchange.timeout == 0:
                return decision
            if not exchange.waits:
                return await self._reserve(policy.keeper, exchange.timeout, attributes, cost)
        return await super()._wait(policy, exchange, attributes, cost, decision)

    async def _reserve(
        self, keeper: AsyncKeeper, timeout: float | None, attributes: dict[str, str], cost: int
    ) -> PolicyDecision:
        """Take a turn for a program that waits for it by itself. Until the turn, it counts as one that waits here."""
        client, held, delay = attributes.get("client"), self._held_here(), 0.0
        if not held.enter(client):
            return await keeper.try_acquire(attributes, cost)
        try:
            reservation = await keeper.reserve(attributes, cost, timeout)
            delay = reservation.delay if reservation else 0.0
        finally:
            if delay:
                asyncio.get_running_loop().call_later(delay, held.leave, client)
            else:
                held.leave(client)
        return reservation.decision


class GatewayExchange(ScopeExchange):
    """The request that a gateway asks about, in a sub-request such as Caddy's `forward_auth` sends.

    Method and path are from `X-Forwarded-Method` and `X-Forwarded-Uri`, or else the sub-request's own. Caddy and
    Traefik overwrite both; nginx must be told to. No other convention is read: a proxy hands on the headers of a
    convention that is not its own as the client sent them.
    """

    @property
    def method(self) -> str:
        return self.header("x-forwarded-method") or super().method

    @property
    def path(self) -> str | bytes:
        if self.header("x-forwarded-uri"):  # raises if it is repeated
            return next(value for name, value in self.lines if name == b"x-forwarded-uri").strip(b" \t")
        return super().path


class ProgramExchange(ScopeExchange):
    """A request whose attributes and cost a program states. The program, its peer, is not a client."""

    def __init__(self, limiter: AsyncRequestLimiter, scope: Scope, receive: Receive, asked: CheckRequest) -> None:
        super().__init__(limiter, scope, receive)
        self._attributes = asked.attributes
        self.cost = asked.cost
        self.timeout = asked.timeout
        self.waits = asked.wait

    @property
    def peer(self) -> None:
        return None

    def read(self, reader: AttributeReader) -> dict[str, str]:
        return reader.respell(self._attributes)

    def time_left(self) -> float | None:
        return self.timeout


async def _read_body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("the client hung up before it had sent its question")
        parts.append(bytes(message.get("body", b"")))
        size += len(parts[-1])
        if size > MOST_BODY:
            raise BadRequestError(f"the body is longer than {MOST_BODY} bytes", 413)
        if not message.get("more_body"):
            return b"".join(parts)

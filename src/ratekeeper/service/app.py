"""The stand-alone service as an ASGI application: it answers the questions of gateways and programs. Knows no server.

A gateway's question and a program's are exchanges like those of a framework, and the same limiter decides them.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from ratekeeper.errors import (
    BadRequestError,
    ClientDisconnected,
    RatekeeperError,
    StoreUnavailable,
)
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.frameworks.asgi import Scope, ScopeExchange, Send, messages_of
from ratekeeper.frameworks.asgi_inbox import Receive
from ratekeeper.http.exchange import Exchange
from ratekeeper.http.limiter import REFUSALS
from ratekeeper.http.responses import Response, explained, problem
from ratekeeper.policy.model import Policy
from ratekeeper.service.core import Core, ProgramExchange
from ratekeeper.service.json_check import parse_check, report
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
    address that the gateway saw. Knows no lifespan: the server calls
    `close` when it stops.
    """

    def __init__(self, policy: Policy, store: Store | AsyncStore, **options: Any) -> None:
        self._core = Core(policy, store, **options)
        self._limiter = self._core.limiter

    @classmethod
    def of(cls, core: Core) -> Service:
        """Return the application of a core."""
        service = cls.__new__(cls)
        service._core, service._limiter = core, core.limiter
        return service

    def replace(self, policy: Policy) -> None:
        """As `Core.replace`."""
        self._core.replace(policy)

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
        """As `Core.close`."""
        await self._core.close()

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
        policy = self._core.policy
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
        asked = parse_check(await _read_body(receive), self._core.policy.names)
        exchange = ProgramExchange(self._core, asked)
        await self._charge(exchange)
        answer = json.dumps(report(exchange.decisions[-1], asked.wait)).encode()
        return Response(200, [*exchange.limit_headers(), _JSON, _NO_STORE], answer)

    async def _charge(self, exchange: Exchange) -> RatekeeperError | None:
        """Return None, or that a limit is exceeded. Raises another refusal."""
        try:
            refusal = await self._limiter.charge_async(exchange)
        finally:
            if isinstance(exchange, ScopeExchange):
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

"""The stand-alone service as a raw ASGI application: what a gateway asks, request by request.

Framework-free because it is on every request's way: it costs a third of what a web framework does. It knows HTTP and a
keeper; how it is served is the business of `serve`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias, cast
from urllib.parse import parse_qs

from ratekeeper.errors import CostError, RateLimitExceeded, StoreUnavailable
from ratekeeper.http.attributes import ALWAYS_KNOWN, AttributeReader, Request, forwarded_request, header_map
from ratekeeper.http.headers import rate_limit_headers
from ratekeeper.http.problem import explained, problem, unavailable
from ratekeeper.http.response import Response
from ratekeeper.policy.keeper import AsyncKeeper
from ratekeeper.policy.model import Policy
from ratekeeper.policy.sources import ClientIP
from ratekeeper.policy.verdict import PolicyDecision
from ratekeeper.service.json_check import BadRequestError, parse_check, report
from ratekeeper.stores.base import AsyncStore, Store

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MOST_BODY = 65_536
"""Bytes of a request's body that are read; a longer one is refused."""

_FORWARDED = {"path": "x-forwarded-uri", "method": "x-forwarded-method"}

MOST_HELD = 10_000
"""Requests that wait for their turn at one time; more are refused, as if no rule let them wait."""

_JSON = ("Content-Type", "application/json")
_NO_STORE = ("Cache-Control", "no-store")


class _Book(NamedTuple):
    """What the service goes by under one policy: a request is read, decided and held by the same one.

    `needed` are the headers that a gateway must send, `names` the attributes that are known, if not any are, and
    `lacking` those that no request of a gateway's can have.
    """

    keeper: AsyncKeeper
    may_wait: bool
    needed: tuple[str, ...]
    names: frozenset[str] | None
    lacking: list[str]
    read: Callable[[Request], dict[str, str]]

    @classmethod
    def of(cls, policy: Policy, store: Store | AsyncStore) -> _Book:
        names = policy.names()
        return cls(
            AsyncKeeper(policy, store),
            any(rule.max_wait != 0 for rule in policy.rules),
            # A gateway that forgets these would have every request judged as one for /check, and so unlimited.
            tuple(header for name, header in _FORWARDED.items() if name in names),
            names | policy.attributes.keys() | ALWAYS_KNOWN if policy.attributes else None,
            policy.lacking(ALWAYS_KNOWN),
            AttributeReader(policy.attributes, default_client=ClientIP(trusted_proxies=1)).read,
        )


class Service:
    """Answers `/check` (for gateways), `/v1/check` (JSON) and `/healthz`, by the policy that a keeper has.

    A policy that replaces the keeper's is gone by from the next request on. The gateway in front is the one trusted
    proxy unless the policy says otherwise, so a request's `client` is the address that the gateway saw.
    `close` is called, and awaited if need be, when the server stops.
    """

    def __init__(
        self, keeper: AsyncKeeper, most_held: int = MOST_HELD, close: Callable[[], Awaitable[None] | None] | None = None
    ) -> None:
        self._keeper = keeper
        self._close = close
        self._latest = _Book.of(keeper.policy, keeper.store)
        self._held = 0
        self._most_held = most_held

    def _book(self) -> _Book:
        policy = self._keeper.policy
        if policy is not self._latest.keeper.policy:
            self._latest = _Book.of(policy, self._keeper.store)
        return self._latest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            try:
                response = await self._respond(scope, receive)
            except BadRequestError as error:
                response = explained(error.status, str(error))
            except StoreUnavailable as error:
                response = unavailable(retry_after=error.retry_after)
            except _HungUpError:
                return
            await _send(send, response)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Answer the server's start and stop."""
        stops = False
        while not stops:
            event = (await receive())["type"]
            stops = event == "lifespan.shutdown"
            if stops and self._close is not None:
                closing = self._close()
                if closing is not None:
                    await closing
            await send({"type": f"{event}.complete"})

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        if path == "/check":
            return await self._check(scope, receive)
        if path == "/v1/check":
            if method != "POST":
                return explained(405, "ask by POST, with a JSON body", ("Allow", "POST"))
            return await self._check_json(await _read_body(receive), receive)
        if path == "/healthz":
            return Response(200, [("Content-Type", "text/plain")], b"ok\n")
        return explained(404, f"there is no {path!r}: ask /check, /v1/check or /healthz")

    async def _check(self, scope: Scope, receive: Receive) -> Response:
        book, deny_status = self._book(), _deny_status(scope["query_string"])
        peer = scope["client"][0] if scope.get("client") else None
        headers = header_map(scope["headers"])
        if book.lacking:
            what = f"the policy looks at {book.lacking[0]!r}, which nothing in a gateway's request tells"
            raise BadRequestError(f"{what}: say in [attributes] which header does, or ask /v1/check", 500)
        for needed in book.needed:
            if not headers.get(needed):
                raise BadRequestError(f"the gateway must say what the request is for, but sent no {needed}")
        asked = Request(scope["method"], scope.get("raw_path") or scope["path"], headers, peer)
        decision = await self._decide(book, book.read(forwarded_request(asked)), 1, receive)
        limits = rate_limit_headers(decision)
        if decision.allowed:
            return Response(200, limits)
        refusal = problem(decision, deny_status)
        return Response(refusal.status, [*limits, *refusal.headers], refusal.body)

    async def _check_json(self, body: bytes, receive: Receive) -> Response:
        book = self._book()
        asked = parse_check(body, book.names)
        decision = await self._decide(book, asked.attributes, asked.cost, receive)
        return Response(200, [*rate_limit_headers(decision), _JSON, _NO_STORE], json.dumps(report(decision)).encode())

    async def _decide(self, book: _Book, attributes: dict[str, str], cost: int, receive: Receive) -> PolicyDecision:
        """Decide; hold the answer until the request's turn, if its rules let it wait and not too many do."""
        try:
            try:
                return await book.keeper.acquire(attributes, cost, timeout=0)
            except RateLimitExceeded:
                if not book.may_wait or self._held >= self._most_held:
                    raise
            return await self._hold(book, attributes, cost, receive)
        except RateLimitExceeded as refused:
            return cast("PolicyDecision", refused.decision)
        except CostError as error:
            raise BadRequestError(str(error)) from None

    async def _hold(self, book: _Book, attributes: dict[str, str], cost: int, receive: Receive) -> PolicyDecision:
        """Wait for the request's turn; a client that hangs up meanwhile gives its place back."""
        self._held += 1
        turn = asyncio.ensure_future(book.keeper.acquire(attributes, cost))
        hung_up = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait({turn, hung_up}, return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                raise _HungUpError
            return turn.result()
        finally:
            self._held -= 1
            turn.cancel()
            hung_up.cancel()


def _deny_status(query: bytes) -> int | None:
    """Return the status that the gateway wants for a refusal: nginx's `auth_request` understands only 401 and 403."""
    if not query:
        return None
    [text] = parse_qs(query.decode("latin-1")).get("deny_status", [""])[-1:]
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 400 <= int(text[:4]) <= 499 and int(text[:4]) in _STATUSES):
        raise BadRequestError(f"deny_status must be a status of HTTP's from 400 to 499, not {text[:20]!r}")
    return int(text)


_STATUSES = frozenset(status.value for status in HTTPStatus)


async def _read_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > MOST_BODY:
            raise BadRequestError(f"the body is longer than {MOST_BODY} bytes", status=413)
        if not message.get("more_body"):
            return body


class _HungUpError(Exception):
    """The client is gone: there is nobody to answer."""


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, response: Response) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    headers.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})

"""Transports for httpx that let requests leave at the pace of a limit. They know the pacers and httpx, no store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ratekeeper.clients.pacer import AsyncPacer, Library, Pace, Pacer, host_of
from ratekeeper.clients.pauses import LONGEST_PAUSE
from ratekeeper.errors import MissingExtraError

try:
    import httpx
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.clients.httpx", "httpx") from None

Key: TypeAlias = str | bytes | Callable[[httpx.Request], str | bytes]
Cost: TypeAlias = int | Callable[[httpx.Request], int]


_HTTPX = Library[httpx.Request, httpx.Response](
    repeatable=lambda request: isinstance(request.stream, httpx.ByteStream),
    said=lambda response: (response.status_code, response.headers.multi_items()),
    close=lambda response: response.close(),
)
_ASYNC_HTTPX = _HTTPX._replace(close=lambda response: response.aclose())


class RateLimitTransport(httpx.BaseTransport):
    """Lets each request wait for its turn, and holds back further ones when the server says so.

        client = httpx.Client(transport=RateLimitTransport("5/s"))

    `limit` is a text, a limit, or a limiter to share. `transport` sends; by default a new `httpx.HTTPTransport`. `key`
    and `cost` are constants, or functions of the request. `timeout` bounds the wait for a turn, None does not; if the
    turn would come later, `RateLimitExceeded` is raised at once.

    A 429 or 503 with `Retry-After`, or `RateLimit` with nothing left, holds back all requests of its key for that long,
    at most `longest_pause` seconds. The answer itself is handed on: a client that got 429 yesterday does today. With
    `retries`, a 429 is sent again up to so often, in its turn, if its body is there to be sent again (bytes, text,
    JSON, a form; no stream and no file). Thread-safe.
    """

    def __init__(
        self,
        limit: Pace,
        transport: httpx.BaseTransport | None = None,
        *,
        key: Key = host_of,
        cost: Cost = 1,
        timeout: float | None = None,
        retries: int = 0,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self._pacer = Pacer(limit, key, cost, timeout, retries, longest_pause)
        self._transport = httpx.HTTPTransport() if transport is None else transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._pacer.send(request, self._transport.handle_request, _HTTPX)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> RateLimitTransport:
        self._transport.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._transport.__exit__(*exception)


class AsyncRateLimitTransport(httpx.AsyncBaseTransport):
    """As `RateLimitTransport`, for `httpx.AsyncClient`; waiting lets the event loop go on."""

    def __init__(
        self,
        limit: Pace,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        key: Key = host_of,
        cost: Cost = 1,
        timeout: float | None = None,
        retries: int = 0,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self._pacer = AsyncPacer(limit, key, cost, timeout, retries, longest_pause)
        self._transport = httpx.AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._pacer.send(request, self._transport.handle_async_request, _ASYNC_HTTPX)

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def __aenter__(self) -> AsyncRateLimitTransport:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._transport.__aexit__(*exception)

"""Transports for httpx: requests leave at the rate of a limit. They know the pacers and httpx, and no store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

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


def _check(limits: tuple[object, ...], transport: object, sends: str, what: str) -> None:
    """Raise TypeError for a transport in the place of a limit, or of the other kind."""
    for given in limits:
        if isinstance(given, httpx.BaseTransport | httpx.AsyncBaseTransport):
            name = type(given).__name__
            raise TypeError(f"a {name} is not a limit: write transport={name}(...), after limits such as '5/s'")
    if transport is not None and not hasattr(transport, sends):
        raise TypeError(f"transport must have a method {sends}, as {what}, but {type(transport).__name__} has none")


class RateLimitTransport(httpx.BaseTransport):
    """Makes each request wait for its turn, and holds back further requests when the server says so.

        client = httpx.Client(transport=RateLimitTransport("5/s", "100/minute"))

    `limits` are strings or limits, or one limiter to share. `transport` sends; the default is a new
    `httpx.HTTPTransport`. Give `transport` your options for proxies and TLS: a client with `proxy=` or `mounts=` sends
    past this transport, without a limit. `key` and `cost` are constants, or functions of the request. `timeout` bounds
    the wait for a turn in seconds, and None does not. If the turn would come later, `RateLimitExceeded` is raised at
    once.

    A 429 or 503 with `Retry-After`, or `RateLimit` with nothing left, holds back all requests of its key for that long,
    at most `longest_pause` seconds. The caller gets the response as it is. With `retries`, a request that gets a 429 is
    sent again, up to `retries` times, in its turn, if its body can be sent again (bytes, strings, JSON, a form).
    Thread-safe.
    """

    def __init__(
        self,
        *limits: Pace,
        transport: httpx.BaseTransport | None = None,
        key: Key = host_of,
        cost: Cost = 1,
        timeout: float | None = None,
        retries: int = 0,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        _check(limits, transport, "handle_request", "RateLimitTransport is for httpx.Client")
        self._pacer = Pacer(limits, key, cost, timeout, retries, longest_pause)
        self._transport = httpx.HTTPTransport() if transport is None else transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._pacer.send(request, self._transport.handle_request, _HTTPX)

    def close(self) -> None:
        self._transport.close()

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"RateLimitTransport has no {name!r}: for httpx.AsyncClient write AsyncRateLimitTransport")

    def __enter__(self) -> RateLimitTransport:
        self._transport.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._transport.__exit__(*exception)


class AsyncRateLimitTransport(httpx.AsyncBaseTransport):
    """As `RateLimitTransport`, for `httpx.AsyncClient`. A request that waits does not block the event loop."""

    def __init__(
        self,
        *limits: Pace,
        transport: httpx.AsyncBaseTransport | None = None,
        key: Key = host_of,
        cost: Cost = 1,
        timeout: float | None = None,
        retries: int = 0,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        _check(limits, transport, "handle_async_request", "AsyncRateLimitTransport is for httpx.AsyncClient")
        self._pacer = AsyncPacer(limits, key, cost, timeout, retries, longest_pause)
        self._transport = httpx.AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._pacer.send(request, self._transport.handle_async_request, _ASYNC_HTTPX)

    async def aclose(self) -> None:
        await self._transport.aclose()

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"AsyncRateLimitTransport has no {name!r}: for httpx.Client write RateLimitTransport")

    async def __aenter__(self) -> AsyncRateLimitTransport:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._transport.__aexit__(*exception)

"""A client middleware for aiohttp: requests leave at the rate of a limit. It knows the pacer, and no store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ratekeeper.clients.pacer import AsyncPacer, Library, Pace, host_of
from ratekeeper.clients.pauses import LONGEST_PAUSE
from ratekeeper.errors import MissingExtraError

try:
    from aiohttp import BytesPayload, ClientHandlerType, ClientRequest, ClientResponse
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.clients.aiohttp", "aiohttp") from None

Key: TypeAlias = str | bytes | Callable[[ClientRequest], str | bytes]
Cost: TypeAlias = int | Callable[[ClientRequest], int]


async def _close(response: ClientResponse) -> None:
    response.release()


_AIOHTTP = Library[ClientRequest, ClientResponse](
    repeatable=lambda request: not request.body or isinstance(request.body, BytesPayload),
    said=lambda response: (response.status, response.headers.items()),
    close=_close,
)


class RateLimitClientMiddleware:
    """Makes each request wait for its turn, and holds back further requests when the server says so.

        session = aiohttp.ClientSession(middlewares=[RateLimitClientMiddleware("5/s", "100/minute")])

    `limits` are strings or limits, or one limiter to share. `key` and `cost` are constants, or functions of the
    request. `timeout` bounds the wait for a turn in seconds, and None does not. If the turn would come later,
    `RateLimitExceeded` is raised at once. The wait is part of the session's `ClientTimeout.total` (5 minutes by
    default).

    A 429 or 503 with `Retry-After`, or `RateLimit` with nothing left, holds back all requests of its key for that long,
    at most `longest_pause` seconds. The caller gets the response as it is. With `retries`, a request that gets a 429 is
    sent again, up to `retries` times, in its turn, if its body can be sent again (bytes, strings, JSON).
    """

    def __init__(
        self,
        *limits: Pace,
        key: Key = host_of,
        cost: Cost = 1,
        timeout: float | None = None,
        retries: int = 0,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self._pacer = AsyncPacer(limits, key, cost, timeout, retries, longest_pause)

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        return await self._pacer.send(request, handler, _AIOHTTP)

"""A client middleware for aiohttp that lets requests leave at the pace of a limit. It knows the pacer, no store."""

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
    """Lets each request wait for its turn, and holds back further ones when the server says so.

        session = aiohttp.ClientSession(middlewares=[RateLimitClientMiddleware("5/s")])

    `limit` is a text, a limit, or a limiter to share. `key` and `cost` are constants, or functions of the request.
    `timeout` bounds the wait for a turn, None does not; if the turn would come later, `RateLimitExceeded` is raised at
    once. The wait is part of the session's `ClientTimeout.total`, which is 5 minutes unless told otherwise.

    A 429 or 503 with `Retry-After`, or `RateLimit` with nothing left, holds back all requests of its key for that long,
    at most `longest_pause` seconds. The answer itself is handed on. With `retries`, a 429 is sent again up to so often,
    in its turn, if its body is there to be sent again (bytes, text, JSON; no stream and no file).
    """

    def __init__(
        self,
        limit: Pace,
        *,
        key: Key = host_of,
        cost: Cost = 1,
        timeout: float | None = None,
        retries: int = 0,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self._pacer = AsyncPacer(limit, key, cost, timeout, retries, longest_pause)

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        return await self._pacer.send(request, handler, _AIOHTTP)

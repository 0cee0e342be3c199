"""An adapter for requests that lets them leave at the pace of a limit. It knows the pacer and requests, no store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ratekeeper.clients.pacer import Library, Pace, Pacer, host_of
from ratekeeper.clients.pauses import LONGEST_PAUSE
from ratekeeper.errors import MissingExtraError

try:
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.clients.requests", "requests") from None

Key: TypeAlias = str | bytes | Callable[[PreparedRequest], str | bytes]
Cost: TypeAlias = int | Callable[[PreparedRequest], int]


_REQUESTS = Library[PreparedRequest, Response](
    repeatable=lambda request: isinstance(request.body, bytes | str | None),
    said=lambda response: (response.status_code, response.headers.items()),
    close=lambda response: response.close(),
)


class RateLimitAdapter(HTTPAdapter):
    """Lets each request wait for its turn, and holds back further ones when the server says so.

        session.mount("https://api.example.com", RateLimitAdapter("5/s"))

    `limit` is a text, a limit, or a limiter to share. `key` and `cost` are constants, or functions of the prepared
    request. `timeout` bounds the wait for a turn, None does not; if the turn would come later,
    `RateLimitExceeded` is raised at once. (A request's own `timeout` is the server's time to answer, as ever.)

    A 429 or 503 with `Retry-After`, or `RateLimit` with nothing left, holds back all requests of its key for that long,
    at most `longest_pause` seconds. The answer itself is handed on. With `retries`, a 429 is sent again up to so often,
    in its turn, if its body is there to be sent again (bytes or text; no stream and no file).

    All else goes to `HTTPAdapter`; its own `max_retries` would send again without asking the limit. Thread-safe.
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
        **adapter: Any,
    ) -> None:
        self._pacer = Pacer(limit, key, cost, timeout, retries, longest_pause)
        super().__init__(**adapter)

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        send = super().send
        return self._pacer.send(request, lambda again: send(again, *args, **kwargs), _REQUESTS)

"""An adapter for requests: they leave at the rate of a limit. It knows the pacer and requests, and no store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ratekeeper.clients.pacer import Library, Pace, Pacer, host_of
from ratekeeper.clients.pauses import LONGEST_PAUSE
from ratekeeper.errors import MissingExtraError
from ratekeeper.forks import OfOneProcess

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


class RateLimitAdapter(OfOneProcess, HTTPAdapter):
    """Makes each request wait for its turn, and holds back further requests when the server says so.

        session.mount("https://api.example.com", RateLimitAdapter("5/s", "100/minute"))

    `limits` are strings or limits, or one limiter to share. `key` and `cost` are constants, or functions of the
    prepared request. `timeout` bounds the wait for a turn in seconds, and None does not. If the turn would come later,
    `RateLimitExceeded` is raised at once. (A request's own `timeout` is the server's time to answer, as always.)

    A 429 or 503 with `Retry-After`, or `RateLimit` with nothing left, holds back all requests of its key for that long,
    at most `longest_pause` seconds. The caller gets the response as it is. With `retries`, a request that gets a 429 is
    sent again, up to `retries` times, in its turn, if its body can be sent again (bytes or strings).

    Other options go to `HTTPAdapter`. Its own `max_retries` would send again without asking the limit. Thread-safe.
    """

    _instead = "mount a new one on a session of each process"

    def __init__(
        self,
        *limits: Pace,
        key: Key = host_of,
        cost: Cost = 1,
        timeout: float | None = None,
        retries: int = 0,
        longest_pause: float = LONGEST_PAUSE,
        **adapter: Any,
    ) -> None:
        self._pacer = Pacer(limits, key, cost, timeout, retries, longest_pause)
        super().__init__(**adapter)

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        send = super().send
        return self._pacer.send(request, lambda again: send(again, *args, **kwargs), _REQUESTS)

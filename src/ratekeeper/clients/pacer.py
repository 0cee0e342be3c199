"""Pacer and AsyncPacer: a limiter before requests that leave, and what the servers answer. They know no HTTP library.

The flow of a request is `_Flow._send`, a coroutine. A task awaits it; a thread runs it to its end.

When a server says not to ask it again for a while, this is charged to the key's bucket: it is set to where it will
have, when the pause is over, just what the request that was answered costs. So

- a pause needs no memory of its own, and who waits for its end waits for a turn as any other: in order, by `timeout`;
- all who share the store keep it, also other processes, and it outlives them if the store does;
- nobody rushes in when it is over: the burst is spent, and requests go one by one, at the limit's rate. The server has
  just said that it has nothing left.

Of several limits the fastest is charged, which so takes the least away once the pause is over.

Those who waited in line before the pause have earlier turns, which are void: they take new ones. For this the pause's
end is remembered too, for a bounded number of keys.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar
from urllib.parse import urlsplit

from ratekeeper.clients.pauses import pause_after
from ratekeeper.coroutines import run_sync
from ratekeeper.decision import Charge, scope_of
from ratekeeper.errors import StoreUnavailable
from ratekeeper.limiter import AsyncLimiter, Limiter
from ratekeeper.limits import TICKS_PER_SECOND, Limit, checked_cost, wait_ticks
from ratekeeper.stores.as_async import as_async
from ratekeeper.stores.base import require_nonblocking, require_sync

R = TypeVar("R")
A = TypeVar("A")
L = TypeVar("L", Limiter, AsyncLimiter)

Pace: TypeAlias = str | Limit | Limiter | AsyncLimiter
"""What a client is paced by: a limit, or a limiter to share buckets with."""
Headers: TypeAlias = Iterable[tuple[str, str]]

_MOST_KEYS = 10_000
_TRIES = 10


class Library(NamedTuple, Generic[R, A]):
    """What a pacer must be told of an HTTP library's requests and answers. `close` is awaited by an `AsyncPacer`."""

    repeatable: Callable[[R], bool]
    said: Callable[[A], tuple[int, Headers]]
    close: Callable[[A], object]


def host_of(request: Any) -> str:
    """Return the host that a request is for: what it is charged to, unless told otherwise."""
    url = request.url
    host: str | None = urlsplit(url).hostname if isinstance(url, str) else url.host
    return host or ""


def blocking_limiter(limit: Pace) -> Limiter:
    """Return a limiter, of the same buckets if it is one for asyncio. Raise TypeError if its store must be awaited."""
    if isinstance(limit, AsyncLimiter):
        return Limiter(*limit.limits, store=require_sync(limit.store, "Limiter"), name=limit.name)
    return limit if isinstance(limit, Limiter) else Limiter(limit)


def awaited_limiter(limit: Pace) -> AsyncLimiter:
    """Return a limiter for asyncio, of the same buckets if it is another. Raise TypeError if its store would block."""
    if not isinstance(limit, Limiter | AsyncLimiter):
        return AsyncLimiter(limit)
    store = require_nonblocking(limit.store)
    return limit if isinstance(limit, AsyncLimiter) else AsyncLimiter(*limit.limits, store=store, name=limit.name)


class _Pauses:
    """Until when each key is held back, in ticks of the store's clock. Of too many keys the oldest are forgotten."""

    def __init__(self) -> None:
        self._ends: dict[str | bytes, int] = {}
        self._lock = threading.Lock()

    def hold(self, key: str | bytes, until: int) -> None:
        with self._lock:
            self._ends[key] = max(until, self._ends.pop(key, 0))
            if len(self._ends) > _MOST_KEYS:
                del self._ends[next(iter(self._ends))]

    def holds(self, key: str | bytes, now: int) -> bool:
        until = self._ends.get(key)
        if until is None:
            return False
        if now < until:
            return True
        with self._lock:
            if self._ends.get(key) == until:
                del self._ends[key]
        return False


async def _charge_pause(limiter: Limiter | AsyncLimiter, key: str | bytes, cost: int, until: int) -> None:
    """Charge to a key's bucket what it lacks to be, at `until`, where it must be."""
    place, limit = min(enumerate(limiter.limits), key=lambda placed: placed[1].interval)
    # A leaky bucket lets the next go when it owes nothing; a token bucket, when the cost fits beside what it owes.
    room = max(1, min(cost, limit.max_cost)) * limit.interval
    beside = 0 if limit.queues else limit.full - room
    store, look = as_async(limiter.store), Charge.of(scope_of(limiter.name, place), key, limit, 0)
    for _ in range(_TRIES):
        seen = (await store.decide([look], commit=False))[0]
        ahead = until - seen.at_ticks + beside
        lacking = ahead - seen.debt_ticks
        if lacking <= 0:
            return
        # Its tolerance is where it leads to. If others charge the bucket meanwhile, it is refused, not made twice.
        charge = look._replace(increment=lacking, burst=ahead, tolerance=ahead)
        if (await store.decide([charge]))[0].allowed:
            return


class _Flow(Generic[R, L]):
    """How a request leaves, from its turn to its answer.

    It is written once for both pacers. They differ in their limiter, and in how they call its verbs and the library's.
    """

    _limiter_of: Callable[[Pace], L]
    _call: Callable[..., Awaitable[Any]]

    def __init__(
        self,
        limit: Pace,
        key: str | bytes | Callable[[R], str | bytes],
        cost: int | Callable[[R], int],
        timeout: float | None,
        retries: int,
        longest_pause: float,
    ) -> None:
        if not isinstance(key, str | bytes) and not callable(key):
            raise TypeError(f"key must be str, bytes, or a function of the request that returns one, not {key!r}")
        wait_ticks(timeout)
        if not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries must be how often a 429 is sent again, 0 or more, not {retries!r}")
        if not 0 <= longest_pause < float("inf"):
            raise ValueError(f"longest_pause must be a number of seconds, 0 or more, not {longest_pause!r}")
        if not callable(cost):
            checked_cost(cost)
        self.limiter: L = self._limiter_of(limit)
        self._key = key
        self._cost = cost
        self._timeout = timeout
        self._retries = retries
        self._longest = longest_pause
        self._pauses = _Pauses()
        self._now: Callable[[], int] = self.limiter.store.clock.ticks

    async def _send(self, request: R, send: Callable[[R], Any], library: Library[R, A]) -> A:
        """Send a request in its turn, and a 429 again as often as may be. Return the answer, of which nothing is read.

        An answer that is not returned is closed, also if this is interrupted or cancelled.
        """
        key = self._key(request) if callable(self._key) else self._key
        cost = self._cost(request) if callable(self._cost) else self._cost
        retries = self._retries if library.repeatable(request) else 0
        while True:
            await self._take_turn(key, cost)
            answer: A = await self._call(send, request)
            returned = False
            try:
                status, headers = library.said(answer)
                await self._heed(key, cost, status, headers)
                if status != 429 or not retries:
                    returned = True
                    return answer
            finally:
                if not returned:
                    await self._call(library.close, answer)
            retries -= 1

    async def _take_turn(self, key: str | bytes, cost: int) -> None:
        """Wait for the turn. Raise `RateLimitExceeded` if it would come after the timeout."""
        began = self._now()
        await self._call(self.limiter.acquire, key, cost, self._timeout)
        while self._pauses.holds(key, self._now()):
            await self._call(self.limiter.acquire, key, cost, self._left(began))

    async def _heed(self, key: str | bytes, cost: int, status: int, headers: Headers) -> None:
        """Hold back further requests if an answer says so.

        If the store does not answer, the pause is not kept: the caller must have its answer, and the next request will
        meet the outage itself.
        """
        seconds = pause_after(status, headers, self._longest)
        if not seconds:
            return
        until = self._now() + round(seconds * TICKS_PER_SECOND)
        try:
            await _charge_pause(self.limiter, key, cost, until)
        except StoreUnavailable:
            return
        self._pauses.hold(key, until)

    def _left(self, began: int) -> float | None:
        """Return what is left of the timeout of a caller that began to wait at `began`."""
        if self._timeout is None:
            return None
        return max(0.0, self._timeout - (self._now() - began) / TICKS_PER_SECOND)


class Pacer(_Flow[R, Limiter]):
    """Takes the turns of requests, and keeps the pauses that answers ask for. Thread-safe."""

    _limiter_of = staticmethod(blocking_limiter)

    @staticmethod
    async def _call(verb: Callable[..., Any], *arguments: object) -> Any:
        return verb(*arguments)

    def send(self, request: R, send: Callable[[R], A], library: Library[R, A]) -> A:
        """Send a request in its turn, and a 429 again as often as may be. Return the answer."""
        return run_sync(self._send(request, send, library))

    def take_turn(self, key: str | bytes, cost: int) -> None:
        """Wait for the turn. Raise `RateLimitExceeded` if it would come after the timeout."""
        run_sync(self._take_turn(key, cost))

    def heed(self, key: str | bytes, cost: int, status: int, headers: Headers) -> None:
        """Hold back further requests if an answer says so."""
        run_sync(self._heed(key, cost, status, headers))


class AsyncPacer(_Flow[R, AsyncLimiter]):
    """As `Pacer`, for tasks: a request leaves by the same coroutines, awaited."""

    _limiter_of = staticmethod(awaited_limiter)

    @staticmethod
    def _call(verb: Callable[..., Any], *arguments: object) -> Any:
        return verb(*arguments)

    send, take_turn, heed = _Flow._send, _Flow._take_turn, _Flow._heed

"""Pacer and AsyncPacer: let requests leave at the rate of a limiter, and pause as servers ask. They know no library.

The flow of a request is `_Flow._send`, a coroutine. A task awaits it; a thread runs it to its end.

When a server asks for a pause, the pause is charged to the key's bucket. When the pause is over, the bucket has just
the tokens that the answered request costs. So

- requests wait for the end of a pause as for any turn: in order, by `timeout`;
- all clients of the store keep the pause, also in other processes, and it lasts as long as the store;
- the burst is spent when the pause is over: requests go one by one, at the limit's rate.

Of several limits, the fastest is charged: so the pause takes the least away once it is over.

Requests that waited before the pause have earlier turns, which are void: they take new turns. For this the end of the
pause is remembered too, for a bounded number of keys. It is kept also where the bucket does not bear it: by a request
that costs nothing, after a reset, and while a store that does not answer lets all pass.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

from ratekeeper.clients.pauses import pause_after
from ratekeeper.clock import local_ticks
from ratekeeper.coroutines import run_sync
from ratekeeper.decision import Charge, Decision, scope_of
from ratekeeper.errors import StoreUnavailable
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.forks import forget_in_child
from ratekeeper.guard import check_key_and_cost, value_of
from ratekeeper.limiter import AsyncLimiter, Limiter
from ratekeeper.limits import TICKS_PER_SECOND, Limit, wait_ticks
from ratekeeper.stores.as_async import as_async
from ratekeeper.stores.base import require_nonblocking, require_sync

R = TypeVar("R")
A = TypeVar("A")
L = TypeVar("L", Limiter, AsyncLimiter)

Pace: TypeAlias = str | Limit | Limiter | AsyncLimiter
"""A limit of a client, or a limiter whose buckets it shares."""
Headers: TypeAlias = Iterable[tuple[str, str]]

_MOST_KEYS = 10_000
_TRIES = 10
_MOST_SECONDS = 1e8
"""Of a pause: a store's times span nine years, of which a limit may take five."""


class Library(NamedTuple, Generic[R, A]):
    """How to use an HTTP library's requests and responses."""

    repeatable: Callable[[R], bool]
    """Returns whether a request can be sent again."""
    said: Callable[[A], tuple[int, Headers]]
    """Returns a response's status and headers."""
    close: Callable[[A], object]
    """Closes a response. An `AsyncPacer` awaits it."""


def host_of(request: Any) -> str:
    """Return the host of a request: the default key."""
    url = request.url
    host: str | None = urlsplit(url).hostname if isinstance(url, str) else url.host
    return host or ""


def blocking_limiter(*limits: Pace) -> Limiter:
    """Return a limiter of limits, or on a limiter's buckets. Raise TypeError if its store must be awaited."""
    own, given = divided(limits)
    if isinstance(given, AsyncLimiter):
        return Limiter(*given.limits, store=require_sync(given.store, "Limiter"), name=given.name)
    return Limiter(*own) if given is None else given


def awaited_limiter(*limits: Pace) -> AsyncLimiter:
    """Return an asyncio limiter of limits, or on a limiter's buckets. Raise TypeError if its store would block."""
    own, given = divided(limits)
    if given is None:
        return AsyncLimiter(*own)
    store = require_nonblocking(given.store)
    return given if isinstance(given, AsyncLimiter) else AsyncLimiter(*given.limits, store=store, name=given.name)


def divided(limits: Sequence[Pace]) -> tuple[Sequence[str | Limit], Limiter | AsyncLimiter | None]:
    """Return limits and None, or nothing and the one limiter. Raise TypeError for anything else."""
    own = [one for one in limits if isinstance(one, str | Limit)]
    if limits and len(own) == len(limits):
        return own, None
    for one in limits:
        if not isinstance(one, str | Limit | Limiter | AsyncLimiter):
            right = "a string such as '5/s', a TokenBucket, a LeakyBucket, or one Limiter"
            raise TypeError(f"a limit must be {right}, not {one!r}")
    if len(limits) != 1:
        raise TypeError("give limits, such as '5/s' and '100/minute', or one Limiter, which has its own limits")
    return (), cast("Limiter | AsyncLimiter", limits[0])


class _Pauses:
    """The end of each key's pause, in ticks of the store's clock. Of too many keys the oldest are forgotten."""

    def __init__(self) -> None:
        self._ends: dict[str | bytes, int] = {}
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have a lock that nobody holds: another thread of a forked process's parent may. The pauses stay."""
        self._lock = threading.RLock()  # a signal's handler may send too

    def hold(self, key: str | bytes, until: int) -> None:
        with self._lock:
            self._ends[key] = max(until, self._ends.pop(key, 0))
            if len(self._ends) > _MOST_KEYS:
                del self._ends[next(iter(self._ends))]

    def left(self, key: str | bytes, now: int) -> int:
        """Return the ticks until the end of a key's pause."""
        until = self._ends.get(key)
        if until is None:
            return 0
        if now < until:
            return until - now
        with self._lock:
            if self._ends.get(key) == until:
                del self._ends[key]
        return 0


async def _charge_pause(limiter: Limiter | AsyncLimiter, key: str | bytes, cost: int, until: int) -> None:
    """Charge a pause to a key's bucket: at `until`, it has just the tokens for `cost`."""
    index, limit = min(enumerate(limiter.limits), key=lambda numbered: numbered[1].interval)
    # A leaky bucket admits the next when its debt is 0; a token bucket, when the cost fits beside its debt.
    room = max(1, min(cost, limit.max_cost)) * limit.interval
    beside = 0 if limit.queues else limit.full - room
    store, look = as_async(limiter.store), Charge.of(scope_of(limiter.name, index), key, limit, 0)
    for _ in range(_TRIES):
        seen = (await store.decide([look], commit=False))[0]
        ahead = until - seen.at_ticks + beside
        lacking = ahead - seen.debt_ticks
        if lacking <= 0:
            return
        # Its tolerance is its result. So if another charges the bucket meanwhile, it is refused, and not made twice.
        charge = look._replace(increment=lacking, burst=ahead, tolerance=ahead)
        if (await store.decide([charge]))[0].allowed:
            return


def _refused(decision: Decision, ticks: int) -> Decision:
    """Return a decision as a refusal for so long."""
    return Decision(
        False, decision.limit, decision.key, decision.cost, decision.debt_ticks, ticks, ticks, decision.at_ticks, -1
    )


class _Flow(Generic[R, L]):
    """The flow of a request, from its turn to its response.

    It is written once for both pacers. They differ in their limiter, and in how they call its methods and the library.
    """

    _limiter_of: Callable[..., L]
    _call: Callable[..., Awaitable[Any]]
    _sleep: Callable[..., Any]

    def __init__(
        self,
        limits: Sequence[Pace],
        key: str | bytes | Callable[[R], str | bytes],
        cost: int | Callable[[R], int],
        timeout: float | None,
        retries: int,
        longest_pause: float,
    ) -> None:
        check_key_and_cost(key, cost, "the request")
        wait_ticks(timeout)
        if not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries must be a number of times that a 429 is sent again, 0 or more, not {retries!r}")
        if not isinstance(longest_pause, int | float) or not 0 <= longest_pause < float("inf"):
            raise ValueError(f"longest_pause must be a number of seconds, 0 or more, not {longest_pause!r}")
        self.limiter: L = self._limiter_of(*limits)
        self._key = key
        self._cost = cost
        self._timeout = timeout
        self._retries = retries
        self._longest = min(longest_pause, _MOST_SECONDS)
        self._pauses = _Pauses()
        self._now: Callable[[], int] = self.limiter.store.clock.ticks

    async def _send(self, request: R, send: Callable[[R], Any], library: Library[R, A]) -> A:
        """Send a request in its turn, and again after a 429, up to `retries` times. Return the response, unread.

        A response that is not returned is closed, also if this is interrupted or cancelled.
        """
        key = value_of(self._key, "key", request) if callable(self._key) else self._key
        cost = value_of(self._cost, "cost", request) if callable(self._cost) else self._cost
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
        decision = await self._call(self.limiter.acquire, key, cost, self._timeout)
        while ticks := self._pauses.left(key, self._now()):
            if not cost or not decision.delay_ticks:  # it did not wait
                if ticks > wait_ticks(self._left(began)):
                    raise RateLimitExceeded(_refused(decision, ticks))
                await self._call(self._sleep, local_ticks(self.limiter.store.clock)() + ticks)
            decision = await self._call(self.limiter.acquire, key, cost, self._left(began))

    async def _heed(self, key: str | bytes, cost: int, status: int, headers: Headers) -> None:
        """Hold back further requests if a response asks for it.

        If the store does not answer, no pause is stored. The caller gets its response, and the next request meets the
        outage.
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
        """Return the rest of the timeout of a caller that has waited since `began`."""
        if self._timeout is None:
            return None
        return max(0.0, self._timeout - (self._now() - began) / TICKS_PER_SECOND)


class Pacer(_Flow[R, Limiter]):
    """Lets requests leave in their turns, and pauses as responses ask. Thread-safe."""

    _limiter_of = staticmethod(blocking_limiter)

    @staticmethod
    async def _call(verb: Callable[..., Any], *arguments: object) -> Any:
        return verb(*arguments)

    def _sleep(self, until: int) -> None:
        self.limiter.store.clock.wait(threading.Event(), until)

    def send(self, request: R, send: Callable[[R], A], library: Library[R, A]) -> A:
        """Send a request in its turn, and again after a 429, up to `retries` times. Return the response."""
        return run_sync(self._send(request, send, library))

    def take_turn(self, key: str | bytes, cost: int) -> None:
        """Wait for the turn. Raise `RateLimitExceeded` if it would come after the timeout."""
        run_sync(self._take_turn(key, cost))

    def heed(self, key: str | bytes, cost: int, status: int, headers: Headers) -> None:
        """Hold back further requests if a response asks for it."""
        run_sync(self._heed(key, cost, status, headers))


class AsyncPacer(_Flow[R, AsyncLimiter]):
    """As `Pacer`, for tasks, which await the same coroutines."""

    _limiter_of = staticmethod(awaited_limiter)

    @staticmethod
    def _call(verb: Callable[..., Any], *arguments: object) -> Any:
        return verb(*arguments)

    async def _sleep(self, until: int) -> None:
        await self.limiter.store.clock.wait_async(asyncio.get_running_loop().create_future(), until)

    send, take_turn, heed = _Flow._send, _Flow._take_turn, _Flow._heed

"""Pacer and AsyncPacer: a limiter before requests that leave, and what the servers answer. They know no HTTP library.

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
from collections.abc import Callable, Iterable
from typing import Generic, TypeAlias, TypeVar

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge, Decision, scope_of
from ratekeeper.errors import StoreUnavailable
from ratekeeper.http.pacing import pause_after
from ratekeeper.limiter import AsyncLimiter, Limiter
from ratekeeper.limits import TICKS_PER_SECOND, Limit, checked_cost, wait_ticks
from ratekeeper.stores.awaited import awaited

R = TypeVar("R")
L = TypeVar("L", Limiter, AsyncLimiter)

Pace: TypeAlias = str | Limit | Limiter | AsyncLimiter
"""What a client is paced by: a limit, or a limiter to share buckets with."""
Headers: TypeAlias = Iterable[tuple[str, str]]

_MOST_KEYS = 10_000
_TRIES = 10


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


class _Paced(Generic[R, L]):
    """What both pacers are made of: whom a request is charged to, and what an answer comes to."""

    def __init__(
        self,
        limiter: L,
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
        self.limiter: L = limiter
        self._key = key
        self._cost = cost
        self._timeout = timeout
        self._longest = longest_pause
        self._pauses = _Pauses()
        self.retries = retries

    def asked(self, request: R) -> tuple[str | bytes, int]:
        """Return a request's key and cost."""
        key = self._key(request) if callable(self._key) else self._key
        return key, self._cost(request) if callable(self._cost) else self._cost

    def _now(self) -> int:
        clock: Clock = self.limiter.store.clock
        return clock.ticks()

    def _left(self, began: int) -> float | None:
        """Return what is left of the timeout of who began to wait then."""
        if self._timeout is None:
            return None
        return max(0.0, self._timeout - (self._now() - began) / TICKS_PER_SECOND)

    def _pause(self, cost: int, status: int, headers: Headers) -> _Pause | None:
        seconds = pause_after(status, headers, self._longest)
        return _Pause(self.limiter, cost, self._now(), seconds) if seconds else None


class _Pause:
    """What a pause charges to a bucket: what it lacks to be where it must be. To be asked until it says None."""

    def __init__(self, limiter: Limiter | AsyncLimiter, cost: int, now: int, seconds: float) -> None:
        place, self._limit = min(enumerate(limiter.limits), key=lambda placed: placed[1].interval)
        self._scope = scope_of(limiter.name, place)
        # A leaky bucket lets the next go when it owes nothing; a token bucket, when the cost fits beside what it owes.
        room = max(1, min(cost, self._limit.max_cost)) * self._limit.interval
        self._beside = 0 if self._limit.queues else self._limit.full - room
        self.until = now + round(seconds * TICKS_PER_SECOND)

    def look(self, key: str | bytes) -> Charge:
        """Return the charge of nothing, whose decision tells what the bucket owes."""
        return Charge.of(self._scope, key, self._limit, 0)

    def lacking(self, look: Charge, seen: Decision) -> Charge | None:
        """Return the charge to make, None if nothing is lacking.

        Its bound is where it leads to: if others charge the bucket meanwhile, it is refused, and nothing is done twice.
        """
        ahead = self.until - seen.at_ticks + self._beside
        lacking = ahead - seen.debt_ticks
        if lacking <= 0:
            return None
        return look._replace(increment=lacking, tolerance=ahead, bound=ahead)


class Pacer(_Paced[R, Limiter]):
    """Takes the turns of requests, and keeps the pauses that answers ask for. Thread-safe."""

    def take_turn(self, key: str | bytes, cost: int) -> None:
        """Wait for the turn. Raises `RateLimitExceeded` if it would come after the timeout."""
        began = self._now()
        self.limiter.acquire(key, cost, self._timeout)
        while self._pauses.holds(key, self._now()):
            self.limiter.acquire(key, cost, self._left(began))

    def heed(self, key: str | bytes, cost: int, status: int, headers: Headers) -> None:
        """Hold back further requests if an answer says so.

        If the store does not answer, the pause is not kept: the caller must have its answer, and the next request will
        meet the outage itself.
        """
        pause = self._pause(cost, status, headers)
        if pause is None:
            return
        try:
            self._charge(key, pause)
        except StoreUnavailable:
            return
        self._pauses.hold(key, pause.until)

    def _charge(self, key: str | bytes, pause: _Pause) -> None:
        store, look = self.limiter.store, pause.look(key)
        for _ in range(_TRIES):  # each that fails, another request has charged the bucket
            charge = pause.lacking(look, store.decide([look], commit=False)[0])
            if charge is None or store.decide([charge])[0].allowed:
                return


class AsyncPacer(_Paced[R, AsyncLimiter]):
    """As `Pacer`, for tasks."""

    async def take_turn(self, key: str | bytes, cost: int) -> None:
        """As `Pacer.take_turn`."""
        began = self._now()
        await self.limiter.acquire(key, cost, self._timeout)
        while self._pauses.holds(key, self._now()):
            await self.limiter.acquire(key, cost, self._left(began))

    async def heed(self, key: str | bytes, cost: int, status: int, headers: Headers) -> None:
        """As `Pacer.heed`."""
        pause = self._pause(cost, status, headers)
        if pause is None:
            return
        try:
            await self._charge(key, pause)
        except StoreUnavailable:
            return
        self._pauses.hold(key, pause.until)

    async def _charge(self, key: str | bytes, pause: _Pause) -> None:
        store, look = awaited(self.limiter.store), pause.look(key)
        for _ in range(_TRIES):
            charge = pause.lacking(look, (await store.decide([look], commit=False))[0])
            if charge is None or (await store.decide([charge]))[0].allowed:
                return


def blocking_limiter(limit: Pace) -> Limiter:
    """Return a limiter, of the same buckets if it is one for asyncio. Its store must not be one to be awaited."""
    if isinstance(limit, AsyncLimiter):
        return Limiter(*limit.limits, store=limit.store, name=limit.name)  # type: ignore[arg-type]  # it checks
    return limit if isinstance(limit, Limiter) else Limiter(limit)


def awaited_limiter(limit: Pace) -> AsyncLimiter:
    """Return a limiter for asyncio, of the same buckets if it is another."""
    if isinstance(limit, Limiter):
        return AsyncLimiter(*limit.limits, store=limit.store, name=limit.name)
    return limit if isinstance(limit, AsyncLimiter) else AsyncLimiter(limit)

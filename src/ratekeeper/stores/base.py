"""The two protocols of a store, and the gates that bind limits to it.

A store owns the state of all buckets and the time, and decides the charges of one request, all or nothing. It must not
know an algorithm: a charge is three integers (see `gcra`). A `Store` answers at once, or blocks its thread; an
`AsyncStore` is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import lru_cache, partial
from operator import index
from typing import Any, Protocol, TypeAlias, TypeGuard, TypeVar, cast

from ratekeeper.clock import Clock
from ratekeeper.coroutines import pending
from ratekeeper.decision import Charge, Decision, combine, key_bytes
from ratekeeper.forks import OfOneProcess
from ratekeeper.limits import MAX_AHEAD_TICKS, Limit, Timeout, checked_cost, wait_ticks
from ratekeeper.waiting.async_wait_queue import AsyncWaitQueue
from ratekeeper.waiting.wait_queue import TaskQueue, WaitQueue

T = TypeVar("T")
Answer: TypeAlias = Coroutine[Any, Any, T]
WaitForTurn: TypeAlias = Callable[..., Decision]
WaitForTurnAsync: TypeAlias = Callable[..., Awaitable[Decision]]


class Store(Protocol):
    """The owner of buckets and time. `MemoryStore` is one; implement this to make your own.

    A store that waits for another machine says so by an attribute `blocks = True`: no event loop may ask it.
    """

    clock: Clock
    wait_queue: WaitQueue

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        """Decide the charges of one request, and make all of them or none. Returns a decision for each, in order.

        `allowed` of each is its own bucket's answer; the request passes if all that are not in shadow allow it.
        An empty list of charges gets an empty list. With `commit=False` nothing is written.
        """
        ...

    def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        """Give back charges that were made at `at_ticks`, each as far as `gcra.refundable` allows."""
        ...

    def adjust(self, scope: str, key: str | bytes, back_ticks: int, block_ticks: int | None) -> None:
        """Change a bucket by hand, whatever is charged.

        The TAT goes back by `back_ticks`, up to a full bucket. With `block_ticks` the bucket is blocked for at least so
        many ticks, with 0 its block ends, and with None it stays as it is. A charge on a blocked bucket is refused as
        if the bucket owed `gcra.blocked_debt`, if that is more: then the decision tells that no token is left. Raise
        `StoreError` if a block finds no room, and never return without the change.
        """
        ...

    def reset_scope(self, scope: str) -> None:
        """Forget all buckets of a scope: of one limit of a limiter, or of one rule. In bounded steps if there are many.

        Requests meanwhile find their bucket as it was, or full; after the return all find it full.
        """
        ...

    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        """Set a bucket's TAT back, if it is still `expected_ticks`. Returns whether it was; else nothing is done."""
        ...

    def bind(self, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurn) -> Gate:
        """Return the hot path of one limiter: `ChargeGate(self, scopes, limits, wait)`, unless there is a faster one.

        `wait(key, cost, timeout)` is called for an `acquire` whose turn has not come.
        """
        ...


def nobody_waits(*_: object) -> Any:
    """The `wait` of a gate whose `acquire` is never called."""
    raise AssertionError("this gate decides at once")


class Gate(Protocol):
    """The limits of one limiter bound to one store."""

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        """Ask for `cost` tokens for `key`: true if it may go ahead at this moment. Never blocks."""
        ...

    def acquire(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision:
        """Return at once if the turn of `cost` tokens for `key` has come; else wait for it."""
        ...

    def reserve(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision:
        """Ask on behalf of a caller who is willing to wait `timeout` seconds; the decision's `delay` says how long."""
        ...

    def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        """Ask once for each key, in order."""
        ...


class AsyncGate(Protocol):
    """As `Gate`, to be awaited."""

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Answer[Decision]:
        """Ask for `cost` tokens for `key`."""
        ...

    @pending
    async def acquire(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision:
        """Wait for the turn of `cost` tokens for `key`."""
        if timeout is not None:
            wait_ticks(timeout)  # a bad one is an error, whether or not it would be needed
        return await self.take_turn(key, cost, timeout)

    def take_turn(self, key: str | bytes, cost: int, timeout: Timeout) -> Answer[Decision]:
        """As `acquire`, for a timeout that was checked, or is the limit's own."""
        ...

    def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> Answer[list[bool]]:
        """Ask once for each key, in order."""
        ...


class AsyncStore(Protocol):
    """A store that must be awaited. To make your own, implement this, with an `AsyncWaitQueue` as its `wait_queue`.

    The verbs are `Store`'s. The gate of every such store is `AsyncChargeGate`. `as_async` gives a `Store` this form.

    `clock` is read without awaiting. So if the time is another machine's, the clock is a guess: never ahead of the
    store's own time, and never behind an answer that the store has given.
    """

    clock: Clock

    @property
    def wait_queue(self) -> AsyncWaitQueue | TaskQueue: ...

    # Each is an `async def` in your own store.
    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> Answer[list[Decision]]: ...
    def refund(self, charges: Sequence[Charge], at_ticks: int) -> Answer[None]: ...
    def adjust(self, scope: str, key: str | bytes, back_ticks: int, block_ticks: int | None) -> Answer[None]: ...
    def reset_scope(self, scope: str) -> Answer[None]: ...
    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> Answer[bool]: ...


def is_async(store: Store | AsyncStore) -> TypeGuard[AsyncStore]:
    """Tell the two kinds of store apart: by their wait queues, as a verb may be anything that can be called."""
    return isinstance(store.wait_queue, AsyncWaitQueue)


def require_sync(store: Store | AsyncStore, asker: str) -> Store:
    """Return a store that is not awaited. Raises TypeError for another, naming who could await it."""
    if is_async(store):
        mend = f"use Async{asker}, or here a store that is not awaited, such as RedisStore"
        raise TypeError(f"{type(store).__name__} must be awaited, which {asker} cannot: {mend}")
    return cast("Store", store)


def require_nonblocking(store: Store | AsyncStore) -> Store | AsyncStore:
    """Return a store that an event loop may ask. Raises TypeError for one that would block it."""
    if getattr(store, "blocks", False):
        mend = "use a store that is awaited, such as AsyncRedisStore"
        raise TypeError(f"{type(store).__name__} blocks the event loop until its server answers: {mend}")
    return store


def checked_adjustment(back_ticks: int, block_ticks: int | None) -> tuple[int, int | None]:
    """Return the ticks of an adjustment. Raise TypeError or ValueError if they are not ticks."""
    back, block = index(back_ticks), None if block_ticks is None else index(block_ticks)
    if not 0 <= back <= MAX_AHEAD_TICKS or not 0 <= (block or 0) <= MAX_AHEAD_TICKS:
        raise ValueError(f"back_ticks and block_ticks must be from 0 to 2**62 - 1, not {back_ticks} and {block_ticks}")
    return back, block


_charge: Callable[[tuple[Any, ...]], Charge] = partial(tuple.__new__, Charge)
"""Make a charge of its nine fields, at half the price of `Charge(...)`."""


class _Charging(OfOneProcess):
    """The charges of one limiter, for both gates."""

    _kind = "a verb of a limiter"
    _instead = "make the limiter in each process"

    def __init__(self, scopes: tuple[str, ...], limits: tuple[Limit, ...]) -> None:
        self._bound = tuple(zip(scopes, limits, strict=True))
        self._at_once = lru_cache(maxsize=128)(partial(_terms, self._bound))

    def _charges(self, key: str | bytes, cost: int, timeout: Timeout = 0) -> list[Charge]:
        if type(cost) is int and type(timeout) is int and timeout == 0:  # the hot path
            return [_charge((scope, key, *terms, False, None)) for scope, terms in self._at_once(cost)]
        return [Charge.of(scope, key, limit, cost, timeout) for scope, limit in self._bound]


def _terms(bound: tuple[tuple[str, Limit], ...], cost: int) -> tuple[tuple[str, tuple[Limit, int, int, int, int]], ...]:
    """Return what each limit asks for `cost` tokens at once: the part of its charge that is the same for all keys."""
    return tuple((scope, (limit, cost, *limit.terms(cost, 0))) for scope, limit in bound)


class ChargeGate(_Charging):
    """The gate for any store. It builds the charges, and returns the most restrictive decision.

    >>> from ratekeeper import MemoryStore, TokenBucket
    >>> gate = ChargeGate(MemoryStore(100), ("search/0",), (TokenBucket(5, 1),), wait=print)
    >>> gate.try_acquire("alice").remaining
    4
    """

    def __init__(self, store: Store, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurn) -> None:
        super().__init__(scopes, limits)
        self._store = store
        self._wait = wait

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        return combine(self._store.decide(self._charges(key, cost)))

    def acquire(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision:
        wait_ticks(timeout)  # a bad timeout is an error, whether or not it would be needed
        decision = self.try_acquire(key, cost)
        return decision if decision.allowed else self._wait(key, cost, timeout)

    def reserve(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision:
        return combine(self._store.decide(self._charges(key, cost, timeout)))

    def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        return [self.try_acquire(key, cost).allowed for key in checked_keys(keys, cost)]


class AsyncChargeGate(_Charging, AsyncGate):
    """As `ChargeGate`, for any store that is awaited.

    >>> from ratekeeper import MemoryStore, TokenBucket
    >>> from ratekeeper.stores.as_async import as_async
    >>> store = as_async(MemoryStore(100))
    >>> gate = AsyncChargeGate(store, ("search/0",), (TokenBucket(5, 1),), wait=print)
    >>> asyncio.run(gate.try_acquire("alice")).remaining
    4
    """

    def __init__(
        self, store: AsyncStore, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurnAsync
    ) -> None:
        super().__init__(scopes, limits)
        self._store = store
        self._wait = wait

    @pending
    async def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        return combine(await self._store.decide(self._charges(key, cost)))

    async def take_turn(self, key: str | bytes, cost: int, timeout: Timeout) -> Decision:
        # Not by a first question, as ChargeGate does: that would be one more round trip for a waiter. A waiter that is
        # cancelled on the way gets its charge back.
        return await self._wait(key, cost, timeout)

    async def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        """Ask once for each key, in order, all in one turn of the event loop, so that they can travel together."""
        decisions = await asyncio.gather(*(self.try_acquire(key, cost) for key in checked_keys(keys, cost)))
        return [decision.allowed for decision in decisions]


def checked_keys(keys: Sequence[str | bytes], cost: int) -> list[str | bytes]:
    """Return a list of keys, each to be asked for `cost`. A bad key or cost is an error before any is charged."""
    checked_cost(cost)
    if isinstance(keys, str | bytes):
        raise TypeError("keys must be a sequence of keys, not one key")
    keys = list(keys)
    for key in keys:
        key_bytes(key)
    return keys

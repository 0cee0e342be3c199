"""Limiter and AsyncLimiter: the verbs that people call, and waiting. They know stores only by `stores.base`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ratekeeper.adjustment import Adjustment, Until, block, forget, grant, ticks_until, unblock
from ratekeeper.coroutines import pending, run_sync
from ratekeeper.decision import Decision, combine
from ratekeeper.guard import Cost, Guard, Key
from ratekeeper.limiter_base import NamedLimits
from ratekeeper.limits import DEFAULT_WAIT, Limit, Timeout
from ratekeeper.stores.as_async import as_async, async_gate
from ratekeeper.stores.base import (
    Answer,
    AsyncStore,
    Gate,
    Store,
    is_async,
    require_nonblocking,
    require_sync,
)
from ratekeeper.stores.by_hand import adjust_buckets, reset_scopes
from ratekeeper.stores.spec import StoreSpec, opened
from ratekeeper.usage import Usage
from ratekeeper.verbs import with_hints
from ratekeeper.waiting.turns import Reservation, reserve, wait_for_turn, wait_for_turn_async


@with_hints
class Limiter(NamedLimits):
    """Decide for each key whether a request may go ahead, under one or several limits: all are charged, or none.

    `limits` are `TokenBucket`s, `LeakyBucket`s or strings for `parse_limit`. `store` holds the buckets: a store, or a
    string that names one, "shared:NAME" or a server's URL such as "redis://host:6379/0"; by default a new
    `MemoryStore`. `close()` closes a store that the limiter opened by its name. `name` and key identify a bucket:
    limiters of one name on one store share buckets. `name` defaults to the limits as a string; if you give a name,
    debts stay when limits change.

    Thread-safe. Keys are str or bytes; costs are whole numbers. `try_acquire`, `try_acquire_many` and `acquire` of an
    instance are its store's, unless a subclass overrides them: a call runs no Python code of this library.

    >>> limiter = Limiter("100/minute burst 20")
    >>> decision = limiter.try_acquire("alice")
    >>> decision.allowed, decision.remaining
    (True, 19)
    """

    def __init__(self, *limits: Limit | str, store: Store | str | None = None, name: str | None = None) -> None:
        super().__init__(limits, name, store)
        self.store: Store = require_sync(opened(store, StoreSpec.open), "Limiter")
        self._keep_alike(self.store)
        # The function that waits must not refer to this limiter: a cycle through the gate would keep a table alive.
        self._wait = partial(wait_for_turn, self.store, self._charges)
        self._gate: Gate = self.store.bind(self._scopes, self.limits, self._wait)
        for verb in ("try_acquire", "try_acquire_many", "acquire"):
            if getattr(type(self), verb) is getattr(Limiter, verb):  # else a subclass overrides it
                setattr(self, verb, getattr(self._gate, verb))  # none of our Python code on the hot path

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        """Ask for `cost` tokens for `key`: true if the caller may go ahead at this moment. Never blocks."""
        return self._gate.try_acquire(key, cost)

    def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        """Ask once for each key, in order: true means that it may go ahead at this moment.

        The C core asks for all at one instant. Raise before any charge if one is not a key.
        """
        return self._gate.try_acquire_many(keys, cost)

    def acquire(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision:
        """Wait for the turn of `cost` tokens for `key`; return the decision when it has come.

        `timeout` is in seconds, as in `queue.Queue.get`: None waits as long as it takes, 0 not at all. Raise
        `RateLimitExceeded` at once if the turn would come later, if a leaky bucket's queue is full, or if `cost` can
        never pass. If the wait is interrupted, the place is given back, and those behind move up (docs/waiting.md).
        """
        return self._gate.acquire(key, cost, timeout)

    def reserve(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Reservation[Decision]:
        """Take the turn of `cost` tokens for `key`, and return at once: `delay` says when it comes.

        `timeout` is as for `acquire`: a turn that would come later is not taken. A `Reservation` is false if it was
        refused. It may be cancelled, and as a context manager waits for its turn.
        """
        charges = self._charges(key, cost, timeout)
        return run_sync(reserve(as_async(self.store), charges, combine, blocking=self.store))

    def peek(self, key: str | bytes, cost: int = 1) -> Decision:
        """Return what `try_acquire` would answer now, charging nothing: `remaining` is the number of tokens left."""
        return combine(self.store.decide(self._charges(key, cost, 0), commit=False))

    def usage(self, key: str | bytes) -> list[Usage]:
        """Return how much of each limit `key` has used, in the limits' order, charging nothing."""
        looks = self.store.decide(self._charges(key, 1, 0), commit=False)
        return self._usage(looks, self.store.wait_queue.waiting_at)

    def refund(self, decision: Decision, cost: int | None = None) -> None:
        """Give back a decision's charge, or `cost` tokens of it, less the tokens that have refilled since.

        Use it for work that was not done, or that cost less than its charge. Refilled tokens are not given again, so
        after `cost / refill_rate` seconds nothing is. No token is given back twice; a refused decision has nothing to
        give. Once a caller waits for a bucket, refunds give nothing until it is full: see docs/waiting.md.

        A leaky bucket gets nothing back: later callers have their turns already. (A waiter gives its place back by
        giving up the wait.) Raise ValueError for more than the charge, or for a decision by a limit that this limiter
        does not have.
        """
        tokens = self._to_give_back(decision, cost)
        if tokens:
            self.store.refund(tokens, decision.at_ticks)

    def reset(self, key: str | bytes) -> None:
        """Forget what `key` owes, and its block: its buckets are full again."""
        self._adjust(key, forget)

    def grant(self, key: str | bytes, tokens: int) -> None:
        """Give `key` that many tokens of each limit, up to a full bucket. A key that has none left gets exactly these.

        A block of the key stays: see `unblock`.
        """
        self._adjust(key, partial(grant, tokens=tokens))

    def block(self, key: str | bytes, until: Until) -> None:
        """Refuse `key` until then, in all processes that share the store, whatever its limits become.

        `until` is a datetime with a time zone, or a number as of `time.time()`. The key's debts refill meanwhile.
        `usage` shows a block as `retry_after`. A later block makes it longer, never shorter. No request waits for its
        end: `acquire` is refused at once. Requests that wait already keep their turns, and so may requests that take
        over the turn of a waiter that gave up.
        """
        self._adjust(key, partial(block, ticks=ticks_until(until)))

    def unblock(self, key: str | bytes) -> None:
        """End a block of `key`. The key's debts stay: for a full bucket, use `reset`."""
        self._adjust(key, unblock)

    def reset_all(self) -> None:
        """Forget all keys: their buckets are full again.

        On a server this looks at all names there, in bounded steps.
        """
        run_sync(reset_scopes(as_async(self.store), self._scopes))

    def _adjust(self, key: str | bytes, adjust: Callable[[Limit], Adjustment]) -> None:
        run_sync(adjust_buckets(as_async(self.store), self._charges(key, 1), adjust))

    def limit(self, key: Key, cost: Cost = 1, timeout: Timeout = DEFAULT_WAIT) -> Guard:
        """Return a decorator for functions, also async ones, that is a context manager too. See `Guard`."""
        return Guard(
            self._take_turn_async, self._take_turn, key, cost, timeout, partial(require_nonblocking, self.store)
        )

    def close(self) -> None:
        """Close the store if this limiter opened it by its name. Any other store stays open."""
        close = getattr(self.store, "close", None)
        if self._opened and close is not None:
            close()

    def _take_turn(self, key: str | bytes, cost: int, timeout: Timeout) -> Decision:
        decision = self._gate.try_acquire(key, cost)
        return decision if decision.allowed else self._wait(key, cost, timeout)

    async def _take_turn_async(self, key: str | bytes, cost: int, timeout: Timeout) -> Decision:
        decision = self._gate.try_acquire(key, cost)
        if decision.allowed:
            return decision
        return await wait_for_turn_async(as_async(self.store), self._charges, key, cost, timeout)


@with_hints
class AsyncLimiter(NamedLimits):
    """`Limiter` for asyncio: the same arguments and verbs, awaited. Waiting lets the event loop go on.

    `store` may also be one that must be awaited, such as one on the network.

    `try_acquire`, `acquire`, `reserve` and `peek` return an object that works as a coroutine does, also in tasks. The
    await asks, once, and raises for a bad key or cost. The object's truth is a TypeError. So a forgotten `await`, as in
    `if limiter.try_acquire(key):`, lets no request pass.

    >>> import asyncio
    >>> limiter = AsyncLimiter("1/hour")
    >>> async def ask() -> list[bool]:
    ...     return [(await limiter.try_acquire("alice")).allowed for _ in range(2)]
    >>> asyncio.run(ask())
    [True, False]
    """

    def __init__(
        self, *limits: Limit | str, store: Store | AsyncStore | str | None = None, name: str | None = None
    ) -> None:
        super().__init__(limits, name, store)
        self.store: Store | AsyncStore = opened(store, StoreSpec.open_async)
        self._keep_alike(self.store)
        self._store = as_async(require_nonblocking(self.store))
        self._wait = partial(
            wait_for_turn_async, self._store, self._charges
        )  # does not refer to this limiter: see Limiter
        self._gate = async_gate(self.store, self._scopes, self.limits, self._wait)
        for verb in ("try_acquire", "acquire"):
            if getattr(type(self), verb) is getattr(AsyncLimiter, verb):  # else a subclass overrides it
                setattr(self, verb, getattr(self._gate, verb))

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Answer[Decision]:
        """As `Limiter.try_acquire`."""
        return self._gate.try_acquire(key, cost)

    async def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        """As `Limiter.try_acquire_many`. A store that must be awaited is asked for all keys at once."""
        return await self._gate.try_acquire_many(keys, cost)

    def acquire(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Answer[Decision]:
        """As `Limiter.acquire`. A waiting task that is cancelled gives its place back."""
        return self._gate.acquire(key, cost, timeout)

    @pending
    async def reserve(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Reservation[Decision]:
        """As `Limiter.reserve`; a context manager for `async with` only."""
        return await reserve(self._store, self._charges(key, cost, timeout), combine)

    @pending
    async def peek(self, key: str | bytes, cost: int = 1) -> Decision:
        """As `Limiter.peek`."""
        return combine(await self._store.decide(self._charges(key, cost, 0), commit=False))

    async def usage(self, key: str | bytes) -> list[Usage]:
        """As `Limiter.usage`."""
        looks = await self._store.decide(self._charges(key, 1, 0), commit=False)
        return self._usage(looks, self._store.wait_queue.waiting_at)

    async def refund(self, decision: Decision, cost: int | None = None) -> None:
        """As `Limiter.refund`."""
        tokens = self._to_give_back(decision, cost)
        if tokens:
            await self._store.refund(tokens, decision.at_ticks)

    async def reset(self, key: str | bytes) -> None:
        """As `Limiter.reset`."""
        await self._adjust(key, forget)

    async def grant(self, key: str | bytes, tokens: int) -> None:
        """As `Limiter.grant`."""
        await self._adjust(key, partial(grant, tokens=tokens))

    async def block(self, key: str | bytes, until: Until) -> None:
        """As `Limiter.block`."""
        await self._adjust(key, partial(block, ticks=ticks_until(until)))

    async def unblock(self, key: str | bytes) -> None:
        """As `Limiter.unblock`."""
        await self._adjust(key, unblock)

    async def reset_all(self) -> None:
        """As `Limiter.reset_all`."""
        await reset_scopes(self._store, self._scopes)

    async def _adjust(self, key: str | bytes, adjust: Callable[[Limit], Adjustment]) -> None:
        await adjust_buckets(self._store, self._charges(key, 1), adjust)

    def limit(self, key: Key, cost: Cost = 1, timeout: Timeout = DEFAULT_WAIT) -> Guard:
        """Return a decorator for async functions that is an async context manager too. See `Guard`."""
        return Guard(self._gate.take_turn, None, key, cost, timeout)

    async def close(self) -> None:
        """As `Limiter.close`."""
        close = getattr(self.store, "close", None)
        if self._opened and close is not None:
            closing = close()
            if is_async(self.store):
                await closing

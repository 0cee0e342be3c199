"""Limiter and AsyncLimiter: the verbs that people call, and waiting. They know stores only by `stores.base`."""

from __future__ import annotations

from collections.abc import Sequence

from ratekeeper.decision import Charge, Decision, scope_of, together
from ratekeeper.errors import RateLimitExceeded
from ratekeeper.guard import Cost, Guard, Key
from ratekeeper.limits import AS_MEANT, Limit, Timeout, parse_limit
from ratekeeper.stores.base import Gate, Store
from ratekeeper.stores.memory import MemoryStore
from ratekeeper.turns import take_turn, take_turn_async


class _Bound:
    """Limits bound to a store under a name: what both limiters are made of."""

    def __init__(self, *limits: Limit | str, store: Store | None = None, name: str | None = None) -> None:
        if not limits:
            raise ValueError("a limiter needs at least one limit, such as TokenBucket(20, 5) or '100/minute'")
        self.limits = tuple(parse_limit(limit) if isinstance(limit, str) else limit for limit in limits)
        for limit in self.limits:
            if not isinstance(limit, Limit):
                raise TypeError(f"a limit must be a TokenBucket, a LeakyBucket or text, not {limit!r}")
        self.name = " and ".join(map(str, self.limits)) if name is None else name
        self.store: Store = MemoryStore() if store is None else store
        self._scopes = tuple(scope_of(self.name, place) for place in range(len(self.limits)))
        self._gate: Gate = self.store.bind(self._scopes, self.limits, self._wait)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.limits))}, name={self.name!r})"

    def _charges(self, key: str | bytes, cost: int, timeout: Timeout = AS_MEANT) -> list[Charge]:
        bound = zip(self._scopes, self.limits, strict=True)
        return [Charge.of(scope, key, limit, cost, timeout) for scope, limit in bound]

    def _peek(self, key: str | bytes, cost: int) -> Decision:
        return together(self.store.decide(self._charges(key, cost), commit=False))

    def _refund(self, decision: Decision, cost: int | None) -> None:
        if decision.limit not in self.limits:
            raise ValueError(f"this decision was made for another limiter: {decision.limit} is not among {self.limits}")
        if decision._refunded < 0:
            return  # nothing was charged
        left = decision.cost - decision._refunded
        given = left if cost is None else cost
        if not 0 <= given <= left:
            raise ValueError(f"cost must be from 0 to the {left} not yet given back of {decision.cost}, not {cost!r}")
        object.__setattr__(decision, "_refunded", decision._refunded + given)
        tokens = [charge for charge in self._charges(decision.key, given) if not charge.limit.queues]
        self.store.refund(tokens, decision.at_ticks)

    def _reset(self, key: str | bytes) -> None:
        for scope in self._scopes:
            self.store.reset(scope, key)

    def _take_turn(self, key: str | bytes, cost: int, timeout: Timeout) -> Decision:
        decision = self._gate.reserve(key, cost, 0)
        return decision if decision.allowed else self._wait(key, cost, timeout)

    async def _take_turn_async(self, key: str | bytes, cost: int, timeout: Timeout) -> Decision:
        decision = self._gate.reserve(key, cost, 0)
        return decision if decision.allowed else await self._wait_async(key, cost, timeout)

    def _wait(self, key: str | bytes, cost: int = 1, timeout: Timeout = None) -> Decision:
        """Wait for the turn, or raise `RateLimitExceeded` at once."""
        return _admitted(take_turn(self.store, self._charges(key, cost, timeout)))

    async def _wait_async(self, key: str | bytes, cost: int = 1, timeout: Timeout = None) -> Decision:
        return _admitted(await take_turn_async(self.store, self._charges(key, cost, timeout)))


class Limiter(_Bound):
    """Say for each key whether a request may go ahead, under one or several limits: all are charged, or none.

    `limits` are `TokenBucket`s, `LeakyBucket`s or texts for `parse_limit`. `store` is where the buckets live: by
    default a `MemoryStore` of the limiter's own. `name` and key are a bucket's identity: limiters of one name on one
    store share buckets. It defaults to the text of the limits; with one of your own, debts stay when limits change.

    Thread-safe. Keys are str or bytes; costs are whole numbers.

    >>> limiter = Limiter("100/minute burst 20")
    >>> decision = limiter.try_acquire("alice")
    >>> decision.allowed, decision.remaining
    (True, 19)
    """

    def __init__(self, *limits: Limit | str, store: Store | None = None, name: str | None = None) -> None:
        super().__init__(*limits, store=store, name=name)
        self.try_acquire = self._gate.try_acquire
        self.try_acquire_many = self._gate.try_acquire_many
        self.acquire = self._gate.acquire

    def peek(self, key: str | bytes, cost: int = 1) -> Decision:
        """Return what `try_acquire` would answer now, charging nothing: `remaining` is what is there."""
        return self._peek(key, cost)

    def refund(self, decision: Decision, cost: int | None = None) -> None:
        """Give back what a decision was charged, or `cost` tokens of it, less what has refilled since.

        For work that was not done, or that cost less than was reserved. No token is given back twice; a refused
        decision has nothing to give. A leaky bucket gets nothing back: those behind have their turns already. (Who
        still waits gives its place back by giving up the wait.) Raises ValueError for more than was charged, or for
        another limiter's decision.
        """
        self._refund(decision, cost)

    def reset(self, key: str | bytes) -> None:
        """Forget what `key` owes: its buckets are full again."""
        self._reset(key)

    def limit(self, key: Key, cost: Cost = 1, timeout: Timeout = AS_MEANT) -> Guard:
        """Return a decorator for functions, also async ones, that is a context manager too. See `Guard`."""
        return Guard(self, key, cost, timeout, asynchronous=False)


class AsyncLimiter(_Bound):
    """`Limiter` for asyncio: the same arguments and verbs, awaited. Waiting lets the event loop go on."""

    async def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        """As `Limiter.try_acquire`."""
        return self._gate.try_acquire(key, cost)

    async def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        """As `Limiter.try_acquire_many`."""
        return self._gate.try_acquire_many(keys, cost)

    async def acquire(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision:
        """As `Limiter.acquire`. A waiting task that is cancelled gives its place back."""
        return await self._take_turn_async(key, cost, timeout)

    async def peek(self, key: str | bytes, cost: int = 1) -> Decision:
        """As `Limiter.peek`."""
        return self._peek(key, cost)

    async def refund(self, decision: Decision, cost: int | None = None) -> None:
        """As `Limiter.refund`."""
        self._refund(decision, cost)

    async def reset(self, key: str | bytes) -> None:
        """As `Limiter.reset`."""
        self._reset(key)

    def limit(self, key: Key, cost: Cost = 1, timeout: Timeout = AS_MEANT) -> Guard:
        """Return a decorator for async functions that is an async context manager too. See `Guard`."""
        return Guard(self, key, cost, timeout, asynchronous=True)


def _admitted(decisions: list[Decision]) -> Decision:
    decision = together(decisions)
    if not decision.allowed:
        raise RateLimitExceeded(decision)
    return decision

"""What a store is: it owns the state of all buckets and the time, and decides the charges of one request, all or
nothing. A store never learns an algorithm: a charge is three integers (see `gcra`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge, Decision, key_bytes, together
from ratekeeper.limits import Limit


class Store(Protocol):
    """Where buckets live. `MemoryStore` is one; implement these six to make your own."""

    clock: Clock

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        """Decide the charges of one request, and make all of them or none. Returns each one's own decision, in order.

        `allowed` of each is what its own bucket says; the request passes if all that are not in shadow allow it.
        With `commit=False` nothing is written.
        """
        ...

    def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        """Give back charges that were made at `at_ticks`, each as far as `gcra.refundable` allows."""
        ...

    def reset(self, scope: str, key: str | bytes) -> None:
        """Forget a bucket: it is full again."""
        ...

    def bind(self, scopes: tuple[str, ...], limits: tuple[Limit, ...]) -> Gate:
        """Return the hot path of one limiter: `ChargeGate(self, scopes, limits)`, unless the store has a faster one."""
        ...


class Gate(Protocol):
    """The limits of one limiter bound to one store."""

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        """Ask for `cost` tokens for `key`, now. Never blocks."""
        ...

    def reserve(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision:
        """Ask on behalf of a caller who is willing to wait `timeout` seconds; the decision's `delay` says how long."""
        ...

    def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        """Ask once for each key, in order."""
        ...


class ChargeGate:
    """The gate for any store: builds the charges, and lets the most binding decision speak for all."""

    def __init__(self, store: Store, scopes: tuple[str, ...], limits: tuple[Limit, ...]) -> None:
        self._store = store
        self._bound = tuple(zip(scopes, limits, strict=True))

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        return self._decide([Charge.of(scope, key, limit, cost) for scope, limit in self._bound])

    def reserve(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision:
        return self._decide([Charge.of(scope, key, limit, cost, timeout) for scope, limit in self._bound])

    def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        if isinstance(keys, str | bytes):
            raise TypeError("keys must be a sequence of keys, not one key")
        keys = list(keys)
        for key in keys:
            key_bytes(key)  # a bad key is an error before any is charged
        return [self.try_acquire(key, cost).allowed for key in keys]

    def _decide(self, charges: list[Charge]) -> Decision:
        decisions = self._store.decide(charges)
        return decisions[0] if len(decisions) == 1 else together(decisions)

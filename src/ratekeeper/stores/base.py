"""What a store is: it owns the state of all buckets and the time, and decides the charges of one request, all or
nothing. A store never learns an algorithm: a charge is three integers (see `gcra`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge, Decision, key_bytes, together
from ratekeeper.limits import Limit, wait_ticks
from ratekeeper.stores.waiting import Line

Wait: TypeAlias = Callable[..., Decision]


class Store(Protocol):
    """Where buckets live. `MemoryStore` is one; implement this to make your own."""

    clock: Clock
    line: Line

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

    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        """Set a bucket's TAT back, if it is still `expected_ticks`. Returns whether it was; else nothing is done."""
        ...

    def bind(self, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: Wait) -> Gate:
        """Return the hot path of one limiter: `ChargeGate(self, scopes, limits, wait)`, unless there is a faster one.

        `wait(key, cost, timeout)` is called for an `acquire` whose turn has not come.
        """
        ...


class Gate(Protocol):
    """The limits of one limiter bound to one store."""

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        """Ask for `cost` tokens for `key`, now. Never blocks."""
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


class ChargeGate:
    """The gate for any store: builds the charges, and lets the most binding decision speak for all."""

    def __init__(self, store: Store, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: Wait) -> None:
        self._store = store
        self._wait = wait
        self._bound = tuple(zip(scopes, limits, strict=True))

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        return self._decide([Charge.of(scope, key, limit, cost) for scope, limit in self._bound])

    def acquire(self, key: str | bytes, cost: int = 1, timeout: float | None = None) -> Decision:
        wait_ticks(timeout)  # a bad timeout is an error, whether or not it would be needed
        decision = self.reserve(key, cost, 0)
        return decision if decision.allowed else self._wait(key, cost, timeout)

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

"""A local store in the form of an `AsyncStore`: so code for asyncio is written once, for both kinds of store.

Nothing here ever waits. This file must not know limiters and policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ratekeeper.coroutines import as_coroutine, pending
from ratekeeper.decision import Decision
from ratekeeper.limits import Limit, Timeout
from ratekeeper.stores.base import (
    AsyncChargeGate,
    AsyncGate,
    AsyncStore,
    Gate,
    Store,
    WaitForTurnAsync,
    is_async,
)
from ratekeeper.waiting.wait_queue import TaskQueue


def as_async(store: Store | AsyncStore) -> AsyncStore:
    """Return a store to be awaited: the same, if it must be.

    On an event loop the store must not block (see `require_nonblocking`). Without a loop use `run_sync`.
    """
    return store if is_async(store) else _AsyncView(cast("Store", store))


def async_gate(
    store: Store | AsyncStore, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurnAsync
) -> AsyncGate:
    """Return the gate of any store in the form that is awaited. `wait` waits for a turn that has not come."""
    if is_async(store):
        return AsyncChargeGate(store, scopes, limits, wait)
    # The gate's own `acquire` is not called, so it may get a function that must be awaited.
    return _LocalGate(cast("Store", store).bind(scopes, limits, cast("Any", wait)), wait)


class _LocalGate(AsyncGate):
    """A local store's gate as one that is awaited.

    The C core has such verbs too: to await a coroutine of Python would cost as much as the decision.
    """

    def __init__(self, gate: Gate, wait: WaitForTurnAsync) -> None:
        self._gate = gate
        self._wait = wait
        for verb in ("try_acquire", "acquire"):
            own = getattr(gate, f"{verb}_pending", None)
            if own is not None:
                setattr(self, verb, own)

    @pending
    async def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        return self._gate.try_acquire(key, cost)

    async def take_turn(self, key: str | bytes, cost: int, timeout: Timeout) -> Decision:
        decision = self._gate.try_acquire(key, cost)
        return decision if decision.allowed else await self._wait(key, cost, timeout)

    async def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        return self._gate.try_acquire_many(keys, cost)


class _AsyncView:
    """A local store as one that is awaited."""

    def __init__(self, store: Store) -> None:
        self.clock = store.clock
        self.wait_queue = TaskQueue(store.wait_queue)
        self.decide = as_coroutine(store.decide)
        self.refund = as_coroutine(store.refund)
        self.adjust = as_coroutine(store.adjust)
        self.reset_scope = as_coroutine(store.reset_scope)
        self.rewind = as_coroutine(store.rewind)

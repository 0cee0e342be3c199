"""A local store for those who await: so that what is written for asyncio is written once, for both kinds of store.

Nothing here ever waits. It knows no limiter and no policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from ratekeeper.decision import Charge, Decision
from ratekeeper.stores.base import AsyncStore, AwaitedStore, Store, is_async
from ratekeeper.waiting.wait_queue import Answering, WaitQueue
from ratekeeper.waiting.waitlist import Waiter


def as_async(store: Store | AsyncStore) -> AwaitedStore:
    """Return a store to be awaited: the same, if it must be.

    On an event loop the store must not block (see `require_nonblocking`). Without a loop use `run_sync`.
    """
    return store if is_async(store) else _AsyncView(cast("Store", store))


class _AsyncView(Answering):
    """A local store as one that is awaited."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._store = store
        self.clock = store.clock
        self.wait_queue = _AsyncQueue(store.wait_queue)

    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        self._store.refund(charges, at_ticks)

    async def reset(self, scope: str, key: str | bytes) -> None:
        self._store.reset(scope, key)


class _AsyncQueue:
    """A local store's wait queue, for tasks."""

    def __init__(self, queue: WaitQueue) -> None:
        self._queue = queue
        self.leave, self.reset, self.waiting_at = queue.leave, queue.reset, queue.waiting_at

    async def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        return self._queue.join(waiter, charges)

    def give_up(self, waiter: Waiter) -> None:
        try:
            later = asyncio.get_running_loop().call_soon  # many may be cancelled together
        except RuntimeError:  # the loop is gone
            self._queue.give_up(waiter)
        else:
            self._queue.give_up(waiter, later)

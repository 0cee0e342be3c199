"""A local store for those who await: so that what is written for asyncio is written once, for both kinds of store.

Nothing here ever waits. It knows no limiter and no policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from ratekeeper.decision import Charge, Decision
from ratekeeper.stores.base import AsyncStore, AwaitedStore, Store, must_be_awaited
from ratekeeper.stores.wait_queue import Answering, WaitQueue
from ratekeeper.stores.waitlist import Waiter


def awaited(store: Store | AsyncStore) -> AwaitedStore:
    """Return a store to be awaited: the same, if it must be.

    On an event loop the store must not block (see `unblocking`): a caller without one runs the coroutines to their end.
    """
    return store if must_be_awaited(store) else _Awaited(cast("Store", store))


class _Awaited(Answering):
    """A local store as one that is awaited."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._store = store
        self.clock = store.clock
        self.line = _AwaitedQueue(store.line)

    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        self._store.refund(charges, at_ticks)

    async def reset(self, scope: str, key: str | bytes) -> None:
        self._store.reset(scope, key)


class _AwaitedQueue:
    """A local store's wait queue, for tasks."""

    def __init__(self, queue: WaitQueue) -> None:
        self._queue = queue
        self.leave, self.reset = queue.leave, queue.reset

    async def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        return self._queue.join(waiter, charges)

    def give_up(self, waiter: Waiter) -> None:
        try:
            later = asyncio.get_running_loop().call_soon  # many may be cancelled together
        except RuntimeError:  # the loop is gone
            self._queue.give_up(waiter)
        else:
            self._queue.give_up(waiter, later)

"""A local store in the form of an `AsyncStore`: so code for asyncio is written once, for both kinds of store.

Nothing here ever waits. This file must not know limiters and policies.
"""

from __future__ import annotations

from typing import cast

from ratekeeper.coroutines import as_coroutine
from ratekeeper.stores.base import AsyncStore, Store, is_async
from ratekeeper.waiting.wait_queue import TaskQueue


def as_async(store: Store | AsyncStore) -> AsyncStore:
    """Return a store to be awaited: the same, if it must be.

    On an event loop the store must not block (see `require_nonblocking`). Without a loop use `run_sync`.
    """
    return store if is_async(store) else _AsyncView(cast("Store", store))


class _AsyncView:
    """A local store as one that is awaited."""

    def __init__(self, store: Store) -> None:
        self.clock = store.clock
        self.wait_queue = TaskQueue(store.wait_queue)
        self.decide = as_coroutine(store.decide)
        self.refund = as_coroutine(store.refund)
        self.reset = as_coroutine(store.reset)
        self.rewind = as_coroutine(store.rewind)

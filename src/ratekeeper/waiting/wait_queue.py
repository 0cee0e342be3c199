"""WaitQueue: the waiters of a store that need not be awaited: for threads, and as a `TaskQueue` for tasks.

Such a store answers at once, or blocks its thread. So the queue's coroutines run to their end without ever being
suspended. Only `TaskQueue` knows an event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ratekeeper.clock import Clock
from ratekeeper.coroutines import as_coroutine, run_sync
from ratekeeper.decision import Charge, Decision
from ratekeeper.forks import forget_in_child
from ratekeeper.waiting.base_queue import BaseWaitQueue
from ratekeeper.waiting.joining import Joining
from ratekeeper.waiting.waitlist import Waiter

if TYPE_CHECKING:
    from ratekeeper.core import Table
    from ratekeeper.stores.base import Store

_log = logging.getLogger("ratekeeper")

LOCKS = 64
"""The number of locks. Waiters of so many keys at once, for several limits, do not block each other."""


class WaitQueue(BaseWaitQueue):
    """The waiters of one store in this process. Thread-safe.

    >>> from ratekeeper import MemoryStore
    >>> store = MemoryStore(100)
    >>> len(WaitQueue(store, store.clock))
    0
    """

    def __init__(self, store: Store | Table, clock: Clock) -> None:
        super().__init__(as_coroutine(store.decide), as_coroutine(store.rewind), clock)
        forget_in_child(self)

    def forget(self) -> None:
        """Have no waiters, and no lock that anybody holds."""
        super().forget()
        # Each for some of the keys, and held while the store is asked. A signal's handler may come back to one.
        self._joining = [threading.RLock() for _ in range(LOCKS)]

    def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        """Charge, and put the waiter into the list if it must wait. Return each charge's decision."""
        one = Joining.of(waiter, charges)
        if not (one.for_departure and one.may_wait):
            decisions = run_sync(self._join(one))
        else:
            with self._joining[hash(one.buckets) % LOCKS]:
                decisions = run_sync(self._join(one))
        if self._unsettled:
            self.settle()
        return decisions

    def give_up(self, waiter: Waiter, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Take out a waiter that will not use its turn: the waiters behind it move up.

        The store takes back the ranges that are left: with `later`, a function that calls another soon, once for all
        waiters that gave up until then.
        """
        self._give_up(waiter)
        if later is None:
            self.settle()
        elif self._unsettled:
            later(self.settle)

    def settle(self) -> None:
        """Make the store take back the ranges that are left of waiters that gave up."""
        with self._lock:  # another thread in a section is waited for
            inside = self._busy
        if self._unsettled and not inside:
            try:
                run_sync(self._settle())
            except Exception as error:  # the caller gives up, and the ranges refill in time
                _log.warning("places that were given up are lost, as the store failed: %s", type(error).__name__)


class TaskQueue:
    """A `WaitQueue` for the tasks of an event loop: its verbs are those of an `AsyncWaitQueue`."""

    def __init__(self, queue: WaitQueue) -> None:
        self._queue = queue
        self.leave, self.watch, self.reset, self.waiting_at = queue.leave, queue.watch, queue.reset, queue.waiting_at

    async def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        """As `WaitQueue.join`."""
        return self._queue.join(waiter, charges)

    def give_up(self, waiter: Waiter) -> None:
        """As `WaitQueue.give_up`. The store takes back the rest soon, once for all that give up together."""
        try:
            later = asyncio.get_running_loop().call_soon
        except RuntimeError:  # the loop is gone
            self._queue.give_up(waiter)
        else:
            self._queue.give_up(waiter, later)

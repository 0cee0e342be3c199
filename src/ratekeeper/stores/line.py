"""Line: the waiting order on a local store, for threads, and for tasks by way of `awaited`. It knows no event loop.

A local store answers at once, so the order's coroutines run to their end without ever being suspended.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from ratekeeper.clock import Clock
from ratekeeper.coroutines import run_sync
from ratekeeper.decision import Charge, Decision
from ratekeeper.stores.forks import forget_in_child
from ratekeeper.stores.places import Waiter
from ratekeeper.stores.waiting import Order

_log = logging.getLogger("ratekeeper")


class Deciding(Protocol):
    """What a line needs of its store."""

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]: ...
    def refund(self, charges: Sequence[Charge], at_ticks: int, /) -> None: ...
    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int, /) -> bool: ...


class Answering:
    """A local store's verbs as coroutines, which are never suspended."""

    def __init__(self, store: Deciding) -> None:
        self._decide, self._refund, self._rewind = store.decide, store.refund, store.rewind

    async def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        return self._decide(charges, commit=commit)

    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        self._refund(charges, at_ticks)

    async def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        return self._rewind(scope, key, expected_ticks, tat_ticks)


class Line:
    """The waiters of one local store in this process, in order for each bucket. Thread-safe."""

    def __init__(self, store: Deciding, clock: Clock) -> None:
        self._store = store
        self._order = Order(Answering(store), clock)
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have no waiters, and a lock that nobody holds."""
        self._lock = threading.Lock()  # held for bookkeeping, never while anyone sleeps
        self._order.forget()

    def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        """Charge, and put the waiter in line if it must wait. Returns each charge's decision."""
        with self._lock:
            self._settle()
            return run_sync(self._order.join(waiter, charges))

    def leave(self, waiter: Waiter) -> None:
        """Take a waiter out whose turn has come."""
        if waiter.places:
            with self._lock:
                self._settle()
                self._order.take_out({waiter})

    def give_up(self, waiter: Waiter, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Take a waiter out that will not use its turn, and let those behind it move up as far as is exact.

        They move once for all who give up together: with `later`, a function that calls another soon, not at once.
        """
        with self._lock:
            first = not self._order.unsettled
            self._order.give_up(waiter)
            if later is None:
                self._settle()
            elif first and self._order.unsettled:
                later(self.settle)

    def settle(self) -> None:
        """Let those move up that are behind who gave up."""
        with self._lock:
            self._settle()

    def refund(self, charges: Sequence[Charge], at: int) -> None:
        """Give back charges that were made at `at`; who waits at the same buckets has its turn so much sooner."""
        with self._lock:
            self._settle()
            if self._order.anyone_at(charges):
                run_sync(self._order.refund(charges, at))
            else:
                self._store.refund(charges, at)

    def _settle(self) -> None:
        if self._order.unsettled:
            try:
                run_sync(self._order.settle())
            except Exception as error:  # of who joins, leaves or refunds meanwhile, it is nobody's
                _log.warning("places that were given up are lost, as the store failed: %s", type(error).__name__)

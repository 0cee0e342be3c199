"""WaitQueue: the waiters of a store that need not be awaited, for threads, and for tasks by way of `awaited`.

Such a store answers at once, or blocks its thread. So the queue's coroutines run to their end without ever being
suspended. It knows no event loop.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar, cast

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge, Decision
from ratekeeper.forks import forget_in_child
from ratekeeper.waiting.base_queue import BaseWaitQueue
from ratekeeper.waiting.joining import Joining
from ratekeeper.waiting.waitlist import Waiter

T = TypeVar("T")
_log = logging.getLogger("ratekeeper")

LOCKS = 64
"""Of so many keys at once, those who join for several limits do not wait for each other."""


class Deciding(Protocol):
    """The verbs of its store that a queue needs."""

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]: ...
    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int, /) -> bool: ...


class Answering:
    """A store's verbs as coroutines, which are never suspended."""

    def __init__(self, store: Deciding) -> None:
        self._decide, self._rewind = store.decide, store.rewind

    async def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        return self._decide(charges, commit=commit)

    async def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        return self._rewind(scope, key, expected_ticks, tat_ticks)


class WaitQueue(BaseWaitQueue):
    """The waiters of one store in this process. Thread-safe."""

    def __init__(self, store: Deciding, clock: Clock) -> None:
        super().__init__(Answering(store), clock)
        forget_in_child(self)

    def forget(self) -> None:
        """Have no waiters, and no lock that anybody holds."""
        super().forget()
        # Each for some of the keys, and held while the store is asked. A signal's handler may come back to one.
        self._joining = [threading.RLock() for _ in range(LOCKS)]

    def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        """Charge, and put the waiter into the list if it must wait. Returns each charge's decision."""
        one = Joining.of(waiter, charges)
        if not (one.for_departure and one.may_wait):
            return _run(self._join(one))
        with self._joining[hash(one.buckets) % LOCKS]:
            return _run(self._join(one))

    def give_up(self, waiter: Waiter, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Take a waiter out that will not use its turn: those behind it move up.

        The ranges that are left are taken back in the store: with `later`, a function that calls another soon, once for
        all that gave up until then.
        """
        self._give_up(waiter)
        if later is None:
            self.settle()
        elif self._unsettled:
            later(self.settle)

    def settle(self) -> None:
        """Take back in the store the ranges that are left of waiters that gave up."""
        with self._lock:  # another thread in a section is waited for
            inside = self._busy
        if self._unsettled and not inside:
            try:
                _run(self._settle())
            except Exception as error:  # the caller gives up, and the ranges refill in time
                _log.warning("places that were given up are lost, as the store failed: %s", type(error).__name__)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, which awaits nothing but a store that need not be awaited."""
    try:
        work.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    raise AssertionError("a store that is not awaited must answer at once")

"""AsyncWaitQueue: the waiters of a store that must be awaited. For the tasks of one event loop at a time.

A question takes a round trip. Meanwhile other tasks go on, and a task may be cancelled. So joining is a task of the
queue. It goes on if the caller is cancelled, and its charge is then given back. Taking back ranges is such a task,
too. A request that joins does not wait for another that joins, unless both ask several limits of one key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge, Decision
from ratekeeper.forks import forget_in_child
from ratekeeper.waiting.base_queue import BaseWaitQueue
from ratekeeper.waiting.joining import Joining
from ratekeeper.waiting.waitlist import Buckets, Waiter

if TYPE_CHECKING:
    from ratekeeper.stores.base import AsyncStore

T = TypeVar("T")


class AsyncWaitQueue(BaseWaitQueue):
    """The waiters of one store on the network in this process.

    >>> from ratekeeper import MemoryStore
    >>> from ratekeeper.stores.as_async import as_async
    >>> store = as_async(MemoryStore(100))
    >>> len(AsyncWaitQueue(store, store.clock))
    0
    """

    def __init__(self, store: AsyncStore, clock: Clock) -> None:
        super().__init__(store.decide, store.rewind, clock)
        self._refund = store.refund
        forget_in_child(self)

    def forget(self) -> None:
        """Have no waiters, and no event loop."""
        super().forget()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._joining: WeakValueDictionary[Buckets, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()  # a loop keeps no task alive
        self._settling: asyncio.Task[None] | None = None

    async def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        """Charge, and put the waiter into the list if it must wait. Returns each charge's decision.

        If the caller is cancelled or closed meanwhile, what turns out to have been charged is given back.
        """
        self._running()
        joining = self._start(self._join_in_turn(Joining.of(waiter, charges)))
        try:
            return await asyncio.shield(joining)
        except BaseException:
            joining.add_done_callback(partial(self._undo, waiter, charges))
            raise

    def give_up(self, waiter: Waiter) -> None:
        """Take a waiter out that will not use its turn: those behind it move up.

        The ranges that are left are taken back in the store soon, once for all that give up at a time.
        """
        self._give_up(waiter)
        self._settle_soon()

    def _settle_soon(self) -> None:
        if self._loop is None or self._loop.is_closed():  # nobody is left who could
            return
        if self._unsettled and (self._settling is None or self._settling.done()):
            self._settling = self._start(self._settle())
            self._settling.add_done_callback(self._tell_of_failure)

    async def settle(self) -> None:
        """Wait until all that was given up is given back. For a store to do before it closes."""
        self._running()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _join_in_turn(self, one: Joining) -> list[Decision]:
        if not (one.for_departure and one.may_wait):
            decisions = await self._join(one)
        else:
            async with self._joining.setdefault(one.buckets, asyncio.Lock()):
                decisions = await self._join(one)
        self._settle_soon()
        return decisions

    def _undo(self, waiter: Waiter, charges: Sequence[Charge], joining: asyncio.Task[list[Decision]]) -> None:
        """Give back what one who is gone has been charged."""
        if joining.cancelled() or joining.exception():
            return  # what the store has done, only the store knows
        if waiter.waitlist is not None:
            self.give_up(waiter)
            return
        pairs = list(zip(charges, joining.result(), strict=True))
        if all(decision.allowed or charge.shadow for charge, decision in pairs):
            made = [charge for charge, decision in pairs if _refundable(charge, decision)]
            if made:
                self._start(self._refund(made, pairs[0][1].at_ticks))

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[Any]) -> None:
        """Note that a task has ended. That it failed is told by whoever awaits it, or below."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    def _tell_of_failure(self, settling: asyncio.Task[None]) -> None:
        """Tell the loop in our words if a task that nobody awaits has failed."""
        if not settling.cancelled() and (error := settling.exception()) is not None:
            said = {"message": "places that were given up are lost: the store failed", "exception": error}
            settling.get_loop().call_exception_handler(said)

    def _running(self) -> asyncio.AbstractEventLoop:
        """Return the running loop. Forget the tasks of one that is no more, and refuse to serve two at once."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                refuse_if_open(self._loop)
            self.forget()
            self._loop = loop
        return loop


def _refundable(charge: Charge, decision: Decision) -> bool:
    return decision.allowed and decision.source == "exact" and not charge.limit.queues


def refuse_if_open(loop: asyncio.AbstractEventLoop) -> None:
    """Raise RuntimeError unless a loop that was served before is closed."""
    if not loop.is_closed():
        raise RuntimeError("an async store serves one event loop at a time, and another is still open")

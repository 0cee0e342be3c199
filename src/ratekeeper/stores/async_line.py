"""AsyncLine: the waiting order on a store that must be awaited. For the tasks of one event loop at a time.

What the order asks takes a round trip, in which other tasks go on, and in which a task may be cancelled. So

- those who join do so side by side, and travel together; who moves others is alone (`_Door`). Those who cannot wait
  are never in line, and pass by it;
- all moving is done by one task, the mover, which the line keeps. A cancelled waiter only notes that it gives up;
- joining is a task too, which goes on when the one who joins is cancelled, and whose charge is then given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from itertools import compress
from operator import not_
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge, Decision
from ratekeeper.stores.forks import forget_in_child
from ratekeeper.stores.places import Bucket, Waiter, bucket_of
from ratekeeper.stores.waiting import Buckets, Order, leave_together, may_wait

T = TypeVar("T")


class _Door:
    """Many may be inside at once, or one who is alone. First come, first served, so that neither kind starves."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        async with self._lock:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._lock:
            await self._empty.wait()
            yield


class _Refund(NamedTuple):
    """A refund to be made by the mover, and who is to be told."""

    charges: Sequence[Charge]
    at: int
    done: asyncio.Future[None]


class AsyncLine:
    """The waiters of one store on the network in this process, in order for each bucket."""

    def __init__(self, store: Buckets, clock: Clock) -> None:
        self._store = store
        self._order = Order(store, clock)
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have no waiters, and no event loop."""
        self._order.forget()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._door = _Door()
        self._one_by_one: WeakValueDictionary[Bucket, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()  # a loop keeps no task alive
        self._mover: asyncio.Task[None] | None = None
        self._refunds: list[_Refund] = []

    async def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        """Charge, and put the waiter in line if it must wait. Returns each charge's decision.

        If the caller is cancelled meanwhile, what turns out to have been charged is given back.
        """
        self._running()
        joining = self._start(self._join(waiter, charges))
        try:
            return await asyncio.shield(joining)
        except asyncio.CancelledError:
            joining.add_done_callback(partial(self._undo, waiter, charges))
            raise

    async def leave(self, waiter: Waiter) -> None:
        """Take a waiter out whose turn has come."""
        if waiter.places:
            async with self._door.beside_others():
                self._order.take_out({waiter})

    def give_up(self, waiter: Waiter) -> None:
        """Take a waiter out soon that will not use its turn, and let those behind it move up as far as is exact.

        They move once for all who give up together.
        """
        self._order.give_up(waiter)
        if self._loop is not None and not self._loop.is_closed():  # else nobody is left to move, nor to move them
            self._move_soon()

    async def refund(self, charges: Sequence[Charge], at: int) -> None:
        """Give back charges that were made at `at`; who waits at the same buckets has its turn so much sooner."""
        done = self._running().create_future()
        self._refunds.append(_Refund(charges, at, done))
        self._move_soon()
        await done

    async def settle(self) -> None:
        """Wait until all who gave up are out and all is given back. For a store to do before it closes."""
        self._running()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        if not may_wait(charges):
            return await self._order.join(waiter, charges)
        async with self._one_at_a_time(charges), self._door.beside_others():
            return await self._order.join(waiter, charges)

    def _one_at_a_time(self, charges: Sequence[Charge]) -> AbstractAsyncContextManager[None]:
        """Let those who leave together join one after the other: each looks, and then charges by what it saw."""
        if not leave_together(charges):
            return nullcontext()
        return self._one_by_one.setdefault(bucket_of(charges[0]), asyncio.Lock())

    def _undo(self, waiter: Waiter, charges: Sequence[Charge], joining: asyncio.Task[list[Decision]]) -> None:
        """Give back what one who is gone has been charged."""
        if joining.cancelled() or joining.exception():
            return  # what the store has done, only the store knows
        if waiter.places:
            self.give_up(waiter)
            return
        pairs = list(zip(charges, joining.result(), strict=True))
        if all(decision.allowed or charge.shadow for charge, decision in pairs):
            made = [charge for charge, decision in pairs if decision.allowed and not charge.limit.queues]
            self._start(self.refund(made, pairs[0][1].at_ticks))

    def _move_soon(self) -> None:
        if self._mover is None or self._mover.done():
            self._mover = self._start(self._move())

    async def _move(self) -> None:
        """Settle and refund until there is nothing left to do, letting others join in between."""
        while self._order.unsettled or self._refunds:
            async with self._door.alone():
                await self._settle()
                await self._give_back_all()

    async def _settle(self) -> None:
        try:
            await self._order.settle()
        except Exception as error:  # of those who wait to join or to leave, it is nobody's
            said = {"message": "places that were given up are lost: the store failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(said)

    async def _give_back_all(self) -> None:
        refunds, self._refunds = self._refunds, []
        beside_waiters = [self._order.anyone_at(one.charges) for one in refunds]
        alone = compress(refunds, map(not_, beside_waiters))
        await asyncio.gather(*(_done(one, self._store.refund(one.charges, one.at)) for one in alone))
        for one in compress(refunds, beside_waiters):  # one after the other: each moves the waiters
            await _done(one, self._order.refund(one.charges, one.at))

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _running(self) -> asyncio.AbstractEventLoop:
        """Return the running loop. Forget the tasks of one that is no more, and refuse to serve two at once."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                refuse_if_open(self._loop)
            self.forget()
            self._loop = loop
        return loop


def refuse_if_open(loop: asyncio.AbstractEventLoop) -> None:
    """Raise RuntimeError unless a loop that was served before is closed."""
    if not loop.is_closed():
        raise RuntimeError("an async store serves one event loop at a time, and another is still open")


async def _done(refund: _Refund, work: Awaitable[None]) -> None:
    """Tell who asked for a refund how it went, if it still wants to know."""
    try:
        await work
    except Exception as error:
        if not refund.done.done():
            refund.done.set_exception(error)
    else:
        if not refund.done.done():
            refund.done.set_result(None)

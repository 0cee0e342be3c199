"""LeakyQueue: the flow that the leaky bucket is drawn for, as an object. Items wait in it and leave at a constant rate.

It shares limits, clocks and ways to sleep, and nothing else: no store, no keys. A producer learns at once that the
queue is full. Consumers, threads or tasks, are served in the order in which they came.

Its consumers are not in a `waiting.waitlist`. There each waiter owns ranges, and so has a turn, as it joins; here the
turn depends on an item that may not have been put yet.

A consumer takes its item itself, so that none is lost with a consumer. A signal's handler may raise an exception
anywhere, and it leaves nothing half done: a consumer that is gone says so in one step, and the next look at the first
consumer takes it out.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from ratekeeper.clock import Clock, SystemClock, local_ticks, ticks_of
from ratekeeper.decision import seconds
from ratekeeper.errors import QueueClosed, QueueEmpty, QueueFull
from ratekeeper.forks import OfOneProcess, forget_in_child
from ratekeeper.limits import TICKS_PER_SECOND, LeakyBucket, wait_ticks
from ratekeeper.rates import Rate
from ratekeeper.waiting.wakeups import TaskWakeup, Wakeup

T = TypeVar("T")

_LOOK_AGAIN = TICKS_PER_SECOND
"""The ticks after which one that sleeps behind a task of another loop looks whether that loop was closed."""


class QueueStats(NamedTuple):
    """How a queue is doing. `longest_wait` is in seconds, of all items so far, those that still wait too.

    >>> LeakyQueue(capacity=5, leak_rate=10).stats()
    QueueStats(waiting=0, longest_wait=0.0, refused=0, taken=0)
    """

    waiting: int
    longest_wait: float
    refused: int
    taken: int


class _Entry(NamedTuple, Generic[T]):
    item: T
    came: int


@dataclass(slots=True, eq=False)
class _Consumer(Generic[T]):
    """One that waits for an item, and since when. `wake` returns False if nobody is there to be woken.

    A loop may be closed without a word to its tasks. So one that came behind a task of another loop is `wary`: until it
    is the first, it does not sleep for long.
    """

    wake: Callable[[], object]
    since: int
    loop: asyncio.AbstractEventLoop | None = None
    wary: bool = False
    gone: bool = False
    entry: _Entry[T] | None = None  # taken, but not returned yet


class LeakyQueue(OfOneProcess, Generic[T]):
    """Hold up to `capacity` items, and let them out one by one at `leak_rate` (a number a second, or "300/minute").

    `put` from any thread; take by `get` or by iterating, or by `get_async` or `async for`. A late consumer causes no
    burst. If it is late by a tenth of the interval `1 / leak_rate` or less, the pace stays; else the pace begins anew.
    So two items leave at least nine tenths of the interval apart. Thread-safe.

    >>> queue = LeakyQueue(capacity=100, leak_rate=1000)
    >>> queue.put("a letter")
    >>> queue.close()
    []
    >>> list(queue)
    ['a letter']
    """

    _instead = "a copy would let the same items out at its own pace"

    def __init__(self, capacity: int, leak_rate: Rate, *, clock: Clock | None = None) -> None:
        self.limit = LeakyBucket(capacity, leak_rate)
        ticks_of(clock)  # a bad one is an error here, not at the first item
        self._clock: Clock = SystemClock() if clock is None else clock
        self._now = local_ticks(self._clock)
        self._entries: deque[_Entry[T]] = deque()
        self._free_at = 0
        self._closed = False
        self._longest = self._refused = self._taken = 0
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have no consumers: those of a forked process are its parent's."""
        self._lock = threading.RLock()  # held for bookkeeping, never while anyone sleeps
        self._busy = False
        self._consumers: OrderedDict[_Consumer[T], None] = OrderedDict()

    def put(self, item: T) -> None:
        """Add an item. Never blocks: raises `QueueFull` if `capacity` items wait, `QueueClosed` after `close`."""
        with self._lock:
            if self._closed:
                raise QueueClosed("the queue is closed: it takes no more items")
            if len(self._entries) >= max(1, self.limit.capacity):
                self._refused += 1
                raise QueueFull(f"{len(self._entries)} items wait already, which is the queue's capacity")
            self._entries.append(_Entry(item, self._now()))
            self._wake_first()

    def get(self, timeout: float | None = None) -> T:
        """Block until it is an item's turn, and return it.

        Raises `QueueEmpty` when `timeout` seconds have passed, and `QueueClosed` when no item will come any more. If
        the wait is interrupted, no item is lost.
        """
        woken = Wakeup()
        consumer: _Consumer[T] = _Consumer(woken.set, self._now())
        deadline = None if timeout is None else consumer.since + wait_ticks(timeout)
        try:
            self._enter(consumer)
            while True:
                woken.clear()
                entry, until = self._take(consumer, deadline)
                if entry is not None:
                    return entry.item
                if until is None:
                    woken.wait(seconds(_LOOK_AGAIN) if consumer.wary else None)
                else:
                    self._clock.wait(woken, until)
        except BaseException:
            consumer.gone = True
            self._quit(consumer)
            raise

    async def get_async(self) -> T:
        """As `get`, but let the event loop go on. A task that is cancelled loses no item."""
        loop = asyncio.get_running_loop()
        wakeup = TaskWakeup(loop)
        consumer: _Consumer[T] = _Consumer(wakeup.set_threadsafe, self._now(), loop)
        try:
            self._enter(consumer)
            while True:
                entry, until = self._take(consumer, None)
                if entry is not None:
                    return entry.item
                if until is None:
                    again = loop.call_later(seconds(_LOOK_AGAIN), wakeup.set) if consumer.wary else None
                    try:
                        await wakeup.sleep()
                    finally:
                        if again is not None:
                            again.cancel()
                else:
                    await self._clock.wait_async(wakeup.sleep(), until)
        except BaseException:
            consumer.gone = True
            self._quit(consumer)
            raise

    def __iter__(self) -> Iterator[T]:
        """Take items until the queue is closed and empty."""
        while True:
            try:
                yield self.get()
            except QueueClosed:
                return

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            try:
                yield await self.get_async()
            except QueueClosed:
                return

    def close(self, *, drop: bool = False) -> list[T]:
        """Take no more items. Those that wait still leave in their turn or, with `drop`, are returned at once."""
        with self._lock:
            self._closed = True
            dropped = [entry.item for entry in self._entries] if drop else []
            if drop:
                self._entries.clear()
            for consumer in tuple(self._consumers):
                consumer.wake()
            return dropped

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"LeakyQueue(capacity={self.limit.capacity!r}, leak_rate={self.limit.leak_rate!r})"

    def stats(self) -> QueueStats:
        """Say how the queue is doing."""
        with self._lock:
            oldest = self._now() - self._entries[0].came if self._entries else 0
            return QueueStats(len(self._entries), seconds(max(self._longest, oldest)), self._refused, self._taken)

    def _enter(self, consumer: _Consumer[T]) -> None:
        with self._lock:
            self._refuse_if_busy()
            last = next(reversed(self._consumers), None)
            consumer.wary = last is not None and (last.wary or last.loop not in (None, consumer.loop))
            self._consumers[consumer] = None

    def _quit(self, consumer: _Consumer[T]) -> None:
        """Take a consumer out that did not return what it may have taken."""
        with self._lock:
            self._consumers.pop(consumer, None)
            if consumer.entry is not None:
                self._entries.appendleft(consumer.entry)
                consumer.entry = None
            self._wake_first()

    def _refuse_if_busy(self) -> None:
        """Raise if this thread is in here already: it would wait for itself."""
        if self._busy:
            raise RuntimeError(
                "a signal handler or __del__ interrupted get(), and called it again: it cannot wait there"
            )

    def _first(self) -> _Consumer[T] | None:
        """Return the first consumer that is still there."""
        while self._consumers:
            first = next(iter(self._consumers))
            if not first.gone and (first.loop is None or not first.loop.is_closed()):
                return first
            self._consumers.pop(first, None)
        return None

    def _wake_first(self) -> None:
        while (first := self._first()) is not None and first.wake() is False:
            first.gone = True

    def _take(self, consumer: _Consumer[T], deadline: int | None) -> tuple[_Entry[T] | None, int | None]:
        """Return an entry if it is its turn and the consumer's; else the time to look again, None for when woken."""
        with self._lock:
            self._refuse_if_busy()
            self._busy = True
            try:
                return self._look(consumer, deadline)
            finally:
                self._busy = False

    def _look(self, consumer: _Consumer[T], deadline: int | None) -> tuple[_Entry[T] | None, int | None]:
        now = self._now()
        turn, first = None, self._first() is consumer
        consumer.wary = consumer.wary and not first
        if self._entries and first:
            turn = max(self._free_at, self._entries[0].came)
            if turn <= now:
                return self._leave(turn, now, consumer), None
        elif self._closed and not self._entries:
            raise QueueClosed("the queue is closed and empty")
        ends = [at for at in (turn, deadline) if at is not None]
        if deadline is not None and deadline <= now:
            raise QueueEmpty("no item's turn came before the timeout")
        if not ends:
            return None, None
        return None, min([*ends, now + _LOOK_AGAIN] if consumer.wary else ends)

    def _leave(self, turn: int, now: int, consumer: _Consumer[T]) -> _Entry[T]:
        interval = self.limit.interval
        keeps_pace = consumer.since <= turn and now - turn <= interval // 10
        free_at, longest = (turn if keeps_pace else now) + interval, max(self._longest, now - self._entries[0].came)
        try:
            consumer.entry = entry = self._entries[0]
            self._entries.popleft()
        except BaseException:
            if self._entries and self._entries[0] is consumer.entry:
                consumer.entry = None  # interrupted before it was taken
            raise
        self._free_at, self._longest = free_at, longest
        self._taken += 1
        self._consumers.pop(consumer, None)
        self._wake_first()
        return entry

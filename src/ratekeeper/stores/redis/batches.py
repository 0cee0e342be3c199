"""Batches: what tasks ask for in the same turn of the event loop travels together, and what comes meanwhile, next.

One script call carries many requests, which saves the client's and the server's work for each call. Nobody waits for a
timer: who asks alone is sent at the end of the turn. While MOST_CALLS are under way, the next waits for one of them to
come back, and so is the larger. Knows requests and replies, and no client.

Tasks that get their answers together ask again together, and then either they are at work or the server is, never both.
So if nothing else is under way, the answers to a large batch are handed out in two halves: while the second half gets
theirs, the server is at what the first half asks next. From then on two batches take turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from ratekeeper.forks import forget_in_child
from ratekeeper.stores.redis.faults import is_split
from ratekeeper.stores.redis.names import tag_of
from ratekeeper.stores.redis.script import Ask, Reply
from ratekeeper.waiting.async_wait_queue import refuse_if_open

MOST_TOGETHER = 128
"""Requests in one script call: the server does nothing else meanwhile, for half a millisecond or so."""

MOST_CALLS = 4
"""Script calls under way; each has a connection."""

MOST_CALLS_CLUSTERED = 32
"""The same on a cluster, where only requests for one slot can travel together."""

LARGE = 16
"""A batch of more is handed out in halves, if nothing else is under way: a call of its own is dear for a few."""

Call: TypeAlias = Callable[[list[Ask]], Awaitable[list[Reply]]]


_Waiting: TypeAlias = tuple[Ask, "asyncio.Future[Reply]"]


class Batches:
    """The requests of one store that wait to be sent, and those under way. For one event loop at a time.

    `renew` is called when it is another loop than before.
    """

    def __init__(self, call: Call, clustered: bool, renew: Callable[[], None]) -> None:
        self._call = call
        self._renew = renew
        self._clustered = clustered
        self._most_calls = MOST_CALLS_CLUSTERED if clustered else MOST_CALLS
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have nothing to send, and no event loop."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_Waiting] = deque()
        self._next: asyncio.Task[None] | None = None  # that will send, and has not begun
        self._under_way: set[asyncio.Task[None]] = set()

    def running(self) -> asyncio.AbstractEventLoop:
        """Return the running loop. Forget what was of one that is closed, and refuse to serve two at once."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                refuse_if_open(self._loop)
                self.forget()
                self._renew()
            self._loop = loop
        return loop

    def ask(self, ask: Ask) -> asyncio.Future[Reply]:
        """Send a request with those that come in the same turn of the event loop."""
        coming: asyncio.Future[Reply] = self.running().create_future()
        self._waiting.append((ask, coming))
        self._schedule()
        return coming

    def _schedule(self) -> None:
        """Have a batch sent at the end of this turn of the event loop, if one more may be under way.

        What is under way is asked of the tasks themselves: a count would be wrong for ever after an exception between
        two steps here, which a signal handler may raise.
        """
        if self._next is not None and not self._next.done():
            return
        if len(self._under_way) >= self._most_calls:
            self._under_way = {task for task in self._under_way if not task.done()}
        if len(self._under_way) < self._most_calls:
            batch: list[_Waiting] = []
            self._next = task = asyncio.create_task(self._send(batch))
            self._under_way.add(task)
            task.add_done_callback(partial(self._arrived, batch))

    async def _send(self, batch: list[_Waiting]) -> None:
        self._next = None
        self._take(batch)
        if self._waiting:
            self._schedule()
        going = [one for one in batch if not one[1].done()]  # whose task has been cancelled is not sent at all
        if going:
            await self._travel(going)

    def _arrived(self, batch: list[_Waiting], task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        failure = None if task.cancelled() else task.exception()
        for _, coming in batch:  # of those that an exception in the middle has left without an answer
            if not coming.done():
                coming.set_exception(failure if isinstance(failure, Exception) else asyncio.CancelledError())
        # Who has just got an answer may have asked again: it travels with those that wait.
        if self._waiting:
            self._schedule()

    def _take(self, batch: list[_Waiting]) -> None:
        """Take the next requests that can travel together. Each is here or there, or in both, but never in neither."""
        waiting = self._waiting
        most = min(len(waiting), MOST_TOGETHER)
        if self._clustered and waiting:
            tag = tag_of(waiting[0][0].names[0])
            most = next((n for n in range(1, most) if tag_of(waiting[n][0].names[0]) != tag), most)
        for _ in range(most):
            batch.append(waiting[0])
            waiting.popleft()

    async def _travel(self, batch: list[_Waiting]) -> None:
        try:
            await self._hand_out(batch, await self._call([ask for ask, _ in batch]))
        except Exception as error:
            if self._loop is None or self._loop.is_closed():  # and all who waited are gone
                raise
            if self._clustered and is_split(error) and len(apart := _by_buckets(batch)) > 1:
                for part in apart:
                    await self._travel(part)
                return
            for _, coming in batch:
                if not coming.done():
                    coming.set_exception(error)

    async def _hand_out(self, batch: list[_Waiting], replies: list[Reply]) -> None:
        halves = len(batch) > LARGE and len(self._under_way) == 1
        half = len(batch) // 2
        for place, ((_, coming), reply) in enumerate(zip(batch, replies, strict=True)):
            if halves and place == half:
                await asyncio.sleep(0)  # the first half asks
                await asyncio.sleep(0)  # and is sent
            if not coming.done():
                coming.set_result(reply)


def _by_buckets(batch: list[_Waiting]) -> list[list[_Waiting]]:
    """Take requests for different buckets apart. While a slot is moved each is on one of two nodes, or on neither."""
    parts: dict[tuple[bytes, ...], list[_Waiting]] = {}
    for one in batch:
        parts.setdefault(tuple(one[0].names), []).append(one)
    return list(parts.values())

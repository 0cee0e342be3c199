"""Batches: what tasks ask for in the same turn of the event loop travels together, and what comes meanwhile, next.

One script call carries many requests, which saves the client's and the server's work for each call. Nobody waits for a
timer: who asks alone is sent at the end of the turn. While MOST_CALLS are under way, the next waits for one of them to
come back, and so is the larger. Knows requests and replies, and no client.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ratekeeper.stores.async_line import refuse_if_open
from ratekeeper.stores.forks import forget_in_child
from ratekeeper.stores.redis.faults import is_split
from ratekeeper.stores.redis.names import tag_of
from ratekeeper.stores.redis.script import Ask, Reply

MOST_TOGETHER = 128
"""Requests in one script call: the server does nothing else meanwhile, for half a millisecond or so."""

MOST_CALLS = 4
"""Script calls under way; each has a connection."""

MOST_CALLS_CLUSTERED = 32
"""The same on a cluster, where only requests for one slot can travel together."""

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
        self._scheduled = False
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
        loop = self.running()
        coming: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((ask, coming))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._send)
        return coming

    def _send(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._under_way) < self._most_calls:
            batch = self._next()
            if batch:
                assert self._loop is not None
                task = self._loop.create_task(self._travel(batch))
                self._under_way.add(task)
                task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        # By its turn of the loop: who has just got an answer may ask again, and travel with those that wait.
        if self._waiting and not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._send)

    def _next(self) -> list[_Waiting]:
        """Take the next requests that can travel together. Whose task has been cancelled is not sent at all."""
        waiting = self._waiting
        most = min(len(waiting), MOST_TOGETHER)
        if self._clustered:
            tag = tag_of(waiting[0][0].names[0])
            most = next((n for n in range(1, most) if tag_of(waiting[n][0].names[0]) != tag), most)
        batch = [waiting.popleft() for _ in range(most)]
        return [one for one in batch if not one[1].done()]

    async def _travel(self, batch: list[_Waiting]) -> None:
        try:
            replies = await self._call([ask for ask, _ in batch])
        except BaseException as error:
            if self._clustered and is_split(error) and len(apart := _by_buckets(batch)) > 1:
                for part in apart:
                    await self._travel(part)
                return
            failure = error if isinstance(error, Exception) else asyncio.CancelledError()
            for _, coming in batch:
                if not coming.done():
                    coming.set_exception(failure)
            if not isinstance(error, Exception):
                raise
            return
        for (_, coming), reply in zip(batch, replies, strict=True):
            if not coming.done():
                coming.set_result(reply)


def _by_buckets(batch: list[_Waiting]) -> list[list[_Waiting]]:
    """Take requests for different buckets apart. While a slot is moved each is on one of two nodes, or on neither."""
    parts: dict[tuple[bytes, ...], list[_Waiting]] = {}
    for one in batch:
        parts.setdefault(tuple(one[0].names), []).append(one)
    return list(parts.values())

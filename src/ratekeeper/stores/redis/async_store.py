"""AsyncRedisStore: RedisStore for asyncio; and how requests of many tasks travel together.

Requests of tasks in the same turn of the event loop are one batch: one script call, which saves the client's and the
server's work for each call. Nothing waits for a timer: a request that comes alone is sent at the end of the turn. While
MAX_CALLS are under way, the next batch waits for one of them to come back, and so is the larger.

Tasks that get their answers together ask again together, and then either they are at work or the server is, never both.
So if nothing else is under way, the answers to a large batch are handed out in two halves: while the second half gets
theirs, the server is at the next requests of the first half. From then on two batches take turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

from ratekeeper.decision import Charge, Decision
from ratekeeper.forks import forget_in_child
from ratekeeper.stores.base import Answer
from ratekeeper.stores.redis.async_connections import AsyncConnections
from ratekeeper.stores.redis.client_errors import is_split
from ratekeeper.stores.redis.questions import Send
from ratekeeper.stores.redis.replies import Reply
from ratekeeper.stores.redis.script import Request, tag_of
from ratekeeper.stores.redis.store import MAX_BATCH, RedisStoreBase
from ratekeeper.waiting.async_wait_queue import AsyncWaitQueue, refuse_if_open

MAX_CALLS = 4
"""Script calls under way; each has a connection."""

MAX_CALLS_CLUSTERED = 32
"""The same on a cluster, where only requests for one slot can travel together."""

LARGE = 16
"""A batch of more is handed out in halves, if nothing else is under way: a second call is dear for a few."""

Call: TypeAlias = Callable[[Sequence[Request]], Awaitable[list[Reply]]]
_Waiting: TypeAlias = tuple[Request, "asyncio.Future[list[Reply]]"]


class AsyncRedisStore(RedisStoreBase):
    """`RedisStore` for asyncio: the same arguments; a client that you give is one of `redis.asyncio`.

    Requests of tasks in the same turn of the event loop travel in one script call. A task that is cancelled while it
    waits for a decision may have been charged or not. For one event loop at a time: close it in each, best by `async
    with`. The next has new connections; a client that you gave must have none left.

    >>> import asyncio
    >>> async def calls() -> int:
    ...     async with AsyncRedisStore("redis://127.0.0.1:6379/0") as store:  # connects when it is first asked
    ...         return store.stats().calls
    >>> asyncio.run(calls())
    0
    """

    _connections_of = AsyncConnections

    def _begin(self) -> None:
        self._batches = Batches(self._call, self._clustered, self._connections.renew)
        self.wait_queue = AsyncWaitQueue(self, self.clock)

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> Answer[list[Decision]]:
        """As `RedisStore.decide`."""
        return self._fallback.decide(charges, commit)

    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        """As `RedisStore.refund`."""
        await self._fallback.refund(charges, at_ticks)

    async def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        """As `RedisStore.rewind`."""
        return await self._fallback.rewind(scope, key, expected_ticks, tat_ticks)

    async def adjust(self, scope: str, key: str | bytes, back_ticks: int, block_ticks: int | None) -> None:
        """As `RedisStore.adjust`."""
        await self._fallback.adjust(scope, key, back_ticks, block_ticks)

    async def reset_scope(self, scope: str) -> None:
        """As `RedisStore.reset_scope`."""
        self._batches.running()
        await self._reset_scope(scope)

    async def close(self) -> None:
        """Give back what waiters gave up, and close the connections. A client that you gave is left open."""
        self._batches.running()
        await self.wait_queue.settle()
        for client in self._connections.opened():
            await client.aclose()

    async def __aenter__(self) -> AsyncRedisStore:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _sender(self) -> Send:
        return self._send

    def _send(self, requests: Sequence[Request]) -> Awaitable[list[Reply]]:
        if len(requests) == 1:  # no coroutine on the hot path
            return self._batches.send(requests[0])
        return self._send_each(requests)

    async def _send_each(self, requests: Sequence[Request]) -> list[Reply]:
        return [reply for [reply] in await asyncio.gather(*map(self._batches.send, requests))]


class Batches:
    """The requests of one store that wait to be sent, and those under way. For one event loop at a time.

    `renew` is called when it is another loop than before.
    """

    def __init__(self, call: Call, clustered: bool, renew: Callable[[], None]) -> None:
        self._call = call
        self._renew = renew
        self._clustered = clustered
        self._max_calls = MAX_CALLS_CLUSTERED if clustered else MAX_CALLS
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

    def send(self, request: Request) -> asyncio.Future[list[Reply]]:
        """Send a request with those that come in the same turn of the event loop. Returns what brings its one reply."""
        coming: asyncio.Future[list[Reply]] = self.running().create_future()
        self._waiting.append((request, coming))
        self._schedule()
        return coming

    def _schedule(self) -> None:
        """Have a batch sent at the end of this turn of the event loop, if one more may be under way.

        The tasks themselves tell how many are under way. A count would be wrong for ever after an exception between two
        steps here, which a signal handler may raise.
        """
        if self._next is not None and not self._next.done():
            return
        if len(self._under_way) >= self._max_calls:
            self._under_way = {task for task in self._under_way if not task.done()}
        if len(self._under_way) < self._max_calls:
            batch: list[_Waiting] = []
            self._next = task = asyncio.create_task(self._send(batch))
            self._under_way.add(task)
            task.add_done_callback(partial(self._arrived, batch))

    async def _send(self, batch: list[_Waiting]) -> None:
        self._next = None
        self._take(batch)
        if self._waiting:
            self._schedule()
        going = [one for one in batch if not one[1].done()]  # the request of a cancelled task is not sent at all
        if going:
            await self._travel(going)

    def _arrived(self, batch: list[_Waiting], task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        failure = None if task.cancelled() else task.exception()
        for _, coming in batch:  # that an exception in the middle has left without an answer
            if not coming.done():
                coming.set_exception(failure if isinstance(failure, Exception) else asyncio.CancelledError())
        # A task that has just got its answer may have asked again: its request travels with those that wait.
        if self._waiting:
            self._schedule()

    def _take(self, batch: list[_Waiting]) -> None:
        """Take the next requests that can travel together. Each is here or there, or in both, but never in neither."""
        waiting = self._waiting
        size = min(len(waiting), MAX_BATCH)
        if self._clustered and waiting:
            tag = tag_of(waiting[0][0].names[0])
            size = next((n for n in range(1, size) if tag_of(waiting[n][0].names[0]) != tag), size)
        for _ in range(size):
            batch.append(waiting[0])
            waiting.popleft()

    async def _travel(self, batch: list[_Waiting]) -> None:
        try:
            await self._hand_out(batch, await self._call([request for request, _ in batch]))
        except Exception as error:
            if self._loop is None or self._loop.is_closed():  # and all tasks that waited are gone
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
        for number, ((_, coming), reply) in enumerate(zip(batch, replies, strict=True)):
            if halves and number == half:
                await asyncio.sleep(0)  # the first half asks
                await asyncio.sleep(0)  # and is sent
            if not coming.done():
                coming.set_result([reply])


def _by_buckets(batch: list[_Waiting]) -> list[list[_Waiting]]:
    """Take requests for different buckets apart. While a slot is moved each is on one of two nodes, or on neither."""
    parts: dict[tuple[bytes, ...], list[_Waiting]] = {}
    for one in batch:
        parts.setdefault(tuple(one[0].names), []).append(one)
    return list(parts.values())

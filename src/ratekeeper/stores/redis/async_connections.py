"""As `connections`, for the tasks of an event loop. This file must not know requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from ratekeeper.stores.redis.client_errors import ClientErrors
from ratekeeper.stores.redis.connections import Connections, Hop
from ratekeeper.stores.redis.replies import own_answer
from ratekeeper.stores.redis.script import wire
from ratekeeper.stores.redis.urls import ClientMaker

T = TypeVar("T")


class AsyncConnections(Connections):
    """For the tasks of an event loop."""

    def __init__(self, maker: ClientMaker, errors: ClientErrors, timeout: float) -> None:
        super().__init__(maker, errors, timeout)
        self._reading = asyncio.Lock()
        self._expected: tuple[type[BaseException], ...] = (asyncio.CancelledError, *errors.known)
        self._closing: set[asyncio.Future[Any]] = set()

    def forget(self) -> None:
        super().forget()
        self._closing = set()

    def renew(self) -> None:
        super().renew()
        self._reading = asyncio.Lock()  # a task of a closed event loop may hold the old one

    @property
    def knows_map(self) -> bool:
        return self._client is not None and not self._stale and not self._client._initialize

    async def read_map(self) -> None:
        """As `BlockingConnections.read_map`."""
        came = self._tries.ended
        async with self._reading:
            if self.knows_map:
                return
            with self._tries.one(came):
                client = self.client()
                if self._stale:
                    self._stale = False
                    client._initialize = True  # all that is public closes the connections that others wait on
                await self._unless_blocked(client.initialize)

    def drop_idle(self, node: Any = None) -> None:
        """As `BlockingConnections.drop_idle`, but soon."""
        if node is None:
            closing = self.client().connection_pool.disconnect(inuse_connections=False)
        else:
            closing = asyncio.gather(*(connection.disconnect(nowait=True) for connection in tuple(node._free)))
        task: asyncio.Future[Any] = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Future[Any]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # what could not be closed in peace is closed all the same

    async def call(self, hop: Hop, arguments: list[bytes], verb: bytes, script: bytes) -> Any:
        """As `BlockingConnections.call`."""
        connection, release = await self._take(hop.node)
        whole = False
        try:
            if not connection.is_connected:  # of a cluster: the pool of a single server connects
                await self._unless_blocked(connection.connect)
            if hop.asking:
                await connection.send_command("ASKING")
                await connection.read_response()
            await connection.send_packed_command([wire([verb, script, *arguments])])
            answer = own_answer(await _read(connection), arguments)
            whole = True
        except self.errors.reply as error:
            whole = self.errors.keeps(error)
            raise
        except self.errors.garbled as error:
            raise ConnectionError(str(error)) from error
        finally:
            try:
                if not whole:
                    await connection.disconnect(nowait=True)
            finally:
                await release(connection)
        return answer

    async def _take(self, node: Any) -> tuple[Any, Callable[[Any], Awaitable[None]]]:
        """Return a connection, and what takes it back."""
        try:
            if node is not None:
                return node.acquire_connection(), partial(_back_to, node)
            pool = self.client().connection_pool
            return await self._unless_blocked(partial(pool.get_connection, *self._pool_wants)), pool.release
        except self._expected:  # these strike only where the client library expects them
            raise
        except BaseException:
            self.renew()
            raise

    async def _unless_blocked(self, connect: Callable[[], Awaitable[T]]) -> T:
        """Connect; and once more, if that failed while the event loop stood still: then it was not the server.

        Nothing is charged while a connection is made, so nothing is charged twice.
        """
        loop = asyncio.get_running_loop()
        beat_every, timers, late = self._timeout / 2, list[asyncio.TimerHandle](), 0.0

        def beat() -> None:
            nonlocal late
            if timers:
                late = max(late, loop.time() - timers.pop().when())
            timers.append(loop.call_later(beat_every, beat))

        beat()
        try:
            return await connect()
        except self.errors.known:
            if late < beat_every:  # it did not stand still for a whole timeout
                raise
        finally:
            for timer in timers:
                timer.cancel()
        return await connect()


async def _read(connection: Any) -> Any:
    """Return the answer. An answer that came while the event loop was busy counts, though its time is over.

    An event loop that was blocked for longer than the timeout finds the answer and the end of the wait together.
    """
    answer = await connection.read_response(timeout=connection.socket_timeout)
    if answer is None:
        for _ in range(2):  # a turn of the event loop to see that something came, and one to take it
            await asyncio.sleep(0)
        answer = await connection.read_response(timeout=0)
    if answer is None:
        raise TimeoutError("Timeout reading from the server")
    return answer


async def _back_to(node: Any, connection: Any) -> None:
    """Give a connection back to a node of a cluster. Older clients have no function for that."""
    (getattr(node, "release", None) or node._free.append)(connection)

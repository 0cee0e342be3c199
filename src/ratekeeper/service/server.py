"""Server: one listening socket, one application, one asyncio loop, from the first connection to the last answer.

Whether this is the only process or one of several is the business of `serve`, `supervisor` and `worker`. uvicorn gives
the HTTP protocol and nothing else: accepting, deadlines and the end are ours. The server itself calls accept, so it
never has more connections than it may have. The rest wait in the backlog, or other workers take them. A few times a
second it asks each connection for its deadline. That costs less than a timer for each request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Any, NoReturn, cast

import uvicorn
from uvicorn.server import ServerState

from ratekeeper.service.bounds import Bounds
from ratekeeper.service.http_protocol import BoundedHttp
from ratekeeper.service.served import Served

_LOOK = 0.25
_ACCEPTS_AT_ONCE = 64
_LAST_MOMENT = 1.0

_log = logging.getLogger("ratekeeper")


class Server:
    """Serves until `stop` is called. Not thread-safe: `stop` is called in the loop."""

    def __init__(self, served: Served, listening: socket.socket, bounds: Bounds, grace: float) -> None:
        # Forwarding headers are evidence, which the policy weighs: uvicorn must not rewrite the peer by them.
        self._config = uvicorn.Config(
            cast("Any", served), interface="asgi3", lifespan="off", ws="none", log_config=None, log_level="error",
            access_log=False, proxy_headers=False, server_header=False,
        )  # fmt: skip
        self._served = served
        self._listening = listening
        self._bounds = bounds
        self._grace = grace
        self._state = ServerState()
        self._opening: set[asyncio.Task[Any]] = set()
        self._accepting = self._told = False
        self._stopping, self._hurry = asyncio.Event(), asyncio.Event()

    async def run(self, started: Callable[[], None] | None = None) -> None:
        """Serve; return when everything is closed. `started` is called once connections are accepted."""
        self._config.load()
        loop = asyncio.get_running_loop()
        looking = loop.create_task(self._look())
        self._accept_again()
        if started is not None:
            started()
        try:
            await self._stopping.wait()
            self._listen_no_more()
            await self._drain()
        finally:
            self._listen_no_more()
            looking.cancel()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._served.close(), _LAST_MOMENT)

    def stop(self, at_once: bool = False) -> None:
        """Accept no more, and end after the answers that are due, at the latest after the grace; or end at once."""
        self._stopping.set()
        if at_once:
            self._hurry.set()

    # Accepting

    def _accept_again(self) -> None:
        if not (self._accepting or self._stopping.is_set()):
            self._accepting = True
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _pause_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            asyncio.get_running_loop().remove_reader(self._listening)

    def _listen_no_more(self) -> None:
        """Take the connections that the system has accepted already, so that none is reset; then refuse all others."""
        if self._listening.fileno() >= 0:
            self._accept(self._bounds.connections)
            self._pause_accepting()
            self._listening.close()

    def _accept(self, most: int = _ACCEPTS_AT_ONCE) -> None:
        for _ in range(most):
            if len(self._state.connections) + len(self._opening) >= self._bounds.connections:
                self._pause_accepting()
                return
            try:
                client, _peer = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor, no memory: the next look tries again
                if not self._told:
                    _log.warning("cannot accept connections: %s", error)
                self._told = True
                self._pause_accepting()
                return
            self._told = False
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            opening = asyncio.get_running_loop().create_task(self._open(client))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, client: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, client)
        except OSError:  # it is gone again
            client.close()

    def _protocol(self) -> BoundedHttp:
        connection = BoundedHttp(self._config, self._state, self._bounds)
        if self._stopping.is_set():
            asyncio.get_running_loop().call_soon(connection.end)
        return connection

    # Looking after connections

    async def _look(self) -> NoReturn:
        loop, bounds = asyncio.get_running_loop(), self._bounds
        shortest = min(bounds.head_time, bounds.idle_time, bounds.pause, bounds.body_time, bounds.last_time)
        while True:
            self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
            for connection in self._connections():
                connection.expire(loop.time())
            self._accept_again()
            await asyncio.sleep(min(_LOOK, shortest / 2))

    async def _drain(self) -> None:
        """Wait for the answers; then cut off the connections that are left."""
        for connection in self._connections():
            connection.end()
        await self._wait(lambda: self._opening or self._state.connections, self._grace, until=self._hurry)
        left = sum(1 for connection in self._connections() if connection.cut_off())
        if left:
            _log.warning("stopped with %d request%s unanswered", left, "s" * (left != 1))
        await self._wait(lambda: self._state.connections or self._state.tasks, _LAST_MOMENT)
        for connection in self._connections():
            connection.transport.abort()

    async def _wait(self, busy: Callable[[], object], seconds: float, until: asyncio.Event | None = None) -> None:
        deadline = time.monotonic() + seconds
        while busy() and time.monotonic() < deadline and not (until and until.is_set()):
            await asyncio.sleep(0.02)

    def _connections(self) -> list[BoundedHttp]:
        return cast("list[BoundedHttp]", list(self._state.connections))

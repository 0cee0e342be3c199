"""Server: listening sockets, their connections, one asyncio loop, from the first connection to the last answer.

Whether this is the only process or one of several is the business of `serve`, `supervisor` and `worker`. It knows no
protocol: each socket has a function that makes the wire of a connection. The server itself calls accept, so it never
has more connections than it may have. The rest wait in the backlog, or other workers take them. A few times a second
it asks each connection for its deadline. That costs less than a timer for each request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, NoReturn

from ratekeeper.service.bounds import Bounds
from ratekeeper.service.connection import Connection, Connections
from ratekeeper.service.core import Core
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.tls import Tls, TlsFiles
from ratekeeper.service.wire import MakeWire

_LOOK = 0.25
_LAST_MOMENT = 1.0

_log = logging.getLogger("ratekeeper")


class Listening(NamedTuple):
    """A listening socket, the name of its protocol, and the maker of a connection's wire."""

    kind: str
    socket: socket.socket
    make_wire: MakeWire


class Server:
    """Serves until `stop` is called. Not thread-safe: `stop` is called in the loop.

    `beside` are functions whose coroutines run in the loop meanwhile.
    """

    def __init__(
        self,
        listening: Sequence[Listening],
        bounds: Bounds,
        grace: float,
        metrics: Metrics,
        tls: TlsFiles | None = None,
        beside: Sequence[Callable[[], Coroutine[Any, Any, Any]]] = (),
    ) -> None:
        self._listening = listening
        self._tls = None if tls is None else Tls(tls, [one.kind for one in listening])
        self._bounds = bounds
        self._grace = grace
        self._beside = beside
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._connections = Connections(bounds, metrics)
        self._opening: set[asyncio.Task[Any]] = set()
        self._accepting = self._told = self._told_full = False
        self._stopping, self._hurry = asyncio.Event(), asyncio.Event()

    @property
    def connections(self) -> set[Connection]:
        """The open connections."""
        return self._connections.open

    @property
    def _crowded(self) -> bool:
        """Whether there are all the connections that there may be."""
        return len(self.connections) + len(self._opening) >= self._bounds.connections

    async def run(self, started: Callable[[], None] | None = None) -> None:
        """Serve; return when everything is closed. `started` is called once connections are accepted."""
        running = [self._loop.create_task(run()) for run in (self._look, *self._beside)]
        self._accept_again()
        if started is not None:
            started()
        try:
            await self._stopping.wait()
            self._listen_no_more()
            await self._drain()
        finally:
            self._listen_no_more()
            for one in running:
                one.cancel()

    def stop(self, at_once: bool = False) -> None:
        """Accept no more, and end after the answers that are due, at the latest after the grace; or end at once."""
        self._stopping.set()
        if at_once:
            self._hurry.set()

    # Accepting

    def _accept_again(self) -> None:
        if not (self._accepting or self._stopping.is_set()):
            self._accepting = True
            for one in self._listening:
                self._loop.add_reader(one.socket, self._accept, one)

    def _pause_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            for one in self._listening:
                self._loop.remove_reader(one.socket)

    def _listen_no_more(self) -> None:
        """Take the connections that the system has accepted already, so that none is reset; then refuse all others."""
        for one in self._listening:
            if one.socket.fileno() >= 0:
                while self._accept(one):
                    pass
        self._pause_accepting()
        for one in self._listening:
            one.socket.close()

    def _accept(self, one: Listening) -> bool:
        """Accept one connection, and return whether there may be more. The next one may be another worker's."""
        if self._crowded:
            if not (self._told_full or self._stopping.is_set()):
                words = "all %d connections are open: others wait until one closes, or is idle for %g s"
                _log.warning(words, self._bounds.connections, self._bounds.idle_time)
                self._told_full = True
            self._pause_accepting()
            return False
        try:
            client, _peer = one.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:  # no descriptor, no memory: the next look tries again
            if not self._told:
                _log.warning("cannot accept connections: %s", error)
            self._told = True
            self._pause_accepting()
            return False
        self._told = False
        client.setblocking(False)
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        opening = self._loop.create_task(self._open(one, client))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        return True

    async def _open(self, one: Listening, client: socket.socket) -> None:
        options: dict[str, Any] = {}
        if self._tls is not None and client.family != socket.AF_UNIX:
            options = {"ssl": self._tls[one.kind], "ssl_handshake_timeout": self._bounds.head_time}
        try:
            await self._loop.connect_accepted_socket(
                partial(Connection, one.kind, one.make_wire, self._connections), client, **options
            )
        except OSError:  # it is gone again
            client.close()

    # Looking after connections

    async def _look(self) -> NoReturn:
        bounds = self._bounds
        shortest = min(bounds.head_time, bounds.idle_time, bounds.pause, bounds.body_time, bounds.last_time)
        while True:
            now = self._loop.time()
            crowded = self._crowded
            for connection in list(self.connections):
                connection.expire(now, crowded)
            if 2 * len(self.connections) < bounds.connections:
                self._told_full = False
            self._accept_again()
            self._metrics.refresh()
            if self._tls is not None:
                self._tls.look()
            await asyncio.sleep(min(_LOOK, shortest / 2))

    async def _drain(self) -> None:
        """Wait for the answers; then cut off the connections that are left."""
        if self._opening:
            await asyncio.wait(self._opening, timeout=_LAST_MOMENT)
        for connection in list(self.connections):
            connection.finish()
        await self._wait(lambda: self.connections, self._grace, until=self._hurry)
        left = sum(1 for connection in list(self.connections) if connection.cut_off())
        if left:
            _log.warning("stopped with %d request%s unanswered", left, "s" * (left != 1))
        await self._wait(lambda: self.connections, _LAST_MOMENT)
        for connection in list(self.connections):
            connection.abort()

    async def _wait(self, busy: Callable[[], object], seconds: float, until: asyncio.Event | None = None) -> None:
        deadline = time.monotonic() + seconds
        while busy() and time.monotonic() < deadline and not (until and until.is_set()):
            await asyncio.sleep(0.02)


async def close(core: Core) -> None:
    """Close the store of a core that is served no more, if it closes soon."""
    with suppress(TimeoutError):
        await asyncio.wait_for(core.close(), _LAST_MOMENT)

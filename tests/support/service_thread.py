"""The service's own server in this process, on a real port, so that a test can hold its bounds, store and clock."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from servers import PATIENCE
from service_process import RawClient

from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.loop import run_loop

_LONG = {**dict.fromkeys(["head_time", "idle_time", "pause", "body_time", "write_time"], 3600.0), "last_time": 0.2}


class InThread:
    """A server in this process, whose bounds are the test's own."""

    def __init__(self, core: Core, bounds: Bounds, kind: str) -> None:
        from ratekeeper.service.protocols import make_wire  # noqa: PLC0415  needs the extra
        from ratekeeper.service.server import Listening, Server  # noqa: PLC0415

        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.address = self._listening.getsockname()
        self._started = threading.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            wires = make_wire(kind, core, bounds)
            listening = [Listening(kind, self._listening, wires)]
            self._server = Server(listening, bounds, 0.2, core.metrics, beside=[core.live.run])
            await self._server.run(self._started.set)

        self._thread = threading.Thread(target=lambda: run_loop(serve()))
        self._thread.start()
        assert self._started.wait(PATIENCE)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    @property
    def open(self) -> int:
        return len(self._server.connections)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the thread of the server."""
        self._loop.call_soon_threadsafe(function)

    def look(self, later: float, crowded: bool = False) -> None:
        """Have the server look at its connections as if it were so many seconds later."""

        def expire() -> None:
            for connection in list(self._server.connections):
                connection.expire(self._loop.time() + later, crowded)

        self.call(expire)

    def client(self) -> RawClient:
        return RawClient(self.address)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._server.stop)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@contextmanager
def serving_in_thread(core: Core, *, kind: str = "http", **bounds: Any) -> Iterator[InThread]:
    """Serve meanwhile. A bound in time that the test does not give is an hour."""
    server = InThread(core, Bounds(**{**_LONG, **bounds}), kind)
    try:
        yield server
    finally:
        server.stop()

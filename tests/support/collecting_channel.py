"""A channel of a wire without a socket: it collects what is written, and runs what must wait on the test's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ratekeeper.service.wire import Wire


class CollectingChannel:
    """`time` is the test's own clock."""

    def __init__(self, time: float = 0.0) -> None:
        self.peer: str | None = None
        self.time = time
        self.writes: list[bytes] = []
        self.paused = self.closed = self.full = False
        self.tasks: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        return self.time

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after the end"
        self.writes.append(data)

    def run(self, answering: Coroutine[Any, Any, None]) -> None:
        self.tasks.add(asyncio.get_running_loop().create_task(answering))

    def pause(self) -> None:
        assert not self.paused, "paused twice"
        self.paused = True

    def resume(self) -> None:
        assert self.paused, "resumed without a pause"
        self.paused = False

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def lose(self, wire: Wire) -> None:
        """Have the connection lost: what runs is cancelled."""
        self.closed = True
        for task in self.tasks:
            task.cancel()
        wire.lost()

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        data = b"".join(self.writes)
        self.writes.clear()
        return data

    async def settle(self) -> None:
        """Wait until everything that runs has ended."""
        while self.tasks:
            running, self.tasks = self.tasks, set()
            for ended in await asyncio.gather(*running, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended

"""An event loop whose time goes on only while all tasks sleep, and then at once. So seconds take milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable

from ratekeeper.alarms import Alarms
from ratekeeper.clock import SystemClock
from ratekeeper.limits import TICKS_PER_SECOND


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that never blocks. No file and no socket is waited for."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_Sleeping(self))

    def time(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


class _Sleeping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "all tasks wait for each other"
        self._loop.sleep(max(0, timeout))
        return []


class LoopClock(SystemClock):
    """The time of a virtual loop, for a store."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._alarms = Alarms(loop, self.ticks)

    def ticks(self) -> int:
        return round(self._loop.time() * TICKS_PER_SECOND)

    def wait_async(self, woken: asyncio.Future[None], until: int) -> Awaitable[object]:
        self._alarms.set(until, woken)
        return woken

"""Clocks: what time it is, in ticks, and how to wait. A store owns one. Nothing else in ratekeeper reads the time."""

from __future__ import annotations

import asyncio
import threading
import time
from fractions import Fraction
from typing import Protocol

from ratekeeper.limits import TICKS_PER_SECOND

_TICKS_PER_NS = TICKS_PER_SECOND // 1_000_000_000
_HAS_BOOTTIME = hasattr(time, "CLOCK_BOOTTIME")


class Clock(Protocol):
    """What a store needs of time. Ticks are 1/16 ns and must be from 0 to 2**62 - 1."""

    def ticks(self) -> int:
        """Return the time now."""
        ...

    def wait(self, woken: threading.Event, seconds: float) -> None:
        """Block this thread until `seconds` have passed, or it is woken."""
        ...

    async def wait_async(self, woken: asyncio.Event, seconds: float) -> None:
        """Let the event loop go on until `seconds` have passed, or the task is woken."""
        ...


class SystemClock:
    """The machine's clock since boot."""

    def ticks(self) -> int:
        # Boot time goes on while the machine sleeps, as buckets should; elsewhere the monotonic clock does.
        ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if _HAS_BOOTTIME else time.monotonic_ns()
        return ns * _TICKS_PER_NS

    def wait(self, woken: threading.Event, seconds: float) -> None:
        woken.wait(seconds)

    async def wait_async(self, woken: asyncio.Event, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()


class ManualClock:
    """A clock that stands still until it is told to go on: for tests and for replays. Waiting moves it.

    >>> clock = ManualClock()
    >>> clock.advance(1.5)
    >>> clock.ticks() / TICKS_PER_SECOND
    1.5
    """

    def __init__(self, start: float = 0.0) -> None:
        if isinstance(start, str):
            raise TypeError(f"start is in seconds, not {start!r}")
        self._now = round(start * TICKS_PER_SECOND)
        self._lock = threading.Lock()

    def ticks(self) -> int:
        return self._now

    def advance(self, seconds: float) -> None:
        """Go on by `seconds`, to the nearest tick; a negative number steps back."""
        self.advance_ticks(round(Fraction(seconds) * TICKS_PER_SECOND))

    def advance_ticks(self, ticks: int) -> None:
        """Go on by exactly this many ticks."""
        with self._lock:
            self._now += ticks

    def set_ticks(self, ticks: int) -> None:
        """Jump to a time."""
        with self._lock:
            self._now = ticks

    def wait(self, woken: threading.Event, seconds: float) -> None:
        self.advance(seconds)

    async def wait_async(self, woken: asyncio.Event, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)

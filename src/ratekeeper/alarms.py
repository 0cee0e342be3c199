"""Alarms: wake many sleeping tasks of an event loop by one timer of the loop.

The loop's own timers are compared in Python: with 100,000 of them, a timer costs more than the task that it wakes.
This module knows nothing else.
"""

from __future__ import annotations

import asyncio
import threading
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TypeAlias

_Entry: TypeAlias = tuple[float, int, "Alarm"]

_FEW = 64
_of_thread = threading.local()


class Alarm:
    """Sets an event at a time, unless it is cancelled before."""

    __slots__ = ("_alarms", "_woken")

    def __init__(self, alarms: Alarms, woken: asyncio.Event) -> None:
        self._alarms = alarms
        self._woken: asyncio.Event | None = woken  # None: it has rung, or was cancelled

    def cancel(self) -> None:
        """Do not ring. An alarm that has rung stays as it is."""
        if self._woken is not None:
            self._woken = None
            self._alarms._note_cancelled()


class Alarms:
    """The alarms of one event loop, and the loop's timer for the earliest.

    >>> async def sleep() -> bool:
    ...     woken = asyncio.Event()
    ...     alarms_of(asyncio.get_running_loop()).set(0.0, woken)
    ...     return await woken.wait()
    >>> asyncio.run(sleep())
    True
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._entries: list[_Entry] = []  # a heap
        self._numbers = count()
        self._cancelled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0  # the time of the timer

    def set(self, seconds: float, woken: asyncio.Event) -> Alarm:
        """Return an alarm that sets an event in `seconds`."""
        at, alarm = self.loop.time() + seconds, Alarm(self, woken)
        heappush(self._entries, (at, next(self._numbers), alarm))
        if self._timer is None or at < self._next:
            self._start_timer()
        return alarm

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = self._entries[0][0]
        self._timer = self.loop.call_at(self._next, self._ring)

    def _ring(self) -> None:
        """Ring all that are due. Some loops call a little early: what the timer was for is due."""
        self._timer = None
        entries, now = self._entries, max(self._next, self.loop.time())
        while entries and entries[0][0] <= now:
            alarm = heappop(entries)[2]
            woken, alarm._woken = alarm._woken, None
            if woken is not None:
                woken.set()
            else:
                self._cancelled -= 1
        if entries:
            self._start_timer()

    def _note_cancelled(self) -> None:
        """Forget the cancelled alarms once they are the most: their number is bounded by that of the others."""
        self._cancelled += 1
        if self._cancelled > max(_FEW, len(self._entries) // 2):
            self._entries = [entry for entry in self._entries if entry[2]._woken is not None]
            heapify(self._entries)
            self._cancelled = 0
            if not self._entries and self._timer is not None:
                self._timer.cancel()
                self._timer = None


def alarms_of(loop: asyncio.AbstractEventLoop) -> Alarms:
    """Return the alarms of this thread's running loop.

    A thread remembers those of its last loop only, so that they live no longer than that. Those of an earlier loop go
    on by that loop's timer.
    """
    alarms: Alarms | None = getattr(_of_thread, "alarms", None)
    if alarms is None or alarms.loop is not loop:
        alarms = _of_thread.alarms = Alarms(loop)
    return alarms

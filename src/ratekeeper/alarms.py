"""Alarms: wake many sleeping tasks of an event loop by one timer of the loop.

The loop's own timers are compared in Python: with 100,000 of them, a timer costs more than the task that it wakes.
Alarms ring in the order of their times, which are in ticks: the loop's own time only says when to look at them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from ratekeeper.limits import TICKS_PER_SECOND

AT_ONCE = 256
"""The most alarms that ring before the loop goes on: what they wake is then still in the processor's caches."""

_FEW = 64
_of_thread = threading.local()


class Alarm:
    """Sets an event at a time, unless it is cancelled before."""

    __slots__ = ("_alarms", "_at", "_woken")

    def __init__(self, alarms: Alarms, at: int, woken: asyncio.Event) -> None:
        self._alarms = alarms
        self._at = at
        self._woken: asyncio.Event | None = woken  # None: it has rung, or was cancelled

    def cancel(self) -> None:
        """Do not ring. An alarm that has rung stays as it is."""
        if self._woken is not None:
            self._woken = None
            self._alarms._note_cancelled()


class Alarms:
    """The alarms of one event loop, and the loop's timer for the earliest. `ticks` reads the time that they ring by.

    >>> from ratekeeper.clock import machine_ticks
    >>> async def sleep() -> bool:
    ...     woken = asyncio.Event()
    ...     alarms_of(asyncio.get_running_loop(), machine_ticks).set(machine_ticks(), woken)
    ...     return await woken.wait()
    >>> asyncio.run(sleep())
    True
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ticks: Callable[[], int]) -> None:
        self.loop = loop
        self._ticks = ticks
        # Each is due no earlier than the one before it, as most are. Of one time, they were set before the others.
        self._in_order: deque[Alarm] = deque()
        self._others: list[tuple[int, int, Alarm]] = []  # a heap, by time and then by number
        self._numbers = count()
        self._cancelled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0  # the time of the timer

    def __len__(self) -> int:
        """Return how many alarms are kept. Some of them may be cancelled."""
        return len(self._in_order) + len(self._others)

    def set(self, at: int, woken: asyncio.Event) -> Alarm:
        """Return an alarm that sets an event at a time, in ticks."""
        alarm = Alarm(self, at, woken)
        if not self._in_order or at >= self._in_order[-1]._at:
            self._in_order.append(alarm)
        else:
            heappush(self._others, (at, next(self._numbers), alarm))
        if self._timer is None or at < self._next:
            self._start_timer()
        return alarm

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        first = [self._in_order[0]._at] if self._in_order else []
        self._next = min(first + [at for at, _, _ in self._others[:1]])
        self._timer = self.loop.call_later(max(0, self._next - self._ticks()) / TICKS_PER_SECOND, self._ring)

    def _ring(self) -> None:
        """Ring those that are due, `AT_ONCE` at most. Some loops call a little early: what the timer was for is due."""
        self._timer = None
        now = max(self._next, self._ticks())
        try:
            for _ in range(AT_ONCE):
                if (alarm := self._take_due(now)) is None:
                    break
                woken, alarm._woken = alarm._woken, None
                if woken is not None:
                    woken.set()
                else:
                    self._cancelled -= 1
        finally:  # an exception, as that of a signal's handler, costs no other alarm
            if self:
                self._start_timer()

    def _take_due(self, now: int) -> Alarm | None:
        """Take out the earliest alarm, if it is due."""
        in_order, others = self._in_order, self._others
        if in_order and not (others and others[0][0] < in_order[0]._at):
            return in_order.popleft() if in_order[0]._at <= now else None
        return heappop(others)[2] if others and others[0][0] <= now else None

    def _note_cancelled(self) -> None:
        """Forget the cancelled alarms once they are the most: their number is bounded by that of the others."""
        self._cancelled += 1
        if self._cancelled > max(_FEW, len(self) // 2):
            kept = [*self._in_order, *[alarm for _, _, alarm in sorted(self._others)]]
            kept.sort(key=lambda alarm: alarm._at)  # those of one time keep their order
            self._in_order = deque([alarm for alarm in kept if alarm._woken is not None])
            self._others = []
            self._cancelled = 0
            if not self and self._timer is not None:
                self._timer.cancel()
                self._timer = None


def alarms_of(loop: asyncio.AbstractEventLoop, ticks: Callable[[], int]) -> Alarms:
    """Return the alarms of this thread's running loop, which ring by the time that `ticks` reads.

    A thread remembers those of its last loop only, so that they live no longer than that. Those of an earlier loop go
    on by that loop's timer.
    """
    alarms: Alarms | None = getattr(_of_thread, "alarms", None)
    if alarms is None or alarms.loop is not loop:
        alarms = _of_thread.alarms = Alarms(loop, ticks)
    return alarms

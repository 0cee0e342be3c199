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
from typing import TypeAlias

from ratekeeper.limits import TICKS_PER_SECOND

AT_ONCE = 256
"""The most alarms that ring before the loop goes on: what they wake is then still in the processor's caches."""

Alarm: TypeAlias = "tuple[int, int, asyncio.Future[None]]"
"""Its time, its number, and the future that it makes done. So alarms are in the order in which they ring."""

_FEW = 64
_of_thread = threading.local()


class Alarms:
    """The alarms of one event loop, and the loop's timer for the earliest. `ticks` reads the time that they ring by.

    If a future is done before its time, as it is when its task is cancelled, its alarm is of no more use. Such alarms
    are forgotten at their time, or once the number of alarms has doubled. So there are at most twice as many as tasks
    have slept at once.

    >>> from ratekeeper.clock import machine_ticks
    >>> async def sleep() -> str:
    ...     loop = asyncio.get_running_loop()
    ...     woken = loop.create_future()
    ...     alarms_of(loop, machine_ticks).set(machine_ticks(), woken)
    ...     await woken
    ...     return "awake"
    >>> asyncio.run(sleep())
    'awake'
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ticks: Callable[[], int]) -> None:
        self.loop = loop
        self._ticks = ticks
        self._in_order: deque[Alarm] = deque()  # each was set for later than the one before it, as most are
        self._others: list[Alarm] = []  # a heap
        self._numbers = count()
        self._many = _FEW  # so many alarms are looked through
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0  # the time of the timer

    def __len__(self) -> int:
        """Return how many alarms are kept. Some of them may be of no more use."""
        return len(self._in_order) + len(self._others)

    def set(self, at: int, woken: asyncio.Future[None]) -> None:
        """Have a future done at a time, in ticks."""
        if len(self) >= self._many:
            self._forget_done()
        alarm = at, next(self._numbers), woken
        if not self._in_order or alarm > self._in_order[-1]:
            self._in_order.append(alarm)
        else:
            heappush(self._others, alarm)
        if self._timer is None or at < self._next:
            self._start_timer()

    def _forget_done(self) -> None:
        kept = sorted(alarm for alarm in (*self._in_order, *self._others) if not alarm[2].done())
        self._in_order, self._others = deque(kept), []
        self._many = max(_FEW, 2 * len(kept))

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = min(alarms[0][0] for alarms in (self._in_order, self._others) if alarms)
        self._timer = self.loop.call_later(max(0, self._next - self._ticks()) / TICKS_PER_SECOND, self._ring)

    def _ring(self) -> None:
        """Ring those that are due, `AT_ONCE` at most. Some loops call a little early: what the timer was for is due."""
        self._timer = None
        now = max(self._next, self._ticks())
        try:
            for _ in range(AT_ONCE):
                if (woken := self._take_due(now)) is None:
                    break
                if not woken.done():
                    woken.set_result(None)
        finally:  # an exception, as that of a signal's handler, costs no other alarm
            if self:
                self._start_timer()

    def _take_due(self, now: int) -> asyncio.Future[None] | None:
        """Take out the earliest alarm, if it is due, and return its future."""
        in_order, others = self._in_order, self._others
        if in_order and not (others and others[0] < in_order[0]):
            return in_order.popleft()[2] if in_order[0][0] <= now else None
        return heappop(others)[2] if others and others[0][0] <= now else None


def alarms_of(loop: asyncio.AbstractEventLoop, ticks: Callable[[], int]) -> Alarms:
    """Return the alarms of this thread's running loop, which ring by the time that `ticks` reads.

    A thread remembers those of its last loop only, so that they live no longer than that. Those of an earlier loop go
    on by that loop's timer.
    """
    alarms: Alarms | None = getattr(_of_thread, "alarms", None)
    if alarms is None or alarms.loop is not loop:
        alarms = _of_thread.alarms = Alarms(loop, ticks)
    return alarms

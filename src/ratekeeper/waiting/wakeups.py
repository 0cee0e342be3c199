"""Wakeups of one sleeper, a thread or a task. They know nothing of turns."""

from __future__ import annotations

import asyncio
import threading
from _thread import allocate_lock


class Wakeup(threading.Event):
    """An event for one sleeper. A signal's handler may set it while its own thread is inside of it."""

    def __init__(self) -> None:
        self._asleep = allocate_lock()
        self._asleep.acquire()

    def is_set(self) -> bool:
        return not self._asleep.locked()

    def set(self) -> None:
        try:
            self._asleep.release()
        except RuntimeError:
            return  # it is set already

    def clear(self) -> None:
        self._asleep.acquire(blocking=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is set, and clear it."""
        return self._asleep.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))


class TaskWakeup:
    """Wakes one task of an event loop. Each of its sleeps is a new future.

    A task looks whether it must sleep, and then begins its sleep, without an await between the two. The loop sets the
    wakeup before its look or in its sleep, and never between. So it need not remember that it was set.
    """

    __slots__ = ("_loop", "_sleep")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sleep: asyncio.Future[None] | None = None

    def sleep(self) -> asyncio.Future[None]:
        """Begin a sleep, and return the future that ends it."""
        self._sleep = self._loop.create_future()
        return self._sleep

    def set(self) -> None:
        """End the sleep, if there is one."""
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    def set_threadsafe(self) -> bool:
        """Set it from whatever thread. Return False if the loop is gone, and so the task is."""
        try:
            self._loop.call_soon_threadsafe(self.set)
        except RuntimeError:
            return False
        return True

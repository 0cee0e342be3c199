"""Events for one sleeper each, a thread or a task. They know nothing of turns."""

from __future__ import annotations

import asyncio
import threading
from _thread import allocate_lock
from typing import Literal


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


class TaskWakeup(asyncio.Event):
    """An event for one task of an event loop that sleeps. It takes a sixth of the memory."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._of_loop = loop
        self._awake = False
        self._sleeper: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<TaskWakeup set={self._awake}>"

    def is_set(self) -> bool:
        return self._awake

    def set(self) -> None:
        self._awake = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def set_threadsafe(self) -> bool:
        """Set it from whatever thread. Returns False if the loop is gone, and so the task is."""
        try:
            self._of_loop.call_soon_threadsafe(self.set)
        except RuntimeError:
            return False
        return True

    def clear(self) -> None:
        self._awake = False

    async def wait(self) -> Literal[True]:
        """Sleep until it is set."""
        if not self._awake:
            self._sleeper = self._of_loop.create_future()
            await self._sleeper
        return True

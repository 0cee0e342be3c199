"""Signals whose handler raises at any moment, as Ctrl-C and the time limit of a task do."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """Raised by the handler. As `Exception` it is harder than KeyboardInterrupt: it may be caught on the way."""


class Storm:
    """Strikes calls with a signal after a random time of about as long as they take. Only in the main thread."""

    def __init__(self, seed: int, kind: type[BaseException] = Interrupted) -> None:
        self._random = random.Random(seed)
        self._kind = kind
        self._longest = 1e-4  # so chosen that it strikes every other call
        self._armed = False
        self.struck = self.spared = 0

    def strike(self, work: Callable[[], T]) -> T | None:
        """Do work, and return its result. Return None if it was struck: then it may have been done, or not."""
        try:
            try:
                self.arm()
                result = work()
            finally:
                self.disarm()
        except self._kind:
            self.note(struck=True)
            return None
        finally:
            self.disarm()
        self.note(struck=False)
        return result

    def arm(self) -> None:
        """Strike once after a random time, unless disarmed before."""
        signal.signal(signal.SIGALRM, self._raise)
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, max(1e-6, self._random.random() * self._longest))

    def disarm(self) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def note(self, struck: bool) -> None:
        """Count, and choose the times so that every other call is struck."""
        self.struck += struck
        self.spared += not struck
        self._longest *= 1.25 if struck else 0.8

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if not self._armed:
            return
        if _is_in_logging(frame):
            signal.setitimer(signal.ITIMER_REAL, 1e-5)
            return
        self._armed = False
        raise self._kind


def _is_in_logging(frame: FrameType | None) -> bool:
    """True inside of `logging`: up to Python 3.12 it keeps its lock for ever when struck just after it took it."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False

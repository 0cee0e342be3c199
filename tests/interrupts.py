"""Signals whose handler raises, at any moment of what is done: as Ctrl-C does, and a time limit of a task."""

from __future__ import annotations

import random
import signal
import time
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
        self._typical = 1e-4
        self._armed = False
        self.struck = self.spared = 0

    def strike(self, work: Callable[[], T]) -> T | None:
        """Do work, and return its result. Return None if it was struck: then it may have been done, or not."""
        before = signal.signal(signal.SIGALRM, self._raise)
        begun = time.perf_counter()
        try:
            try:
                self._armed = True
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, self._random.random() * 2 * self._typical))
                result = work()
            finally:
                self._armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except self._kind:
            self.struck += 1
            return None
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        self.spared += 1
        self._typical += ((time.perf_counter() - begun) - self._typical) / 16
        return result

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise self._kind

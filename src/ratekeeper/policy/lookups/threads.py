"""LookupThreads: a few threads that run look-ups, so that no request waits for one longer than it wants to.

Daemons, as a look-up may never return, and must not keep a program from ending. They end when they have nothing to do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

MOST_QUEUED = 10_000
"""The jobs that may wait for a thread."""

IDLE_SECONDS = 5.0


class LookupThreads:
    """At most `most` threads, begun when they are needed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must: it has none of its parent's threads."""
        self._changed = threading.Condition(threading.RLock())
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads = self._idle = 0

    def submit(self, job: Callable[[], None]) -> bool:
        """Run a job soon. Return false, and do nothing, if too many wait already."""
        with self._changed:
            if len(self._jobs) >= MOST_QUEUED:
                return False
            self._jobs.append(job)
            if self._idle < len(self._jobs) and self._threads < self._most:
                threading.Thread(target=self._run, args=(self._changed,), name="ratekeeper lookup", daemon=True).start()
                self._threads += 1
            self._changed.notify()
        return True

    def _run(self, changed: threading.Condition) -> None:
        try:
            while (job := self._next(changed)) is not None:
                job()
        finally:
            with changed:
                self._threads -= 1

    def _next(self, changed: threading.Condition) -> Callable[[], None] | None:
        """Return the next job; None if there is none for a while."""
        with changed:
            while not self._jobs:
                self._idle += 1
                woken = changed.wait(IDLE_SECONDS)
                self._idle -= 1
                if not woken and not self._jobs:
                    return None
            return self._jobs.popleft()

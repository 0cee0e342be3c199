"""Breaker: shall a server that lately did not answer be asked again? So an outage costs nothing for each request.

closed     every call goes. FAILURES in a row open it, or one that was refused: there nobody listens
open       no call goes, until `retry` has passed
half-open  one call goes, the probe; its success closes the breaker, its failure opens it for as long again

No I/O, no logging, and time is an argument, in ticks. It does not know what is called.
"""

from __future__ import annotations

import threading

FAILURES = 3
"""Failures in a row until a server that took the connection is not asked any more."""

LOST = 10
"""A probe that is not heard of for so many times `retry` is taken for lost."""


class Breaker:
    """The state of one server, as far as calls have shown. Thread-safe.

    Each change of state begins a new turn. A call belongs to the turn that it was let through in, and what comes of it
    later counts for nothing: many calls that fail together open the breaker once, and only the probe closes it.
    """

    def __init__(self, retry: int) -> None:
        self._retry = retry
        self._lock = threading.RLock()  # a signal handler of the same thread may ask too
        self._turn = 0
        self._closed = True
        self._failures = 0
        self._probe_at = 0  # unless closed: when the next probe may go

    def enter(self, now: int) -> int | None:
        """Return the turn of a call that may go; its end is to be told with that turn. None if it may not."""
        if self._closed:
            return self._turn
        with self._lock:
            if not self._closed:
                if now < self._probe_at:
                    return None
                self._turn += 1
                self._probe_at = now + LOST * self._retry
            return self._turn

    def succeeded(self, turn: int) -> bool:
        """Note that the server has answered. Returns whether that closed the breaker."""
        if self._closed and not self._failures:
            return False
        with self._lock:
            if turn != self._turn:
                return False
            self._failures = 0
            closes = not self._closed
            if closes:
                self._closed = True
                self._turn += 1
            return closes

    def failed(self, turn: int, now: int, refused: bool = False) -> bool:
        """Note that the server has not answered. Returns whether that opened the breaker, which was closed."""
        with self._lock:
            if turn != self._turn:
                return False
            self._failures += 1
            if self._closed and self._failures < FAILURES and not refused:
                return False
            opens = self._closed
            self._closed = False
            self._turn += 1
            self._probe_at = now + self._retry
            return opens

    def abandoned(self, turn: int, now: int) -> None:
        """Note that a call was given up by its caller, so that nothing is known. Another may be the probe."""
        with self._lock:
            if turn == self._turn and not self._closed:
                self._turn += 1
                self._probe_at = now

    def wait(self, now: int) -> int:
        """Return the ticks until it is worth to ask again: never more than `retry`, as a probe soon comes back."""
        if self._closed:
            return self._retry
        return min(max(self._probe_at - now, 1), self._retry)

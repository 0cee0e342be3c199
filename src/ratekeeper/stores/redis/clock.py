"""ServerClock: what time it is on the server, as far as is known here. Only waiting uses it; the script reads TIME."""

from __future__ import annotations

import time

from ratekeeper.clock import SystemClock
from ratekeeper.limits import TICKS_PER_SECOND

LEARN_EVERY = TICKS_PER_SECOND // 100
"""Two clocks do not drift apart by anything that counts in so many ticks."""


class ServerClock(SystemClock):
    """The server's time in a recent reply, and the local time that has passed since.

    It is late by the reply's way back, so who waits by it does not go too early; but never before the last reply that
    came. Before any reply it is this machine's wall clock.
    """

    def __init__(self) -> None:
        self._lead: int | None = None
        self._learn_at = 0
        self._latest = 0

    def local(self) -> int:
        """Return this machine's monotonic time."""
        return super().ticks()

    def learn(self, now: int, sent: int) -> None:
        """Note the server's time from a reply that has just come, to what was sent at the local time `sent`."""
        if now > self._latest or now < self._latest - TICKS_PER_SECOND:  # overtaken, or it steps back
            self._latest = now
        if sent >= self._learn_at:
            self._lead = now - super().ticks()
            self._learn_at = sent + LEARN_EVERY

    def ticks(self) -> int:
        if self._lead is None:
            wall = time.time_ns() * (TICKS_PER_SECOND // 1_000_000_000)
            if self.held is None:
                return wall
            self._lead = wall - super().ticks()  # from here on it is held
        return max(super().ticks() + self._lead, self._latest)

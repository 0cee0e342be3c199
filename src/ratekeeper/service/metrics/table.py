"""TableCounts: the counts of the table that all processes share, not counted anew too often. Knows no text."""

from __future__ import annotations

from time import monotonic, thread_time
from typing import Any

TABLE_FOR = 1.0
"""Seconds for which the counts are shown again: to count the live buckets is a look at every cell."""

MOST_SHARE = 1 / 100
"""The share of time that counting may take: the counts of a huge table are shown again for longer.

Time in which the thread does not run is none of it: after a stall of seconds the counts would be shown for minutes.
"""


class TableCounts:
    """The counts of a store."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._counts: Any = None
        self._until = 0.0

    def read(self) -> Any:
        """Return the table's counts of the last moment; None for a store on a server."""
        if not hasattr(self._store, "stats"):
            return None
        if self._counts is None or monotonic() >= self._until:
            began = thread_time()
            stats = self._store.stats()
            self._counts = stats if hasattr(stats, "evicted_live") else None
            self._until = monotonic() + max(TABLE_FOR, (thread_time() - began) / MOST_SHARE)
        return self._counts

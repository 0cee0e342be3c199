"""WaitingRequests: how many requests may wait for their turn at once, in all and of one client. Knows no request."""

from __future__ import annotations

import threading
from collections import Counter

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

MOST_WAITING = 10_000
"""Requests that may wait in a process where each holds a task, if it may have twice as many open files."""

WAITING_THREADS = 2
"""Requests that may wait in a process where each holds a thread: half of the threads that servers usually have."""

_CLIENTS = 10
"""One client may have a tenth of the places."""


def places_by_descriptors() -> int:
    """Return how many requests may wait where each holds an open connection: half of the open files at most."""
    if resource is None:
        return MOST_WAITING
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_WAITING if most == resource.RLIM_INFINITY else max(1, min(MOST_WAITING, most // 2))


class WaitingRequests:
    """Counts the requests that wait. Thread-safe. A request that finds no place is refused instead."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_a_client = max(1, most // _CLIENTS)
        self._clients: Counter[str | None] = Counter()
        self._waiting = 0
        self._lock = threading.Lock()

    def enter(self, client: str | None) -> bool:
        """Take a place. Return False if there is none, or if the client has its share.

        A request of which no client is told has no share.
        """
        with self._lock:
            if self._waiting >= self._most:
                return False
            if client is not None and self._clients[client] >= self._most_of_a_client:
                return False
            self._waiting += 1
            self._clients[client] += 1
            return True

    def leave(self, client: str | None) -> None:
        """Give a place back."""
        with self._lock:
            self._waiting -= 1
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

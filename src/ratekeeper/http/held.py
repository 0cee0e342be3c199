"""HeldRequests: how many requests may be held until their turn at once, in all and of one client. Knows no request."""

from __future__ import annotations

import threading
from collections import Counter

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

MOST_HELD = 10_000
"""The requests that a process may hold where each is a task, if the process may open twice as many files."""

HELD_THREADS = 2
"""The requests that a process may hold where each blocks a thread: half of the threads that servers usually have."""

_CLIENTS = 10
"""One client may have a tenth of the places."""


def most_by_descriptors() -> int:
    """Return how many requests may be held where each has an open connection: half of the open files at most."""
    if resource is None:
        return MOST_HELD
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_HELD if most == resource.RLIM_INFINITY else max(1, min(MOST_HELD, most // 2))


class HeldRequests:
    """Counts the held requests. Thread-safe. A request that finds no place is refused instead."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_a_client = max(1, most // _CLIENTS)
        self._clients: Counter[str | None] = Counter()
        self._count = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The requests that are held now."""
        return self._count

    def enter(self, client: str | None) -> bool:
        """Take a place. Return False if there is none, or if the client has its share.

        A request without a client has no share.
        """
        with self._lock:
            if self._count >= self._most:
                return False
            if client is not None and self._clients[client] >= self._most_of_a_client:
                return False
            self._count += 1
            self._clients[client] += 1
            return True

    def leave(self, client: str | None) -> None:
        """Give a place back."""
        with self._lock:
            self._count -= 1
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

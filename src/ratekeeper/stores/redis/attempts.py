"""Attempts: each call of a server is one. Tells its breaker what came of it, names its error, counts, and logs.

Knows no client's way to send, and no request: what is to be answered instead is `fallback`'s.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from ratekeeper.decision import seconds
from ratekeeper.errors import StoreUnavailable
from ratekeeper.forks import forget_in_child
from ratekeeper.stores.redis.breaker import Breaker
from ratekeeper.stores.redis.faults import Faults, told

T = TypeVar("T")
V = TypeVar("V")
_log = logging.getLogger("ratekeeper")

MOST = 1000
"""Breakers that are kept. A cluster has far fewer nodes at one time, but over the years their names may change."""


class Attempts:
    """The calls of one store: a breaker for each node of a cluster, as one may fail alone; else a single one."""

    def __init__(self, faults: Faults, retry: int, local: Callable[[], int]) -> None:
        self._faults = faults
        self._retry = retry
        self._local = local
        self.failures = self.opened = 0
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Know nothing of any server. In a forked child the probe under way is the parent's."""
        self._lock = threading.RLock()
        self._breakers: dict[str, Breaker] = {}

    def to(self, node: str = "") -> _Attempt:
        """Return what is to be entered around one call of a node."""
        breaker = self._breakers.get(node)
        if breaker is None:
            with self._lock:
                if len(self._breakers) >= MOST:
                    self._breakers.clear()
                breaker = self._breakers.setdefault(node, Breaker(self._retry))
        return _Attempt(self, breaker, node)

    def named(self, look_up: Callable[[T], V], what: T) -> V:
        """Look something up where no server is asked, and name the error. It says nothing of any server."""
        try:
            return look_up(what)
        except self._faults.known as error:
            raise self._faults.named(error) from error

    def begin(self, breaker: Breaker, node: str) -> tuple[int, int]:
        """Return the turn of a call, and the time. Raises `StoreUnavailable` if it is not to be made."""
        now = self._local()
        turn = breaker.enter(now)
        if turn is None:
            wait = seconds(breaker.wait(now))
            text = f"{_named(node)} is not asked, as it did not answer a moment ago: the next try is in {wait:.3f} s"
            raise StoreUnavailable(text, wait)
        return turn, now

    def end(self, attempt: _Attempt, error: BaseException | None) -> None:
        """Note what came of a call. Raises the error that the caller is to get, for one of a client library's."""
        breaker, turn = attempt.breaker, attempt.turn
        if error is None:
            if breaker.succeeded(turn):
                _log.warning("%s answers again: decisions are exact from now on", _named(attempt.node))
            return
        if not isinstance(error, self._faults.known):
            breaker.abandoned(turn, self._local())
            return
        named = self._faults.named(error)
        if not isinstance(named, StoreUnavailable):  # a mistake to be mended says nothing of who answers after it
            breaker.abandoned(turn, self._local())
        else:
            if self._faults.moving(error):
                breaker.succeeded(turn)
            else:
                self._failed(attempt, error)
            named.retry_after = seconds(breaker.wait(self._local()))
        raise named from error

    def _failed(self, attempt: _Attempt, error: Exception) -> None:
        attempt.opened = attempt.breaker.failed(attempt.turn, self._local(), self._faults.refused(error))
        with self._lock:
            self.failures += 1
            self.opened += attempt.opened
        if attempt.opened:
            named = _named(attempt.node)
            _log.warning("%s does not answer, and is asked only now and then: %s", named, told(error))


class _Attempt:
    """One call: entered before, which returns the local time, and left after. `opened`: its end opened the breaker."""

    __slots__ = ("_attempts", "breaker", "node", "opened", "turn")

    def __init__(self, attempts: Attempts, breaker: Breaker, node: str) -> None:
        self._attempts = attempts
        self.breaker = breaker
        self.node = node
        self.opened = False

    def __enter__(self) -> int:
        self.turn, now = self._attempts.begin(self.breaker, self.node)
        return now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._attempts.end(self, error)


def _named(node: str) -> str:
    return f"the Redis store's node {node}" if node else "the Redis store"

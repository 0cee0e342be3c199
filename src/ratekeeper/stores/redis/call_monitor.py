"""The watch over calls: whether a server is asked, and how its calls end. Each call is entered before, and left after.

`Breaker` decides whether a server that lately did not answer is asked again, so that an outage does not cost each
request a timeout. `CallMonitor` has a breaker for each server, names errors, counts, and logs.

No I/O. This file must not know requests, nor the answers in an outage (see `fallback`).
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
from ratekeeper.stores.redis.client_errors import ClientErrors, told

T = TypeVar("T")
V = TypeVar("V")
_log = logging.getLogger("ratekeeper")

MAX_BREAKERS = 1000
"""Breakers that are kept. A cluster has far fewer nodes at one time, but over the years their names may change."""

FAILURES = 3
"""After so many failures in a row, a server that takes connections is not asked any more."""

LOST = 10
"""A probe that has no result after so many times `retry` is taken for lost."""


class Breaker:
    """Decides by past calls whether one server is asked. Thread-safe.

    closed     every call goes. FAILURES in a row open it, or one that was refused: then no process listens there
    open       no call goes, until `retry` has passed
    half-open  one call goes, the probe; its success closes the breaker, its failure opens it for as long again

    Time is an argument, in ticks.

    Each change of state begins a new epoch. A call belongs to the epoch in which it was let through, and its result
    counts for nothing in a later one. So many calls that fail together open the breaker once, and only the probe
    closes it.
    """

    def __init__(self, retry: int) -> None:
        self._retry = retry
        self._lock = threading.RLock()  # a signal handler of the same thread may ask too
        self._epoch = 0
        self._closed = True
        self._failures = 0
        self._probe_at = 0  # unless closed: when the next probe may go

    @property
    def closed(self) -> bool:
        """Whether every call goes."""
        return self._closed

    def enter(self, now: int) -> int | None:
        """Return the epoch of a call that may go; its end is to be told with that epoch. None if it may not."""
        if self._closed:
            return self._epoch
        with self._lock:
            if not self._closed:
                if now < self._probe_at:
                    return None
                self._epoch += 1
                self._probe_at = now + LOST * self._retry
            return self._epoch

    def succeeded(self, epoch: int) -> bool:
        """Note that the server has answered. Returns whether that closed the breaker."""
        if self._closed and not self._failures:
            return False
        with self._lock:
            if epoch != self._epoch:
                return False
            self._failures = 0
            closes = not self._closed
            if closes:
                self._closed = True
                self._epoch += 1
            return closes

    def failed(self, epoch: int, now: int, refused: bool = False) -> bool:
        """Note that the server has not answered. Returns whether that opened the breaker, which was closed."""
        with self._lock:
            if epoch != self._epoch:
                return False
            self._failures += 1
            if self._closed and self._failures < FAILURES and not refused:
                return False
            opens = self._closed
            self._closed = False
            self._epoch += 1
            self._probe_at = now + self._retry
            return opens

    def abandoned(self, epoch: int, now: int) -> None:
        """Note that a call was given up by its caller, so that nothing is known. Another may be the probe."""
        with self._lock:
            if epoch == self._epoch and not self._closed:
                self._epoch += 1
                self._probe_at = now

    def wait(self, now: int) -> int:
        """Return the ticks until it is worth to ask again: never more than `retry`, as a probe soon comes back."""
        if self._closed:
            return self._retry
        return min(max(self._probe_at - now, 1), self._retry)


class CallMonitor:
    """Watches the calls of one store. Each node of a cluster has a breaker, as one may fail alone."""

    def __init__(self, errors: ClientErrors, retry: int, local: Callable[[], int]) -> None:
        self._errors = errors
        self._retry = retry
        self.local = local
        self.failures = self.opened = 0
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Forget all servers' state. In a forked child the probe under way is the parent's."""
        self._lock = threading.RLock()
        self.breakers: dict[str, Breaker] = {}

    def breaker(self, node: str) -> Breaker:
        """Return the breaker of a node, which may be new."""
        with self._lock:
            if len(self.breakers) >= MAX_BREAKERS:
                self.breakers.clear()
            return self.breakers.setdefault(node, Breaker(self._retry))

    def open(self) -> int:
        """Count the breakers that are not closed now."""
        with self._lock:
            return sum(not breaker.closed for breaker in self.breakers.values())

    def named(self, look_up: Callable[[T], V], what: T) -> V:
        """Return `look_up(what)`, with errors named. It asks no server, so it says nothing of any."""
        try:
            return look_up(what)
        except self._errors.known as error:
            raise self._errors.named(error) from error

    def ended(self, call: MonitoredCall, error: BaseException) -> None:
        """Note how a call ended that has failed. Raises the caller's error for one of a client library's."""
        breaker, epoch = call.breaker, call.epoch
        if not isinstance(error, self._errors.known):
            breaker.abandoned(epoch, self.local())
            return
        named = self._errors.named(error)
        if not isinstance(named, StoreUnavailable):  # a mistake to be mended tells nothing of the server
            breaker.abandoned(epoch, self.local())
        else:
            if self._errors.moving(error):
                breaker.succeeded(epoch)
            else:
                self._failed(call, error)
            named.retry_after = seconds(breaker.wait(self.local()))
        raise named from error

    def _failed(self, call: MonitoredCall, error: Exception) -> None:
        call.opened = call.breaker.failed(call.epoch, self.local(), self._errors.refused(error))
        with self._lock:
            self.failures += 1
            self.opened += call.opened
        if call.opened:
            _log.warning("%s does not answer, and is asked only now and then: %s", _text_of(call.node), told(error))


class MonitoredCall:
    """One call of a node, "" of the only server. `opened` says whether its end has opened the breaker.

    To enter it returns the local time, or raises `StoreUnavailable` if the call is not to be made.
    """

    __slots__ = ("_monitor", "breaker", "epoch", "node", "opened")

    def __init__(self, monitor: CallMonitor, node: str = "") -> None:
        self._monitor = monitor
        self.breaker = monitor.breakers.get(node) or monitor.breaker(node)
        self.node = node
        self.opened = False

    def __enter__(self) -> int:
        now = self._monitor.local()
        epoch = self.breaker.enter(now)
        if epoch is None:
            wait = seconds(self.breaker.wait(now))
            raise StoreUnavailable(
                f"{_text_of(self.node)} is not asked, as it did not answer a moment ago: "
                f"the next try is in {wait:.3f} s",
                wait,
            )
        self.epoch = epoch
        return now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._monitor.ended(self, error)
        elif self.breaker.succeeded(self.epoch):
            _log.warning("%s answers again: decisions are exact from now on", _text_of(self.node))


def _text_of(node: str) -> str:
    return f"the Redis store's node {node}" if node else "the Redis store"

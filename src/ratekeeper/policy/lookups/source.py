"""LookupSource: a user's function that looks limits up: run in threads or as tasks, a few at a time, and counted.

It knows no cache: a `Search` is one look-up, which tells its cache when it is done.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from array import array
from collections.abc import Callable, Mapping
from contextvars import Context
from time import monotonic
from types import MappingProxyType
from typing import Any, TypeAlias

from ratekeeper import core
from ratekeeper.coroutines import is_async_function
from ratekeeper.forks import forget_in_child
from ratekeeper.limits import Limit
from ratekeeper.policy.lookups.lookup import LookupFunction, limits_of_answer
from ratekeeper.policy.lookups.threads import MOST_QUEUED, LookupThreads

LOST_AFTER = 30.0
"""Seconds after which a look-up is taken for lost, so that another may begin. At least ten times its timeout."""

_MOST_LOGGED = 100

_log = logging.getLogger("ratekeeper")

Done: TypeAlias = Callable[["Search", "tuple[Limit, ...] | None"], None]
"""Gets a search that has ended, and its limits; None if it failed."""


class TooManyLookups(Exception):
    """More look-ups are under way than are kept waiting."""


class Search:
    """One look-up of one bucket, which any number of threads and tasks wait for."""

    __slots__ = ("_done", "_waiters", "attributes", "began", "bucket", "default", "done", "loop", "task")

    def __init__(self, bucket: str, attributes: Mapping[str, str], default: Limit, done: Done) -> None:
        self.bucket = bucket
        self.attributes = MappingProxyType(dict(attributes))
        self.default = default
        self.began = monotonic()
        self.done = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[None] | None = None
        self._done = done
        self._waiters: list[asyncio.Future[None]] = []

    def end(self, limits: tuple[Limit, ...] | None, tell: bool = True) -> None:
        """Hand the limits over, unless nobody should be told, and wake all that wait."""
        try:
            if tell:
                self._done(self, limits)
        finally:  # whatever happened, nobody waits any longer
            self.done.set()
            self._wake_all()

    def _wake_all(self) -> None:
        while self._waiters:
            waiter = self._waiters.pop()
            try:
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)
            except RuntimeError:  # its loop has closed
                continue

    def is_lost(self, timeout: float) -> bool:
        """Return whether nothing more can be hoped for: its loop has closed, or it has taken far too long."""
        loop = self.loop
        closed = loop is not None and loop.is_closed()
        return self.done.is_set() or closed or monotonic() - self.began > max(LOST_AFTER, 10 * timeout)

    def awaited(self) -> asyncio.Future[None]:
        """Return a future of the running loop that is done when this is."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self.done.is_set():  # it may have ended before it saw the waiter
            _wake(waiter)
        return waiter


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _is_of_loop(error: BaseException) -> bool:
    """Return whether an error ends the running task from outside. A function may raise a CancelledError by itself."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, GeneratorExit)


class LookupSource:
    """The function of one name in `limits=`, and what it has done."""

    def __init__(self, name: str, given: LookupFunction) -> None:
        self.name = name
        self.given = given
        self.is_async = is_async_function(given.function)
        self.hits = array("q", [0])  # the C core counts here too
        self.lookups = self.errors = self.timeouts = 0
        self._logged: set[str] = set()
        self._threads = LookupThreads(given.at_once)
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Begin anew, as a forked child must: locks may be held, and threads and loops are the parent's."""
        self.lock = threading.RLock()
        self._threads.forget()
        self._turns: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}

    def begin(self, search: Search, under_way: int) -> None:
        """Begin a look-up: in a thread, or, if the function is async, on the running loop."""
        self.lookups += 1
        if self.is_async:
            if under_way >= MOST_QUEUED:
                raise TooManyLookups
            search.loop = asyncio.get_running_loop()
            # Not in the context of the request that happens to be the first: the answer is for all. Nor by the loop's
            # task factory, which may run the function at once (`asyncio.eager_task_factory`), under the cache's lock.
            search.task = asyncio.Task(self._run_async(search), loop=search.loop, context=Context())
        elif not self._threads.submit(lambda: self._run(search)):
            raise TooManyLookups

    def failed(self, error: BaseException, told: str = "") -> None:
        """Count a failed look-up. Log the first of each kind, without an error's own text, which may name a key."""
        kind = type(error).__name__
        with self.lock:
            self.errors += 1
            if kind in self._logged or len(self._logged) >= _MOST_LOGGED:
                return
            self._logged.add(kind)
        where = traceback.extract_tb(error.__traceback__)
        place = told or (f"{where[-1].filename}:{where[-1].lineno}" if where else "too many are under way")
        _log.error("the look-up of limits %r fails: %s (%s); more of its kind are only counted", self.name, kind, place)

    def _run(self, search: Search) -> None:
        if search.is_lost(self.given.timeout):
            search.end(None, tell=False)
            return
        try:
            answer: Any = self.given.function(search.attributes)
        except BaseException as error:  # of the user's function: the thread goes on
            self._fail(search, error)
        else:
            self._end(search, answer)

    async def _run_async(self, search: Search) -> None:
        try:
            async with self._turn():
                answer: Any = await self.given.function(search.attributes)  # type: ignore[misc]  # it is async
        except BaseException as error:
            if _is_of_loop(error):  # the loop ends, or the search was lost: another may begin
                search.end(None, tell=False)
                raise
            self._fail(search, error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        else:
            self._end(search, answer)

    def _end(self, search: Search, answer: Any) -> None:
        told = ""
        try:
            try:
                limits = limits_of_answer(answer, search.default)
                core.known_limits(limits, 0)  # it raises for a limit that does not add up
            except (TypeError, ValueError) as error:
                told = str(error)
                raise
        except BaseException as error:  # an answer's own code runs here, and may raise anything
            self._fail(search, error, told)
        else:
            search.end(limits)

    def _fail(self, search: Search, error: BaseException, told: str = "") -> None:
        try:
            self.failed(error, told)
        finally:  # a log handler may raise
            search.end(None)

    def _turn(self) -> asyncio.Semaphore:
        """Return the running loop's semaphore. Forget those of closed loops."""
        loop = asyncio.get_running_loop()
        with self.lock:
            if loop not in self._turns:
                self._turns = {one: turn for one, turn in self._turns.items() if not one.is_closed()}
                self._turns[loop] = asyncio.Semaphore(self.given.at_once)
            return self._turns[loop]

"""Coroutines: tell what is async, and run a flow that never suspends, for threads and for tasks. Knows nothing else."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in this thread, and return its result. The coroutine may block, but must not suspend.

    >>> async def double(number: int) -> int:
    ...     return 2 * number
    >>> run_sync(double(4))
    8
    """
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise AssertionError(f"{work} suspended without an event loop: all that it awaits must answer at once")


def begin(work: Coroutine[Any, Any, T]) -> T | Coroutine[Any, Any, T]:
    """Run a coroutine until it suspends. Return its result, or the rest of it, as a coroutine, if it did suspend.

    So a flow that seldom suspends needs no task. Until then no task of it exists: it must not ask for the current
    one.

    >>> async def double(number: int) -> int:
    ...     return 2 * number
    >>> begin(double(4))
    8
    """
    try:
        awaited = work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    return _Rest(work, awaited)


class _Rest(Coroutine[Any, Any, T]):
    """The rest of a coroutine that has suspended, and waits for `awaited`.

    A native coroutine that is cancelled before its first step runs none of its code. This one passes that on, so that
    the coroutine which has begun cleans up.
    """

    __slots__ = ("_awaited", "_gone_on", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited
        self._gone_on = False

    def __await__(self) -> Generator[Any, Any, T]:
        return cast("Generator[Any, Any, T]", self)  # `await` needs no more than an iterator with these methods

    def __iter__(self) -> _Rest[T]:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        if self._gone_on:
            return self._work.send(value)
        self._gone_on = True
        awaited, self._awaited = self._awaited, None
        return awaited

    def throw(self, *exception: Any) -> Any:
        self._gone_on = True
        return self._work.throw(*exception)

    def close(self) -> None:
        self._gone_on = True
        self._work.close()


def as_coroutine(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a coroutine function that calls a function, which answers at once or blocks: the way back of `run_sync`.

    >>> run_sync(as_coroutine(abs)(-3))
    3
    """

    async def call(*arguments: P.args, **options: P.kwargs) -> T:
        return function(*arguments, **options)

    return call


class Pending(Coroutine[Any, Any, T]):
    """A coroutine whose truth is an error, so that a forgotten `await` does not pass for a yes.

    It works wherever a coroutine works. The C core has its own, `core/pending_object.c`, with the same errors.
    """

    __slots__ = ("_asked", "_coroutine", "_verb")

    def __init__(self, coroutine: Coroutine[Any, Any, T], verb: str) -> None:
        self._coroutine = coroutine
        self._verb = verb
        self._asked = False

    def __await__(self) -> Generator[Any, Any, T]:
        if self._asked:
            raise RuntimeError(f"this {self._verb} was awaited already: call it again to ask again")
        self._asked = True
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        self._asked = True
        return self._coroutine.send(value)

    def throw(self, *exception: Any) -> Any:
        self._asked = True
        return self._coroutine.throw(*exception)

    def close(self) -> None:
        self._asked = True
        self._coroutine.close()

    def __bool__(self) -> bool:
        if sys._getframe(1).f_globals.get("__name__") == "asyncio.base_tasks":
            return True  # since Python 3.12, a task that is printed asks so whether it has a coroutine
        raise TypeError(f"{self._verb} has no answer before it is awaited: write await limiter.{self._verb}(...)")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # its name and its frame, for people who debug


def pending(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a coroutine function that returns each coroutine as a `Pending`.

    >>> @pending
    ... async def double(number: int) -> int:
    ...     return 2 * number
    >>> run_sync(double(4))
    8
    """

    @wraps(function)
    def ask(*arguments: P.args, **options: P.kwargs) -> Coroutine[Any, Any, T]:
        return Pending(function(*arguments, **options), function.__name__)

    return ask


def is_async_function(function: object) -> bool:
    """Return whether a call of a function, or of a callable object, must be awaited."""
    return inspect.iscoroutinefunction(function) or (
        not inspect.isroutine(function)
        and not isinstance(function, type)
        and inspect.iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004
    )

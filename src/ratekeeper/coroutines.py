"""Coroutines: tell what is async, and run a flow that never suspends, for threads and for tasks. Knows nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

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


def as_coroutine(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a coroutine function that calls a function, which answers at once or blocks: the way back of `run_sync`.

    >>> run_sync(as_coroutine(abs)(-3))
    3
    """

    async def call(*arguments: P.args, **options: P.kwargs) -> T:
        return function(*arguments, **options)

    return call


def is_async_function(function: object) -> bool:
    """Return whether a call of a function, or of a callable object, must be awaited."""
    return inspect.iscoroutinefunction(function) or (
        not inspect.isroutine(function)
        and not isinstance(function, type)
        and inspect.iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004
    )

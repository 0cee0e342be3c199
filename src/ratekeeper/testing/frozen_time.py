"""frozen: hold the time of all stores in a test. It knows clocks and the core, and no store.

An object without its own clock reads `SystemClock`, or the system's clock in the C core. Each of the two is held at one
place, so objects that were made before are held too. A store on a server sends the held time, as it does for a
`ManualClock`.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from ratekeeper import core
from ratekeeper.clock import ManualClock, SystemClock, machine_ticks

P = ParamSpec("P")
R = TypeVar("R")


class _HeldClock(ManualClock):
    """The clock that tells the time while it is held. It reports each step to the C core."""

    blocks = 0

    def _move(self, ticks: int) -> None:
        super()._move(ticks)
        core.hold_time(ticks, SystemClock.ahead)


_lock = threading.Lock()
_held: list[_HeldClock] = []
"""The clock that tells the time, if any."""


class FrozenTime:
    """Hold the time of all stores of this process inside a `with` block or a function. See `frozen`.

    >>> time = FrozenTime()
    >>> with time:
    ...     time.advance(1.5)
    """

    def advance(self, seconds: float) -> None:
        """Go on by `seconds`, to the nearest tick of 1/16 ns; a negative number steps back."""
        if not _held:
            raise RuntimeError("time is held only inside `with frozen() as time:`, or in a function below @time")
        _held[0].advance(seconds)

    def __enter__(self) -> FrozenTime:
        with _lock:
            if not _held:
                clock = _HeldClock()
                clock.set_ticks(SystemClock().ticks())
                _held.append(clock)
                SystemClock.held = clock
            _held[0].blocks += 1
        return self

    def __exit__(self, *exception: object) -> None:
        with _lock:
            clock = _held[0]
            clock.blocks -= 1
            if clock.blocks == 0:
                SystemClock.ahead = max(0, clock.ticks() - machine_ticks())
                SystemClock.held = None
                _held.clear()
                core.hold_time(None, SystemClock.ahead)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Hold the time in each call of a function, which may be async."""
        _check_function(function)
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def held_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self:
                    return await cast("Awaitable[Any]", function(*args, **kwargs))

            return cast("Callable[P, R]", held_async)

        @wraps(function)
        def held(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                result = function(*args, **kwargs)
            if inspect.iscoroutine(result):  # of an async function in another decorator: it would run in real time
                result.close()
                raise TypeError(
                    f"{function!r} returns a coroutine, but is not async: put frozen()'s decorator directly above "
                    "the async function"
                )
            return result

        return held

    def __repr__(self) -> str:
        return f"frozen()  # {_held[0].seconds():.6f} s since boot" if _held else "frozen()"


def frozen() -> FrozenTime:
    """Return a context manager, which is a decorator too, that holds the time of all stores of this process.

    Stores may be made before or inside; a store with its own clock, such as a `ManualClock`, keeps to it. Time goes
    on by `advance(seconds)`; and by waiting, which takes no time, as with a `ManualClock`. A block inside another
    shares its time. At the end real time goes on from the held time: it does not step back.

    A store on a server decides by the held time, too. Other processes keep to the real time.

    >>> from ratekeeper import Limiter
    >>> limiter = Limiter("1/minute")
    >>> with frozen() as time:
    ...     answers = [limiter.try_acquire("alice").allowed for _ in range(2)]
    ...     time.advance(60)
    ...     answers.append(limiter.try_acquire("alice").allowed)
    >>> answers
    [True, False, True]
    """
    return FrozenTime()


def _check_function(function: object) -> None:
    """Raise TypeError for an object whose call ends before its work does, or that is not a function."""
    if isinstance(function, staticmethod | classmethod):
        raise TypeError(f"frozen() is for functions: put it below @{type(function).__name__}, not above")
    generates = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    if generates or not inspect.isroutine(function):
        raise TypeError("frozen() is for functions, also async ones; elsewhere write `with frozen() as time:`")

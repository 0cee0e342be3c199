"""Clocks: what time it is, in ticks, and how to wait. A store owns one. Nothing else in ratekeeper reads the time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from fractions import Fraction
from functools import partial
from operator import index
from typing import ClassVar, Protocol

from ratekeeper.alarms import alarms_of
from ratekeeper.limits import TICKS_PER_NS, TICKS_PER_SECOND

MAX_TICKS = 2**62 - 1
"""The last time that a clock may tell."""

_PERIOD = 2**26 * TICKS_PER_SECOND  # two years; a ManualClock's ticks count from a multiple of it
_LONGEST = 10**15  # seconds
# Boot time goes on while the machine sleeps, as buckets should; elsewhere the monotonic clock does.
_machine_ns: Callable[[], int] = (
    partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns
)


class Clock(Protocol):
    """The time of a store, and how to wait. Ticks are 1/16 ns and must be from 0 to 2**62 - 1.

    A wait gets the time to wake up at, and not the length of a sleep. So nobody is late if the system stops a thread
    before its sleep. A clock that reads another machine's time waits by this machine's: its method `local` returns it.
    """

    def ticks(self) -> int:
        """Return the time now."""
        ...

    def wait(self, woken: threading.Event, until: int) -> None:
        """Block this thread until the time `until`, or until it is woken."""
        ...

    def wait_async(self, woken: asyncio.Future[None], until: int) -> Awaitable[object]:
        """Return an awaitable that ends at the time `until`, or when the task is woken: `woken` is done then.

        It may be a coroutine. It may also make `woken` done itself, or cancel it: the next wait has another future.
        """
        ...


def ticks_of(clock: Clock | None) -> Callable[[], int] | None:
    """Return the function that reads `clock`, or None for the system's clock. Raise TypeError if it is not a clock."""
    if clock is None:
        return None
    if callable(getattr(clock, "ticks", None)) and not isinstance(clock, type):
        return clock.ticks
    what = f"the class {clock.__name__}" if isinstance(clock, type) else type(clock).__name__
    raise TypeError(f"clock must be a clock, such as ManualClock(), not {what}")


def machine_ticks() -> int:
    """Return the machine's time since boot."""
    return _machine_ns() * TICKS_PER_NS


class SystemClock:
    """The machine's clock since boot. `ratekeeper.testing.frozen` holds all of them, and those that the C core reads.

    >>> SystemClock()
    SystemClock()
    """

    held: ClassVar[ManualClock | None] = None
    """The clock that tells the time while it is held."""
    ahead: ClassVar[int] = 0
    """Ticks by which the time was moved on while it was held: it does not step back."""

    def ticks(self) -> int:
        held = self.held
        return _machine_ns() * TICKS_PER_NS + self.ahead if held is None else held.ticks()  # as machine_ticks()

    def wait(self, woken: threading.Event, until: int) -> None:
        held = self.held
        if held is None:
            woken.wait(max(0, until - self.ahead - machine_ticks()) / TICKS_PER_SECOND)
        else:
            held.wait(woken, until)

    def wait_async(self, woken: asyncio.Future[None], until: int) -> Awaitable[object]:
        held = self.held
        if held is not None:
            return held.wait_async(woken, until)
        alarms_of(woken.get_loop(), machine_ticks).set(until - self.ahead, woken)
        return woken  # not a coroutine: each is a cost for every waiter

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class ManualClock:
    """A clock that stands still until it is told to go on: for tests and for replays. Waiting moves it.

    `start` is in seconds, and may be any time, such as `time.time()`. Ticks have a range of nine years. So they count
    from 0 if the clock starts less than two years from 0, and else from two to four years before the start: the same
    for all clocks that start together. The clock raises ValueError if it is moved out of this range.

    >>> clock = ManualClock()
    >>> clock.advance(1.5)
    >>> clock.seconds(), clock.ticks() / TICKS_PER_SECOND
    (1.5, 1.5)
    >>> ManualClock(1_800_000_000.25).seconds()
    1800000000.25
    """

    def __init__(self, start: float = 0.0) -> None:
        ticks = _in_ticks(start, "start")
        period = ticks // _PERIOD
        self._origin = 0 if period == 0 else (period - 1) * _PERIOD
        self._now = ticks - self._origin
        self._lock = threading.Lock()

    def ticks(self) -> int:
        return self._now

    def seconds(self) -> float:
        """Return the time in the caller's own seconds: `start`, and what has passed since."""
        return self._seconds_at(self._now)

    def advance(self, seconds: float) -> None:
        """Go on by `seconds`, to the nearest tick; a negative number steps back."""
        self.advance_ticks(_in_ticks(seconds, "seconds"))

    def advance_ticks(self, ticks: int) -> None:
        """Go on by exactly this many ticks."""
        with self._lock:
            self._move(self._now + index(ticks))

    def set_ticks(self, ticks: int) -> None:
        """Jump to a time."""
        with self._lock:
            self._move(index(ticks))

    def wait(self, woken: threading.Event, until: int) -> None:
        self._go_to(until)

    async def wait_async(self, woken: asyncio.Future[None], until: int) -> None:
        self._go_to(until)
        await asyncio.sleep(0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.seconds()!r})"

    def _go_to(self, ticks: int) -> None:
        """Go on to a time, unless it is past."""
        with self._lock:
            self._move(max(self._now, ticks))

    def _move(self, ticks: int) -> None:
        if not 0 <= ticks <= MAX_TICKS:
            raise ValueError(
                f"this clock goes from {self._seconds_at(0)!r} to {self._seconds_at(MAX_TICKS)!r} s, no further: "
                f"make a ManualClock with {'an earlier' if ticks < 0 else 'a later'} start"
            )
        self._now = ticks

    def _seconds_at(self, ticks: int) -> float:
        return (self._origin + ticks) / TICKS_PER_SECOND


def _in_ticks(seconds: float, name: str) -> int:
    """Return seconds in ticks, to the nearest. Raises TypeError for no number, ValueError for NaN or one too large."""
    if not hasattr(seconds, "as_integer_ratio"):
        raise TypeError(f"{name} must be a number of seconds, not {type(seconds).__name__}")
    try:
        exact = Fraction(*seconds.as_integer_ratio())
    except (OverflowError, ValueError):  # infinite, or not a number
        exact = Fraction(_LONGEST)
    if not -_LONGEST < exact < _LONGEST:
        raise ValueError(f"{name} must be a number of seconds between -{_LONGEST:,} and {_LONGEST:,}")
    return round(exact * TICKS_PER_SECOND)


def local_ticks(clock: Clock) -> Callable[[], int]:
    """Return what reads this process's own time, which nobody sets: a clock far away has one beside its own."""
    local: Callable[[], int] = getattr(clock, "local", clock.ticks)
    return local

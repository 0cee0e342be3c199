"""Waiting for a turn, in a thread and on an event loop. The order is in `stores.waiting`; here is the sleep."""

from __future__ import annotations

import asyncio
import threading
from _thread import allocate_lock
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ratekeeper.decision import Charge, Decision, seconds, together
from ratekeeper.errors import RateLimitExceeded
from ratekeeper.stores.awaited import awaited
from ratekeeper.stores.base import AwaitedStore, Store
from ratekeeper.stores.joining import disown
from ratekeeper.stores.waiting import local_ticks
from ratekeeper.stores.waitlist import Waiter


class Wakeup(threading.Event):
    """An event for one sleeper. A signal's handler may set it while its own thread is inside of it."""

    def __init__(self) -> None:
        self._asleep = allocate_lock()
        self._asleep.acquire()

    def is_set(self) -> bool:
        return not self._asleep.locked()

    def set(self) -> None:
        try:
            self._asleep.release()
        except RuntimeError:
            return  # it is set already

    def clear(self) -> None:
        self._asleep.acquire(blocking=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is set, and clear it."""
        return self._asleep.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))


def take_turn(store: Store, charges: Sequence[Charge]) -> list[Decision]:
    """Charge, and block this thread until the turn has come. A refusal returns at once.

    If the wait is interrupted, the place is given up, and those behind move up.
    """
    woken = Wakeup()
    waiter = Waiter(woken.set)
    try:
        decisions = store.line.join(waiter, charges)
        await_turn(store, waiter, woken)
        disown(waiter, charges, decisions)
    except BaseException as interrupted:
        try:
            store.line.give_up(waiter)
        except Exception:  # the store's; the caller must see what interrupted it
            raise interrupted from None
        raise
    return decisions


def await_turn(store: Store, waiter: Waiter, woken: threading.Event) -> None:
    """Block this thread until the waiter's turn has come."""
    now = local_ticks(store.clock)
    while not store.line.leave(waiter):
        store.clock.wait(woken, _left(waiter, now))
        woken.clear()


async def take_turn_async(store: AwaitedStore, charges: Sequence[Charge]) -> list[Decision]:
    """As `take_turn`, but let the event loop go on. A task that is cancelled gives its place up."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    waiter = Waiter(lambda: wake_task(loop, woken))
    try:
        decisions = await store.line.join(waiter, charges)
        await await_turn_async(store, waiter, woken)
        disown(waiter, charges, decisions)
    except BaseException:
        store.line.give_up(waiter)
        raise
    return decisions


async def await_turn_async(store: AwaitedStore, waiter: Waiter, woken: asyncio.Event) -> None:
    """As `await_turn`, but let the event loop go on."""
    now = local_ticks(store.clock)
    while not store.line.leave(waiter):
        await store.clock.wait_async(woken, _left(waiter, now))
        woken.clear()


def wake_task(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> bool:
    """Wake a task from whatever thread. Returns False if its loop is gone, and so it is."""
    try:
        loop.call_soon_threadsafe(woken.set)
    except RuntimeError:
        return False
    return True


def _left(waiter: Waiter, now: Callable[[], int]) -> float:
    return seconds(max(0, waiter.leaves_at - now()))


class Reservation:
    """A turn that is taken in advance. True if it was granted; it has all that its decision has.

    As a context manager, `with` or `async with`, it waits for its turn; if it was refused, it raises
    `RateLimitExceeded`.
    Else the caller goes ahead after `delay`, or gives it back by `cancel`.
    """

    def __init__(self, store: AwaitedStore, blocking: Store | None) -> None:
        self._store = store
        self._blocking = blocking  # None: it must not block a thread
        self._wake: Callable[[], object] = lambda: None  # nobody sleeps yet
        self._waiter = Waiter(self._wake_sleeper)
        self._ended = False
        self._decision: Decision | None = None

    @property
    def decision(self) -> Decision:
        """What was decided when it was taken."""
        assert self._decision is not None
        return self._decision

    @property
    def delay(self) -> float:
        """Seconds until the turn, as far as is known now: others that give up may bring it nearer."""
        if self._waiter.waitlist is None:
            return self.decision.delay
        return 0.0 if self._waiter.place else _left(self._waiter, local_ticks(self._store.clock))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decision, name)

    def __bool__(self) -> bool:
        return self.decision.allowed

    def __repr__(self) -> str:
        return f"Reservation({self.decision!r})"

    def _wake_sleeper(self) -> object:
        return self._wake()

    def cancel(self) -> None:
        """Give the turn back before it has come: those behind move up. Later there is nothing to cancel."""
        if self.delay > 0:
            self._give_up()

    def _give_up(self) -> None:
        if not self._ended:
            self._ended = True
            (self._blocking or self._store).line.give_up(self._waiter)

    def __enter__(self) -> Reservation:
        if self._blocking is None:
            raise TypeError("an AsyncLimiter does not block a thread: use 'async with'")
        woken = Wakeup()
        self._wake = woken.set
        self._begin()
        try:
            await_turn(self._blocking, self._waiter, woken)
        except BaseException:
            self._give_up()
            raise
        self._ended = True
        return self

    async def __aenter__(self) -> Reservation:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        self._wake = partial(wake_task, loop, woken)
        self._begin()
        try:
            await await_turn_async(self._store, self._waiter, woken)
        except BaseException:
            self._give_up()
            raise
        self._ended = True
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    async def __aexit__(self, *exception: object) -> None:
        pass

    def _begin(self) -> None:
        if not self:
            raise RateLimitExceeded(self.decision)
        if self._ended:
            raise RuntimeError("this reservation was used or cancelled: reserve again")


def reserve(store: Store, charges: Sequence[Charge]) -> Reservation:
    """Take a turn, and return at once."""
    reservation = Reservation(awaited(store), store)
    try:
        reservation._decision = together(store.line.join(reservation._waiter, charges))
    except BaseException:
        reservation._give_up()
        raise
    return reservation


async def reserve_async(store: AwaitedStore, charges: Sequence[Charge]) -> Reservation:
    """As `reserve`, for a store that is awaited."""
    reservation = Reservation(store, None)
    try:
        reservation._decision = together(await store.line.join(reservation._waiter, charges))
    except BaseException:
        reservation._give_up()
        raise
    return reservation

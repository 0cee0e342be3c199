"""Waiting for a turn, in a thread and on an event loop. The order is in `base_queue`; here is the sleep.

It uses the verbs of the stores' protocols, and imports no store.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ratekeeper.clock import local_ticks
from ratekeeper.decision import Charge, Decision, combine, seconds
from ratekeeper.exceeded import AnyDecision, RateLimitExceeded
from ratekeeper.limits import Timeout
from ratekeeper.waiting.joining import disown
from ratekeeper.waiting.waitlist import Waiter
from ratekeeper.waiting.wakeups import TaskWakeup, Wakeup

if TYPE_CHECKING:
    from ratekeeper.stores.base import AsyncStore, Store

_SPENT = "this reservation was used or cancelled: reserve again"

D = TypeVar("D", bound=AnyDecision)
T = TypeVar("T")


def take_turn(store: Store, charges: Sequence[Charge]) -> list[Decision]:
    """Charge, and block this thread until the turn has come. A refusal returns at once.

    If the wait is interrupted, the place is given up, and those behind move up.
    """
    woken = Wakeup()
    waiter = Waiter(woken.set)
    try:
        decisions = store.wait_queue.join(waiter, charges)
        await_turn(store, waiter, woken)
        disown(waiter, charges, decisions)
    except BaseException as interrupted:
        try:
            store.wait_queue.give_up(waiter)
        except Exception:  # the store's; the caller must see what interrupted it
            raise interrupted from None
        raise
    return decisions


def await_turn(store: Store, waiter: Waiter, woken: threading.Event) -> None:
    """Block this thread until the waiter's turn has come."""
    while not store.wait_queue.leave(waiter):
        store.clock.wait(woken, waiter.leaves_at)
        woken.clear()


async def take_turn_async(store: AsyncStore, charges: Sequence[Charge], answer: Callable[[list[Decision]], T]) -> T:
    """As `take_turn`, but let the event loop go on, and return `answer` of the decisions.

    A task that is cancelled gives its place up. While it waits, this is the only coroutine below the caller's, unless
    the clock has one: each more is a cost for every waiter.
    """
    wakeup = TaskWakeup(asyncio.get_running_loop())
    waiter = Waiter(wakeup.set_threadsafe)
    try:
        decisions = await store.wait_queue.join(waiter, charges)
        left = waiter.waitlist is None
        while not left:  # also if its turn has come meanwhile: those before it sleep, and are to wake first
            await store.clock.wait_async(wakeup.sleep(), waiter.leaves_at)
            left = store.wait_queue.leave(waiter)
        disown(waiter, charges, decisions)
    except BaseException:
        store.wait_queue.give_up(waiter)
        raise
    return answer(decisions)


def wait_for_turn(
    store: Store, charges: Callable[..., list[Charge]], key: str | bytes, cost: int = 1, timeout: Timeout = None
) -> Decision:
    """Wait for the turn, or raise `RateLimitExceeded` at once."""
    return _admitted(take_turn(store, charges(key, cost, timeout)))


def wait_for_turn_async(
    store: AsyncStore, charges: Callable[..., list[Charge]], key: str | bytes, cost: int = 1, timeout: Timeout = None
) -> Coroutine[Any, Any, Decision]:
    """Return a coroutine that does as `wait_for_turn`, but lets the event loop go on."""
    return take_turn_async(store, charges(key, cost, timeout), _admitted)


def _admitted(decisions: list[Decision]) -> Decision:
    decision = combine(decisions)
    if not decision.allowed:
        raise RateLimitExceeded(decision)
    return decision


class Reservation(Generic[D]):
    """A turn that is taken in advance. True if it was granted; it has all that its decision has.

    As a context manager, `with` or `async with`, it waits for its turn; if it was refused, it raises
    `RateLimitExceeded`. Without one, the caller goes ahead after `delay`, or gives the turn back by `cancel`.
    A refund of a turn that was not granted at once gives nothing back before the context manager has waited for it.

    >>> from ratekeeper import Limiter
    >>> limiter = Limiter("1/hour")
    >>> first, second = limiter.reserve("alice"), limiter.reserve("alice")
    >>> first.delay, second.delay > 3500
    (0.0, True)
    >>> second.cancel()
    """

    def __init__(self, store: AsyncStore, blocking: Store | None) -> None:
        self._store = store
        self._blocking = blocking  # None: it must not block a thread
        self._queue = (blocking or store).wait_queue
        self._wake: Callable[[], object] = lambda: None  # nobody sleeps yet
        self._waiter = Waiter(self._wake_sleeper, sleeps=False)
        self._entered = False
        self._unspent = [True]  # emptied by the one who uses the turn or gives it back
        self._charged: tuple[Sequence[Charge], Sequence[Decision]] = (), ()
        self._held: list[Decision] = []  # a refund gives them back only once the turn has been used
        self._decision: D | None = None

    @property
    def decision(self) -> D:
        """The decision that granted or refused it."""
        assert self._decision is not None
        return self._decision

    @property
    def delay(self) -> float:
        """Seconds until the turn, as far as is known now: others that give up may bring it nearer."""
        if self._waiter.waitlist is None:
            return self.decision.delay
        return 0.0 if self._waiter.place else seconds(max(0, self._waiter.leaves_at - local_ticks(self._store.clock)()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decision, name)

    def __bool__(self) -> bool:
        return self.decision.allowed

    def __repr__(self) -> str:
        return f"Reservation({self.decision!r})"

    def _wake_sleeper(self) -> object:
        return self._wake()

    def cancel(self) -> None:
        """Give the turn back before it has come: those behind move up. Later there is nothing to cancel.

        A `with` or `async with` that waits for it raises RuntimeError.
        """
        if self._entered or self.delay > 0:
            self._give_up()
            self._wake()

    def _give_up(self) -> None:
        if self._spend():
            self._queue.give_up(self._waiter)

    def _spend(self) -> bool:
        """Return whether the turn is still there, to be used or given back: for one thread only."""
        try:
            return self._unspent.pop()
        except IndexError:
            return False

    def __enter__(self) -> Reservation[D]:
        if self._blocking is None:
            raise TypeError("this reservation does not block a thread: use 'async with'")
        self._begin()
        woken = Wakeup()
        self._wake = woken.set
        try:
            self._queue.watch(self._waiter)
            while not self._has_come():
                self._blocking.clock.wait(woken, self._waiter.leaves_at)
                woken.clear()
        except BaseException:
            self._give_up()
            raise
        self._end()
        return self

    async def __aenter__(self) -> Reservation[D]:
        self._begin()
        wakeup = TaskWakeup(asyncio.get_running_loop())
        self._wake = wakeup.set_threadsafe
        try:
            self._queue.watch(self._waiter)
            while not self._has_come():
                await self._store.clock.wait_async(wakeup.sleep(), self._waiter.leaves_at)
        except BaseException:
            self._give_up()
            raise
        self._end()
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    async def __aexit__(self, *exception: object) -> None:
        pass

    def _begin(self) -> None:
        if not self:
            raise RateLimitExceeded(self.decision)
        if self._entered or not self._unspent:
            raise RuntimeError(_SPENT)
        self._entered = True

    def _has_come(self) -> bool:
        """Return whether the turn has come: then it is used. Raise if it was cancelled: then it never comes."""
        left = self._queue.leave(self._waiter)
        if not (self._spend() if left else self._unspent):
            raise RuntimeError(_SPENT)
        return left

    def _hold(self, charges: Sequence[Charge], decisions: Sequence[Decision]) -> None:
        """Let a refund give nothing back while the waiter owns what was charged: `cancel` gives it back.

        After `cancel` the ranges serve others, so a refund would give them back twice.
        """
        self._charged = charges, decisions
        self._held = [decision for decision in decisions if decision._refunded == 0]
        for decision in self._held:
            decision._refunded = -1

    def _end(self) -> None:
        """Note that the turn has been used: from now on a refund gives back what was charged."""
        for decision in self._held:
            decision._refunded = 0
        disown(self._waiter, *self._charged)


async def reserve(
    store: AsyncStore,
    charges: Sequence[Charge],
    answer: Callable[[list[Decision]], D],
    blocking: Store | None = None,
) -> Reservation[D]:
    """Take a turn, and return at once. `answer` makes one decision of those of the charges.

    `blocking` is the same store for threads, if they may wait for the turn.
    """
    reservation: Reservation[D] = Reservation(store, blocking)
    try:
        decisions = await store.wait_queue.join(reservation._waiter, charges)
        if reservation._waiter.waitlist is not None:
            reservation._hold(charges, decisions)
        reservation._decision = answer(decisions)
    except BaseException:
        reservation._give_up()
        raise
    return reservation

"""Waiting for a turn, in a thread and on an event loop. The order is in `stores.waiting`; here is the sleep."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from ratekeeper.decision import Charge, Decision, seconds
from ratekeeper.stores.base import AwaitedStore, Store
from ratekeeper.stores.places import Waiter


def take_turn(store: Store, charges: Sequence[Charge]) -> list[Decision]:
    """Charge, and block this thread until the turn has come. A refusal returns at once.

    If the wait is interrupted, the place is given up, and those behind move up.
    """
    woken = threading.Event()
    waiter = Waiter(woken.set)
    try:
        decisions = store.line.join(waiter, charges)
        while (left := waiter.leaves_at - store.clock.ticks()) > 0:
            store.clock.wait(woken, seconds(left))
            woken.clear()
        store.line.leave(waiter)
    except BaseException as interrupted:
        try:
            store.line.give_up(waiter)
        except Exception:  # the store's; the caller must see what interrupted it
            raise interrupted from None
        raise
    return decisions


async def take_turn_async(store: AwaitedStore, charges: Sequence[Charge]) -> list[Decision]:
    """As `take_turn`, but let the event loop go on. A task that is cancelled gives its place up."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    waiter = Waiter(lambda: wake_task(loop, woken))
    try:
        decisions = await store.line.join(waiter, charges)
        while (left := waiter.leaves_at - store.clock.ticks()) > 0:
            await store.clock.wait_async(woken, seconds(left))
            woken.clear()
        if waiter.places:  # else it never waited
            await store.line.leave(waiter)
    except BaseException:
        store.line.give_up(waiter)
        raise
    return decisions


def wake_task(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    """Wake a task from whatever thread; a loop that is gone has nobody to wake."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(woken.set)

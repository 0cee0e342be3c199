"""Turns that another passes on: those who move up learn it, whoever lets the first go, and however it gives up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
from async_memory import AsyncMemoryStore
from servers import PATIENCE
from virtual_time import LoopClock, VirtualLoop

from ratekeeper import AsyncLimiter, Decision, LeakyBucket, Limiter, ManualClock, MemoryStore, TokenBucket
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.waiting.places import Need
from ratekeeper.waiting.turns import Reservation
from ratekeeper.waiting.waitlist import Waiter, Waitlist

USED_ONCE = "this reservation was used or cancelled"
Look = Callable[[AsyncLimiter], Coroutine[Any, Any, object]]


class Counted(dict[Waiter, None]):
    """A list of waiters that counts how many were looked at."""

    looked = 0

    def __reversed__(self) -> Any:
        for one in super().__reversed__():
            self.looked += 1
            yield one

    def __iter__(self) -> Any:
        for one in super().__iter__():
            self.looked += 1
            yield one

    def move_to_end(self, waiter: Waiter) -> None:
        self[waiter] = self.pop(waiter)


def usage(limiter: AsyncLimiter) -> Coroutine[Any, Any, object]:
    return limiter.usage("key")


async def other_key(limiter: AsyncLimiter) -> None:
    for _ in range(3):  # the last looks after the list that was looked at longest ago
        await limiter.reserve("other")


async def departures(loop: VirtualLoop, clock: LoopClock, look: Look, cancelled: int) -> list[float]:
    """Return when tasks leave, after the first of them gave up. Another task looks just before the next one wakes."""
    limiter = AsyncLimiter(LeakyBucket(100, 1), store=MemoryStore(100, clock=clock))
    left: list[float] = []
    for key in ("key", "other"):
        await limiter.acquire(key)
    began = loop.time()

    async def wait() -> None:
        await limiter.acquire("key")
        left.append(loop.time() - began)

    tasks = [asyncio.create_task(wait()) for _ in range(2 * cancelled)]
    await asyncio.sleep(0.5)
    for task in tasks[:cancelled]:
        task.cancel()

    def hold_up() -> None:
        loop.sleep(0.002)
        looking.append(asyncio.ensure_future(look(limiter)))

    looking: list[asyncio.Future[object]] = []
    loop.call_at(began + 0.999, hold_up)
    await asyncio.gather(*tasks, return_exceptions=True)
    return left


@pytest.mark.parametrize("look", [usage, other_key])
def test_those_who_moved_up_leave_at_their_turns_though_another_let_the_first_go(look: Look) -> None:
    """The first was let go and told nobody: for 10 s nobody left, and then 10 at one instant, of one a second."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        left = runner.run(departures(loop, LoopClock(loop), look, cancelled=10))
    assert left == pytest.approx([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], abs=0.01)


async def in_a_task(woken: asyncio.Future[None], after: float) -> None:
    async def sleep() -> None:
        await woken

    await asyncio.wait([asyncio.create_task(sleep())], timeout=after)


async def by_wait_for(woken: asyncio.Future[None], after: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(woken, after)  # cancels the future


async def by_call_later(woken: asyncio.Future[None], after: float) -> None:
    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    asyncio.get_running_loop().call_later(after, wake)
    await woken


@pytest.mark.parametrize("sleep", [in_a_task, by_wait_for, by_call_later])
def test_a_clock_may_wait_for_the_wakeup_in_its_own_way_and_wake_too_early(
    sleep: Callable[[asyncio.Future[None], float], Awaitable[object]],
) -> None:
    class OwnClock(LoopClock):
        async def wait_async(self, woken: asyncio.Future[None], until: int) -> None:
            await sleep(woken, min(0.3, (until - self.ticks()) / TICKS_PER_SECOND))

    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        left = runner.run(departures(loop, OwnClock(loop), usage, cancelled=10))
    assert left == pytest.approx([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], abs=0.01)


@pytest.mark.parametrize("entered", [False, True])
def test_those_behind_a_reservation_leave_at_their_turns_though_nobody_waits_for_it(entered: bool) -> None:
    """Nobody looked at its turn, and so nobody told those who had moved up: they left together, at one instant."""
    loop = VirtualLoop()

    async def run() -> list[float]:
        limiter = AsyncLimiter(LeakyBucket(100, 1), store=MemoryStore(100, clock=LoopClock(loop)))
        await limiter.acquire("key")
        began, left = loop.time(), list[float]()
        reserved = [await limiter.reserve("key") for _ in range(3)]

        async def wait() -> None:
            await limiter.acquire("key")
            left.append(loop.time() - began)

        async def use() -> None:
            async with reserved[1]:
                left.append(loop.time() - began)

        tasks = [asyncio.create_task(wait()) for _ in range(20)]
        await asyncio.sleep(0.5)
        for task in tasks[:10]:
            task.cancel()
        await asyncio.gather(*[use() for _ in range(entered)], *tasks, return_exceptions=True)
        return left

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        assert runner.run(run()) == pytest.approx([2] * entered + [4, 5, 6, 7, 8, 9, 10, 11, 12, 13], abs=0.01)


def test_a_reservation_that_is_entered_later_learns_that_it_has_moved_up() -> None:
    """Nobody was told while nobody waited for any of them."""

    async def run() -> None:
        clock = HeldClock()
        limiter = AsyncLimiter(LeakyBucket(10, 1), store=MemoryStore(clock=clock))
        await limiter.acquire("key")
        unused, first, second, last = [await limiter.reserve("key") for _ in range(4)]
        for one in (first, second):
            one.cancel()
        entered = asyncio.create_task(enter(last))
        await settle()
        clock.advance(2)
        await asyncio.wait_for(entered, PATIENCE)
        assert (unused.delay, last.delay) == (0, 0)

    asyncio.run(run())


def test_a_lookout_is_sought_once_among_many_for_whom_nobody_waits() -> None:
    waitlist, needs = Waitlist((("scope", b"key"),), for_departure=False, lead=0), (Need(10, 10),)
    waitlist._waiters = counted = Counted()  # type: ignore[assignment]
    waiters = [Waiter(bool, sleeps=number in (998, 999)) for number in range(1000)]
    for number, waiter in enumerate(waiters):
        waitlist.add(waiter, needs, [(20 * number, 20 * number + 10)], 0, 0)
    assert waitlist.lookout() is waiters[998]
    waitlist.give_up(waiters[998], 0)
    for gone in waiters[:100]:
        waitlist.give_up(gone, 0)
        assert waitlist.lookout() is waiters[999]
    looked = counted.looked
    waitlist.give_up(waiters[999], 0)
    for gone in waiters[100:200]:
        waitlist.give_up(gone, 0)
        assert waitlist.lookout() is None
    assert counted.looked - looked < 3 * 100 + 1000
    waitlist.watch(waiters[500])
    assert waitlist.lookout() is waiters[500]


def test_an_answer_that_was_overtaken_by_few_looks_at_few() -> None:
    """It copied the whole list: at 100,000 waiters 7 ms for each answer."""

    waitlist, needs = Waitlist((("scope", b"key"),), for_departure=False, lead=0), (Need(10, 10),)
    waitlist._waiters = counted = Counted()  # type: ignore[assignment]
    waiters = [Waiter(bool) for _ in range(1000)]
    for number, waiter in enumerate(waiters):
        waitlist.add(waiter, needs, [(20 * number, 20 * number + 10)], 0, 0)
    late = Waiter(bool)
    waitlist.add(late, needs, [(20 * 997 + 10, 20 * 997 + 20)], 0, 0)
    assert counted.looked == 2
    assert list(islice(reversed(waitlist._waiters), 4)) == [waiters[999], waiters[998], late, waiters[997]]


def reserved(limiter: Limiter) -> Reservation[Decision]:
    limiter.acquire("key")
    return limiter.reserve("key")


def test_a_thread_that_waits_for_a_reservation_learns_that_it_was_cancelled() -> None:
    """It took all of a processor, for ever."""
    reservation, told = reserved(Limiter(LeakyBucket(10, "1/hour"))), list[str]()

    def enter() -> None:
        try:
            with reservation:
                told.append("entered")
        except RuntimeError as error:
            told.append(str(error))

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    while not reservation._entered:
        time.sleep(0.001)
    reservation.cancel()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert USED_ONCE in told[0]


class HeldClock(ManualClock):
    """Its tasks wait until they are woken, or time has gone on."""

    async def wait_async(self, woken: asyncio.Future[None], until: int) -> None:
        while not woken.done() and self.ticks() < until:
            await asyncio.sleep(0)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def two_reservations(clock: HeldClock) -> list[Reservation[Decision]]:
    limiter = AsyncLimiter(LeakyBucket(10, 1), store=MemoryStore(clock=clock))
    await limiter.acquire("key")
    return [await limiter.reserve("key") for _ in range(2)]


async def enter(reservation: Reservation[Decision]) -> None:
    async with reservation:
        pass


def test_a_task_that_waits_for_a_reservation_learns_that_it_was_cancelled() -> None:
    async def run() -> None:
        first, second = await two_reservations(HeldClock())
        task = asyncio.create_task(enter(first))
        await settle()
        first.cancel()
        with pytest.raises(RuntimeError, match=USED_ONCE):
            await asyncio.wait_for(task, PATIENCE)
        assert second.delay == 1, "it has moved up"

    asyncio.run(run())


def test_two_who_wait_for_one_reservation_do_not_both_go_ahead() -> None:
    async def run() -> None:
        clock = HeldClock()
        first, second = await two_reservations(clock)
        entered = asyncio.create_task(enter(second))
        await settle()
        with pytest.raises(RuntimeError, match=USED_ONCE):
            await asyncio.wait_for(enter(second), PATIENCE)
        first.cancel()
        clock.advance(1)
        await asyncio.wait_for(entered, PATIENCE)

    asyncio.run(run())


def close(waits: Any) -> None:
    waits.close()


def throw(waits: Any) -> None:
    with pytest.raises(OSError, match="gone"):
        waits.throw(OSError("gone"))


@pytest.mark.parametrize("end", [close, throw])
def test_a_coroutine_that_ends_while_the_store_decides_gives_back_its_charge_and_its_place(
    end: Callable[[Any], None],
) -> None:
    """Only a cancelled one did: the others left a dead waiter in line, and their tokens were gone."""

    async def run() -> None:
        store = AsyncMemoryStore(MemoryStore(clock=HeldClock()))
        limiter = AsyncLimiter(TokenBucket(2, 1), store=store)
        for taken in (0, 2):
            assert not taken or await limiter.try_acquire("key", taken)
            waits = limiter.acquire("key", 2)
            waits.send(None)
            end(waits)
            await settle()
            await store.wait_queue.settle()
            assert len(store.wait_queue) == 0
            assert (await limiter.peek("key", 0)).remaining == 2 - taken

    asyncio.run(run())


def test_each_failure_to_give_places_back_is_told_to_the_loop() -> None:
    """If another gave up in the same step of the loop, the first failure was not told."""

    async def run() -> None:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        store = AsyncMemoryStore(MemoryStore(clock=HeldClock()))
        limiter = AsyncLimiter(TokenBucket(1, 1), store=store)
        await limiter.acquire("key")
        waiters = [Waiter(bool) for _ in range(2)]
        for waiter in waiters:
            await store.wait_queue.join(waiter, limiter._charges("key", 1, None))

        async def fail(*_: object) -> bool:
            raise OSError("the network is gone")

        store.wait_queue._rewind = fail
        store.wait_queue.give_up(waiters[1])
        asyncio.get_running_loop().call_soon(store.wait_queue.give_up, waiters[0])
        await settle()
        assert told == ["places that were given up are lost: the store failed"] * 2

    asyncio.run(run())

"""Alarms: many tasks that sleep, and one timer of their event loop."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, cast

import pytest

from ratekeeper.alarms import AT_ONCE, Alarms, alarms_of
from ratekeeper.clock import machine_ticks
from ratekeeper.limits import TICKS_PER_SECOND


class HandLoop:
    """An event loop of timers only, whose time is moved by hand. `early` is how much too early it calls.

    It calls the callbacks of its futures at once.
    """

    def __init__(self, early: float = 0.0) -> None:
        self.now, self.early, self.started = 0.0, early, 0
        self.timers: list[tuple[float, Callable[[], None], Timer]] = []

    def ticks(self) -> int:
        return round(self.now * TICKS_PER_SECOND)

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        self.started += 1
        timer = Timer()
        self.timers.append((self.now + delay, call, timer))
        return timer

    def get_debug(self) -> bool:
        return False

    def call_soon(self, call: Callable[..., None], *arguments: object, context: object) -> None:
        call(*arguments)

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.Future(loop=cast("asyncio.AbstractEventLoop", self))

    @property
    def waiting(self) -> int:
        """The timers that are neither cancelled nor due."""
        return sum(not timer.cancelled for _, _, timer in self.timers)

    def go_to(self, now: float) -> None:
        """Go on, and call what becomes due on the way, at its time."""
        while due := sorted(one for one in self.timers if one[0] <= now and not one[2].cancelled):
            self.timers.remove(due[0])
            self.now = max(self.now, due[0][0] - self.early)
            due[0][1]()
        self.now = max(self.now, now)


class Timer:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __lt__(self, other: object) -> bool:
        return False


def new_alarms(loop: HandLoop) -> Alarms:
    return Alarms(cast("asyncio.AbstractEventLoop", loop), loop.ticks)


def set_in(seconds: float) -> asyncio.Future[None]:
    """Set an alarm of the running loop."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    alarms_of(loop, machine_ticks).set(machine_ticks() + round(seconds * TICKS_PER_SECOND), woken)
    return woken


def set_at(loop: HandLoop, alarms: Alarms, *seconds: float) -> list[asyncio.Future[None]]:
    futures = [loop.create_future() for _ in seconds]
    for after, woken in zip(seconds, futures, strict=True):
        alarms.set(round(after * TICKS_PER_SECOND), woken)
    return futures


def rung(futures: list[asyncio.Future[None]]) -> list[bool]:
    return [woken.done() for woken in futures]


def test_each_rings_at_its_time_in_whatever_order_they_are_set() -> None:
    loop = HandLoop()
    futures = set_at(loop, new_alarms(loop), 3, 1, 2, 1)
    for now, expected in ((0.5, [0, 0, 0, 0]), (1, [0, 1, 0, 1]), (2.5, [0, 1, 1, 1]), (3, [1, 1, 1, 1])):
        loop.go_to(now)
        assert rung(futures) == [bool(one) for one in expected], now


def test_alarms_in_any_order_ring_by_their_times_and_those_of_one_time_as_they_were_set() -> None:
    random, loop = Random(7), HandLoop()
    alarms = new_alarms(loop)
    times = [random.choice([random.randrange(50), 50 + number]) for number in range(2000)]
    cancelled, rang = set(random.sample(range(2000), 1200)), list[int]()

    def note(number: int, _: object) -> None:
        rang.append(number)

    for number, after in enumerate(times):
        [woken] = set_at(loop, alarms, after)
        if number in cancelled:
            woken.cancel()
        else:
            woken.add_done_callback(partial(note, number))
    loop.go_to(3000)
    assert rang == sorted(set(range(2000)) - cancelled, key=lambda number: (times[number], number))
    assert len(alarms) == 0


def test_what_the_system_does_while_alarms_are_set_changes_no_order() -> None:
    """A task was overtaken by the next if the system stopped it between its look at the clock and its sleep."""
    random, rang = Random(3), list[tuple[int, float]]()

    class Stopped(HandLoop):
        def ticks(self) -> int:
            self.now += random.choice([0, 0, 0.05])
            return super().ticks()

    loop = Stopped()
    alarms = new_alarms(loop)

    def note(number: int, _: object) -> None:
        rang.append((number, loop.now))

    for number in range(100):
        [woken] = set_at(loop, alarms, number / 100)
        woken.add_done_callback(partial(note, number))
    while loop.waiting:
        loop.go_to(loop.now + 0.01)
    assert [number for number, _ in rang] == list(range(100))
    assert all(at >= number / 100 for number, at in rang)


def test_a_loop_goes_on_while_a_crowd_is_woken() -> None:
    order: list[str] = []

    async def sleeper() -> None:
        await set_in(0)
        order.append("sleeper")

    async def other() -> None:
        while order.count("sleeper") < 3 * AT_ONCE:
            await asyncio.sleep(0)
            order.append("other")

    async def run() -> None:
        await asyncio.gather(*(sleeper() for _ in range(3 * AT_ONCE)), other())

    asyncio.run(run())
    woken_between = "".join("s" if one == "sleeper" else "o" for one in order).split("o")
    assert max(map(len, woken_between)) <= AT_ONCE


def test_one_timer_serves_all() -> None:
    loop = HandLoop()
    alarms = new_alarms(loop)
    futures = set_at(loop, alarms, *range(1, 1001))
    assert loop.waiting == 1
    loop.go_to(500)
    assert sum(rung(futures)) == 500
    assert loop.waiting == 1
    loop.go_to(1000)
    assert all(rung(futures))
    assert loop.waiting == 0


def test_a_future_that_is_done_before_its_time_stays_as_it_is_and_others_ring() -> None:
    loop = HandLoop()
    cancelled, woken, kept = set_at(loop, new_alarms(loop), 1, 1, 1)
    cancelled.cancel()
    woken.set_result(None)
    loop.go_to(1)
    assert [cancelled.cancelled(), woken.done(), kept.done()] == [True, True, True]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_alarm_that_raises_costs_no_other_alarm(error: type[BaseException]) -> None:
    """A signal's handler may raise as an alarm rings. All other tasks slept until the next alarm was set."""

    def fail(_: object) -> None:
        raise error

    loop = HandLoop()
    alarms = new_alarms(loop)
    first, *others = set_at(loop, alarms, 1, 1, 2)
    first.add_done_callback(fail)
    with pytest.raises(error):
        loop.go_to(1)
    loop.go_to(2)
    assert rung(others) == [True, True]


def test_cancelled_alarms_far_ahead_take_no_memory() -> None:
    loop = HandLoop()
    alarms = new_alarms(loop)
    kept = set_at(loop, alarms, *[1000.0] * 10)
    for _ in range(10_000):
        set_at(loop, alarms, 500)[0].cancel()
    assert len(alarms) < 200
    loop.go_to(1000)
    assert all(rung(kept))


def test_those_of_a_crowd_that_is_gone_are_forgotten_at_their_time_or_as_others_are_set() -> None:
    loop = HandLoop()
    alarms = new_alarms(loop)
    for woken in set_at(loop, alarms, *[500] * 1000):
        woken.cancel()
    kept = set_at(loop, alarms, *[400] * 1500)
    assert len(alarms) < 2 * len(kept)
    loop.go_to(400)
    assert all(rung(kept))
    loop.go_to(500)
    assert len(alarms) == loop.waiting == 0
    assert set_at(loop, alarms, 1)
    assert loop.waiting == 1


def test_a_loop_that_calls_early_is_not_asked_again_and_again() -> None:
    loop = HandLoop(early=0.0004)  # uvloop's timers count milliseconds
    futures = set_at(loop, new_alarms(loop), 1)
    loop.go_to(0.9997)
    loop.go_to(1.0)
    assert rung(futures) == [True]
    assert loop.started == 1


def test_two_loops_that_take_turns_in_a_thread_each_wake_their_own() -> None:
    loops = [asyncio.new_event_loop() for _ in range(2)]

    async def sleeps() -> bool:
        woken = set_in(0.001)
        await asyncio.sleep(0)
        await woken
        return True

    tasks = [loop.create_task(sleeps()) for _ in range(3) for loop in loops]
    for _ in range(3):
        for loop in loops:
            loop.call_soon(loop.stop)
            loop.run_forever()
    for task in tasks:
        assert task.get_loop().run_until_complete(task)
    for loop in loops:
        loop.close()


def test_a_loop_that_is_gone_is_forgotten() -> None:
    async def sleep_too_long() -> Any:
        set_in(3600)
        return weakref.ref(asyncio.get_running_loop())

    async def use_another() -> None:
        alarms_of(asyncio.get_running_loop(), machine_ticks)

    gone = asyncio.run(sleep_too_long())
    asyncio.run(use_another())
    gc.collect()
    assert gone() is None

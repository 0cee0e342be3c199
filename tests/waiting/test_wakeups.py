"""Wakeups of one sleeper, a thread or a task."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ratekeeper.waiting.wakeups import TaskWakeup, Wakeup


def test_a_threads_wakeup_is_set_once_however_often_and_cleared_by_its_sleeper() -> None:
    woken = Wakeup()
    assert woken.is_set() is False
    assert woken.wait(0) is False
    woken.set()
    woken.set()
    assert woken.is_set() is True
    assert woken.wait() is True
    assert woken.is_set() is False
    woken.set()
    woken.clear()
    woken.clear()
    assert woken.wait(-1) is False
    sleeper = threading.Thread(target=woken.wait)
    sleeper.start()
    woken.set()
    sleeper.join(30)
    assert not sleeper.is_alive()


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Run coroutines on a loop, and see that the loop's exception handler was told nothing."""
    told: list[Any] = []
    with asyncio.Runner(loop_factory=pytest.importorskip(request.param).new_event_loop) as made:
        made.get_loop().set_exception_handler(lambda _, context: told.append(context))
        yield made
    gc.collect()
    assert told == []


def test_a_tasks_wakeup_ends_each_of_its_sleeps_however_often_it_is_set(runner: asyncio.Runner) -> None:
    async def use() -> None:
        wakeup = TaskWakeup(asyncio.get_running_loop())
        for _ in range(3):
            first = wakeup.sleep()
            await asyncio.sleep(0.001)
            assert not first.done()
            wakeup.set()
            assert wakeup.set_threadsafe() is True
            wakeup.set()
            await asyncio.wait_for(first, 30)
            await asyncio.sleep(0.001)  # the one from another thread comes now, and wakes nobody

    runner.run(use())


def test_a_wakeup_from_another_thread_between_the_look_and_the_sleep_is_not_lost(runner: asyncio.Runner) -> None:
    async def use() -> None:
        wakeup = TaskWakeup(asyncio.get_running_loop())
        for _ in range(3):
            thread = threading.Thread(target=wakeup.set_threadsafe)
            thread.start()
            thread.join(30)
            await asyncio.wait_for(wakeup.sleep(), 30)

    runner.run(use())


def test_a_task_that_is_cancelled_as_it_sleeps_may_be_woken_and_may_sleep_again(runner: asyncio.Runner) -> None:
    async def use() -> None:
        wakeup, again = TaskWakeup(asyncio.get_running_loop()), list[str]()

        async def sleep_twice() -> None:
            try:
                await wakeup.sleep()
            except asyncio.CancelledError:
                again.append("cancelled")
            await wakeup.sleep()
            again.append("woken")

        task = asyncio.create_task(sleep_twice())
        await asyncio.sleep(0)
        task.cancel()
        wakeup.set()  # before the task has learnt of it
        await asyncio.sleep(0.001)
        assert again == ["cancelled"]
        wakeup.set()
        await asyncio.wait_for(task, 30)
        wakeup.set()
        assert again == ["cancelled", "woken"]

    runner.run(use())


def test_a_task_of_a_closed_loop_cannot_be_woken() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert TaskWakeup(loop).set_threadsafe() is False

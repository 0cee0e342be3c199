"""Events for one sleeper: they behave as those of the standard library do."""

from __future__ import annotations

import asyncio
import threading

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


def test_a_tasks_wakeup_wakes_its_task_and_stays_set_until_it_is_cleared() -> None:
    async def use() -> None:
        woken = TaskWakeup(asyncio.get_running_loop())
        assert woken.is_set() is False
        sleeper = asyncio.create_task(woken.wait())
        await asyncio.sleep(0)
        assert not sleeper.done()
        assert woken.set_threadsafe() is True
        assert await asyncio.wait_for(sleeper, 30) is True
        woken.set()
        assert woken.is_set() is True
        assert await asyncio.wait_for(woken.wait(), 30) is True
        woken.clear()
        assert woken.is_set() is False
        assert "set=False" in repr(woken)
        second = asyncio.create_task(woken.wait())
        await asyncio.sleep(0)
        assert not second.done()
        woken.set()
        assert await asyncio.wait_for(second, 30) is True

    asyncio.run(use())


def test_a_task_of_a_closed_loop_cannot_be_woken() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert TaskWakeup(loop).set_threadsafe() is False

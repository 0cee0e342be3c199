"""`python -m benchmarks.crowds`: what 100,000 waiting tasks cost, beside as many that only sleep."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from statistics import median
from typing import Any

from benchmarks import results
from benchmarks.results import Row, Table, rounded, say
from ratekeeper import AsyncLimiter, LeakyBucket, Limiter, MemoryStore

CROWD, CROWDS, GIVE_UPS = 100_000, 3, 10_000
CPU, MEMORY = "CPU of waiting", "Memory of waiting"


async def cost_of_many() -> tuple[float, float, float]:
    """Return CPU seconds while 10,000 tasks come, while they wait for two seconds, and while all are cancelled."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    limiter = AsyncLimiter(LeakyBucket(10_000, "1/hour"), store=MemoryStore(100))
    times = [used()]
    tasks = [asyncio.create_task(limiter.acquire("key")) for _ in range(10_000)]
    await asyncio.sleep(0)
    times.append(used())
    await asyncio.sleep(2)
    times.append(used())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    times.append(used())
    return times[1] - times[0], times[2] - times[1], times[3] - times[2]


@dataclass(frozen=True, slots=True)
class Crowd:
    """The cost of CROWD tasks that are all due within a second."""

    to_come: float  # us of CPU a task
    to_leave: float
    last: float  # seconds from the first turn to the last departure
    took: float  # seconds on the wall until all had come
    in_time: bool  # all had come before the first was due


def measure_crowds() -> dict[str, list[Crowd]]:
    """Return what a crowd costs that sleeps by itself, and one that waits for its turns."""
    kinds: dict[str, Callable[[float], Coroutine[Any, Any, Crowd]]] = {
        "asyncio alone: loop.call_at": crowd_that_sleeps,
        "AsyncLimiter.acquire": crowd_that_waits,
    }
    crowds: dict[str, list[Crowd]] = {kind: [] for kind in kinds}
    ahead = 8.0
    for _ in range(CROWDS):
        for kind, run in kinds.items():
            say(f"{CROWD:,} tasks: {kind}")
            while not (crowd := asyncio.run(run(ahead))).in_time:
                ahead = 1.5 * crowd.took
            crowds[kind].append(crowd)
    return crowds


async def crowd_that_sleeps(ahead: float) -> Crowd:
    """Let each task sleep by its own timer. The first is due in `ahead` seconds."""
    loop = asyncio.get_running_loop()
    first, numbers = loop.time() + ahead, iter(range(CROWD))

    async def sleep() -> None:
        due: asyncio.Future[None] = loop.create_future()
        timer = loop.call_at(first + next(numbers) / CROWD, due.set_result, None)
        try:
            await due
        finally:
            timer.cancel()

    return await measure_crowd(sleep, first)


async def crowd_that_waits(ahead: float) -> Crowd:
    """Let each task wait at a bucket that is in debt for the next `ahead` seconds."""
    loop = asyncio.get_running_loop()
    limiter = AsyncLimiter(LeakyBucket(1_000 * CROWD, CROWD), store=MemoryStore(100))
    first = loop.time() + ahead
    await limiter.try_acquire("key", round(ahead * CROWD))
    return await measure_crowd(lambda: limiter.acquire("key"), first)


async def measure_crowd(come: Callable[[], Awaitable[object]], first: float) -> Crowd:
    """Return what CROWD tasks cost that come by awaiting this. The first is due at `first`.

    The last to leave ends the measurement. `asyncio.gather` would call a function for each, which costs half as much
    as the task that leaves.
    """
    gc.collect()
    loop = asyncio.get_running_loop()
    left: list[float] = []
    all_left = loop.create_future()

    async def one() -> None:
        await come()
        left.append(loop.time())
        if len(left) == CROWD:
            all_left.set_result(None)

    begun = loop.time()
    times = [time.process_time()]
    tasks = [asyncio.create_task(one()) for _ in range(CROWD)]  # a loop keeps no task alive
    await asyncio.sleep(0)
    times.append(time.process_time())
    all_came = loop.time()
    async with asyncio.timeout(600):
        await all_left
    times.append(time.process_time())
    came, gone = ((later - earlier) / CROWD * 1e6 for earlier, later in pairwise(times))
    del tasks
    return Crowd(came, gone, max(left) - first, all_came - begun, in_time=all_came < first)


def time_give_ups() -> float:
    """Return seconds of CPU for GIVE_UPS of CROWD waiters to give up, one after the other."""
    limiter = Limiter(LeakyBucket(CROWD, "1/minute"), store=MemoryStore(100))
    waiting = [limiter.reserve("key") for _ in range(CROWD)]
    began = time.process_time()
    for reservation in Random(1).sample(waiting[1:], GIVE_UPS):
        reservation.cancel()
    return time.process_time() - began


def crowd_tables() -> Iterator[Table]:
    crowds = measure_crowds()
    columns = {"to come": "us of CPU a task", "to leave": "us of CPU a task", "last": "s after the first was due"}
    for (what, unit), name in zip(columns.items(), ("to_come", "to_leave", "last"), strict=True):
        rows = []
        for kind, runs in crowds.items():
            taken = [getattr(run, name) for run in runs]
            rows.append(Row(kind, rounded(min(taken)), rounded(median(taken))))
        alone = replace(rows[0], name="x asyncio alone")
        yield Table(f"{CROWD:,} tasks that are due within one second: {what}", unit, rows, [alone])


def cpu_table() -> Table:
    """Return the CPU of tasks and of waiters that give up, each measured once."""
    came, waited, gone = asyncio.run(cost_of_many())
    seconds = {
        "10,000 tasks come": came,
        "they wait for 2 s": waited,
        "they give up": gone,
        f"{GIVE_UPS:,} of {CROWD:,} give up, one by one": time_give_ups(),
    }
    rows = [Row(name, rounded(taken), rounded(taken)) for name, taken in seconds.items()]
    return Table(CPU, "s of CPU", rows)


async def bytes_of(come: Callable[[], Coroutine[Any, Any, object]]) -> Row:
    """Return the bytes of a task that has come and stays, as tracemalloc counts them."""
    gc.collect()
    tracemalloc.start()
    tasks = [asyncio.create_task(come()) for _ in range(GIVE_UPS)]
    await asyncio.sleep(0)  # all tasks run to where they stay
    gc.collect()
    each = rounded(tracemalloc.get_traced_memory()[0] / GIVE_UPS)
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Row("", each, each)


async def memory_table() -> Table:
    limiter = AsyncLimiter(LeakyBucket(2 * GIVE_UPS, "1/hour"), store=MemoryStore(100))
    sleeps = replace(await bytes_of(lambda: asyncio.sleep(3600)), name="a task that only sleeps")
    waits = replace(await bytes_of(lambda: limiter.acquire("key")), name="a task that waits for its turn")
    return Table(MEMORY, "bytes a task", [sleeps, waits])


def measure(quick: bool) -> list[Table]:
    say("10,000 tasks, and waiters that give up")
    return [cpu_table(), asyncio.run(memory_table()), *(() if quick else crowd_tables())]


if __name__ == "__main__":
    results.main("crowds", measure, ())

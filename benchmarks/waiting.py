"""`python -m benchmarks.waiting`: the cost of a wait without waiters, of ten thousand waits, and how exact a wait is.

Beside aiolimiter, throttled-py and pyrate-limiter where they are installed. All in one run, interleaved; ratios count.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from random import Random
from statistics import median
from typing import Any

from ratekeeper import AsyncLimiter, LeakyBucket, Limiter, MemoryStore, TokenBucket

ROUNDS, CALLS, SLOW_CALLS = 30, 10_000, 500
WAITERS, RATE = 200, 100
MANY = TokenBucket(100_000_000, "100000000/hour")
CROWD, CROWDS, GIVE_UPS = 100_000, 3, 10_000

Ask = Callable[[str], Awaitable[object]]


async def nothing(_: str) -> None:
    pass


def awaited() -> dict[str, tuple[Ask, int]]:
    """Return the awaited call of each case, and how often it is awaited in a round."""
    ours = AsyncLimiter(MANY)
    cases: dict[str, tuple[Ask, int]] = {
        "await an empty coroutine": (nothing, CALLS),
        "AsyncLimiter.acquire, nobody waits": (ours.acquire, CALLS),
    }
    if find_spec("aiolimiter"):
        limiter = import_module("aiolimiter").AsyncLimiter(100_000_000, 3600)
        cases["aiolimiter"] = (lambda _: limiter.acquire(), SLOW_CALLS)
    if find_spec("throttled"):
        throttled: Any = import_module("throttled.asyncio")
        quota = throttled.per_hour(100_000_000, burst=100_000_000)
        gcra = throttled.Throttled(using="gcra", quota=quota)
        cases["throttled-py, GCRA"] = (gcra.limit, SLOW_CALLS)
    if find_spec("pyrate_limiter"):
        pyrate = import_module("pyrate_limiter")
        bucket = pyrate.StateBucket([pyrate.Rate(100_000_000, 3_600_000)], pyrate.GCRA())
        cases["pyrate-limiter, GCRA"] = (pyrate.Limiter(bucket).try_acquire_async, SLOW_CALLS)
    return cases


async def time_awaited() -> dict[str, list[float]]:
    """Return ns an await for each case and round."""
    cases = awaited()
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (ask, calls) in cases.items():
            began = time.perf_counter_ns()
            for _ in range(calls):
                await ask("key")
            taken[name].append((time.perf_counter_ns() - began) / calls)
    return taken


def time_blocking() -> dict[str, list[float]]:
    """Return ns a call of `acquire` and of `try_acquire` on one key that is never used up."""
    limiter = Limiter(MANY)
    taken: dict[str, list[float]] = {"Limiter.try_acquire": [], "Limiter.acquire, nobody waits": []}
    for _ in range(ROUNDS):
        for name, ask in zip(taken, (limiter.try_acquire, limiter.acquire), strict=True):
            began = time.perf_counter_ns()
            for _ in range(CALLS):
                ask("key")
            taken[name].append((time.perf_counter_ns() - began) / CALLS)
    return taken


@dataclass(frozen=True, slots=True)
class Lateness:
    """By how many milliseconds waiters left after their turn."""

    who: str
    median: float
    worst: float


def measure_lateness() -> list[Lateness]:
    """Let WAITERS threads, and then as many tasks, wait at RATE a second."""
    lates = {"threads": lateness_of_threads(), "tasks": asyncio.run(lateness_of_tasks())}
    return [Lateness(who, median(late), max(late)) for who, late in lates.items()]


def lateness_of_threads() -> list[float]:
    """Return by how many ms each thread leaves after its turn."""
    limiter, late = Limiter(LeakyBucket(WAITERS, RATE)), []

    def wait() -> None:
        decision = limiter.acquire("key")
        late.append((limiter.store.clock.ticks() - decision.at_ticks - decision.delay_ticks) / 16e6)

    threads = [threading.Thread(target=wait) for _ in range(WAITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return late


async def lateness_of_tasks() -> list[float]:
    """Return the same of tasks."""
    limiter, late = AsyncLimiter(LeakyBucket(WAITERS, RATE)), []

    async def wait() -> None:
        decision = await limiter.acquire("key")
        late.append((limiter.store.clock.ticks() - decision.at_ticks - decision.delay_ticks) / 16e6)

    await asyncio.gather(*(wait() for _ in range(WAITERS)))
    return late


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


def measure_crowds() -> dict[str, list[Crowd]]:
    """Return what a crowd costs that sleeps by itself, and one that waits for its turns."""
    kinds: dict[str, Callable[[float], Awaitable[Crowd | None]]] = {
        "asyncio alone: loop.call_at": crowd_that_sleeps,
        "AsyncLimiter.acquire": crowd_that_waits,
    }
    crowds: dict[str, list[Crowd]] = {kind: [] for kind in kinds}
    ahead = 8.0
    for _ in range(CROWDS):
        for kind, run in kinds.items():
            while (crowd := asyncio.run(awaiting(run, ahead))) is None:
                ahead *= 1.5
            crowds[kind].append(crowd)
    return crowds


async def awaiting(run: Callable[[float], Awaitable[Crowd | None]], ahead: float) -> Crowd | None:
    return await run(ahead)


async def crowd_that_sleeps(ahead: float) -> Crowd | None:
    """Let each task sleep by its own timer. The first is due in `ahead` seconds."""
    loop = asyncio.get_running_loop()
    first, numbers = loop.time() + ahead, iter(range(CROWD))

    async def sleep() -> float:
        due: asyncio.Future[None] = loop.create_future()
        timer = loop.call_at(first + next(numbers) / CROWD, due.set_result, None)
        try:
            await due
        finally:
            timer.cancel()
        return loop.time()

    return await measure_crowd(sleep, first)


async def crowd_that_waits(ahead: float) -> Crowd | None:
    """Let each task wait at a bucket that is in debt for the next `ahead` seconds."""
    loop = asyncio.get_running_loop()
    limiter = AsyncLimiter(LeakyBucket(1_000 * CROWD, CROWD), store=MemoryStore(100))
    first = loop.time() + ahead
    await limiter.try_acquire("key", round(ahead * CROWD))

    async def wait() -> float:
        await limiter.acquire("key")
        return loop.time()

    return await measure_crowd(wait, first)


async def measure_crowd(come: Callable[[], Coroutine[Any, Any, float]], first: float) -> Crowd | None:
    """Return what CROWD tasks cost, or None if the first was due before all had come."""
    gc.collect()
    times = [time.process_time()]
    tasks = [asyncio.create_task(come()) for _ in range(CROWD)]
    await asyncio.sleep(0)
    times.append(time.process_time())
    in_time = asyncio.get_running_loop().time() < first
    left = await asyncio.gather(*tasks)
    times.append(time.process_time())
    came, gone = ((later - earlier) / CROWD * 1e6 for earlier, later in pairwise(times))
    return Crowd(came, gone, max(left) - first) if in_time else None


def time_give_ups() -> float:
    """Return seconds of CPU for GIVE_UPS of CROWD waiters to give up, one after the other."""
    limiter = Limiter(LeakyBucket(CROWD, "1/minute"), store=MemoryStore(100))
    waiting = [limiter.reserve("key") for _ in range(CROWD)]
    began = time.process_time()
    for reservation in Random(1).sample(waiting[1:], GIVE_UPS):
        reservation.cancel()
    return time.process_time() - began


def print_crowds() -> None:
    crowds = measure_crowds()
    print(f"\n### {CROWD:,} tasks that are due within one second\n")
    print("| best / median | us of CPU to come | us of CPU to leave | last left, s after the first was due |")
    print("| --- | ---: | ---: | ---: |")
    for kind, runs in crowds.items():
        columns = [[run.to_come for run in runs], [run.to_leave for run in runs], [run.last for run in runs]]
        print(f"| {kind} | {' | '.join(f'{min(column):.2f} / {median(column):.2f}' for column in columns)} |")
    floor, ours = crowds.values()
    come, leave = (
        min(getattr(run, what) for run in ours) / min(getattr(run, what) for run in floor)
        for what in ("to_come", "to_leave")
    )
    print(f"\nbeside asyncio alone: {come:.1f} x to come, {leave:.1f} x to leave")
    print(f"{GIVE_UPS:,} of {CROWD:,} give up, one after the other: {time_give_ups():.2f} s of CPU (at most 1)")


def print_table(title: str, taken: dict[str, list[float]], base: str) -> None:
    print(f"\n### {title}\n\n| best / median | ns a call | x {base} |\n| --- | ---: | ---: |")
    floor = taken[base]
    for name, times in taken.items():
        ratios = f"{min(times) / min(floor):.2f} / {median(times) / median(floor):.2f}"
        print(f"| {name} | {min(times):,.0f} / {median(times):,.0f} | {ratios} |")


def main() -> None:
    blocking = time_blocking()
    print_table("Waiting in a thread, when there is nothing to wait for", blocking, "Limiter.try_acquire")
    awaiting = asyncio.run(time_awaited())
    print_table("Waiting in a task, when there is nothing to wait for", awaiting, "await an empty coroutine")
    print(f"\n### {WAITERS} waiters at {RATE} a second: ms after their turn\n")
    print("| | median | most |\n| --- | ---: | ---: |")
    for late in measure_lateness():
        print(f"| {late.who} | {late.median:.2f} | {late.worst:.2f} |")
    came, waited, gone = asyncio.run(cost_of_many())
    print(f"\n10,000 tasks: {came:.2f} s of CPU to come, {waited:.3f} s to wait for 2 s, {gone:.2f} s to give up")
    print_crowds()
    took = min(awaiting["AsyncLimiter.acquire, nobody waits"])
    most = 2 * min(awaiting["await an empty coroutine"]) + min(blocking["Limiter.try_acquire"])
    ratio = min(blocking["Limiter.acquire, nobody waits"]) / min(blocking["Limiter.try_acquire"])
    print(f"\nacquire: {ratio:.2f} x try_acquire (at most 1.3); awaited: {took:.0f} ns (at most {most:.0f})")


if __name__ == "__main__":
    main()

"""`python -m benchmarks.waiting`: the cost of a wait without waiters, and how late waiters leave after their turn.

Beside aiolimiter, throttled-py and pyrate-limiter where they are installed. All in one run, interleaved; ratios count.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any

from benchmarks import results
from benchmarks.results import Row, Table, ratio, rounded, say, table_of, target
from ratekeeper import AsyncLimiter, LeakyBucket, Limiter, TokenBucket

ROUNDS, CALLS, SLOW_CALLS = 30, 10_000, 500
WAITERS, RATE, LATE_RUNS = 200, 100, 3
MANY = TokenBucket(100_000_000, "100000000/hour")

Ask = Callable[[str], Awaitable[object]]
EMPTY, OURS = "await an empty coroutine", "AsyncLimiter.acquire, nobody waits"
LATENESS = f"{WAITERS} waiters at {RATE} a second"
DISTRIBUTIONS = ("aiolimiter", "throttled-py", "pyrate-limiter")


async def nothing(_: str) -> None:
    pass


def awaited() -> dict[str, tuple[Ask, int]]:
    """Return the awaited call of each case, and how often it is awaited in a round."""
    ours = AsyncLimiter(MANY)
    cases: dict[str, tuple[Ask, int]] = {
        EMPTY: (nothing, CALLS),
        OURS: (ours.acquire, CALLS),
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


PERCENTILES = {"50 %": 0.5, "90 %": 0.9, "99 %": 0.99, "the last": 1.0}


def lateness_tables() -> Iterator[Table]:
    """Let WAITERS threads, tasks, and tasks that only sleep, leave at RATE a second."""
    waiters: dict[str, Callable[[], list[float]]] = {
        "threads": lateness_of_threads,
        "tasks": lambda: asyncio.run(lateness_of_tasks()),
        "asyncio alone": lambda: asyncio.run(lateness_of_sleepers()),
    }
    for who, measure_late in waiters.items():
        runs = []
        for number in range(LATE_RUNS):
            say(f"{WAITERS} {who}: {number + 1} of {LATE_RUNS}")
            runs.append(sorted(measure_late()))
        rows = []
        for name, share in PERCENTILES.items():
            late = [run[min(len(run) - 1, int(share * len(run)))] for run in runs]
            rows.append(Row(name, rounded(min(late)), rounded(median(late))))
        yield Table(f"{LATENESS}: {who}", "ms after its turn", rows)


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


async def lateness_of_sleepers() -> list[float]:
    """Return the same of tasks that each sleep until their own time: the event loop's own lateness."""
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def sleep(due: float) -> float:
        await asyncio.sleep(due - loop.time())
        return (loop.time() - due) * 1e3

    return await asyncio.gather(*(sleep(begun + number / RATE) for number in range(WAITERS)))


def cases(taken: dict[str, list[float]]) -> dict[str, Row]:
    return {name: Row(name, min(times), median(times)) for name, times in taken.items()}


def measure(quick: bool) -> list[Table]:
    say("waits for nothing")
    blocking, awaiting = cases(time_blocking()), cases(asyncio.run(time_awaited()))
    now, acquire = blocking.values()
    empty, ours = (awaiting[name] for name in (EMPTY, OURS))
    most = [2 * floor + ask for floor, ask in ((empty.best, now.best), (empty.median, now.median))]
    targets = [
        target("acquire, x try_acquire: at most 1.3", ratio(acquire, now), most=1.3),
        target(
            "awaited, x (two empty awaits and try_acquire): at most 1",
            (ours.best / most[0], ours.median / most[1]),
            most=1,
        ),
    ]
    tables = [
        Table("Targets of waiting", "measured", targets),
        table_of("Waiting in a thread for nothing", "ns a call", blocking.values(), {"x try_acquire": now}),
        table_of("Waiting in a task for nothing", "ns a call", awaiting.values(), {"x empty await": empty}),
    ]
    if quick:
        return tables
    return [*tables, *lateness_tables()]


if __name__ == "__main__":
    results.main("waiting", measure, DISTRIBUTIONS)

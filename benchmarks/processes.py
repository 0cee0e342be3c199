"""Processes that work at the same time: spawned once, then told what to do, round by round. Knows no limiter."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from time import perf_counter_ns
from types import TracebackType
from typing import NamedTuple, TypeAlias

Job: TypeAlias = Callable[[], int]
"""Does what is timed, for some milliseconds; returns how many times it did it."""
Prepare: TypeAlias = Callable[[int], Mapping[str, Job]]
"""Makes the jobs of the process of this number, in that process."""

HEAD_START = 2_000_000
"""Nanoseconds from an order to its beginning: time for all to have met at the barrier, and to be running."""


class _Done(NamedTuple):
    begin: int
    end: int
    things: int


class Team:
    """Processes of which the first few can be given the same job. They sleep meanwhile, and end with the team.

    Each keeps to one core, and they take turns at them: the scheduler may leave two that are woken by one on the same
    core for longer than a job takes, with the other core idle.
    """

    def __init__(self, size: int, prepare: Prepare) -> None:
        context = get_context("spawn")
        barriers = [context.Barrier(count) for count in range(1, size + 1)]
        self._orders: list[Connection] = []
        for number in range(size):
            here, there = context.Pipe()
            context.Process(target=_work, args=(number, prepare, barriers, there), daemon=True).start()
            there.close()
            self._orders.append(here)
        for order in self._orders:
            order.recv()  # it is ready

    def time(self, job: str, count: int) -> float:
        """Let `count` processes do their job at once: ns from the first's start to the last's end, for each thing done.

        The clock is the same in all processes of a machine.
        """
        begin = perf_counter_ns() + HEAD_START
        for order in self._orders[:count]:
            order.send((job, count, begin))
        done: list[_Done] = [order.recv() for order in self._orders[:count]]
        whole = max(each.end for each in done) - min(each.begin for each in done)
        return whole / sum(each.things for each in done)

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for order in self._orders:
            order.close()


def _work(number: int, prepare: Prepare, barriers: list[Barrier], orders: Connection) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    jobs = prepare(number)
    gc.collect()
    gc.freeze()
    orders.send(None)
    while True:
        try:
            job, count, at = orders.recv()
        except EOFError:
            return
        run = jobs[job]
        barriers[count - 1].wait()
        # The process that is woken last would begin last, and the timed work takes only some milliseconds.
        while perf_counter_ns() < at:
            pass
        begin = perf_counter_ns()
        things = run()
        orders.send(_Done(begin, perf_counter_ns(), things))

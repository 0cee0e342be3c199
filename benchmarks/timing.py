"""How things are timed: cases, the loops that time them, and interleaved rounds. Knows no limiter.

On a shared machine the nanoseconds of one minute are not those of the next. So every case runs a few milliseconds in
each round, in a new order, and only figures of one run are compared.
"""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median
from time import perf_counter_ns
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Case:
    """Something to be timed, and its time in each round, in ns a decision.

    run            times it for some milliseconds; returns ns a decision
    before, after  steps around the timing that are not timed
    every          only in every so many rounds, for slow cases
    """

    group: str
    name: str
    run: Callable[[], float]
    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None
    every: int = 1
    times: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(self.times)

    @property
    def median(self) -> float:
        return median(self.times)

    def time(self) -> None:
        if self.before:
            self.before()
        self.times.append(self.run())
        if self.after:
            self.after()


def run_rounds(cases: Sequence[Case], rounds: int, progress: Callable[[int, int], object]) -> None:
    """Time every case in every round, in a new order each time."""
    for case in cases:
        case.time()  # warms caches and lets lazy things be built
        case.times.clear()
    gc.collect()
    gc.freeze()  # for good: a later collection then costs a library only its own new objects, not all tables
    for turn in range(rounds):
        progress(turn, rounds)
        todo = [case for case in cases if turn % case.every == 0]
        random.shuffle(todo)
        for case in todo:
            case.time()
    progress(rounds, rounds)


# ---- the loops; an empty loop is its own case, as all of them contain it ----


def empty_loop(calls: int) -> float:
    begin = perf_counter_ns()
    for _ in repeat(None, calls):
        pass
    return (perf_counter_ns() - begin) / calls


def plain(call: Callable[[], object], calls: int) -> float:
    """Time a call without arguments."""
    begin = perf_counter_ns()
    for _ in repeat(None, calls):
        call()
    return (perf_counter_ns() - begin) / calls


def hot(ask: Callable[[Any], object], key: object, calls: int) -> float:
    """Time a call with always the same argument."""
    begin = perf_counter_ns()
    for _ in repeat(None, calls):
        ask(key)
    return (perf_counter_ns() - begin) / calls


def each(ask: Callable[[str], object], keys: Sequence[str]) -> float:
    """Time a call for each of many keys."""
    begin = perf_counter_ns()
    for key in keys:
        ask(key)
    return (perf_counter_ns() - begin) / len(keys)


def batches(ask: Callable[[Sequence[str]], object], keys: Sequence[str], calls: int) -> float:
    """Time a call for many keys at once, always the same."""
    begin = perf_counter_ns()
    for _ in repeat(None, calls):
        ask(keys)
    return (perf_counter_ns() - begin) / (calls * len(keys))


def locked(lock: threading.Lock, calls: int) -> float:
    begin = perf_counter_ns()
    for _ in repeat(None, calls):
        with lock:
            pass
    return (perf_counter_ns() - begin) / calls


def awaited(ask: Callable[[str], Awaitable[object]], key: str, calls: int) -> float:
    """Time an awaited call that never has to wait, so that no event loop is needed."""

    async def drive() -> float:
        begin = perf_counter_ns()
        for _ in repeat(None, calls):
            await ask(key)
        return (perf_counter_ns() - begin) / calls

    try:
        drive().send(None)
    except StopIteration as stop:
        return float(stop.value)
    raise RuntimeError("a call that should be admitted at once has waited")


class Walk:
    """Goes round a list of keys, some of them at a time, and keeps the place of one contender."""

    def __init__(self, ask: Callable[[str], object], keys: Sequence[str], stride: int) -> None:
        self._ask = ask
        # Cut once: cutting touches every key, and so would fetch them into the cache just before they are timed.
        self._parts = [keys[begin : begin + stride] for begin in range(0, len(keys), stride)]
        self._at = random.randrange(len(self._parts))

    def time(self) -> float:
        """Time a call for each of the next keys."""
        self._at = (self._at + 1) % len(self._parts)
        return each(self._ask, self._parts[self._at])


class _Span(NamedTuple):
    begin: int
    end: int


class Crowd:
    """Threads that ask at the same time, one for each key, also if it is the same key."""

    def __init__(self, ask: Callable[[str], object], keys: Sequence[str], calls: int) -> None:
        self._ask = ask
        self._keys = keys
        self._calls = calls

    def time(self) -> float:
        """Time from the start of the first to the end of the last: ns a decision of all.

        Tried again if a thread dies of an exception: limits' storage now and then starts a timer twice.
        """
        for _ in range(10):
            spans = self._spans()
            if len(spans) == len(self._keys):
                whole = max(span.end for span in spans) - min(span.begin for span in spans)
                return whole / (self._calls * len(self._keys))
        raise RuntimeError("in ten runs of the threads, one of them always died")

    def _spans(self) -> list[_Span]:
        barrier = threading.Barrier(len(self._keys))
        spans: list[_Span] = []

        def work(key: str) -> None:
            barrier.wait()
            begin = perf_counter_ns()
            with suppress(Exception):
                hot(self._ask, key, self._calls)
                spans.append(_Span(begin, perf_counter_ns()))

        workers = [threading.Thread(target=work, args=(key,)) for key in self._keys]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return spans

"""Waiting under stress: many waiters, slow stores, clocks that are set, interrupts and signal handlers."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import pytest
from interrupts import Storm

from ratekeeper import AsyncLimiter, LeakyBucket, Limiter, ManualClock, MemoryStore, TokenBucket
from ratekeeper.decision import Charge, Decision
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores.base import ChargeGate, Gate, WaitForTurn
from ratekeeper.waiting.turns import await_turn, take_turn
from ratekeeper.waiting.wait_queue import WaitQueue
from ratekeeper.waiting.waitlist import Waiter

MANY = 20_000


def line_up(limiter: Limiter, count: int, cost: int = 1) -> list[Waiter]:
    waiters = [Waiter(lambda: None) for _ in range(count)]
    for waiter in waiters:
        limiter.store.wait_queue.join(waiter, limiter._charges("key", cost, None))
    return waiters


def time_give_ups(count: int) -> float:
    limiter = Limiter(LeakyBucket(10 * count, "1/hour") if count < 2000 else LeakyBucket(count, "1/minute"))
    waiters = line_up(limiter, count)
    giving_up = Random(1).sample(waiters[1:], 500)
    began = time.process_time()
    for waiter in giving_up:
        limiter.store.wait_queue.give_up(waiter)
    return time.process_time() - began


def test_to_give_up_costs_the_same_among_many_as_among_few() -> None:
    """One give-up among 10,000 took 135 ms."""
    few, many = min(time_give_ups(1000) for _ in range(3)), min(time_give_ups(MANY) for _ in range(3))
    assert many < 5 * few


def test_a_waiter_takes_little_memory() -> None:
    limiter = Limiter(LeakyBucket(MANY, "1/minute"))
    line_up(limiter, 10)
    tracemalloc.start()
    kept = line_up(limiter, 1000)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(kept) == 1000
    assert used < 1000 * 900


def test_a_task_that_waits_takes_little_memory() -> None:
    """It took 5 kB, of which 760 bytes were for a queue of tasks that wait for one event."""

    async def run() -> int:
        limiter = AsyncLimiter(LeakyBucket(MANY, "1/minute"), store=MemoryStore(100))
        tracemalloc.start()
        tasks = [asyncio.create_task(limiter.acquire("key")) for _ in range(1000)]
        while len(limiter.store.wait_queue) < 999:  # type: ignore[arg-type]
            await asyncio.sleep(0)
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return used

    assert asyncio.run(run()) < 1000 * 4700


def test_many_tasks_leave_at_their_turns_and_only_the_first_is_woken() -> None:
    async def run() -> None:
        clock = ManualClock(1000)
        store = MemoryStore(100, clock=clock)
        limiter = AsyncLimiter(LeakyBucket(MANY, 1000), store=store)
        woken: list[int] = []
        waiters = [Waiter(lambda number=number: woken.append(number)) for number in range(2000)]  # type: ignore[misc]
        for waiter in waiters:
            store.wait_queue.join(waiter, limiter._charges("key", 1, None))
        for waiter in waiters[1000:1500]:
            store.wait_queue.give_up(waiter)
        assert not woken, "nobody's turn is nearer than it knows, but for those behind, who will be told"
        store.wait_queue.give_up(waiters[1])
        assert woken == [2]

    asyncio.run(run())


class SlowStore:
    """A store that blocks its thread for a while before it answers."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.clock = store.clock
        self.adjust, self.reset_scope = store.adjust, store.reset_scope
        self.wait_queue = WaitQueue(self, self.clock)
        self.asking = self.most_at_once = 0
        self.counting = threading.Lock()
        self.answer = threading.Event()

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        self._wait()
        return self._store.decide(charges, commit=commit)

    def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        self._wait()
        self._store.refund(charges, at_ticks)

    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        self._wait()
        return self._store.rewind(scope, key, expected_ticks, tat_ticks)

    def bind(self, scopes: tuple[str, ...], limits: tuple[object, ...], wait: WaitForTurn) -> Gate:
        return ChargeGate(self, scopes, limits, wait)  # type: ignore[arg-type]

    def _wait(self) -> None:
        with self.counting:
            self.asking += 1
            self.most_at_once = max(self.most_at_once, self.asking)
        self.answer.wait(30)
        with self.counting:
            self.asking -= 1


def test_threads_that_wait_and_refund_ask_a_slow_store_side_by_side() -> None:
    """32 threads at 10 ms a round trip made 91 refunds a second, and 208 waits: one lock was held all the while."""
    store = SlowStore(MemoryStore(100))
    limiter = Limiter(TokenBucket(100, 100_000), store=store)
    store.answer.set()
    taken = [limiter.try_acquire("key", 5) for _ in range(8)]
    store.answer.clear()
    verbs: list[Callable[[], object]] = [partial(limiter.refund, one) for one in taken]
    verbs += [partial(limiter.acquire, "key")] * 8
    threads = [threading.Thread(target=verb) for verb in verbs]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while store.asking < len(threads) and time.monotonic() < deadline:
        time.sleep(0.001)
    store.answer.set()
    for thread in threads:
        thread.join()
    assert store.most_at_once == len(threads)


class SetClock:
    """A server's clock that is set while this process's goes on."""

    def __init__(self) -> None:
        self.server, self._local = ManualClock(5000), ManualClock(1000)
        self.wait, self.wait_async = self._wait, self.server.wait_async

    def ticks(self) -> int:
        return self.server.ticks()

    def local(self) -> int:
        return self._local.ticks()

    def _wait(self, woken: threading.Event, until: int) -> None:
        self.server.advance_ticks(until - self.local())
        self._local.set_ticks(until)


@pytest.mark.parametrize("step", [-20, 20])
def test_a_turn_is_kept_by_this_machine_s_clock_though_the_server_s_is_set(step: int) -> None:
    """A wait of 1 s took 21 when the server's clock stepped back by 20 s."""
    clock = SetClock()
    limiter = Limiter(TokenBucket(1, 1), store=MemoryStore(100, clock=clock))
    _, second, third = line_up(limiter, 3)
    clock.server.advance(step)
    began = clock.local()
    for waiter in (second, third):
        await_turn(limiter.store, waiter, threading.Event())
    assert clock.local() - began == 2 * TICKS_PER_SECOND
    if step > 0:
        assert line_up(limiter, 1)[0].waitlist is None, "by the server's clock, the bucket is full"


@pytest.mark.parametrize("core", ["c", "python"])
def test_a_verb_in_the_middle_of_a_wait_of_the_same_thread_is_never_a_deadlock(core: str) -> None:
    """As in a signal's handler, or in a __del__ that the garbage collector calls."""
    limiter = Limiter(TokenBucket(1, "1/hour"), store=MemoryStore(100, implementation=core))  # type: ignore[arg-type]
    taken = limiter.try_acquire("key")
    waiter = line_up(limiter, 1)[0]

    def full_at() -> int:
        looked = limiter.peek("key", 0)
        return looked.at_ticks + looked.debt_ticks

    def handler() -> None:
        assert limiter.try_acquire("other")
        limiter.refund(taken)
        before = full_at()
        with pytest.raises(RuntimeError, match="signal handler or __del__"):
            limiter.acquire("key")
        assert full_at() == before, "nothing was charged"
        limiter.store.wait_queue.give_up(waiter)

    limiter.store.wait_queue._section(handler)
    assert len(limiter.store.wait_queue) == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a coroutine that never began
def test_an_interrupt_storm_loses_at_most_the_interrupted_and_leaves_nobody_in_line() -> None:
    """A signal's handler raises at any moment of a wait."""
    limiter = Limiter(LeakyBucket(1000, 2000), TokenBucket(3, 2000))
    storm = Storm(seed=600)
    began = limiter.store.clock.ticks()
    for _ in range(600):
        storm.strike(lambda: limiter.acquire("key"))
    assert storm.struck
    limiter.acquire("key")  # whoever is left dead in line is passed by
    took = limiter.store.clock.ticks() - began
    assert storm.spared * limiter.limits[0].interval <= took + limiter.limits[0].interval
    gc.collect()
    limiter.store.wait_queue._sweep()
    assert len(limiter.store.wait_queue) == 0
    waits = threading.Thread(target=lambda: limiter.acquire("key"))
    waits.start()
    waits.join(30)
    assert not waits.is_alive(), "no lock is left behind"


def test_a_task_of_a_loop_that_is_gone_leaves_its_place_to_those_behind() -> None:
    clock = ManualClock(1000)
    limiter = Limiter(LeakyBucket(10, 1), store=MemoryStore(100, clock=clock))
    line_up(limiter, 1)
    first = line_up(limiter, 1)[0]
    gone = Waiter(lambda: False)
    limiter.store.wait_queue.join(gone, limiter._charges("key", 1, None))
    behind = line_up(limiter, 1)[0]
    limiter.store.wait_queue.give_up(first)
    assert behind.leaves_at == clock.ticks() + TICKS_PER_SECOND


def test_a_refused_wait_leaves_nothing_behind() -> None:
    limiter = Limiter(TokenBucket(1, "1/hour"))
    limiter.acquire("key")
    for _ in range(10):
        assert not take_turn(limiter.store, limiter._charges("key", 1, 1))[0]
    assert not limiter.store.wait_queue._lists


def test_a_reset_leaves_no_place_of_before_to_newcomers() -> None:
    limiter = Limiter(LeakyBucket(10, "1/hour"))
    waiters = line_up(limiter, 3)
    limiter.store.decide(limiter._charges("key", 1, None))  # one unseen behind them: their places cannot be taken back
    for waiter in waiters[1:]:
        limiter.store.wait_queue.give_up(waiter)
    limiter.reset("key")
    assert limiter.reserve("key").delay == 0


def test_keys_whose_waiters_have_left_take_no_memory() -> None:
    clock = ManualClock(1000)
    limiter = Limiter(TokenBucket(1, 1), LeakyBucket(5, 2), store=MemoryStore(1000, clock=clock))
    for number in range(100):
        for _ in range(2):
            limiter.acquire(str(number))
        limiter.reserve(str(number)).cancel()
    assert not limiter.store.wait_queue._lists
    for number in range(100):
        limiter.reserve(f"never used {number}")
        limiter.reserve(f"never used {number}")
        clock.advance(10)
    assert len(limiter.store.wait_queue._lists) <= 2

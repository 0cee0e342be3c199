"""LeakyQueue: items leave in order, at a constant rate, to whoever takes them; none is lost, none leaves early."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from fractions import Fraction
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interrupts import Storm
from servers import PATIENCE

from ratekeeper import LeakyQueue, LimitError, ManualClock, QueueClosed, QueueEmpty, QueueFull
from ratekeeper.leaky_queue import _Consumer
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.testing import frozen


@given(
    st.sampled_from([3, 10, Fraction(7, 60), 999_983]),
    st.lists(st.tuples(st.sampled_from(["put", "get", "time"]), st.integers(0, 9)), max_size=60),
)
def test_items_leave_in_order_and_never_closer_than_the_rate(rate: Fraction, trace: list[tuple[str, int]]) -> None:
    clock = ManualClock(start=1000)
    items: LeakyQueue[int] = LeakyQueue(5, rate, clock=clock)
    left: list[tuple[int, int]] = []
    put = 0
    for verb, number in trace:
        if verb == "put" and len(items) < 5:
            items.put(put)
            put += 1
        elif verb == "get" and len(items):
            left.append((items.get(), clock.ticks()))
        elif verb == "time":
            clock.advance_ticks(number * items.limit.interval // 4)
    items.close()
    left += [(item, clock.ticks()) for item in items]
    assert [item for item, _ in left] == list(range(put))
    for (_, earlier), (_, later) in pairwise(left):
        assert later - earlier >= items.limit.interval


def test_a_full_queue_refuses_and_counts() -> None:
    items: LeakyQueue[str] = LeakyQueue(2, 10, clock=ManualClock())
    items.put("a")
    items.put("b")
    with pytest.raises(QueueFull, match="2 items wait already"):
        items.put("c")
    with pytest.raises(queue.Full, match="2 items wait already"):
        items.put("d")
    assert len(items) == 2
    assert items.stats()[0::2] == (2, 2)


def test_stats_tell_of_the_longest_wait() -> None:
    clock = ManualClock(start=1000)
    items: LeakyQueue[str] = LeakyQueue(5, 10, clock=clock)
    for item in "abc":
        items.put(item)
    assert [items.get() for _ in range(2)] == ["a", "b"]
    clock.advance(2)
    assert items.stats() == (1, 2.1, 0, 2)


def test_closing_lets_the_rest_out_in_turn_or_returns_it() -> None:
    clock = ManualClock(start=1000)
    items: LeakyQueue[str] = LeakyQueue(5, 1, clock=clock)
    for item in "abc":
        items.put(item)
    assert items.close() == []
    with pytest.raises(QueueClosed, match="takes no more"):
        items.put("d")
    assert list(items) == ["a", "b", "c"]
    assert clock.ticks() == 1002 * TICKS_PER_SECOND
    with pytest.raises(QueueClosed, match="the queue is closed and empty"):
        items.get()
    dropped: LeakyQueue[str] = LeakyQueue(5, 1, clock=clock)
    dropped.put("a")
    assert dropped.close(drop=True) == ["a"]
    assert list(dropped) == []


def test_get_gives_up_at_its_timeout_and_loses_nothing() -> None:
    clock = ManualClock(start=1000)
    items: LeakyQueue[str] = LeakyQueue(5, 1, clock=clock)
    with pytest.raises(QueueEmpty, match="no item's turn came before the timeout"):
        items.get(timeout=0.5)
    items.put("a")
    items.put("b")
    assert items.get(timeout=0) == "a"
    with pytest.raises(queue.Empty, match="no item's turn came before the timeout"):
        items.get(timeout=0.5)
    assert items.get(timeout=0.5) == "b"
    with pytest.raises(ValueError, match="timeout must be"):
        items.get(timeout=-1)


@pytest.mark.parametrize("held", [False, True])
def test_a_consumer_without_a_timeout_waits_for_an_item_on_a_clock_that_waiting_moves(held: bool) -> None:
    """It moved the clock to the end of its range: an error of the clock's ended the consumer."""
    clock = None if held else ManualClock(start=1000)
    with frozen() if held else nullcontext(), ThreadPoolExecutor(1) as pool:
        items: LeakyQueue[str] = LeakyQueue(5, 1, clock=clock)
        began = items._clock.ticks()
        taken = pool.submit(items.get)
        while not items._consumers and not taken.done():
            pass
        items.put("a")
        assert taken.result(PATIENCE) == "a"
        assert items._clock.ticks() == began


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_queue_is_not_copied(copied: Callable[[object], object]) -> None:
    """A shallow copy had the same items, and let them out at twice the rate."""
    with pytest.raises(TypeError, match=r"^LeakyQueue cannot be pickled or copied: a copy would"):
        copied(LeakyQueue(5, 10))


def test_a_rate_or_capacity_that_cannot_be_is_an_error() -> None:
    with pytest.raises(LimitError, match="leak_rate: a rate must be positive, not 0"):
        LeakyQueue(5, 0)
    with pytest.raises(LimitError, match="capacity must be at least 0, not -1"):
        LeakyQueue(-1, 5)


def test_threads_take_each_item_once_in_order_none_early() -> None:
    items: LeakyQueue[int] = LeakyQueue(1000, 1000)
    lock = threading.Lock()
    taken: list[int] = []

    def consume() -> None:
        for item in items:
            with lock:
                taken.append(item)

    consumers = [threading.Thread(target=consume) for _ in range(8)]
    for consumer in consumers:
        consumer.start()
    began = items._clock.ticks()
    for number in range(100):
        items.put(number)
    items.close()
    for consumer in consumers:
        consumer.join()
    assert sorted(taken) == list(range(100))
    assert items._clock.ticks() - began >= 99 * items.limit.interval


def test_tasks_take_what_threads_put_and_a_cancelled_one_loses_nothing() -> None:
    async def run() -> None:
        items: LeakyQueue[int] = LeakyQueue(100, 1000)
        cancelled = [asyncio.create_task(items.get_async()) for _ in range(3)]
        await asyncio.sleep(0)
        producer = threading.Thread(target=lambda: list(map(items.put, range(50))))
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        producer.start()
        await asyncio.to_thread(producer.join)
        items.close()
        assert [item async for item in items] == list(range(50))
        assert not items._consumers

    asyncio.run(run())


def test_closing_wakes_all_who_wait_for_an_item() -> None:
    items: LeakyQueue[int] = LeakyQueue(5, 1)
    ended = [threading.Thread(target=lambda: list(items)) for _ in range(3)]
    for thread in ended:
        thread.start()
    items.close()
    for thread in ended:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in ended)


def test_after_a_stall_items_leave_no_closer_than_before() -> None:
    """At 20 a second, items left 0.01 ms after another when their consumers had been held up."""
    clock = ManualClock(start=1000)
    items: LeakyQueue[int] = LeakyQueue(5, 20, clock=clock)
    for number in range(5):
        items.put(number)
    left: list[int] = []
    for stall in (0.0, 0.4, 0.0, 0.004, 0.0):
        consumer = items_consumer(items)
        clock.set_ticks(max(clock.ticks(), items._free_at))
        clock.advance(stall)
        entry, _ = items._take(consumer, None)
        assert entry is not None
        left.append(clock.ticks())
    gaps = [later - earlier for earlier, later in pairwise(left)]
    assert all(gap >= items.limit.interval * 9 // 10 for gap in gaps), gaps
    assert gaps[-1] == items.limit.interval - 0.004 * TICKS_PER_SECOND, "one that is late by a little keeps the pace"


def items_consumer(items: LeakyQueue[int]) -> _Consumer[int]:
    consumer: _Consumer[int] = _Consumer(lambda: None, items._clock.ticks())
    items._enter(consumer)
    return consumer


def test_interrupted_consumers_lose_no_item_and_none_stays_at_the_head() -> None:
    """A signal's handler raises, at any moment of a get."""
    items: LeakyQueue[int] = LeakyQueue(1000, 1_000_000)
    taken: list[int] = []
    storm = Storm(seed=300)
    for number in range(300):
        items.put(number)
        with suppress(QueueEmpty):
            item = storm.strike(partial(items.get, timeout=0))
            if item is not None:
                taken.append(item)
    items.close()
    rest = list(items)
    assert not items._consumers
    assert len(set(taken + rest)) == len(taken + rest), "none is there twice"
    assert len(taken + rest) >= 300 - storm.struck, "one may be lost as get returns it, and no more"


def test_tasks_of_a_loop_that_was_closed_do_not_stay_in_line() -> None:
    items: LeakyQueue[int] = LeakyQueue(5, 1000)
    loop = asyncio.new_event_loop()
    left_behind = loop.create_task(items.get_async())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    items.put(1)
    assert items.get(timeout=30) == 1
    assert not left_behind.done()
    left_behind._log_destroy_pending = False  # type: ignore[attr-defined]
    del left_behind
    gc.collect()


@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("behind", ["a thread", "a task"])
def test_those_behind_tasks_of_a_loop_that_closes_after_it_was_woken_go_on(behind: str, timeout: float | None) -> None:
    items: LeakyQueue[int] = LeakyQueue(5, 1000)
    loop = asyncio.new_event_loop()
    left_behind = [loop.create_task(items.get_async()) for _ in range(2)]
    loop.run_until_complete(asyncio.sleep(0))
    got: list[int] = []

    def take() -> None:
        got.append(asyncio.run(items.get_async()) if behind == "a task" else items.get(timeout))

    thread = threading.Thread(target=take)
    thread.start()
    while len(items._consumers) < 3:
        pass
    items.put(1)  # it wakes a task that will never run
    loop.close()
    thread.join(timeout=30)
    items.close()
    assert got == [1]
    for task in left_behind:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    left_behind.clear()
    gc.collect()


def test_a_verb_in_a_signal_handler_or_del_is_an_error_rather_than_a_deadlock() -> None:
    calls: list[int] = []

    class Interrupted(ManualClock):
        def ticks(self) -> int:
            calls.append(1)
            if len(calls) == 3:  # put and get have read the time; now get looks whether it is an item's turn
                with pytest.raises(RuntimeError, match="signal handler"):
                    items.get()
                items.put(2)
            return super().ticks()

    items: LeakyQueue[int] = LeakyQueue(5, 1000, clock=Interrupted())
    calls.clear()
    items.put(1)
    assert [items.get(), items.get()] == [1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_items_and_no_consumers() -> None:
    items: LeakyQueue[int] = LeakyQueue(5, 1000)
    items_consumer(items)
    items._lock.acquire()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        items.put(1)
        os._exit(0 if items.get(timeout=5) == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0

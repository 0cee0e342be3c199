"""Many threads on one limiter: exact on a frozen clock, within the bound on a running one, always all or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Literal

import pytest
from needs import no_waiting
from oracles import assert_windows_hold

from ratekeeper import Limiter, ManualClock, MemoryStore, TokenBucket
from ratekeeper.stores.table_store import TableStore

THREADS = 8


@pytest.fixture(autouse=True)
def threads_switch_as_often_as_they_can() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[int], int]) -> int:
    """Run `work` in all threads, started together. Return the sum of their results."""
    barrier = Barrier(THREADS)

    def run(number: int) -> int:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(run, range(THREADS)))


def test_on_a_frozen_clock_exactly_the_capacity_is_admitted(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(1000, 1), store=store)
    assert in_threads(lambda _: sum(bool(limiter.try_acquire("hot")) for _ in range(500))) == 1000


def test_two_limits_are_charged_together_or_not_at_all(store: TableStore) -> None:
    """Each thread has its own limit and all share one: the charge of each bucket is the sum of its admissions."""
    shared, own = TokenBucket(700, 1), TokenBucket(100, 1)
    limiters = [Limiter(own, store=store, name=f"own {n}") for n in range(THREADS)]
    both = [store.bind((f"own {n}/0", "shared/0"), (own, shared), no_waiting) for n in range(THREADS)]
    admitted = in_threads(lambda n: sum(bool(both[n].try_acquire("key")) for _ in range(200)))
    assert admitted == 700
    left_of_own = sum(limiter.peek("key").remaining for limiter in limiters)
    assert THREADS * 100 - left_of_own == admitted
    assert Limiter(shared, store=store, name="shared").peek("key").remaining == 0


@pytest.mark.parametrize("limit", [TokenBucket(50, 20_000), TokenBucket(3, 999_983)], ids=str)
def test_on_a_running_clock_no_window_holds_more_than_capacity_and_refill(
    implementation: Literal["c", "python"], limit: TokenBucket
) -> None:
    limiter = Limiter(limit, store=MemoryStore(1000, implementation=implementation))
    history: list[list[int]] = [[] for _ in range(THREADS)]

    def hammer(number: int) -> int:
        for _ in range(2000):
            decision = limiter.try_acquire("hot")
            if decision:
                history[number].append(decision.at_ticks)
        return len(history[number])

    assert in_threads(hammer) >= limit.capacity
    admitted = sorted(at for thread in history for at in thread)
    assert_windows_hold(limit, admitted)


def test_a_clock_that_others_move_never_lets_more_through_than_it_shows(
    implementation: Literal["c", "python"], clock: ManualClock
) -> None:
    limit = TokenBucket(10, 100)
    limiter = Limiter(limit, store=MemoryStore(1000, clock=clock, implementation=implementation))

    def work(number: int) -> int:
        admitted = 0
        for _ in range(300):
            if number == 0:
                clock.advance_ticks(limit.interval // 8)
            else:
                admitted += bool(limiter.try_acquire("hot"))
        return admitted

    assert in_threads(work) <= 10 + 300 // 8

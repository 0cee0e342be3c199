"""Many processes on one shared table: exact on a frozen clock, within the bound on a running one, whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from needs import no_waiting
from oracles import assert_windows_hold

from ratekeeper import IMPLEMENTATION, Decision, Limiter, ManualClock, SharedMemoryStore, TokenBucket
from ratekeeper.limits import Limit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        IMPLEMENTATION != "c" and os.environ.get("RATEKEEPER_TEST_EVERYTHING") != "1",
        reason="the C core is not installed",
    ),
]

PROCESSES = 4

# The variables of each process of a crew.
store: SharedMemoryStore
barrier: Barrier


def begin(given: SharedMemoryStore, at: Barrier, frozen: bool) -> None:
    """Begin a process: with the given store or, for a clock that stands still, with a new one."""
    global store, barrier  # noqa: PLW0603  a process's own
    store = SharedMemoryStore.open(given.path, clock=ManualClock(start=1000)) if frozen else given
    barrier = at


@contextmanager
def crew(shared: SharedMemoryStore, frozen: bool = False) -> Iterator[Callable[..., list[Any]]]:
    """Spawned processes on a table; yields what runs a function once in each, all at the same time."""
    context = multiprocessing.get_context("spawn")
    begun = (shared, context.Barrier(PROCESSES), frozen)
    with ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=begin, initargs=begun) as pool:
        yield lambda work, *args: list(pool.map(work, range(PROCESSES), *([argument] * PROCESSES for argument in args)))


def hammer(_: int, limit: Limit, key: str, asks: int) -> int:
    ask = Limiter(limit, store=store, name="hot").try_acquire
    barrier.wait()
    return sum(bool(ask(key)) for _ in range(asks))


def test_on_a_frozen_clock_exactly_the_capacity_is_admitted_though_processes_collide(tmp_path: Path) -> None:
    limit, asks = TokenBucket(200_000, 1), 100_000
    with SharedMemoryStore(tmp_path / "table", 1000) as shared, crew(shared, frozen=True) as in_all:
        for again in range(100):
            assert sum(in_all(hammer, limit, f"key {again}", asks)) == 200_000
            if shared.stats().retries:
                break
        assert shared.stats().retries > 0, "two processes must have met in one cell, or this shows nothing"


def hammer_for_history(_: int, limit: Limit, asks: int) -> list[int]:
    ask = Limiter(limit, store=store, name="hot").try_acquire
    barrier.wait()
    decisions: list[Decision] = [ask("hot") for _ in range(asks)]
    return [decision.at_ticks for decision in decisions if decision]


@pytest.mark.parametrize("limit", [TokenBucket(50, 20_000), TokenBucket(3, 999_983)], ids=str)
def test_on_a_running_clock_no_window_holds_more_than_capacity_and_refill(tmp_path: Path, limit: TokenBucket) -> None:
    with SharedMemoryStore(tmp_path / "table", 1000) as shared, crew(shared) as in_all:
        histories = in_all(hammer_for_history, limit, 20_000)
    merged = sorted(at for history in histories for at in history)
    assert len(merged) >= limit.capacity
    assert_windows_hold(limit, merged)


def hammer_both(number: int, shared_limit: Limit, own_limit: Limit, asks: int) -> int:
    both = [("all/0", shared_limit), (f"own {number}/0", own_limit)]
    scopes, limits = zip(*(reversed(both) if number % 2 else both), strict=True)  # in opposite order
    ask = store.bind(scopes, limits, no_waiting).try_acquire
    barrier.wait()
    return sum(bool(ask("key")) for _ in range(asks))


def test_two_limits_are_charged_together_or_not_at_all(tmp_path: Path) -> None:
    """Each process has its own limit and all share one: the charge of each bucket is the sum of its admissions."""
    limit, own = TokenBucket(9_000, 1), TokenBucket(3_000, 1)
    with SharedMemoryStore(tmp_path / "table", 1000) as shared, crew(shared, frozen=True) as in_all:
        admitted = in_all(hammer_both, limit, own, 8_000)
    assert sum(admitted) == 9_000
    with SharedMemoryStore.open(tmp_path / "table", clock=ManualClock(start=1000)) as shared:
        left = [Limiter(own, store=shared, name=f"own {n}").peek("key").remaining for n in range(PROCESSES)]
        assert [3_000 - one for one in left] == admitted
        assert Limiter(limit, store=shared, name="all").peek("key").remaining == 0


def attach_and_hammer(_: int, path: Path, asks: int) -> int:
    barrier.wait()
    ask = Limiter(TokenBucket(1_000, "1/day"), store=SharedMemoryStore(path, 100)).try_acquire
    return sum(bool(ask("hot")) for _ in range(asks))


def test_processes_that_all_come_first_make_one_table(tmp_path: Path) -> None:
    with SharedMemoryStore(tmp_path / "another", 100) as shared, crew(shared) as in_all:
        for again in range(20):
            assert sum(in_all(attach_and_hammer, tmp_path / f"table {again}", 400)) == 1_000


FORKED = """
import os, sys
from ratekeeper import Limiter, SharedMemoryStore
store = SharedMemoryStore(sys.argv[1], 1000)
limiter = Limiter("1000/day", store=store)
children = []
for _ in range(4):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, b"%d" % sum(bool(limiter.try_acquire("hot")) for _ in range(400)))
        os._exit(0)
    children.append(read)
    os.close(write)
assert sum(int(os.read(read, 9)) for read in children) == 1000
assert limiter.peek("hot").remaining == 0
"""


def test_forked_children_go_on_with_the_parents_limiter(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, str(tmp_path / "table")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


KILLED = """
import os, random, signal, sys, time
from ratekeeper import Limiter, ManualClock, SharedMemoryStore, TokenBucket
WAVES, VICTIMS = 300, 3
store = SharedMemoryStore(sys.argv[1], 200, clock=ManualClock(start=1000))
one, two = TokenBucket(10**7, 1), TokenBucket(10**8, 1)
limiter = Limiter(one, two, store=store, name="both")
passing = Limiter(TokenBucket(1, 10**9), store=store, name="passing")  # owes so little that it is evicted first

def be_killed(write):
    while True:
        if limiter.try_acquire("hot"):
            os.write(write, b".")  # told only after it was charged
        passing.try_acquire_many([random.randbytes(4) for _ in range(10)])  # keys that come and go

told = kills = 0
chance = random.Random(5)
for wave in range(WAVES):
    read, write = os.pipe()
    victims = []
    for _ in range(VICTIMS):
        victims.append(os.fork())
        if not victims[-1]:
            be_killed(write)
    os.close(write)
    time.sleep(chance.random() * 0.004)  # a random moment
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    for victim in victims:
        os.waitpid(victim, 0)
        kills += 1
    while text := os.read(read, 65536):
        told += len(text)
    os.close(read)
left = limiter.peek("hot").remaining
charged = 10**7 - left
assert told <= charged <= told + kills, (told, charged, kills)
assert limiter.try_acquire("hot", left) and not limiter.try_acquire("hot")  # nobody is stuck, nothing is lost
assert passing.try_acquire("newcomer")
print(f"{kills} killed, {told} told of {charged} charged")
"""


def test_workers_killed_at_random_moments_lose_at_most_the_request_each_was_at(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "table")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("900 killed")

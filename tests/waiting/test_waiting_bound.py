"""Requests obey each limit by their time of leaving, whoever waits, gives up or refunds, in any process.

Each process is a wait queue on one table, on a manual clock. The oracle knows no ranges: it adds up.

    .venv/bin/python tests/waiting/test_waiting_bound.py 100_000        # so many traces, with fresh seeds
    .venv/bin/python tests/waiting/test_waiting_bound.py 1 --seed 7     # the trace that broke a limit, again
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from random import Random, SystemRandom
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import Decision, LeakyBucket, Limiter, ManualClock, MemoryStore, TokenBucket
from ratekeeper.core import IMPLEMENTATION
from ratekeeper.limits import TICKS_PER_SECOND, Limit
from ratekeeper.stores.table_store import TableStore
from ratekeeper.waiting.joining import Joining
from ratekeeper.waiting.waitlist import Waiter, Waitlist

CORES = ["c", "python"] if IMPLEMENTATION == "c" else ["python"]


class Left(NamedTuple):
    when: int
    cost: int
    process: int
    number: int


class Fleet:
    """Processes that share one table, and what has left them."""

    def __init__(self, processes: int, limits: tuple[Limit, ...], core: str = CORES[0]) -> None:
        self.clock = ManualClock(start=1000)
        self.limits = limits
        first = MemoryStore(1000, clock=self.clock, implementation=core)  # type: ignore[arg-type]
        stores = [first, *(TableStore(first._table, 1000, self.clock) for _ in range(processes - 1))]
        self.limiters = [Limiter(*limits, store=store, name="it") for store in stores]
        self.waiting: list[tuple[int, int, Waiter, int]] = []  # process, number, waiter, cost
        self.at_once: list[tuple[Decision, int, Left]] = []
        self.left: list[Left] = []
        self.came = 0

    def come(self, process: int, cost: int = 1, timeout: float | None = None) -> bool:
        number, self.came = self.came, self.came + 1
        limiter, waiter = self.limiters[process], Waiter(lambda: None)
        decisions = limiter.store.wait_queue.join(waiter, limiter._charges("key", cost, timeout))
        if not all(decisions):
            return False
        promised = waiter.leaves_at
        assert timeout is None or promised - self.clock.ticks() <= timeout * TICKS_PER_SECOND
        self.waiting.append((process, number, waiter, cost))
        self._let_go()
        return True

    def take(self, process: int, cost: int = 1) -> bool:
        decision = self.limiters[process]._gate.reserve("key", cost, 0)
        if decision:
            left = Left(self.clock.ticks(), cost, process, -1)
            self.left.append(left)
            self.at_once.append((decision, process, left))
        return bool(decision)

    def refund(self, choice: int) -> None:
        """A refunded request did not happen, whether or not the store could give anything back."""
        if self.at_once:
            decision, process, left = self.at_once.pop(choice % len(self.at_once))
            self.limiters[process].refund(decision)
            self.left.remove(left)

    def give_up(self, choice: int) -> None:
        if self.waiting:
            process, _, waiter, _ = self.waiting.pop(choice % len(self.waiting))
            self.limiters[process].store.wait_queue.give_up(waiter)
            self._let_go()

    def advance(self, ticks: int) -> None:
        end = self.clock.ticks() + ticks
        while self.waiting:
            turn = min(waiter.leaves_at for _, _, waiter, _ in self.waiting)
            if turn > end:
                break
            self.clock.set_ticks(max(turn, self.clock.ticks()))
            self._let_go()
        self.clock.set_ticks(end)

    def finish(self) -> None:
        while self.waiting:
            self.advance(TICKS_PER_SECOND)

    def check(self) -> None:
        """Each limit holds over each time, and each process's waiters leave in order of arrival."""
        for limit in self.limits:
            keeps(limit, self.left)
        for process in range(len(self.limiters)):
            numbers = [left.number for left in self.left if left.process == process and left.number >= 0]
            assert numbers == sorted(numbers)

    def _let_go(self) -> None:
        now = self.clock.ticks()
        due = [one for one in self.waiting if one[2].leaves_at <= now]
        for one in sorted(due, key=lambda one: (one[2].leaves_at, one[1])):
            process, number, waiter, cost = one
            assert self.limiters[process].store.wait_queue.leave(waiter) is not False
            self.waiting.remove(one)
            self.left.append(Left(now, cost, process, number))


def keeps(limit: Limit, left: list[Left]) -> None:
    """Raise unless what left obeys a limit: a bucket over any time, a queue from one to the next."""
    left = sorted(left)
    if limit.queues:
        for earlier, later in pairwise(left):
            assert later.when - earlier.when >= earlier.cost * limit.interval, (earlier, later)
        return
    worst = 0  # of all times that end here, the most that left over what the time allows
    for earlier, later in pairwise([Left(0, 0, 0, 0), *left]):
        worst = max(0, worst - (later.when - earlier.when)) + later.cost * limit.interval
        assert worst <= limit.full, later


LIMITS: dict[str, tuple[Limit, ...]] = {
    "token": (TokenBucket(4, 3),),
    "leaky": (LeakyBucket(30, 3),),
    "token and leaky": (TokenBucket(3, 1), LeakyBucket(30, 2)),
    "two tokens": (TokenBucket(8, 1), TokenBucket(4, 5)),
    "three": (TokenBucket(4, 3), TokenBucket(6, 1), LeakyBucket(30, 5)),
}


def play(fleet: Fleet, chance: Random, verbs: list[str], steps: int = 60) -> None:
    costs = chance.choice([[1], [1, 2, 3]])
    grain = fleet.limits[0].interval // 4
    for _ in range(steps):
        process, verb = chance.randrange(len(fleet.limiters)), chance.choice(verbs)
        if verb == "come":
            fleet.come(process, chance.choice(costs), chance.choice([None, None, 1, 2.5]))
        elif verb == "take":
            fleet.take(process, chance.choice(costs))
        elif verb == "give up":
            fleet.give_up(chance.randrange(1000))
        elif verb == "refund":
            fleet.refund(chance.randrange(1000))
        else:
            fleet.advance(chance.randrange(9) * grain)
    fleet.finish()
    fleet.check()


VERBS = ["come", "come", "take", "give up", "refund", "advance", "advance"]


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("limits", LIMITS)
@given(seed=st.integers(0, 2**32), processes=st.integers(1, 3))
def test_what_leaves_obeys_each_limit_by_its_time_of_leaving(core: str, limits: str, seed: int, processes: int) -> None:
    play(Fleet(processes, LIMITS[limits], core), Random(seed), VERBS)


@pytest.mark.parametrize("core", CORES)
def test_a_refund_in_one_process_lets_nobody_leave_with_a_waiter_of_another(core: str) -> None:
    """Of A, 110 were admitted at one instant: the waiter's 50, and what the refund had made room for."""
    fleet = Fleet(2, (TokenBucket(100, 1), TokenBucket(50, 5)), core)
    assert fleet.take(1, 50)
    fleet.come(0, 50)
    fleet.refund(0)
    fleet.advance(fleet.waiting[0][2].leaves_at - fleet.clock.ticks())
    while fleet.take(1, 10):
        pass
    while fleet.take(1, 1):
        pass
    fleet.check()


def callers(fleet: Fleet, seconds: int, each: int, patience: float) -> None:
    """Let `each` callers a second come to each process in turn, who give up when their patience ends."""
    gap, gives_up = TICKS_PER_SECOND // each, dict[int, int]()
    for number in range(seconds * each):
        fleet.come(number % len(fleet.limiters))
        gives_up[fleet.came - 1] = fleet.clock.ticks() + int(patience * TICKS_PER_SECOND)
        end = fleet.clock.ticks() + gap
        while True:
            leaving = [(gives_up[one[1]], place) for place, one in enumerate(fleet.waiting)]
            if not leaving or min(leaving)[0] > end:
                break
            fleet.advance(max(0, min(leaving)[0] - fleet.clock.ticks()))
            for place in reversed(range(len(fleet.waiting))):
                if gives_up[fleet.waiting[place][1]] <= fleet.clock.ticks():
                    fleet.give_up(place)
        fleet.advance(end - fleet.clock.ticks())
    fleet.check()


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize(
    "limits",
    [(LeakyBucket(1000, 10),), (TokenBucket(1, 10),), (TokenBucket(1, 10), TokenBucket(50, 20))],
    ids=["leaky", "token", "two"],
)
def test_callers_with_little_patience_use_every_turn(limits: tuple[Limit, ...], processes: int) -> None:
    """At 10 a second, 20 callers a second who wait for 0.3 s each: of 600 turns, two processes used 7."""
    fleet = Fleet(processes, limits)
    callers(fleet, seconds=60, each=20, patience=0.3)
    assert len(fleet.left) >= 0.95 * 600


def test_after_callers_with_little_patience_the_bucket_is_soon_free() -> None:
    fleet = Fleet(2, (LeakyBucket(1000, 10),))
    callers(fleet, seconds=60, each=20, patience=0.3)
    assert fleet.limiters[0].peek("key", 0).debt_ticks <= TICKS_PER_SECOND


def test_a_waiter_s_turn_is_reckoned_from_each_limit_and_not_from_the_longest_wait() -> None:
    """Two waiters of one token a second left 997 ms apart."""
    fleet = Fleet(1, (TokenBucket(1, 1), TokenBucket(1, "1000/s")))
    for _ in range(5):
        fleet.come(0)
        fleet.clock.advance(0.003)
        fleet._let_go()
    fleet.finish()
    fleet.check()
    assert [later.when - earlier.when for earlier, later in pairwise(fleet.left)] == [TICKS_PER_SECOND] * 4


def test_nobody_waits_longer_than_it_was_told_whoever_gives_up() -> None:
    for seed in range(300):
        chance, fleet = Random(seed), Fleet(2, chosen(seed))
        told: dict[int, int] = {}
        for _ in range(40):
            fleet.come(chance.randrange(2), chance.choice([1, 2, 3]))
            told.update({number: waiter.leaves_at for _, number, waiter, _ in fleet.waiting if number not in told})
            if chance.random() < 0.4:
                fleet.give_up(chance.randrange(1000))
            if chance.random() < 0.5:
                fleet.advance(chance.randrange(5) * fleet.limits[0].interval // 2)
        fleet.finish()
        assert all(left.when <= told.get(left.number, left.when) for left in fleet.left)


def chosen(seed: int) -> tuple[Limit, ...]:
    return list(LIMITS.values())[seed % len(LIMITS)]


class Forgetful(set[int]):
    """A table's marks that are never seen."""

    def __contains__(self, bucket: object) -> bool:
        return False


def broken_in(traces: int, limits: str, core: str, unmend: Callable[[Fleet], None]) -> bool:
    """Return whether the oracle finds a broken limit in some of these traces."""
    for seed in range(traces):
        fleet = Fleet(2, LIMITS[limits], core)
        unmend(fleet)
        try:
            play(fleet, Random(seed), VERBS)
        except AssertionError:
            return True
    return False


def test_without_the_mark_of_a_bucket_the_oracle_finds_a_broken_limit() -> None:
    def unmend(fleet: Fleet) -> None:
        fleet.limiters[0].store._table._marked = Forgetful()  # type: ignore[attr-defined]

    assert broken_in(300, "token and leaky", "python", unmend)


def test_with_limits_charged_at_admission_the_oracle_finds_a_broken_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Joining.of
    monkeypatch.setattr(Joining, "of", lambda waiter, charges: of(waiter, charges)._replace(for_departure=False))
    assert broken_in(300, "token and leaky", CORES[0], lambda fleet: None)


def test_with_spare_ranges_that_nobody_takes_turns_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waitlist, "by_leaving", False)
    fleet = Fleet(2, (LeakyBucket(1000, 10),))
    callers(fleet, seconds=60, each=20, patience=0.3)
    assert len(fleet.left) < 0.95 * 600 or fleet.limiters[0].peek("key", 0).debt_ticks > TICKS_PER_SECOND


def play_many(traces: int, seed: int) -> None:
    """Play traces of these seeds, each with its own limits, core and number of processes."""
    for number in range(seed, seed + traces):
        chance = Random(number)
        name, core, processes = chance.choice(sorted(LIMITS)), chance.choice(CORES), chance.randint(1, 3)
        try:
            play(Fleet(processes, LIMITS[name], core), chance, VERBS)
        except AssertionError as error:
            raise AssertionError(f"--seed {number}: {name}, {core}, {processes} processes") from error


def test_random_traces_as_the_command_plays_them() -> None:
    play_many(traces=50, seed=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Play random traces against the oracle.")
    parser.add_argument("traces", type=int)
    parser.add_argument("--seed", type=int, help="of the first trace (default: chosen by the system)")
    options = parser.parse_args()
    first = SystemRandom().randrange(2**48) if options.seed is None else options.seed
    play_many(options.traces, first)
    print(f"{options.traces:,} traces from seed {first}: each limit holds, and each process serves in order of arrival")

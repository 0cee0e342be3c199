"""Waiting: by the rule, in order, without holes; a place that is given up serves others. In manual and real time."""

from __future__ import annotations

import asyncio
import random
import resource
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Any, cast

import pytest
from async_memory import AsyncMemoryStore, DrivenQueue, LateClock, turn_of
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import QueueOracle
from virtual_time import LoopClock, VirtualLoop

from ratekeeper import (
    IMPLEMENTATION,
    AsyncLimiter,
    Decision,
    LeakyBucket,
    Limiter,
    ManualClock,
    MemoryStore,
    RateLimitExceeded,
    TokenBucket,
)
from ratekeeper.decision import Charge
from ratekeeper.limits import TICKS_PER_SECOND, Limit
from ratekeeper.waiting.wait_queue import WaitQueue
from ratekeeper.waiting.waitlist import Waiter

CORES: list[Any] = ["c", "python"] if IMPLEMENTATION == "c" else ["python"]
KINDS = [*CORES, "awaited", "awaited, by a late clock"]

runner = asyncio.Runner()


@pytest.fixture(scope="module", autouse=True)
def _close_runner() -> Iterator[None]:
    yield
    runner.close()


class Simulation:
    """Waiters of one key on a manual clock, without threads: they come, give up, and leave."""

    def __init__(self, *limits: Limit, implementation: Any = CORES[0]) -> None:
        self.limits = limits
        self.clock = ManualClock(start=1000)
        core = implementation if implementation in CORES else CORES[0]
        self.store = MemoryStore(1000, clock=self.clock, implementation=core)
        self.wait_queue: WaitQueue | DrivenQueue = self.store.wait_queue
        self.late = LateClock(self.clock, behind=limits[0].interval // 3 if "late" in implementation else 0)
        if implementation not in CORES:
            self.wait_queue = DrivenQueue(AsyncMemoryStore(self.store, self.late), runner.run)
        self.waiting: dict[int, Waiter] = {}
        self.cost: dict[int, int] = {}
        self.left: list[tuple[int, int]] = []  # (who, when)
        self.came = 0
        self.scope = "{}"

    def charges(self, cost: int) -> list[Charge]:
        return [Charge.of(self.scope.format(n), "key", limit, cost, None) for n, limit in enumerate(self.limits)]

    def come(self, cost: int = 1) -> bool:
        number, self.came = self.came, self.came + 1
        waiter = Waiter(wake=lambda: None)
        decisions = self.wait_queue.join(waiter, self.charges(cost))
        self.late.heard(decisions[0].at_ticks)
        if not all(decision.allowed for decision in decisions):
            return False
        self.cost[number] = cost
        if waiter.leaves_at > self.clock.ticks():
            self.waiting[number] = waiter
        else:
            self.left.append((number, self.clock.ticks()))
        return True

    def refund(self, limiter: Limiter, decision: Decision) -> None:
        limiter.refund(decision)

    def give_up(self, *numbers: int) -> None:
        """Give up one by one or, as tasks that are cancelled together do, at once."""
        if len(numbers) == 1:
            self.wait_queue.give_up(self.waiting.pop(*numbers))
        for number in numbers[: len(numbers) * (len(numbers) > 1)]:
            self.wait_queue.give_up(self.waiting.pop(number), later=lambda _: None)
        self.wait_queue.settle()
        self.let_go()  # those that moved up may go at once

    def let_go(self) -> None:
        now = self.late.ticks()
        for number, waiter in sorted(self.waiting.items(), key=lambda item: (item[1].leaves_at, item[0])):
            if waiter.leaves_at <= now:
                assert self.wait_queue.leave(waiter)
                del self.waiting[number]
                self.left.append((number, waiter.leaves_at if self.late.behind else now))

    def advance(self, ticks: int) -> None:
        """Go on, stopping at each turn."""
        end = self.clock.ticks() + ticks
        while self.waiting:
            turn = min(waiter.leaves_at for waiter in self.waiting.values()) + self.late.behind
            if turn > end:
                break
            self.clock.set_ticks(max(turn, self.clock.ticks()))
            self.let_go()
        self.clock.set_ticks(end)

    def finish(self) -> None:
        while self.waiting:
            self.advance(TICKS_PER_SECOND)

    def state(self) -> list[int]:
        looked = self.store.decide(self.charges(0), commit=False)
        return [decision.at_ticks + decision.debt_ticks for decision in looked]


arrivals = st.tuples(st.just("come"), st.integers(1, 3))
steps = st.lists(
    arrivals | st.tuples(st.just("give up"), st.integers(0, 20)) | st.tuples(st.just("advance"), st.integers(0, 12)),
    max_size=60,
)


def play(simulation: Simulation, trace: list[tuple[str, int]], grain: int, cost: bool) -> None:
    for verb, number in trace:
        if verb == "come":
            simulation.come(number if cost else 1)
        elif verb == "advance":
            simulation.advance(number * grain // 4)
        elif simulation.waiting:
            simulation.give_up(sorted(simulation.waiting)[number % len(simulation.waiting)])


@given(st.integers(0, 8), st.sampled_from([3, 10, Fraction(7, 60), 999_983]), steps)
@pytest.mark.parametrize("core", KINDS[:-1])  # by a late clock one waits longer, and may be one too many
def test_a_leaky_bucket_lets_go_in_order_never_closer_than_its_rate_and_no_more_wait_than_its_capacity(
    core: Any, capacity: int, rate: Any, trace: list[tuple[str, int]]
) -> None:
    limit = LeakyBucket(capacity, rate)
    simulation = Simulation(limit, implementation=core)
    for step in trace:
        play(simulation, [step], limit.interval, cost=False)
        assert len(simulation.waiting) <= capacity
    simulation.finish()
    numbers = [number for number, _ in simulation.left]
    assert numbers == sorted(numbers), "in order of arrival"
    for (_, earlier), (_, later) in pairwise(simulation.left):
        assert later - earlier >= limit.interval


@given(st.integers(0, 6), st.lists(st.integers(0, 6), max_size=40))
def test_without_anyone_giving_up_it_is_an_explicit_queue(capacity: int, gaps: list[int]) -> None:
    limit = LeakyBucket(capacity, 10)
    simulation, oracle = Simulation(limit), QueueOracle(capacity, limit.interval)
    for gap in gaps:
        simulation.advance(gap * limit.interval // 4)
        assert simulation.come() == (oracle.ask(simulation.clock.ticks()) is not None)
    simulation.finish()
    assert [when for _, when in simulation.left] == oracle.starts


@given(st.integers(3, 8), steps)
@pytest.mark.parametrize("core", KINDS)
def test_what_leaves_a_token_bucket_obeys_its_bound_whoever_gives_up(
    core: Any, capacity: int, trace: list[tuple[str, int]]
) -> None:
    limit = TokenBucket(capacity, 3)
    simulation = Simulation(limit, implementation=core)
    play(simulation, trace, limit.interval, cost=True)
    simulation.finish()
    within_bound(simulation, limit)
    numbers = [number for number, _ in simulation.left]
    assert numbers == sorted(numbers), "a large one that came first leaves first"


@example(trace=[("come", 3), ("come", 1), ("come", 3), ("come", 1), ("give up", 0)])
@given(trace=steps)
@pytest.mark.parametrize("core", KINDS)
def test_with_several_limits_what_leaves_obeys_each_of_them(core: Any, trace: list[tuple[str, int]]) -> None:
    limits = (TokenBucket(4, 3), TokenBucket(6, 1), LeakyBucket(30, 5))
    simulation = Simulation(*limits, implementation=core)
    play(simulation, trace, limits[0].interval, cost=True)
    simulation.finish()
    for limit in limits[:2]:
        within_bound(simulation, limit)
    for (number, earlier), (_, later) in pairwise(simulation.left):
        assert later - earlier >= simulation.cost[number] * limits[2].interval


def within_bound(simulation: Simulation, limit: TokenBucket) -> None:
    for first in range(len(simulation.left)):
        used = 0
        for number, when in simulation.left[first:]:
            used += simulation.cost[number]
            assert used * limit.interval <= limit.full + when - simulation.left[first][1]


@given(
    limit=st.sampled_from([LeakyBucket(20, 10), LeakyBucket(20, "7/minute"), TokenBucket(3, 10), TokenBucket(5, 3)]),
    costs=st.lists(st.integers(1, 3), min_size=1, max_size=15),
    data=st.data(),
)
@pytest.mark.parametrize("core", KINDS)
def test_after_some_give_up_all_is_as_if_they_had_never_come(
    core: Any, limit: Limit, costs: list[int], data: st.DataObject
) -> None:
    with_them, without_them = Simulation(limit, implementation=core), Simulation(limit, implementation=core)
    admitted = [number for number, cost in enumerate(costs) if with_them.come(cost)]
    # A request that went ahead at once cannot give up; any other may.
    some = [number for number in admitted if number in with_them.waiting]
    gone = data.draw(st.lists(st.sampled_from(some), unique=True)) if some else []
    if data.draw(st.booleans()):
        with_them.give_up(*gone)
    else:
        for number in gone:
            if number in with_them.waiting:
                with_them.give_up(number)
    stayed = [number for number, _ in with_them.left] + list(with_them.waiting)
    for number in sorted(stayed):
        without_them.come(costs[number])
    assert with_them.state() == without_them.state()
    with_them.finish()
    without_them.finish()
    assert [when for _, when in with_them.left] == [when for _, when in without_them.left]


def test_a_place_is_lost_if_another_came_behind_it_unseen_at_a_leaky_bucket() -> None:
    """As on a store that others share: a caller of try_acquire who sleeps by itself cannot be told to move up."""
    simulation = Simulation(LeakyBucket(10, 10))
    for _ in range(3):
        simulation.come()
    unseen = simulation.store.decide(simulation.charges(1))[0]
    before = simulation.state()
    simulation.give_up(1)
    assert simulation.state() == before
    simulation.finish()
    assert all(when != unseen.at_ticks + unseen.delay_ticks for _, when in simulation.left)


def test_nobody_moves_past_one_unseen_in_the_middle_of_the_line() -> None:
    """Else the unseen one's time would be given to the next who comes: two would leave at once."""
    simulation = Simulation(LeakyBucket(10, 10))
    simulation.come()
    simulation.come()
    unseen = simulation.store.decide(simulation.charges(1))[0]
    simulation.come()
    simulation.give_up(1)
    simulation.come()
    turns = list(map(turn_of, simulation.waiting.values()))
    turns = sorted([*turns, unseen.at_ticks + unseen.delay_ticks])
    assert all(later - earlier >= simulation.limits[0].interval for earlier, later in pairwise(turns))


def test_the_last_ones_place_is_given_back_even_if_others_are_unseen_before_it() -> None:
    simulation = Simulation(LeakyBucket(10, 10))
    simulation.store.decide(simulation.charges(1))
    simulation.store.decide(simulation.charges(1))
    before = simulation.state()
    simulation.come()
    simulation.give_up(0)
    assert simulation.state() == before


def test_who_gives_up_after_its_turn_has_come_moves_nobody() -> None:
    """Its time at the server has begun: were the others moved up, two would leave too close."""
    simulation = Simulation(LeakyBucket(10, 10))
    for _ in range(4):
        simulation.come()
    late = simulation.waiting.pop(1)
    simulation.clock.set_ticks(late.leaves_at + 1)
    turns = list(map(turn_of, simulation.waiting.values()))
    simulation.wait_queue.give_up(late)
    assert list(map(turn_of, simulation.waiting.values())) == turns


@given(st.lists(st.sampled_from(["come", "take", "refund", "give up", "advance"]), max_size=40), st.data())
@pytest.mark.parametrize("core", KINDS)
def test_refunds_and_giving_up_together_keep_the_bound(core: Any, trace: list[str], data: st.DataObject) -> None:
    """Requests that went ahead and were not refunded obey the bound."""
    limit = TokenBucket(3, 3)
    simulation = Simulation(limit, implementation=core)
    limiter = Limiter(limit, store=simulation.store, name="0")
    simulation.scope = "0/{}"  # the scope of the limiter's own charges
    taken: list[tuple[int, Any]] = []
    for verb in trace:
        if verb == "come":
            simulation.come()
        elif verb == "take" and (decision := limiter.try_acquire("key")):
            simulation.late.heard(decision.at_ticks)
            taken.append((simulation.came, decision))
            simulation.cost[simulation.came] = 1
            simulation.left.append((simulation.came, simulation.clock.ticks()))
            simulation.came += 1
        elif verb == "refund" and taken:
            number, decision = taken.pop(data.draw(st.integers(0, len(taken) - 1)))
            simulation.refund(limiter, decision)
            simulation.left = [one for one in simulation.left if one[0] != number]
            simulation.let_go()
        elif verb == "give up" and simulation.waiting:
            simulation.give_up(data.draw(st.sampled_from(sorted(simulation.waiting))))
        elif verb == "advance":
            simulation.advance(limit.interval // 2)
    simulation.finish()
    within_bound(simulation, limit)


def test_str_and_bytes_of_one_key_wait_in_one_line() -> None:
    clock = ManualClock(start=1000)
    limiter = Limiter(LeakyBucket(10, 1), store=MemoryStore(100, clock=clock))
    keys: list[str | bytes] = ["key", "key", b"key"]
    waiters = [Waiter(wake=lambda: None) for _ in range(4)]
    for waiter, key in zip(waiters[:3], keys, strict=True):
        limiter.store.wait_queue.join(waiter, limiter._charges(key, 1, None))
    limiter.store.wait_queue.give_up(waiters[1])
    limiter.store.wait_queue.join(waiters[3], limiter._charges("key", 1, None))
    assert turn_of(waiters[3]) - turn_of(waiters[2]) == TICKS_PER_SECOND


def test_rules_of_different_keys_keep_each_bound_whoever_gives_up() -> None:
    """All share one bucket, each user has one: of those behind who give up, some wait elsewhere and cannot be moved."""
    store = MemoryStore(100, clock=ManualClock(start=1000))
    everyone, user = TokenBucket(1, 10), TokenBucket(5, 10)

    def join(name: str) -> Waiter:
        waiter = Waiter(wake=lambda: None)
        charges = [Charge.of("all", "", everyone, 1, None), Charge.of("user", name, user, 1, None)]
        store.wait_queue.join(waiter, charges)
        return waiter

    first, *waiters = [join(name) for name in "ABCDEF"]
    for waiter in waiters[:3]:
        store.wait_queue.give_up(waiter)
    turns = sorted(map(turn_of, waiters[3:] + [join(name) for name in "GHI"]))
    assert first.leaves_at == 0
    for earlier, later in pairwise(turns):
        assert later - earlier >= everyone.interval


def test_one_users_wait_takes_nothing_from_the_bucket_that_all_share() -> None:
    """Charges of different keys are charged when they are made: nobody else waits for this one's turn."""
    store = MemoryStore(1000, clock=ManualClock(start=1000))
    tenant, user = TokenBucket(10, 10), LeakyBucket(5, 1)
    for _ in range(4):
        store.wait_queue.join(
            Waiter(wake=lambda: None),
            [Charge.of("tenant", "t", tenant, 1, None), Charge.of("user", "u", user, 1, None)],
        )
    [left] = store.decide([Charge.of("tenant", "t", tenant, 0)], commit=False)
    assert left.remaining == 6


# For real


def test_two_hundred_threads_leave_in_order_none_early_and_on_time() -> None:
    limiter = Limiter(LeakyBucket(200, 100), store=MemoryStore(1000))
    came = threading.Lock()
    left: list[tuple[int, int]] = []
    turns: list[int] = []

    def wait(number: int) -> None:
        decision = limiter.acquire("key")
        with came:
            turns.append(decision.at_ticks + decision.delay_ticks)
            left.append((limiter.store.clock.ticks() - turns[-1], number))

    began = time.monotonic()
    threads = [threading.Thread(target=wait, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_departures(left, time.monotonic() - began)
    for earlier, later in pairwise(sorted(turns)):  # more if a thread came late, to an idle bucket
        assert later - earlier >= limiter.limits[0].interval


def awaited(max_keys: int, clock: LoopClock | None = None) -> AsyncMemoryStore:
    return AsyncMemoryStore(MemoryStore(max_keys, clock=clock))


both_kinds = pytest.mark.parametrize("make", [MemoryStore, awaited])


async def settled(store: MemoryStore | AsyncMemoryStore) -> None:
    """Wait until those who gave up are out."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if isinstance(store, AsyncMemoryStore):
        await store.wait_queue.settle()


@both_kinds
def test_two_hundred_tasks_have_turns_in_order_and_leave_on_time_and_none_early(make: Any) -> None:
    async def run() -> None:
        limiter = AsyncLimiter(LeakyBucket(200, 100), store=make(1000))
        left: list[tuple[int, int]] = []
        waited: list[int] = []

        async def wait(number: int) -> None:
            decision = await limiter.acquire("key")
            left.append((limiter.store.clock.ticks() - decision.at_ticks - decision.delay_ticks, number))
            if decision.delay_ticks:  # else, on a busy system, it may have come to an idle bucket
                waited.append(number)

        began = time.monotonic()
        await asyncio.gather(*(wait(number) for number in range(200)))
        assert waited == sorted(waited)
        check_departures(left, time.monotonic() - began)

    asyncio.run(run())


@both_kinds
def test_tasks_that_wait_leave_in_order_wherever_the_system_stops_them(make: Any) -> None:
    """One that was stopped between its charge and its sleep was overtaken by the next."""

    class Stopped(LoopClock):
        def ticks(self) -> int:
            self._loop.sleep(chance.choice([0] * 19 + [0.025]))
            return super().ticks()

    async def run() -> list[int]:
        store = make(1000, clock=Stopped(cast("VirtualLoop", asyncio.get_running_loop())))
        limiter, waited = AsyncLimiter(LeakyBucket(200, 100), store=store), list[int]()

        async def wait(number: int) -> None:
            if (await limiter.acquire("key")).delay_ticks:
                waited.append(number)

        await asyncio.gather(*(wait(number) for number in range(30)))
        return waited

    for seed in range(200):
        chance = random.Random(seed)
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            waited = runner.run(run())
        assert waited == sorted(waited), seed


def check_departures(left: list[tuple[int, int]], took: float) -> None:
    """`left` has (ticks late, who). How late is measured in benchmarks; here, that none is early and none forgotten."""
    assert len(left) == 200
    assert min(late for late, _ in left) >= 0
    assert took >= 1.98
    # One after the other, half of them would be some fifty seconds late.
    assert median(late for late, _ in left) < 20 * TICKS_PER_SECOND, "they do wait in parallel"


def test_waiting_costs_no_cpu() -> None:
    """Ten thousand tasks wait a second: what they use of the CPU is for coming and going, not for looking around."""

    async def run() -> float:
        store = MemoryStore(1000)
        limiter = AsyncLimiter(LeakyBucket(10_000, "1/hour"), store=store)
        tasks = [asyncio.create_task(limiter.acquire("key")) for _ in range(10_000)]
        await asyncio.sleep(0)
        while len(store.wait_queue) < 9_999:
            await asyncio.sleep(0)
        before = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.sleep(1)
        after = resource.getrusage(resource.RUSAGE_SELF)
        for task in tasks:  # a server that stops: all give up together
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        assert not len(store.wait_queue)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert asyncio.run(run()) < 0.5


@pytest.mark.parametrize("turns", [1, 30], ids=["while they join", "while they wait"])
@both_kinds
def test_fifty_of_a_hundred_cancelled_at_random_leave_no_hole(make: Any, turns: int) -> None:
    """In virtual time: in a machine's, the turns of those who are to be cancelled may come before."""

    async def run() -> None:
        store = make(1000, clock=LoopClock(cast("VirtualLoop", asyncio.get_running_loop())))
        limiter = AsyncLimiter(LeakyBucket(200, 40), store=store)
        left: list[int] = []

        async def wait() -> None:
            await limiter.acquire("key")
            left.append(limiter.store.clock.ticks())

        began = limiter.store.clock.ticks()
        tasks = [asyncio.create_task(wait()) for _ in range(100)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in random.Random(1).sample(tasks[30:], 50):  # none whose turn may come before
            task.cancel()
        await settled(store)
        interval = limiter.limits[0].interval
        assert (await limiter.peek("key", 0)).debt_ticks <= 50 * interval, "those that stay have moved up"
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(left) == 50
        assert left[-1] - began >= 49 * interval, "and leave no faster for it"

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


@both_kinds
def test_a_timeout_around_a_wait_gives_the_place_back(make: Any) -> None:
    async def run() -> None:
        store = make(1000)
        limiter = AsyncLimiter(TokenBucket(1, "1/hour"), store=store)
        await limiter.acquire("key")
        before = await limiter.peek("key", 0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limiter.acquire("key"), 0.02)
        await settled(store)
        after = await limiter.peek("key", 0)
        assert after.debt_ticks < before.debt_ticks
        assert not len(store.wait_queue)

    asyncio.run(run())


def test_a_refusal_is_at_once_and_leaves_nobody_in_line() -> None:
    clock = ManualClock(start=1000)
    limiter = Limiter(LeakyBucket(0, "1/hour"), store=MemoryStore(1000, clock=clock))
    limiter.acquire("key")
    began = clock.ticks()
    for timeout in (None, 0):
        with pytest.raises(RateLimitExceeded, match=r"retry after 3600\.000 s"):
            limiter.acquire("key", timeout=timeout)
    assert clock.ticks() == began
    assert not len(limiter.store.wait_queue)


@pytest.mark.parametrize("limit", [TokenBucket(2, 1), LeakyBucket(2, 1)], ids=str)
def test_a_timeout_of_nothing_never_waits(limit: Limit) -> None:
    clock = ManualClock(start=1000)
    limiter = Limiter(limit, store=MemoryStore(100, clock=clock))
    limiter.acquire("key", 1 if limit.queues else 2)
    began = clock.ticks()
    with pytest.raises(RateLimitExceeded, match=r"retry after 1\.000 s"):
        limiter.acquire("key", timeout=0)
    assert clock.ticks() == began


def test_a_guard_waits_as_long_as_it_is_told() -> None:
    clock = ManualClock(start=1000)
    limiter = Limiter(TokenBucket(1, 1), store=MemoryStore(100, clock=clock))

    @limiter.limit("api", timeout=None)
    def patient() -> int:
        return clock.ticks()

    assert patient() + TICKS_PER_SECOND == patient()
    with pytest.raises(RateLimitExceeded, match=r"retry after 0\.500 s"), limiter.limit("api", timeout=0.5):
        pass

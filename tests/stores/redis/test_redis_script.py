"""The script decides as the table in Python does, tick for tick: on Valkey, on Redis, on a cluster, sync and async."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from redis_servers import PROGRAMS, cluster_url, redis_cluster, redis_server
from servers import PATIENCE

from ratekeeper import AsyncRedisStore, Decision, LeakyBucket, ManualClock, MemoryStore, RedisStore, TokenBucket
from ratekeeper.decision import Charge
from ratekeeper.limits import TICKS_PER_SECOND

pytestmark = pytest.mark.slow

SECOND = TICKS_PER_SECOND
WALL = 1_800_000_000
"""Seconds since 1970 at which tests begin: ticks of then are far over 2**53, and over 2**63."""

LIMITS = (
    TokenBucket(5, 3),
    TokenBucket(20, "7/minute"),
    TokenBucket(2, 80_000),
    TokenBucket(7, "999983/hour"),
    TokenBucket(8, "2/365 days"),
    LeakyBucket(3, 10),
    LeakyBucket(0, "999983/hour"),
)
fresh = itertools.count()
chosen_limits = st.lists(st.integers(0, len(LIMITS) - 1), min_size=1, max_size=4)
keys = st.sampled_from(["a", "b", "é", "6:tenant", "6:tenant5:alice"])
costs = st.integers(0, 9) | st.just(10**30)
adjusted = st.just(0) | st.integers(0, 3) | st.integers(0, 5 * SECOND)
timeouts = st.none() | st.sampled_from([0, 0.05, 1, 60, 1e12])


class WallClock(ManualClock):
    """A clock whose ticks are as large as a server's, which the C table could not count."""

    def ticks(self) -> int:
        return WALL * SECOND + super().ticks()


@pytest.fixture(scope="module", params=[*PROGRAMS, "cluster"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "cluster":
            yield cluster_url(stack.enter_context(redis_cluster()))
        else:
            yield stack.enter_context(redis_server(request.param)).url


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


class StoresDecideAlike(RuleBasedStateMachine):
    """The Python table, the script by a blocking client, and by an asyncio one, get the same trace."""

    def __init__(self, stores: list[Any], loop: asyncio.AbstractEventLoop, clock: ManualClock, spread: bool) -> None:
        super().__init__()
        self.clock = clock
        self.sync, self.asynchronous, self.remembering = stores
        self.loop = loop
        self.spread = spread  # charges of one request may have different keys
        self.made: list[tuple[list[Charge], list[Decision]]] = []

    @initialize()
    def begin(self) -> None:
        self.clock.set_ticks(0)
        self.scope = str(next(fresh))
        self.reference = MemoryStore(10_000, clock=self.clock, implementation="python")

    def wait_for(self, coming: Any) -> Any:
        return self.loop.run_until_complete(coming)

    @rule(
        chosen=chosen_limits, some=st.lists(keys, min_size=4, max_size=4), cost=costs, timeout=timeouts,
        shadows=st.lists(st.booleans(), min_size=4, max_size=4), commit=st.booleans() | st.just(True),
    )  # fmt: skip
    def decide(
        self, chosen: list[int], some: list[str], cost: int, timeout: Any, shadows: list[bool], commit: bool
    ) -> None:
        if not self.spread:
            some = some[:1] * 4
        charges = [
            Charge.of(f"{self.scope}/{number}", key, LIMITS[number], cost, timeout, shadow)
            for number, key, shadow in zip(chosen, some, shadows, strict=False)
        ]
        right = self.reference.decide(charges, commit=commit)
        for answer in (
            self.sync.decide(charges, commit=commit),
            self.wait_for(self.asynchronous.decide(charges, commit=commit)),
        ):
            assert answer == right
            assert [one._refunded for one in answer] == [one._refunded for one in right]
        ours = self.remembering.decide(charges, commit=commit)
        assert passing(charges, ours) == passing(charges, right)
        if commit:
            self.made.append((charges, right))

    @precondition(lambda self: bool(self.made))
    @rule(part=st.integers(0, 10))
    def refund(self, part: int) -> None:
        charges, made = self.made[-1]
        given = [charge._replace(increment=charge.increment * part // 10) for charge in charges if charge.cost < 10**30]
        at = made[0].at_ticks
        self.reference.refund(given, at)
        self.sync.refund(given, at)
        self.wait_for(self.asynchronous.refund(given, at))
        self.remembering.refund(given, at)

    @precondition(lambda self: bool(self.made))
    @rule(back=st.integers(0, 3 * SECOND), off=st.sampled_from([0, 0, 1]))
    def rewind(self, back: int, off: int) -> None:
        charges, made = self.made[-1]
        at = made[-1].at_ticks + made[-1].debt_ticks + off
        if at - off <= self.clock.ticks():
            return  # a bucket that is full again is forgotten there, and not yet here
        bucket = charges[-1].scope, charges[-1].key
        right = self.reference.rewind(*bucket, at, at - back)
        assert self.sync.rewind(*bucket, at, at - back) == right
        assert self.wait_for(self.asynchronous.rewind(*bucket, at, at - back)) == right
        assert self.remembering.rewind(*bucket, at, at - back) == right

    @rule(number=st.integers(0, len(LIMITS) - 1), key=keys, back=adjusted, block=st.none() | adjusted)
    def adjust(self, number: int, key: str, back: int, block: int | None) -> None:
        bucket = f"{self.scope}/{number}", key
        self.reference.adjust(*bucket, back, block)
        self.sync.adjust(*bucket, back, block)
        self.wait_for(self.asynchronous.adjust(*bucket, back, block))
        self.remembering.adjust(*bucket, back, block)

    @rule(ticks=st.integers(0, 5 * SECOND) | st.integers(0, 20) | st.sampled_from([60 * SECOND, 86_400 * 100 * SECOND]))
    def time_goes_on(self, ticks: int) -> None:
        self.clock.advance_ticks(ticks)


def passing(charges: list[Charge], decisions: list[Decision]) -> bool:
    return all(decision.allowed or charge.shadow for charge, decision in zip(charges, decisions, strict=True))


@pytest.mark.parametrize("spread", [False, True], ids=["one key a request", "several keys a request"])
def test_the_script_decides_as_the_python_table_does(url: str, loop: Any, spread: bool) -> None:
    clock = WallClock(start=100_000)
    stores: list[Any] = [
        RedisStore(url, prefix="sync:", clock=clock, remember_denials=False, timeout=PATIENCE),
        AsyncRedisStore(url, prefix="async:", clock=clock, remember_denials=False, timeout=PATIENCE),
        RedisStore(url, prefix="remembering:", clock=clock, timeout=PATIENCE),
    ]
    try:
        run_state_machine_as_test(
            lambda: StoresDecideAlike(stores, loop, clock, spread),  # type: ignore[arg-type]
            settings=settings(
                max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
    finally:
        stores[0].close()
        loop.run_until_complete(stores[1].close())
        stores[2].close()


@pytest.fixture
def twins(one_server: str) -> Iterator[tuple[MemoryStore, RedisStore, ManualClock]]:
    clock = WallClock(start=100_000)
    reference = MemoryStore(100, clock=clock, implementation="python")
    with RedisStore(
        one_server, prefix=f"{next(fresh)}:", clock=clock, remember_denials=False, timeout=PATIENCE
    ) as store:
        yield reference, store, clock


def test_of_two_charges_of_one_bucket_the_one_that_fails_alone_is_told_so(twins: Any) -> None:
    reference, store, _ = twins
    limit = TokenBucket(5, 1)
    for costs_ in ((2, 9), (3, 3), (9, 2), (2, 2, 2), (0, 5, 1)):
        charges = [Charge.of("s", "a", limit, cost) for cost in costs_]
        assert store.decide(charges) == reference.decide(charges)


def test_a_refund_gives_back_what_has_not_come_back_by_itself(twins: Any) -> None:
    reference, store, clock = twins
    charges = [Charge.of("s", "a", TokenBucket(5, 1), 2)]
    for each in (reference, store):
        each.decide(charges)
        [made] = each.decide(charges)
    clock.advance_ticks(SECOND + 7)
    for each in (reference, store):
        each.refund(charges, made.at_ticks)
        assert each.decide(charges, commit=False)[0].debt_ticks == 2 * SECOND


def test_a_refund_after_a_step_back_gives_no_more_than_was_charged(twins: Any) -> None:
    reference, store, clock = twins
    clock.advance_ticks(SECOND - 1)
    charges = [Charge.of("s", "a", TokenBucket(5, 1), 2)]
    for each in (reference, store):
        each.decide(charges)
        [made] = each.decide(charges)
    clock.advance_ticks(10 - SECOND)
    for each in (reference, store):
        each.refund(charges, made.at_ticks)
    looked = [each.decide(charges, commit=False) for each in (reference, store)]
    assert looked[0] == looked[1]
    assert looked[0][0].debt_ticks > 2 * SECOND


@settings(max_examples=30)
@given(trace=st.lists(st.tuples(st.integers(-5000, 5000), st.integers(0, 6)), min_size=1, max_size=30))
def test_a_step_back_neither_mints_nor_locks_out(one_server: str, trace: list[tuple[int, int]]) -> None:
    """By an oracle in plain integers that moves what was written in a second yet to come."""
    limit, clock = TokenBucket(6, "7/minute"), WallClock(start=100_000)
    scope = str(next(fresh))
    with RedisStore(one_server, clock=clock, remember_denials=False, timeout=PATIENCE) as store:
        tat, written = 0, 0
        for step, cost in trace:
            clock.advance_ticks(step * SECOND // 100)
            now = clock.ticks()
            if tat > now and now // SECOND < written // SECOND:
                tat, written = now + tat - written, now
            [decision] = store.decide([Charge.of(scope, "a", limit, cost)])
            start = max(tat, now)
            allowed = start + cost * limit.interval - now <= limit.full
            assert decision.allowed == allowed
            if allowed and cost:
                tat, written = start + cost * limit.interval, now
            assert (
                decision.debt_ticks == max(0, tat - now) <= limit.full + SECOND
            )  # a step within a second is left alone


@pytest.fixture(scope="module")
def one_server() -> Iterator[str]:
    with redis_server() as server:
        yield server.url

"""Promises of the local stores beyond `ratekeeper.testing`, and that both cores give the same decisions."""

from __future__ import annotations

import asyncio
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from async_memory import AsyncMemoryStore
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from needs import need, no_waiting
from oracles import TokenBucketOracle

from ratekeeper import (
    IMPLEMENTATION,
    AsyncLimiter,
    Decision,
    LeakyBucket,
    Limiter,
    ManualClock,
    MemoryStore,
    TokenBucket,
)
from ratekeeper.decision import NEVER, Charge
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores.base import ChargeGate, Store
from ratekeeper.stores.table_store import TableStore
from ratekeeper.testing import charge

SECOND = TICKS_PER_SECOND


def allowed(store: Store, *charges: Charge) -> list[bool]:
    return [decision.allowed for decision in store.decide(charges)]


@pytest.mark.parametrize("key", [None, 5, ("a",), bytearray(b"a")])
def test_another_kind_of_key_is_an_error_that_names_the_kinds(store: TableStore, key: Any) -> None:
    limiter = Limiter(TokenBucket(1, 1), store=store)
    for ask in (limiter.try_acquire, limiter.acquire, limiter.peek, limiter.reset):
        with pytest.raises(TypeError, match="a key must be str or bytes, not "):
            ask(key)
    with pytest.raises(TypeError, match="a key must be str or bytes, not "):
        limiter.try_acquire_many(["fine", key])
    assert limiter.peek("fine").remaining == 1


@pytest.mark.parametrize(
    ("cost", "error"), [(-1, ValueError), (-(10**30), ValueError), (1.0, TypeError), ("1", TypeError)]
)
def test_a_cost_must_be_a_whole_number_of_zero_or_more(store: TableStore, cost: Any, error: type[Exception]) -> None:
    limiter = Limiter(TokenBucket(1, 1), store=store)
    for ask in (limiter.try_acquire, limiter.acquire, limiter.peek):
        with pytest.raises(error, match="cost must be"):
            ask("a", cost)
    for keys in (["a"], []):
        with pytest.raises(error, match="cost must be"):
            limiter.try_acquire_many(keys, cost)
        with pytest.raises(error, match="cost must be"):
            asyncio.run(AsyncLimiter("1/s", store=AsyncMemoryStore(store)).try_acquire_many(keys, cost))
    assert limiter.peek("a").remaining == 1


def test_more_than_a_charge_of_nothing_cannot_be_given_back(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(3, 1), LeakyBucket(3, 1), store=store)
    decision = limiter.try_acquire("a", 0)
    limiter.refund(decision)
    with pytest.raises(ValueError, match="cost must be from 0 to the 0 not yet given back of 0, not 1"):
        limiter.refund(decision, 1)
    limiter.refund(limiter.peek("a", 0), 1)  # a look has charged nothing, and so has nothing to give back


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan")])
def test_a_timeout_must_be_zero_or_more(store: TableStore, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be 0 or more"):
        Limiter(TokenBucket(1, 1), store=store).acquire("a", timeout=timeout)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), (("a", 1, 2, 3), {}), (("a",), {"key": "b"}), (("a",), {"costs": 1}), (("a", 1), {"cost": 1})],
)
def test_wrong_arguments_are_a_type_error(store: TableStore, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"try_acquire\(\) .*"):
        Limiter(TokenBucket(1, 1), store=store).try_acquire(*args, **kwargs)


def test_many_keys_are_asked_in_order_at_one_instant(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(2, 1), TokenBucket(3, 1), store=store)
    assert limiter.try_acquire_many(["a", "b", "a", b"a", "b"]) == [True, True, True, False, True]
    assert limiter.try_acquire_many(iter(("c",)), cost=3) == [False]  # type: ignore[arg-type]
    assert limiter.try_acquire_many([]) == []
    with pytest.raises(TypeError, match="not one key"):
        limiter.try_acquire_many("abc")


class Hostile(ManualClock):
    """A clock that is somebody's code: it changes what it was called for, asks again, or fails."""

    def __init__(self) -> None:
        super().__init__(start=1000)
        self.steps: list[Callable[[], object]] = []

    def ticks(self) -> int:
        if self.steps:
            self.steps.pop(0)()
        return super().ticks()


def fail() -> None:
    raise OSError("no clock")


def test_a_clock_that_changes_the_callers_lists_breaks_nothing(implementation: Any) -> None:
    clock = Hostile()
    store = MemoryStore(16, clock=clock, implementation=implementation)
    charges = [charge("a", TokenBucket(5, 1)), charge("b", TokenBucket(5, 1))]
    clock.steps.append(charges.clear)
    assert len(store.decide(charges)) == 2
    keys = ["a", "b", "c"]
    clock.steps.append(keys.clear)
    assert Limiter("5/s", store=store).try_acquire_many(keys) == [True] * 3


def test_a_clock_that_asks_the_limiter_does_not_deadlock(implementation: Any) -> None:
    clock = Hostile()
    limiter = Limiter("5/s", store=MemoryStore(16, clock=clock, implementation=implementation))
    clock.steps.append(lambda: limiter.try_acquire("b"))
    assert limiter.try_acquire("a")
    assert limiter.peek("b").remaining == 4


def test_a_clock_that_fails_is_its_own_error_and_charges_nothing(implementation: Any) -> None:
    clock = Hostile()
    limiter = Limiter("5/s", store=MemoryStore(16, clock=clock, implementation=implementation))
    for ask in (limiter.try_acquire, limiter.acquire, limiter.peek):
        clock.steps.append(fail)
        with pytest.raises(OSError, match="no clock"):
            ask("a")
    clock.steps.append(fail)
    with pytest.raises(OSError, match="no clock"):
        limiter.try_acquire_many(["a", "b"])
    assert limiter.peek("a").remaining == 5


def test_a_clock_that_fails_when_a_newcomer_reads_it_again_is_its_own_error() -> None:
    need("the C core", IMPLEMENTATION == "c")
    clock, limit = Hostile(), TokenBucket(5, "1/day")
    store = MemoryStore(16, clock=clock, implementation="c")
    one, two = (store.bind(scopes, (limit,) * len(scopes), no_waiting) for scopes in (("one",), ("one", "two")))
    asks: list[Callable[[str], object]] = [
        one.try_acquire, two.try_acquire, lambda key: one.try_acquire_many([key]),
        lambda key: store.decide([charge(key, limit)]),
    ]  # fmt: skip
    for number, ask in enumerate(asks):
        clock.steps += [lambda: None, fail]
        with pytest.raises(OSError, match="no clock"):
            ask(f"key {number}")
        ask(f"key {number}")  # and nobody is stuck


def test_a_mark_stops_refunds_until_the_bucket_is_full(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(TokenBucket(5, 1), store=store)
    limiter.try_acquire("a", 5)
    assert limiter._gate.reserve("a", 1, 10).delay == 1
    clock.advance(2)
    limiter.refund(limiter.try_acquire("a"))
    assert limiter.peek("a").remaining == 0
    clock.advance(5)
    assert limiter.peek("a").remaining == 5
    limiter.refund(limiter.try_acquire("a", 3))
    assert limiter.peek("a").remaining == 5


def test_a_dropped_limiter_frees_its_table_at_once(implementation: Any) -> None:
    store = MemoryStore(100, implementation=implementation)
    limiter = Limiter("5/s", store=store)
    gone = weakref.ref(store)
    gc.disable()
    try:
        del limiter, store
        assert gone() is None
    finally:
        gc.enable()


def test_a_subclass_has_a_say_in_every_verb(store: TableStore) -> None:
    class Counting(Limiter):
        asked = 0

        def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
            self.asked += 1
            return super().try_acquire(key, cost)

    limiter = Counting("5/s", store=store)
    limiter.try_acquire("a")
    assert limiter.asked == 1


def test_retry_after_is_never_too_early_also_over_months(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter("1/30 days", store=store)
    for ticks in range(50):
        limiter.reset("a")
        limiter.try_acquire("a")
        clock.advance_ticks(ticks)
        clock.advance(limiter.try_acquire("a").retry_after)
        assert limiter.try_acquire("a")


def test_a_decision_is_immutable_and_a_value(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(2, 1), store=store)
    decision = limiter.try_acquire("a")
    with pytest.raises(AttributeError, match=r"readonly|cannot|can't set|no setter"):
        decision.allowed = False  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(decision)) == decision
    assert hash(decision) == hash(pickle.loads(pickle.dumps(decision)))
    assert isinstance(decision, Decision)
    assert decision != limiter.try_acquire("a")
    assert "allowed=True" in repr(decision)
    assert "'a'" not in repr(decision), "keys are secrets"


def test_the_system_clock_is_the_default(implementation: Any) -> None:
    limiter = Limiter(TokenBucket(1, "1/hour"), store=MemoryStore(100, implementation=implementation))
    first = limiter.try_acquire("a")
    second = limiter.try_acquire("a")
    assert first
    assert not second
    assert first.at_ticks <= second.at_ticks
    assert 3500 < second.retry_after <= 3600


@pytest.mark.parametrize("now", [-1, 2**62])
def test_a_clock_out_of_range_is_an_error_not_a_free_pass(now: int) -> None:
    need("the C core", IMPLEMENTATION == "c")  # Python's integers have no range
    clock = ManualClock()
    clock._now = now  # as the user's own clock may be
    with pytest.raises(ValueError, match="the clock must return ticks"):
        Limiter(TokenBucket(1, 1), store=MemoryStore(100, clock=clock)).try_acquire("a")


LIMITS = (
    TokenBucket(5, 3),
    TokenBucket(20, "7/minute"),
    LeakyBucket(3, 10),
    LeakyBucket(0, "999983/hour"),
    TokenBucket(2, 80_000),
)
keys = st.sampled_from(["a", "b", "c", "é"])
costs = st.integers(0, 8)
ticks = st.just(0) | st.integers(0, 3) | st.integers(0, 5 * SECOND)
timeouts = st.none() | st.sampled_from([0, 0.05, 1, 60, 1e12])
some_limits = st.lists(st.integers(0, len(LIMITS) - 1), min_size=1, max_size=3)


class Twin:
    """One way to decide: a core, and a path through it."""

    def __init__(self, implementation: Any, clock: ManualClock, generic: bool) -> None:
        self.store = MemoryStore(10_000, clock=clock, implementation=implementation)
        self._generic = generic
        self.history: list[Decision] = []

    def limiter(self, chosen: list[int]) -> Limiter:
        limits = [LIMITS[i] for i in chosen]
        limiter = Limiter(*limits, store=self.store, name=f"limits {chosen}")
        if self._generic:
            limiter._gate = ChargeGate(self.store, limiter._scopes, limiter.limits, limiter._wait)
            limiter.try_acquire = limiter._gate.try_acquire  # type: ignore[method-assign]
            limiter.try_acquire_many = limiter._gate.try_acquire_many  # type: ignore[method-assign]
        return limiter


class TwinsDecideAlike(RuleBasedStateMachine):
    """Both tables, each by its own gate and by charges, get the same trace, and give the same whole decisions."""

    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock(start=10_000)
        self.twins = [Twin("python", self.clock, generic) for generic in (True, False)]
        if IMPLEMENTATION == "c":
            self.twins += [Twin("c", self.clock, False), Twin("c", self.clock, True)]

    def agree(self, answers: list[Any]) -> Any:
        assert all(answer == answers[0] for answer in answers), answers
        return answers[0]

    @rule(chosen=some_limits, key=keys, cost=costs)
    def try_acquire(self, chosen: list[int], key: str, cost: int) -> None:
        self.record([twin.limiter(chosen).try_acquire(key, cost) for twin in self.twins], chosen)

    @rule(chosen=some_limits, key=keys, cost=costs, timeout=timeouts)
    def reserve(self, chosen: list[int], key: str, cost: int, timeout: float | None) -> None:
        self.record([twin.limiter(chosen)._gate.reserve(key, cost, timeout) for twin in self.twins], chosen)

    def record(self, decisions: list[Decision], chosen: list[int]) -> None:
        decision = self.agree(decisions)
        assert decision.allowed == (decision.retry_ticks == 0)
        assert (decision.delay_ticks == NEVER) == decision.impossible
        self.chosen = chosen
        for twin, made in zip(self.twins, decisions, strict=True):
            twin.history.append(made)

    @rule(chosen=some_limits, key=keys, cost=costs)
    def peek(self, chosen: list[int], key: str, cost: int) -> None:
        self.agree([twin.limiter(chosen).peek(key, cost) for twin in self.twins])

    @rule(chosen=some_limits, cost=costs, batch=st.lists(keys, max_size=5))
    def many(self, chosen: list[int], cost: int, batch: list[str]) -> None:
        self.agree([twin.limiter(chosen).try_acquire_many(batch, cost) for twin in self.twins])

    @precondition(lambda self: bool(self.twins[0].history))
    @rule(part=st.none() | st.integers(0, 2))
    def refund_the_last(self, part: int | None) -> None:
        for twin in self.twins:
            decision = twin.history[-1]
            left = decision.cost - decision._refunded
            twin.limiter(self.chosen).refund(decision, None if part is None else min(part, left))

    @rule(chosen=some_limits, key=keys)
    def reset(self, chosen: list[int], key: str) -> None:
        for twin in self.twins:
            twin.limiter(chosen).reset(key)

    @rule(place=st.integers(0, 2), key=keys, back=ticks, block=st.none() | ticks)
    def adjust(self, place: int, key: str, back: int, block: int | None) -> None:
        for twin in self.twins:
            twin.store.adjust(f"rule {place}", key, back, block)

    @rule(chosen=some_limits, shadows=st.lists(st.booleans(), min_size=3, max_size=3), key=keys, cost=costs)
    def decide_with_shadows(self, chosen: list[int], shadows: list[bool], key: str, cost: int) -> None:
        charges = [
            charge(key, LIMITS[i], cost, scope=f"rule {place}", shadow=shadows[place]) for place, i in enumerate(chosen)
        ]
        self.agree([twin.store.decide(charges) for twin in self.twins])

    @rule(ticks=st.integers(-SECOND, 5 * SECOND) | st.integers(-20, 20) | st.just(3600 * SECOND))
    def time_goes_on_or_steps_back(self, ticks: int) -> None:
        self.clock.advance_ticks(ticks)

    @invariant()
    def the_same_buckets_are_live(self) -> None:
        self.agree([twin.store.stats().live for twin in self.twins])


TestTwinsDecideAlike = TwinsDecideAlike.TestCase
TestTwinsDecideAlike.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(st.integers(-SECOND, SECOND), keys, st.integers(0, 6)), max_size=50))
def test_each_key_has_an_exact_bucket_of_its_own(trace: list[tuple[int, str, int]]) -> None:
    limit = TokenBucket(5, 3)
    for implementation in ("c", "python") if IMPLEMENTATION == "c" else ("python",):
        clock = ManualClock(start=1000)
        limiter = Limiter(limit, store=MemoryStore(1000, clock=clock, implementation=implementation))
        oracles: dict[str, TokenBucketOracle] = {}
        for ticks, key, cost in trace:
            clock.advance_ticks(ticks)
            oracle = oracles.setdefault(key, TokenBucketOracle(limit.capacity, limit.interval))
            decision = limiter.try_acquire(key, cost)
            assert decision.allowed == oracle.ask(clock.ticks(), cost)
            assert decision.remaining == oracle.remaining(clock.ticks())


def test_the_verbs_of_a_store_take_their_arguments_by_name(store: TableStore) -> None:
    charges = [Charge.of("s", "a", TokenBucket(5, 1), 3)]
    [made] = store.decide(charges=charges, commit=True)
    tat = made.at_ticks + made.debt_ticks
    assert store.rewind(scope="s", key="a", expected_ticks=tat, tat_ticks=tat - 1)
    store.refund(charges=charges, at_ticks=made.at_ticks)
    store.adjust(scope="s", key="a", back_ticks=2**62 - 1, block_ticks=None)
    assert store.decide(charges, commit=False)[0].debt_ticks == 0

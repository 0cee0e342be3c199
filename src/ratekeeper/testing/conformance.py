"""The promises of every store, as tests. The stores of ratekeeper pass them, and so should your own.

It knows stores by their protocol only. It must not know a test runner, and has no dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from random import Random
from threading import Barrier

from ratekeeper.clock import ManualClock
from ratekeeper.limiter import Limiter
from ratekeeper.limits import DEFAULT_WAIT, MAX_AHEAD_TICKS, LeakyBucket, Limit, TokenBucket
from ratekeeper.stores.base import AsyncStore, Store, is_async
from ratekeeper.stores.memory import MemoryStore
from ratekeeper.testing.blocking import Blocking
from ratekeeper.testing.changes import ChangesByHand, charge
from ratekeeper.waiting.waitlist import Waiter

RATES = ("3/s", "7/minute", "80000/s", "999983/hour", "1000/365 days", "2/500ms")
"""Rates that do not divide a nanosecond, are very high, or very low."""

TRACES, STEPS, THREADS = 10, 60, 8


class StoreConformance(ChangesByHand):
    """The promises of a store. Derive a class, and say how to make the store; pytest does the rest.

    `make_store` returns an empty `Store` or `AsyncStore` on the given clock. No other test may use its buckets, also
    when the tests run again: give a store on a server a prefix that nobody else has.

    >>> class TestMyStore(StoreConformance):
    ...     def make_store(self, clock: ManualClock) -> MemoryStore:
    ...         return MemoryStore(clock=clock)  # yours
    """

    clock: ManualClock
    store: Store

    def make_store(self, clock: ManualClock) -> Store | AsyncStore:
        raise NotImplementedError("say how to make your store")

    def setup_method(self) -> None:
        self.clock = ManualClock(start=1_000)
        made = self.make_store(self.clock)
        self.close = getattr(made, "close", lambda: None)
        if is_async(made):
            blocking = Blocking(made)
            self.store, self.close = blocking, blocking.close
        else:
            self.store = made  # type: ignore[assignment]

    def teardown_method(self) -> None:
        self.close()

    # ---- one request ----

    def test_a_full_bucket_admits_exactly_its_capacity_at_any_rate(self) -> None:
        for rate in RATES:
            limit = TokenBucket(7, rate)
            assert [self._allowed(charge(rate, limit)) for _ in range(9)] == [[True]] * 7 + [[False]] * 2

    def test_a_refused_request_passes_at_retry_after_and_not_a_tick_before(self) -> None:
        for rate in RATES:
            limit = TokenBucket(2, rate)
            self._allowed(charge(rate, limit, 2))
            [refused] = self.store.decide([charge(rate, limit)])
            self.clock.advance_ticks(refused.retry_ticks - 1)
            assert self._allowed(charge(rate, limit)) == [False]
            self.clock.advance_ticks(1)
            assert self._allowed(charge(rate, limit)) == [True]

    def test_all_charges_of_a_request_are_made_or_none(self) -> None:
        wide, narrow = TokenBucket(10, 1), TokenBucket(1, 1)
        assert self._allowed(charge("a", wide), charge("b", narrow)) == [True, True]
        assert self._allowed(charge("a", wide), charge("b", narrow)) == [True, False]
        assert self._left("a", wide) == 9

    def test_two_charges_of_one_bucket_in_a_request_are_both_counted(self) -> None:
        limit = TokenBucket(3, 1)
        assert self._allowed(charge("a", limit, 2), charge("a", limit, 2)) == [True, False]
        assert self._allowed(charge("a", limit, 1), charge("a", limit, 2)) == [True, True]

    def test_a_shadow_charge_refuses_nothing_and_is_made_only_if_the_request_passes(self) -> None:
        small, large = TokenBucket(1, 1), TokenBucket(2, 1)
        request = [charge("shadow", small, shadow=True), charge("real", large)]
        assert [self._allowed(*request) for _ in range(3)] == [[True, True], [False, True], [False, False]]
        self.store.adjust("test/0", "shadow", MAX_AHEAD_TICKS, 0)
        assert self._allowed(*request) == [True, False]
        assert self._left("shadow", small) == 1

    def test_a_refusal_a_look_and_a_cost_of_nothing_write_nothing(self) -> None:
        limit = TokenBucket(2, 1)
        for nothing in (charge("a", limit, 3), charge("a", limit, 0)):
            self.store.decide([nothing])
        self.store.decide([charge("a", limit)], commit=False)
        assert self._debt("a", limit) == 0
        self.store.decide([charge("a", limit, 2)])
        before = self._debt("a", limit)
        assert self._allowed(charge("a", limit)) == [False]
        assert self._debt("a", limit) == before

    def test_no_charges_are_no_decisions(self) -> None:
        assert self.store.decide([]) == []

    def test_a_cost_over_the_capacity_never_passes_and_is_never_queued(self) -> None:
        for limit in (TokenBucket(5, 1), LeakyBucket(4, 1)):
            for cost in (6, 10**30):
                for timeout in (DEFAULT_WAIT, None):
                    [decision] = self.store.decide([charge("a", limit, cost, timeout, scope=str(limit))])
                    assert not decision
                    assert decision.impossible
                    assert decision.remaining == 5
            assert self.store.decide([charge("a", limit, 5, scope=str(limit))])[0]

    def test_a_limit_of_nothing_refuses_all_and_with_it_what_is_asked_beside_it(self) -> None:
        nothing, five = TokenBucket(0, 0), TokenBucket(5, 1)
        for cost in (0, 1, 10**30):
            for timeout in (DEFAULT_WAIT, None):
                decisions = self.store.decide([charge("a", five), charge("a", nothing, cost, timeout, scope="n/0")])
                assert [one.allowed for one in decisions] == [True, False]
                assert (decisions[1].impossible, decisions[1].remaining) == (True, 0)
        assert self._debt("a", five) == 0
        shadow = charge("a", nothing, scope="n/0", shadow=True)
        assert [one.allowed for one in self.store.decide([charge("a", five), shadow])] == [True, False]
        assert self._debt("a", five) == five.interval

    def test_a_bucket_is_its_scope_and_the_bytes_of_its_key(self) -> None:
        limit = TokenBucket(1, 1)
        for key in ("alice", "", "zoë", "日本", "\x00", "k" * 10_000, "\ud800", "🙂", "{a}", "5:a"):
            assert self._allowed(charge(key, limit)) == [True]
            assert self._allowed(charge(key.encode("utf-8", "surrogatepass"), limit)) == [False]
            assert self._allowed(charge(key, limit, scope="another/0")) == [True]

    # ---- giving back ----

    def test_a_refund_gives_back_what_has_not_refilled_since(self) -> None:
        limit = TokenBucket(10, 1)
        [made] = self.store.decide([charge("a", limit, 4)])
        self.clock.advance(1)
        self.store.refund([charge("a", limit, 3)], made.at_ticks)
        assert self._left("a", limit) == 9
        self.store.refund([charge("nobody", limit, 3)], made.at_ticks)
        assert self._left("nobody", limit) == 10

    def test_a_refund_of_nothing_or_of_units_that_have_refilled_gives_nothing_back(self) -> None:
        limit = TokenBucket(10, 1)
        [made] = self.store.decide([charge("a", limit, 9)])
        self.clock.advance_ticks(2 * limit.interval)
        self.store.refund([charge("a", limit, 0), charge("a", limit, 2)], made.at_ticks)
        assert self._debt("a", limit) == 7 * limit.interval
        self.store.refund([charge("a", limit, 2), charge("a", limit, 3)], made.at_ticks)
        assert self._debt("a", limit) == 6 * limit.interval

    def test_a_refund_of_a_cost_that_can_never_pass_gives_nothing_back(self) -> None:
        limit = TokenBucket(10, 1)
        [made] = self.store.decide([charge("a", limit, 9)])
        for cost in (limit.max_cost + 1, 2**80):
            self.store.refund([charge("a", limit, cost)], made.at_ticks)
            assert self._debt("a", limit) == 9 * limit.interval

    def test_a_refund_gives_nothing_back_once_a_later_departure_was_promised_until_the_bucket_is_full(self) -> None:
        limit = TokenBucket(2, 1)
        [made] = self.store.decide([charge("a", limit, 2)])
        self.store.decide([charge("a", limit, 1, 60)])
        self.store.refund([charge("a", limit)], made.at_ticks)
        assert self._debt("a", limit) == 3 * limit.interval
        self.clock.advance(2)  # the waiter has left, but the store does not know
        [made] = self.store.decide([charge("a", limit)])
        self.store.refund([charge("a", limit)], made.at_ticks)
        assert self._debt("a", limit) == 2 * limit.interval
        self.clock.advance(2)
        [made] = self.store.decide([charge("a", limit)])
        self.store.refund([charge("a", limit)], made.at_ticks)
        assert self._debt("a", limit) == 0

    def test_a_tat_is_set_back_only_if_it_is_the_expected_one(self) -> None:
        limit = TokenBucket(5, 1)
        [made] = self.store.decide([charge("a", limit, 3)])
        tat = made.at_ticks + made.debt_ticks
        assert not self.store.rewind("test/0", "a", tat + 1, made.at_ticks)
        assert not self.store.rewind("test/0", "nobody", tat, made.at_ticks)
        assert self._left("a", limit) == 2
        assert not self.store.rewind("test/0", "a", tat, -1)
        assert self.store.rewind("test/0", "a", tat, tat - limit.interval)
        assert self._left("a", limit) == 3
        assert self.store.rewind("test/0", "a", tat - limit.interval, 0)
        assert self._debt("a", limit) == 0

    # ---- over time, and many at once ----

    def test_whole_decisions_are_those_of_the_reference_over_random_traces(self) -> None:
        for trace in range(TRACES):
            random = Random(trace)
            limits = [TokenBucket(5, random.choice(RATES)), TokenBucket(2, "1/s"), LeakyBucket(3, random.choice(RATES))]
            reference = MemoryStore(1_000, clock=self.clock, implementation="python")
            for _ in range(STEPS):
                self._step_alike(reference, trace, limits, random)

    def _step_alike(self, reference: Store, trace: int, limits: Sequence[Limit], random: Random) -> None:
        self.clock.advance_ticks(random.choice([0, 1, 10**9, random.randrange(10**11)]))
        charges = [
            charge(
                random.choice("ab"), limits[place], random.randrange(4), random.choice([DEFAULT_WAIT, 0, 2, None]),
                scope=f"{trace} {place}", shadow=random.random() < 0.1,
            )
            for place in random.choices(range(len(limits)), k=random.choice([1, 1, 2, 3]))
        ]  # fmt: skip
        if random.random() < 0.2:
            ticks = random.choice([0, random.randrange(10**11)]), random.choice([None, 0, random.randrange(10**11)])
            for store in (self.store, reference):
                store.adjust(charges[0].scope, charges[0].key, *ticks)
        commit = random.random() < 0.8
        made = self.store.decide(charges, commit=commit)
        assert made == reference.decide(charges, commit=commit)
        if made[0].allowed and random.random() < 0.2:
            for store in (self.store, reference):
                store.refund(charges[:1], made[0].at_ticks)

    def test_threads_admit_exactly_the_capacity(self) -> None:
        if isinstance(self.store, Blocking):
            return  # an async store is for tasks, not threads
        limiter, barrier = Limiter(TokenBucket(100, "1/day"), store=self.store), Barrier(THREADS)

        def ask_often(_: int) -> int:
            barrier.wait()
            return sum(bool(limiter.try_acquire("hot")) for _ in range(25))

        with ThreadPoolExecutor(THREADS) as pool:
            assert sum(pool.map(ask_often, range(THREADS))) == 100

    def test_who_waits_leaves_in_order_and_those_behind_who_gives_up_move_up(self) -> None:
        limiter, line = Limiter(LeakyBucket(10, 2), store=self.store), self.store.wait_queue
        waiters = [Waiter(lambda: None) for _ in range(5)]
        for waiter in waiters:
            line.join(waiter, limiter._charges("all", 1, None))
        turns = [waiter.leaves_at for waiter in waiters]
        interval = limiter.limits[0].interval
        assert [later - earlier for earlier, later in pairwise(turns[1:])] == [interval] * 3
        line.give_up(waiters[2])
        assert limiter.peek("all").delay_ticks == turns[4] - self.clock.ticks()
        for turn, waiter in zip(turns[1:], [waiters[1], *waiters[3:]], strict=False):
            self.clock.set_ticks(turn - 1)
            assert not line.leave(waiter)
            self.clock.set_ticks(turn)
            assert line.leave(waiter)

"""Memory: a table has a size, keys come and go, and a flood of newcomers forgives no heavy debtor."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import need, no_waiting

from ratekeeper import IMPLEMENTATION, Limiter, ManualClock, MemoryStore, RateLimitExceeded, TokenBucket
from ratekeeper.decision import Charge

# Ten times as many keys come: a million for C, fewer for Python, which takes a hundred times as long.
SIZE = {"c": 100_000, "python": 10_000}
CORES: list[Any] = ["c", "python"] if IMPLEMENTATION == "c" else ["python"]


def test_a_store_holds_as_many_live_keys_as_it_says(implementation: Literal["c", "python"]) -> None:
    """But for about one in a million that finds its two lines full; the seed is random, so allow for some."""
    store = MemoryStore(20_000, implementation=implementation)
    limiter = Limiter(TokenBucket(1, "1/day"), store=store)
    assert all(limiter.try_acquire_many([f"key {n}" for n in range(20_000)]))
    _, live, evicted, _, _ = store.stats()
    assert live + evicted == 20_000
    assert evicted <= 3
    assert evicted or not any(limiter.try_acquire_many([f"key {n}" for n in range(20_000)]))


def test_a_store_says_how_large_it_is() -> None:
    assert repr(MemoryStore()) == "MemoryStore(max_keys=1000000, on_full='evict')"
    assert repr(MemoryStore(7, on_full="deny")) == "MemoryStore(max_keys=7, on_full='deny')"


@pytest.mark.slow
def test_a_million_one_shot_keys_leave_a_small_table_as_it_was(implementation: Literal["c", "python"]) -> None:
    clock = ManualClock(start=1000)
    size = SIZE[implementation]
    store = MemoryStore(size, clock=clock, implementation=implementation)
    limiter = Limiter(TokenBucket(1, 1), store=store)
    for batch in range(50):
        assert all(limiter.try_acquire_many([f"{batch}.{n}" for n in range(size // 5)]))
        clock.advance(61)  # by now each of these buckets is full again, and so forgotten
    assert store.stats() == (size, 0, 0, 0, 0)


@pytest.mark.slow
def test_a_million_live_keys_are_bounded_and_evictions_are_counted(implementation: Literal["c", "python"]) -> None:
    size = SIZE[implementation]
    store = MemoryStore(size, clock=ManualClock(start=1000), implementation=implementation)
    limiter = Limiter(TokenBucket(1, "1/day"), store=store)
    for batch in range(50):
        limiter.try_acquire_many([f"{batch}.{n}" for n in range(size // 5)])
    stats = store.stats()
    assert size <= stats.live <= size / 0.7 + 16
    assert stats.live + stats.evicted_live == 10 * size


@settings(max_examples=25)
@given(
    debts=st.lists(st.integers(2, 50), min_size=1, max_size=8),
    newcomers=st.integers(100, 2000),
    seed=st.integers(0, 2**32),
)
@pytest.mark.parametrize("core", CORES)
def test_a_flood_of_newcomers_forgives_no_heavy_debtor(core: Any, debts: list[int], newcomers: int, seed: int) -> None:
    """Eight debtors cannot fill two lines of eight cells, so a newcomer always finds a lighter one to evict."""
    store = MemoryStore(16, clock=ManualClock(start=1000), implementation=core)
    limiter = Limiter(TokenBucket(50, "1/day"), store=store)
    for n, debt in enumerate(debts):
        limiter.try_acquire(f"debtor {seed} {n}", debt)
    limiter.try_acquire_many([f"newcomer {seed} {n}" for n in range(newcomers)])
    assert [limiter.peek(f"debtor {seed} {n}").remaining for n in range(len(debts))] == [50 - debt for debt in debts]
    assert store.stats().evicted_live >= newcomers + len(debts) - 32


def test_on_full_deny_refuses_newcomers_until_there_is_room(implementation: Literal["c", "python"]) -> None:
    clock = ManualClock(start=1000)
    store = MemoryStore(16, on_full="deny", clock=clock, implementation=implementation)
    limiter = Limiter(TokenBucket(5, 1), store=store)
    decisions = [limiter.try_acquire(f"key {n}") for n in range(40)]
    refused = [decision for decision in decisions if not decision]
    assert len(refused) == store.stats().refused_full >= 8
    assert all(0 < decision.retry_after <= 1 for decision in refused)
    assert limiter.try_acquire("key 0"), "who has a bucket keeps it"
    clock.advance(max(decision.retry_after for decision in refused) + 1)
    assert limiter.try_acquire("newcomer")


def test_a_refused_newcomer_charges_no_other_limit(implementation: Literal["c", "python"]) -> None:
    store = MemoryStore(16, on_full="deny", clock=ManualClock(start=1000), implementation=implementation)
    shared, own = TokenBucket(100, 1), TokenBucket(5, 1)
    admitted = sum(
        bool(store.bind(("shared", f"own {n}"), (shared, own), no_waiting).try_acquire("k")) for n in range(60)
    )
    assert 0 < admitted < 60
    assert store.bind(("shared",), (shared,), no_waiting).try_acquire("k", 100 - admitted)
    assert not store.bind(("shared",), (shared,), no_waiting).try_acquire("k")


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"max_keys": 0}, "max_keys must be"),
        ({"max_keys": 1.5}, "max_keys must be"),
        ({"max_keys": True}, "max_keys must be"),
        ({"max_keys": 2**40}, "max_keys must be"),
        ({"on_full": "evcit"}, "'evict' or 'deny', not 'evcit'"),
    ],
)
def test_a_store_that_cannot_be_is_an_error(kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MemoryStore(**kwargs)


def test_a_live_bucket_costs_16_to_24_bytes() -> None:
    """Measured from outside: what a process grows by when a million keys come, of which all stay live."""
    need("the C core", IMPLEMENTATION == "c")
    code = """
import resource, sys
from ratekeeper import Limiter, MemoryStore, TokenBucket
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
limiter = Limiter(TokenBucket(1, "1/day"), store=MemoryStore(1_000_000))
before = rss()
for batch in range(1000):
    limiter.try_acquire_many([b"%d" % (batch * 1000 + n) for n in range(1000)])
assert limiter.store.stats().live > 999_990
print((rss() - before) / 1_000_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 16 <= float(done.stdout) <= 24


def small(on_full: Literal["evict", "deny"]) -> tuple[Limiter, MemoryStore]:
    store = MemoryStore(2, on_full=on_full, clock=ManualClock(start=1000), implementation="python")
    return Limiter(TokenBucket(10, 1), store=store), store


def test_a_bucket_that_was_reset_leaves_its_room_to_a_newcomer() -> None:
    limiter, store = small("deny")
    for key in "ab":
        assert limiter.try_acquire(key, 10)
    assert not limiter.try_acquire("c")
    limiter.reset("a")
    assert limiter.try_acquire("c")
    assert limiter.peek("b").remaining == 0
    assert store.stats().live == 2


@pytest.mark.parametrize("back", ["refund", "rewind"])
def test_what_owes_nothing_after_a_refund_is_evicted_before_what_is_in_debt(back: str) -> None:
    limiter, store = small("evict")
    large, small_debt = limiter.try_acquire("large", 10), limiter.try_acquire("small", 5)
    if back == "refund":
        limiter.refund(large)
    else:
        assert store.rewind(f"{limiter.name}/0", "large", large.at_ticks + large.debt_ticks, large.at_ticks)
    assert limiter.try_acquire("new")
    assert limiter.peek("small").remaining == small_debt.remaining == 5
    assert store.stats().evicted_live == 0


def test_charges_that_are_given_back_again_and_again_take_no_memory() -> None:
    limiter, store = small("evict")
    for _ in range(2000):
        limiter.refund(limiter.try_acquire("a", 10))
    assert len(store._table._by_tat) < 100  # type: ignore[union-attr]


def test_of_a_request_with_more_new_buckets_than_there_is_room_for_the_last_are_kept() -> None:
    store = MemoryStore(1, clock=ManualClock(start=1000), implementation="python")
    limiter = Limiter(TokenBucket(10, 1), TokenBucket(10, 2), TokenBucket(10, 4), store=store)
    assert limiter.try_acquire("a", 10)
    assert store.stats().live == 1
    deny, _ = small("deny")
    both = Limiter(TokenBucket(10, 1), TokenBucket(10, 2), TokenBucket(10, 4), store=deny.store)
    assert not both.try_acquire("a", 10)
    assert both.peek("a", 10).remaining == 10


def test_the_time_of_a_decision_on_several_limits_is_not_before_the_first_charge(
    implementation: Literal["c", "python"],
) -> None:
    """A newcomer's time is read once more when it has its place: from then on it refills."""

    class Running(ManualClock):
        def ticks(self) -> int:
            self.advance_ticks(1000)
            return super().ticks()

    store = MemoryStore(1000, clock=Running(), implementation=implementation)
    limiter = Limiter(TokenBucket(10, 1), TokenBucket(10, 1), store=store)
    decision = limiter.try_acquire("a")
    looked = store.decide(
        [Charge.of(f"{limiter.name}/{at}", "a", limiter.limits[at], 0) for at in (0, 1)], commit=False
    )
    charged = [look.at_ticks + look.debt_ticks - limiter.limits[0].interval for look in looked]
    assert decision.at_ticks == min(charged)


@pytest.mark.parametrize("timeout", [Decimal(1), Fraction(1, 2), "1", complex(1)])
def test_a_timeout_that_is_no_number_of_seconds_is_an_error_also_if_nobody_must_wait(
    implementation: Literal["c", "python"], timeout: Any
) -> None:
    limiter = Limiter(TokenBucket(10, 1), store=MemoryStore(100, implementation=implementation))
    with pytest.raises(TypeError, match="timeout must be a number of seconds, or None"):
        limiter.acquire("a", timeout=timeout)
    with pytest.raises(TypeError, match="timeout must be a number of seconds, or None"):
        limiter._gate.reserve("a", 1, timeout)
    assert limiter.peek("a").remaining == 10


def full_store(implementation: Literal["c", "python"]) -> MemoryStore:
    """Return a table that has no room for an hour, and denies newcomers."""
    store = MemoryStore(16, on_full="deny", clock=ManualClock(start=1000), implementation=implementation)
    fill = Limiter("1/hour", store=store, name="fill")
    for number in range(100):
        fill.try_acquire(f"{number}")
    return store


def test_a_look_at_a_full_table_tells_what_a_request_would_meet(implementation: Literal["c", "python"]) -> None:
    limiter = Limiter(TokenBucket(5, 1), store=full_store(implementation), name="x")
    refused = 0
    for number in range(40):
        before = limiter.store.stats()  # type: ignore[attr-defined]
        look, usage = limiter.peek(f"{number}"), limiter.usage(f"{number}")[0]
        assert limiter.store.stats() == before  # type: ignore[attr-defined]
        assert limiter.peek(f"{number}", 0), "a cost of nothing needs no room"
        assert limiter.peek(f"{number}", 6).impossible
        decision = limiter.try_acquire(f"{number}")
        assert look.allowed == decision.allowed
        if not decision:
            refused += 1
            assert look == decision
            assert (usage.used, usage.remaining, usage.retry_after) == (0, 5, decision.retry_after)
    assert refused >= 20


def test_a_look_counts_all_newcomers_of_a_request() -> None:
    clock = ManualClock(start=1000)
    store = MemoryStore(2, on_full="deny", clock=clock, implementation="python")
    old, live, new = (
        Charge.of(scope, "k", TokenBucket(1, rate), 1, 0) for scope, rate in [("a", "1/s"), ("b", "1/h"), ("c", "1/s")]
    )
    store.decide([old])
    store.decide([live])
    clock.advance(2)  # the old bucket is full again: it has its place until a newcomer takes it
    for commit in (False, True):
        assert [one.allowed for one in store.decide([old, new], commit=commit)] == [True, False]
    assert [one.allowed for one in store.decide([new, old], commit=False)] == [True, False]
    assert store.stats().refused_full == 1
    assert store.decide([old])[0]


def test_a_charge_is_kept_if_a_newcomer_of_the_same_request_needs_room() -> None:
    clock = ManualClock(start=1000)
    store = MemoryStore(3, clock=clock, implementation="python")
    first, second, short, long = (
        Charge.of(scope, "k", TokenBucket(1, rate), 1, 0)
        for scope, rate in [("a", "6/m"), ("b", "6/m"), ("c", "4/m"), ("d", "1/h")]
    )
    for charge in (first, short, long):
        assert store.decide([charge])[0]
    clock.advance(11)  # the first is full again, and of the others the short one is evicted
    assert all(store.decide([first, second]))
    assert not store.decide([first])[0]
    assert store.stats()[:3] == (3, 3, 1)


@pytest.mark.parametrize("limits", [["5/s"], ["5/s", "10/m"]])
def test_nobody_waits_for_room_in_a_full_table(implementation: Literal["c", "python"], limits: list[str]) -> None:
    limiter = Limiter(*limits, store=full_store(implementation), name="x")
    newcomer = next(key for key in map(str, range(100)) if not limiter.try_acquire(key))
    for timeout in (0, 5, None):
        with pytest.raises(RateLimitExceeded):
            limiter.acquire(newcomer, timeout=timeout)
        assert not limiter.reserve(newcomer, timeout=timeout)

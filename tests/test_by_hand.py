"""grant, block, unblock and reset: changes by hand, on every store, beside an oracle in exact fractions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from async_memory import AsyncMemoryStore
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import (
    IMPLEMENTATION,
    AsyncKeeper,
    AsyncLimiter,
    Keeper,
    LeakyBucket,
    Limiter,
    ManualClock,
    MemoryStore,
    Policy,
    RateLimitExceeded,
    SharedMemoryStore,
    StoreError,
    TokenBucket,
)
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores.table_store import TableStore

SECOND = TICKS_PER_SECOND
FIVE = TokenBucket(5, 1)
NINE_YEARS = 9 * 365 * 86_400
TWO_RULES = Policy.parse('rules = [{name = "one", limit = "5/s"}, {name = "two", limit = "9/hour"}]')
WALL = 1_900_000_000_000_000_000


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a wall clock that stands still, so that the end of a block is exact."""
    monkeypatch.setattr(time, "time_ns", lambda: WALL)


def after(seconds: float) -> float:
    return WALL / 1e9 + seconds


def taken(limiter: Limiter, key: str = "a") -> int:
    """Take all that there is, token by token."""
    count = 0
    while limiter.try_acquire(key):
        count += 1
    return count


# ---- what each verb does ----


@pytest.mark.parametrize("limit", [FIVE, TokenBucket(100, "999983/hour"), TokenBucket(1, "1/day"), LeakyBucket(4, 3)])
@pytest.mark.parametrize("tokens", [1, 2, 5, 1000, 10**40])
def test_of_an_empty_bucket_exactly_the_granted_tokens_pass_and_never_more_than_it_holds(
    store: TableStore, limit: Any, tokens: int
) -> None:
    limiter = Limiter(limit, store=store)
    empty = [bool(limiter._gate.reserve("a", 1)) for _ in range(limit.max_cost)]
    assert all(empty)
    assert limiter.peek("a").remaining == 0
    limiter.grant("a", tokens)
    assert limiter.peek("a").remaining == min(tokens, limit.max_cost)
    limiter.grant("b", tokens)
    assert limiter.peek("b").remaining == limit.max_cost


def test_a_grant_counts_for_each_limit_of_the_key(store: TableStore) -> None:
    limiter = Limiter(FIVE, TokenBucket(20, "1/hour"), store=store)
    assert taken(limiter) == 5
    limiter.grant("a", 3)
    assert [one.used for one in limiter.usage("a")] == [2, 2]
    assert taken(limiter) == 3


@pytest.mark.parametrize("limit", [FIVE, TokenBucket(1, 3), TokenBucket(7, "999983/hour")])
@pytest.mark.parametrize("used", [0, 1, 7])
def test_of_a_blocked_key_nothing_passes_before_the_end_and_then_all_that_has_refilled(
    store: TableStore, clock: ManualClock, limit: TokenBucket, used: int
) -> None:
    limiter, twin = Limiter(limit, store=store, name="blocked"), Limiter(limit, store=store, name="twin")
    for _ in range(used):
        limiter.try_acquire("a")
        twin.try_acquire("a")
    limiter.block("a", after(3600))
    begun = clock.ticks()
    [usage] = limiter.usage("a")
    assert (usage.remaining, usage.used, usage.retry_after) == (0, limit.capacity, 3600)
    for ticks in (0, 1, 1800 * SECOND, 3600 * SECOND - 1):
        clock.set_ticks(begun + ticks)
        assert not limiter.try_acquire("a")
        assert limiter.try_acquire_many(["a", f"other {ticks}"]) == [False, True]
    assert limiter.peek("a").retry_ticks == 1
    clock.set_ticks(begun + 3600 * SECOND)
    assert limiter.peek("a") == twin.peek("a")
    assert taken(limiter) == taken(twin)
    assert taken(limiter, "b") == limit.capacity


@pytest.mark.parametrize("changed", ["10000/day", "2/30 days", "10/s", "2/s"])
def test_a_block_holds_whatever_the_limit_becomes(store: TableStore, clock: ManualClock, changed: str) -> None:
    limiter = Limiter("10/s", store=store, name="plan")
    limiter.block("a", after(60))
    other = limiter.with_limits(changed)
    for _ in range(2):
        assert other.try_acquire("a").retry_after == 60
        assert other.try_acquire("b")
    clock.advance_ticks(60 * SECOND - 1)
    assert other.try_acquire("a").retry_ticks == 1
    clock.advance_ticks(1)
    assert other.try_acquire("a")


def test_a_debt_that_lasts_longer_than_a_block_refuses_longer(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter("24/day", store=store)
    taken(limiter)
    limiter.block("a", after(60))
    assert limiter.try_acquire("a").retry_after == 3600
    limiter.grant("a", 1)
    assert limiter.try_acquire("a").retry_after == 60
    clock.advance(60)
    assert taken(limiter) == 1


def test_blocks_cost_a_look_only_until_the_last_one_ends(implementation: Any, clock: ManualClock) -> None:
    """A table whose blocks have all ended decides as one that never had a block, and forgets them."""
    store = MemoryStore(100, clock=clock, implementation=implementation)
    limiter = Limiter(FIVE, store=store)
    for key in range(20):
        limiter.block(str(key), after(key + 1))
    assert store.stats().live == 20
    clock.advance(20)
    assert store.stats().live == 0
    assert limiter.try_acquire_many([str(key) for key in range(20)]) == [True] * 20


@pytest.mark.parametrize("limits", [("10/s",), ("10/s", "100/minute"), (LeakyBucket(9, 1), "5/minute")])
@pytest.mark.parametrize("timeout", [0.5, 100, None])
def test_nobody_waits_for_the_end_of_a_block(store: TableStore, limits: Any, timeout: float | None) -> None:
    limiter = Limiter(*limits, store=store)
    limiter.block("a", after(30))
    with pytest.raises(RateLimitExceeded) as refused:
        limiter.acquire("a", timeout=timeout)
    assert refused.value.retry_after == 30
    turn = limiter.reserve("a", timeout=timeout)
    assert not turn
    assert turn.decision.retry_after == 30
    limiter.unblock("a")
    assert limiter.acquire("a", timeout=timeout)


def test_nothing_shortens_a_block_but_what_is_meant_to(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(TokenBucket(5, 1), store=store)
    before = limiter.try_acquire("a", 4)
    limiter.block("a", after(60))
    limiter.refund(before)
    limiter.block("a", after(10))
    limiter.grant("a", 5)
    assert limiter.usage("a")[0].retry_after == 60
    clock.advance(60)
    assert limiter.try_acquire("a")


def test_a_waiter_that_gives_up_does_not_shorten_a_block_that_ends_before_its_turn(
    store: TableStore, clock: ManualClock
) -> None:
    limiter = Limiter(TokenBucket(1, 1), store=store)
    limiter.try_acquire("a")
    waiters = [limiter.reserve("a", timeout=None) for _ in range(9)]
    limiter.block("a", after(4))
    for waiter in reversed(waiters):
        waiter.cancel()
    clock.advance_ticks(4 * SECOND - 1)
    assert not limiter.try_acquire("a")


def test_after_a_block_no_newcomer_takes_a_turn_that_was_given_up_before(store: TableStore) -> None:
    """A turn in the middle cannot be taken back in the store, so it serves newcomers; after a block it must not."""
    limiter = Limiter(TokenBucket(1, 1), store=store)
    limiter.try_acquire("a")
    place = limiter.reserve("a", timeout=9)
    assert limiter._gate.reserve("a", 1, None)  # as another process
    place.cancel()
    limiter.block("a", after(30))
    assert not limiter.reserve("a", timeout=100)


@pytest.mark.parametrize("kind", [AsyncLimiter, AsyncKeeper])
def test_a_turn_that_was_given_up_serves_nobody_after_a_block_whose_answer_was_lost(
    store: TableStore, kind: type[AsyncLimiter] | type[AsyncKeeper]
) -> None:
    async def use() -> None:
        remote = AsyncMemoryStore(store)
        policy = Policy.parse('[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1/s"\nmax_wait = 100\n')
        asked: Any = AsyncLimiter("1/s", store=remote) if kind is AsyncLimiter else AsyncKeeper(policy, remote)
        key: Any = "a" if kind is AsyncLimiter else {"user": "a"}
        await asked.try_acquire(key)
        place = await asked.reserve(key, timeout=9)
        another = type(asked)("1/s" if kind is AsyncLimiter else policy, store=AsyncMemoryStore(store))
        assert await another.reserve(key, timeout=100)
        place.cancel()
        await remote.wait_queue.settle()
        remote.fail_after = {"adjust"}
        with pytest.raises(OSError, match="the network is gone"):
            await asked.block(key, after(30))
        assert not await asked.reserve(key, timeout=100)

    asyncio.run(use())


def test_unblock_ends_a_block_and_changes_nothing_else(store: TableStore) -> None:
    limiter = Limiter(FIVE, store=store)
    limiter.try_acquire("a", 2)
    limiter.block("a", after(3600))
    limiter.unblock("a")
    assert taken(limiter) == 3
    for _ in range(2):
        limiter.unblock("a")
        limiter.unblock("never seen")
    assert (limiter.peek("a").remaining, limiter.peek("never seen").remaining) == (0, 5)
    limiter.block("a", after(3600))
    limiter.reset("a")
    assert taken(limiter) == 5


def test_the_verbs_are_awaited_too(store: TableStore) -> None:
    async def use(limiter: AsyncLimiter) -> None:
        for _ in range(5):
            await limiter.try_acquire("a")
        await limiter.grant("a", 2)
        assert (await limiter.peek("a")).remaining == 2
        await limiter.block("a", after(9))
        assert [one.retry_after for one in await limiter.usage("a")] == [9]
        await limiter.unblock("a")
        assert (await limiter.peek("a")).remaining == 2

    for either in (store, AsyncMemoryStore(store)):
        asyncio.run(use(AsyncLimiter(FIVE, store=either, name=type(either).__name__)))


def test_a_limit_of_nothing_has_no_tokens_to_give_and_refuses_after_each_change(store: TableStore) -> None:
    limiter = Limiter("0/s", store=store)
    with pytest.raises(ValueError, match=r"^the limit .* refuses every request, so it has no tokens to give$"):
        limiter.grant("a", 5)
    limiter.block("a", after(60))
    assert not limiter.try_acquire("a")
    limiter.unblock("a")
    assert not limiter.try_acquire("a")
    limiter.reset("a")
    assert not limiter.try_acquire("a")


# ---- beside an oracle ----


class Oracle:
    """Tokens that are missing, as an exact fraction, and the ticks that are left of a block."""

    def __init__(self, limit: TokenBucket) -> None:
        self.limit = limit
        self.missing = Fraction(0)
        self.left = 0

    def go_on(self, ticks: int) -> None:
        self.left = max(0, self.left - ticks)
        self.missing = max(Fraction(0), self.missing - Fraction(ticks, self.limit.interval))

    def ask(self, cost: int) -> bool:
        passes = self.missing + cost <= self.limit.capacity and not self.left
        self.missing += cost if passes else 0
        return passes

    def grant(self, tokens: int) -> None:
        self.missing = max(Fraction(0), self.missing - tokens)

    def block(self, ticks: int) -> None:
        self.left = max(self.left, ticks)

    def unblock(self) -> None:
        self.left = 0

    @property
    def retry(self) -> Fraction:
        """Ticks until one token passes."""
        return max(Fraction(self.left), (self.missing + 1 - self.limit.capacity) * self.limit.interval)


changes = st.one_of(
    st.tuples(st.just("go on"), st.integers(0, 40 * SECOND) | st.integers(0, 3)),
    st.tuples(st.just("ask"), st.integers(0, 6)),
    st.tuples(st.just("grant"), st.integers(1, 8)),
    st.tuples(st.just("block"), st.integers(1, 60)),
    st.tuples(st.just("unblock"), st.just(0)),
)


@given(st.sampled_from([FIVE, TokenBucket(3, "7/minute"), TokenBucket(1, 80_000)]), st.lists(changes, max_size=30))
def test_any_trace_of_changes_by_hand_is_that_of_the_oracle(limit: TokenBucket, trace: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: WALL)
        clock = ManualClock(start=1000)
        stores: list[Any] = [MemoryStore(100, clock=clock, implementation="python")]
        if IMPLEMENTATION == "c":
            stores += [MemoryStore(100, clock=clock), SharedMemoryStore(Path(folder) / "table", 100, clock=clock)]
        limiters, oracle = [Limiter(limit, store=store, name="one") for store in stores], Oracle(limit)
        for what, much in trace:
            if what == "go on":
                clock.advance_ticks(much)
                oracle.go_on(much)
            elif what == "ask":
                right = oracle.ask(much)
                assert [bool(limiter.try_acquire("a", much)) for limiter in limiters] == [right] * len(limiters)
            else:
                by_hand: dict[str, list[float]] = {"grant": [much], "block": [after(much)], "unblock": []}
                arguments = by_hand[what]
                for limiter in limiters:
                    getattr(limiter, what)("a", *arguments)
                getattr(oracle, what)(*[much * SECOND if what == "block" else much][: len(arguments)])
            for limiter in limiters:
                assert limiter.peek("a").retry_ticks == oracle.retry
                if not oracle.left:
                    assert limiter.peek("a", 0).debt_ticks == oracle.missing * limit.interval


# ---- mistakes ----

Mistake = tuple[Callable[[Any], Any], type[Exception], str]
MISTAKES: list[Mistake] = [
    (lambda it: it.grant("a", 0), ValueError, r"^tokens must be 1 or more, not 0$"),
    (lambda it: it.grant("a", -5), ValueError, r"^tokens must be 1 or more, not -5$"),
    (lambda it: it.grant("a", 1.5), TypeError, r"^tokens must be a whole number, not 1.5$"),
    (lambda it: it.grant("a", "9"), TypeError, r"^tokens must be a whole number, not '9'$"),
    (lambda it: it.grant(5, 9), TypeError, r"^a key must be str or bytes, not int: write str\(key\)$"),
    (lambda it: it.block(5, after(9)), TypeError, r"^a key must be str or bytes, not int: write str\(key\)$"),
    (lambda it: it.unblock(None), TypeError, r"^a key must be str or bytes, not NoneType$"),
    (lambda it: it.block("a", 3600), ValueError, r"3600 is: for 3600 seconds from now write time.time\(\) \+ 3600$"),
    (lambda it: it.block("a", after(-1)), ValueError, r"^until must not be past, and 1899999999.0 is$"),
    (lambda it: it.block("a", after(0)), ValueError, r"^until must not be past"),
    (lambda it: it.block("a", -1), ValueError, r"^until must not be past, and -1 is$"),
    (lambda it: it.block("a", -(10**400)), ValueError, r"^until must not be past"),
    (lambda it: it.block("a", float("nan")), ValueError, r"^until must be a time within nine years, not nan$"),
    (lambda it: it.block("a", float("inf")), ValueError, r"^until must be a time within nine years, not inf$"),
    (lambda it: it.block("a", 10**400), ValueError, r"^until must be within nine years, in seconds since 1970"),
    (lambda it: it.block("a", after(0) * 1000), ValueError, r"^until must be within nine years, in seconds since 1970"),
    (lambda it: it.block("a", after(NINE_YEARS + 30e6)), ValueError, r"within nine years"),
    (lambda it: it.block("a", datetime.max.replace(tzinfo=UTC)), ValueError, r"^until must be within nine years"),
    (lambda it: it.block("a", datetime.min.replace(tzinfo=UTC)), ValueError, r"^until must not be past"),
    (lambda it: it.block("a", datetime(2031, 1, 1)), ValueError, r"^until must have a time zone, such as"),
    (lambda it: it.block("a", timedelta(hours=1)), TypeError, r"write datetime.now\(UTC\) \+ it$"),
    (lambda it: it.block("a", True), TypeError, r"^until must be a datetime or a number .*, not True$"),
    (lambda it: it.block("a", None), TypeError, r"^until must be a datetime or a number .*, not None$"),
    (lambda it: it.block("a", "2031"), TypeError, r"^until must be a datetime or a number"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_a_mistake_is_an_error_with_the_same_words_on_every_store_and_changes_nothing(
    store: TableStore, number: int
) -> None:
    mistake, kind, words = MISTAKES[number]
    limiter = Limiter(FIVE, store=store)
    limiter.try_acquire("a", 2)
    with pytest.raises(kind, match=words):
        mistake(limiter)
    assert limiter.peek("a").remaining == 3
    assert store.stats().live == 1


def test_a_block_may_end_at_a_time_in_any_zone_and_within_nine_years(store: TableStore) -> None:
    limiter, slow = Limiter(FIVE, store=store), Limiter(TokenBucket(5, "1/300 days"), store=store)
    begun = datetime.fromtimestamp(WALL // 10**9, UTC)
    limiter.block("a", (begun + timedelta(seconds=90)).astimezone(timezone(timedelta(hours=9))))
    assert limiter.usage("a")[0].retry_after == 90
    limiter.block("a", after(NINE_YEARS))
    assert limiter.usage("a")[0].retry_after == NINE_YEARS
    slow.block("a", after(NINE_YEARS))
    for timeout in (0, 9, None):
        assert slow.reserve("a", timeout=timeout).decision.retry_after == NINE_YEARS


@pytest.mark.parametrize("ticks", [(-1, 0), (0, -1), (2**62, 0), (0, 2**62), (10**30, None), (0, 10**30)])
def test_a_store_takes_no_ticks_that_are_none(store: TableStore, ticks: tuple[int, int | None]) -> None:
    with pytest.raises(ValueError, match=r"^back_ticks and block_ticks must be from 0 to 2\*\*62 - 1, not "):
        store.adjust("s", "a", *ticks)
    for bad in ("1", 1.5):
        with pytest.raises(TypeError, match="integer"):
            store.adjust("s", "a", bad, 0)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="integer"):
            store.adjust("s", "a", 0, bad)  # type: ignore[arg-type]


def test_a_block_that_finds_no_room_is_an_error_and_one_that_may_evict_is_kept(
    implementation: Any, clock: ManualClock
) -> None:
    denying = MemoryStore(8, on_full="deny", clock=clock, implementation=implementation)
    limiter = Limiter("5/hour", store=denying)
    for key in range(30):
        limiter.try_acquire(str(key))
    for key in range(100):
        with suppress(StoreError):
            limiter.block(f"newcomer {key}", after(60))
    told = r"^the table is full \(max_keys=8\), and has no room for the block\. Try again when a bucket has refilled"
    with pytest.raises(StoreError, match=told):
        limiter.block("the last", after(60))
    limiter.grant("another", 5)  # it is full
    limiter.unblock("another")
    evicting = Limiter("5/hour", store=MemoryStore(8, clock=clock, implementation=implementation))
    evicting.block("a", after(86_400 * 30))
    for key in range(1000):
        evicting.try_acquire(str(key))
    assert not evicting.try_acquire("a")


def test_a_block_that_finds_room_for_some_limits_only_says_how_many_were_changed() -> None:
    async def block(store: MemoryStore) -> None:
        await AsyncLimiter("5/s", "9/hour", store=store).block("a", after(60))

    blocks: list[Callable[[MemoryStore], object]] = [
        lambda store: Limiter("5/s", "9/hour", store=store).block("a", after(60)),
        lambda store: asyncio.run(block(store)),
        lambda store: Keeper(TWO_RULES, store).block({}, after(60), rule=["one", "two"]),
        lambda store: asyncio.run(AsyncKeeper(TWO_RULES, store).block({}, after(60), rule=["one", "two"])),
    ]
    words = r"^the table is full \(max_keys=1\), .*; 1 of the 2 limits had been changed before$"
    for asked in blocks:
        store = MemoryStore(1, on_full="deny", implementation="python")
        with pytest.raises(StoreError, match=words):
            asked(store)

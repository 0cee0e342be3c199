"""The verbs of both limiters: what they return, raise, wait and give back; decorators and context managers."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any, assert_type

import pytest
from async_memory import AsyncMemoryStore

from ratekeeper import (
    AsyncLimiter,
    Decision,
    LeakyBucket,
    Limiter,
    ManualClock,
    MemoryStore,
    RateLimitExceeded,
    TokenBucket,
)
from ratekeeper.stores.table_store import TableStore


class InterruptedClock(ManualClock):
    """A clock whose sleeper is interrupted half way."""

    def wait(self, woken: threading.Event, until: int) -> None:
        self.advance_ticks((until - self.ticks()) // 2)
        raise KeyboardInterrupt

    async def wait_async(self, woken: asyncio.Future[None], until: int) -> None:
        self.advance_ticks((until - self.ticks()) // 2)
        raise asyncio.CancelledError


def test_two_lines_are_enough() -> None:
    limiter = Limiter("100/minute")
    assert limiter.try_acquire("alice").remaining == 99


def test_each_key_has_a_bucket_of_its_own(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(1, 1), store=store)
    assert [bool(limiter.try_acquire(key)) for key in ("a", "b", "a", "b")] == [True, True, False, False]


def test_a_decision_says_what_is_left_and_when_to_come_back(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(TokenBucket(20, 5), store=store)
    first = limiter.try_acquire("alice", cost=15)
    assert (first.allowed, first.remaining, first.retry_after, first.reset_after) == (True, 5, 0.0, 3.0)
    refused = limiter.try_acquire("alice", cost=10)
    assert (refused.allowed, refused.remaining, refused.retry_after, refused.reset_after) == (False, 5, 1.0, 3.0)
    assert refused.limit == TokenBucket(20, 5)
    assert refused.key == "alice"
    clock.advance(refused.retry_after)
    assert limiter.try_acquire("alice", cost=10)


@pytest.mark.parametrize("cost", [2**62, 2**63 - 1, 2**63, 2**64, 2**200])
def test_a_cost_that_fits_no_machine_word_is_never_admitted_and_costs_nothing(store: TableStore, cost: int) -> None:
    limiter = Limiter("5/s", store=store)
    for ask in (limiter.try_acquire, limiter.reserve, limiter.peek):
        decision = ask("alice", cost)
        assert not decision
        assert decision.retry_after == inf
    with pytest.raises(RateLimitExceeded, match="can never admit"):
        limiter.acquire("alice", cost)
    assert not any(limiter.try_acquire_many(["alice", "bob"], cost))
    assert limiter.peek("alice").remaining == 5


def test_several_limits_are_charged_together_and_the_most_binding_speaks(store: TableStore, clock: ManualClock) -> None:
    second, hour = TokenBucket(10, 10), TokenBucket(12, "12/hour")
    limiter = Limiter(second, hour, store=store)
    assert limiter.try_acquire("a", 10).limit == second
    refused = limiter.try_acquire("a", 3)
    assert (refused.limit, refused.retry_after) == (hour, 300.0)
    clock.advance(1)
    assert limiter.try_acquire("a", 2).limit == hour, "the refusal cost neither limit anything"


def test_try_acquire_is_true_only_if_the_caller_may_go_ahead_now(store: TableStore) -> None:
    limiter = Limiter(LeakyBucket(50, 10), store=store)
    decisions = [limiter.try_acquire("a") for _ in range(3)]
    assert [decision.allowed for decision in decisions] == [True, False, False]
    assert [decision.retry_after for decision in decisions] == [0.0, 0.1, 0.1]
    assert limiter.try_acquire_many(["a", "b", "b"]) == [False, True, False]
    assert not limiter.peek("a")


def test_reserve_takes_turns_of_a_leaky_bucket_and_says_when_each_comes(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(LeakyBucket(2, 10), store=store)
    reservations = [limiter.reserve("a") for _ in range(4)]
    assert [bool(one) for one in reservations] == [True, True, True, False]
    assert [one.delay for one in reservations[:3]] == [0.0, 0.1, 0.2]
    assert (reservations[3].retry_after, reservations[3].allowed, reservations[3].key) == (0.1, False, "a")
    clock.advance(0.05)
    assert [one.delay for one in reservations[:3]] == [0.0, 0.05, 0.15]
    with pytest.raises(RateLimitExceeded, match=r"retry after 0\.100 s"), reservations[3]:
        pytest.fail("the block must not be entered")


def test_a_reservation_waits_for_its_turn_as_a_context_manager(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(TokenBucket(1, 1), store=store)
    began = clock.ticks()
    first, second, third = (limiter.reserve("a", timeout=2) for _ in range(3))
    assert not limiter.reserve("a", timeout=2)
    with first:
        assert clock.ticks() == began
    second.cancel()
    second.cancel()
    with third as reserved:
        assert reserved.delay == 0
        assert (clock.ticks() - began) / 16e9 == 1.0, "the cancelled one's turn"
    for used in (second, third):
        with pytest.raises(RuntimeError, match="reserve again"), used:
            pytest.fail("the block must not be entered")


def test_a_cancelled_reservation_was_never_made(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(TokenBucket(2, 1), LeakyBucket(10, 5), store=store)
    limiter.acquire("a", 2)
    before = limiter.peek("a")
    limiter.reserve("a").cancel()
    assert limiter.peek("a") == before


def test_reservations_are_awaited_too(either_store: TableStore | AsyncMemoryStore) -> None:
    async def use() -> None:
        limiter = AsyncLimiter(LeakyBucket(5, 10), store=either_store)
        reservations = [await limiter.reserve("a") for _ in range(3)]
        assert [one.delay for one in reservations] == [0.0, 0.1, 0.2]
        reservations[1].cancel()
        async with reservations[2]:
            pass
        assert either_store.clock.ticks() == (1000 + 0.1) * 16e9
        with pytest.raises(TypeError, match="use 'async with'"), reservations[0]:
            pytest.fail("the block must not be entered")

    asyncio.run(use())


def test_with_several_limits_the_delay_is_the_longest_of_all(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(3, 1), LeakyBucket(100, 10), store=store)
    limiter.try_acquire("a")
    decision = limiter.reserve("a")
    assert decision.limit == TokenBucket(3, 1), "it has least left"
    assert decision.delay == 0.1, "but the queue sets the pace"


def test_acquire_sleeps_until_its_turn(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(TokenBucket(2, 1), store=store)
    began = clock.ticks()
    decisions = [limiter.acquire("a") for _ in range(4)]
    assert [decision.delay for decision in decisions] == [0.0, 0.0, 1.0, 1.0]
    assert (clock.ticks() - began) / 16e9 == 2.0


def test_acquire_refuses_at_once_what_would_come_after_the_timeout(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(TokenBucket(1, 1), store=store)
    limiter.acquire("a")
    began = clock.ticks()
    with pytest.raises(RateLimitExceeded) as caught:
        limiter.acquire("a", timeout=0.5)
    assert clock.ticks() == began
    assert caught.value.decision.retry_after == 0.5
    assert "retry after 0.500 s" in str(caught.value)
    assert limiter.acquire("a", timeout=1).delay == 1.0


def test_acquire_never_queues_what_can_never_pass(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(5, 1), store=store)
    with pytest.raises(RateLimitExceeded, match="can never admit a cost of 6"):
        limiter.acquire("a", 6)
    assert limiter.peek("a").remaining == 5


@pytest.mark.parametrize("limit", [TokenBucket(1, 1), LeakyBucket(3, 1)])
def test_an_interrupted_wait_gives_its_token_back(limit: Any) -> None:
    clock = InterruptedClock(start=1000)
    limiter = Limiter(limit, store=MemoryStore(100, clock=clock))
    limiter.acquire("a")
    with pytest.raises(KeyboardInterrupt):
        limiter.acquire("a")
    clock.advance(0.5)
    assert limiter.peek("a", 0).reset_after <= 0.5, "what it had reserved is given back, less what has refilled since"

    async def cancelled(store: TableStore | AsyncMemoryStore) -> None:
        async_limiter = AsyncLimiter(limit, store=store)
        await async_limiter.acquire("b")
        with pytest.raises(asyncio.CancelledError):
            await async_limiter.acquire("b")
        await asyncio.sleep(0)
        if isinstance(store, AsyncMemoryStore):
            await store.wait_queue.settle()
        assert (await async_limiter.peek("b", 0)).reset_after <= 1.0

    asyncio.run(cancelled(MemoryStore(100, clock=clock)))
    asyncio.run(cancelled(AsyncMemoryStore(MemoryStore(100, clock=clock))))


def test_peek_charges_nothing(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(2, 1), store=store)
    assert [limiter.peek("a").remaining for _ in range(3)] == [2, 2, 2]
    assert not limiter.peek("a", 3).allowed
    limiter.refund(limiter.peek("a"))
    assert limiter.peek("a").remaining == 2


def test_a_refund_gives_back_what_was_charged_less_what_has_refilled(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(TokenBucket(10, 1), TokenBucket(100, 1), store=store)
    decision = limiter.try_acquire("a", 10)
    clock.advance(4)
    limiter.refund(decision)
    assert limiter.peek("a", 0).debt_ticks == 0
    assert limiter.try_acquire("a", 10)


def test_no_token_is_given_back_twice(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(10, 1), store=store)
    limiter.try_acquire("a", 5)
    decision = limiter.try_acquire("a", 4)
    limiter.refund(decision, cost=3)
    assert limiter.peek("a").remaining == 4
    with pytest.raises(ValueError, match="from 0 to the 1 not yet given back of 4, not 2"):
        limiter.refund(decision, cost=2)
    limiter.refund(decision)
    limiter.refund(decision)
    assert limiter.peek("a").remaining == 5


@pytest.mark.parametrize("wrong", ["3", 1.0, -1, 5])
def test_a_refund_of_a_wrong_cost_raises_and_burns_nothing(store: TableStore, wrong: Any) -> None:
    limiter = Limiter(TokenBucket(10, 1), store=store)
    decision = limiter.try_acquire("a", 4)
    with pytest.raises((TypeError, ValueError), match="cost must be"):
        limiter.refund(decision, cost=wrong)
    limiter.refund(decision)
    assert limiter.peek("a").remaining == 10


def test_a_refund_of_nothing_or_too_late_gives_nothing_back(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(TokenBucket(10, 1), store=store)
    decision = limiter.try_acquire("a", 9)
    limiter.refund(decision, 0)
    assert limiter.peek("a", 0).remaining == 1
    clock.advance(2)
    limiter.refund(decision, 2)  # these have refilled
    assert limiter.peek("a", 0).remaining == 3
    limiter.refund(decision, 3)
    assert limiter.peek("a", 0).remaining == 4


def test_a_refund_gives_a_leaky_bucket_nothing_back_and_a_token_bucket_beside_it_all(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(10, 1), LeakyBucket(10, 1), store=store)
    tokens = Limiter(limiter.limits[0], store=store, name=limiter.name)
    limiter.refund(limiter.try_acquire("a", 3))
    assert tokens.peek("a", 0).debt_ticks == 0
    refused = limiter.try_acquire("a")
    assert (refused.limit, refused.retry_after) == (limiter.limits[1], 3.0)


def test_threads_refund_one_decision_once() -> None:
    limiter = Limiter(TokenBucket(1_000, "1/day"))
    limiter.try_acquire("a", 500)
    for _ in range(100):
        decision = limiter.try_acquire("a", 4)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, one=decision: limiter.refund(one), range(8)))
    assert limiter.peek("a").remaining == 500


def test_a_refused_decision_has_nothing_to_give_back(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(1, 1), store=store)
    limiter.try_acquire("a")
    limiter.refund(limiter.try_acquire("a"))
    assert limiter.peek("a").remaining == 0


def test_another_limiters_decision_cannot_be_refunded(store: TableStore) -> None:
    decision = Limiter(TokenBucket(1, 1), store=store).try_acquire("a")
    with pytest.raises(ValueError, match="another limiter"):
        Limiter(TokenBucket(2, 1), store=store).refund(decision)


def test_reset_fills_the_bucket_of_one_key(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(1, 1), TokenBucket(1, "1/day"), store=store)
    limiter.try_acquire_many(["a", "b"])
    limiter.reset("a")
    limiter.reset("never seen")
    assert limiter.try_acquire("a")
    assert not limiter.try_acquire("b")


def test_limiters_of_one_name_share_buckets_and_others_do_not(store: TableStore) -> None:
    assert Limiter("1/day", store=store).try_acquire("a")
    assert not Limiter("1/24h", store=store).try_acquire("a"), "the default name is what the limits say"
    assert Limiter("1/day", store=store, name="other").try_acquire("a")
    assert Limiter("1/day").try_acquire("a"), "a store of its own"


def test_a_named_limiter_keeps_its_debts_when_its_numbers_change(store: TableStore) -> None:
    Limiter(TokenBucket(10, 1), store=store, name="api").try_acquire("a", 10)
    assert Limiter(TokenBucket(20, 1), store=store, name="api").peek("a").remaining == 10


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ((), ValueError, "needs at least one limit"),
        ((5,), TypeError, "a limit must be a TokenBucket, a LeakyBucket or a string, not 5"),
        (("5/minuet",), ValueError, "did you mean 'minute'"),
    ],
)
def test_a_limiter_without_a_real_limit_is_an_error(
    limits: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Limiter(*limits)


def test_the_async_limiter_has_the_same_verbs(either_store: MemoryStore | AsyncMemoryStore) -> None:
    async def use() -> None:
        limiter = AsyncLimiter(TokenBucket(2, 1), store=either_store)
        assert (await limiter.try_acquire("a")).remaining == 1
        assert await limiter.try_acquire_many(["a", "a"]) == [True, False]
        decision = await limiter.acquire("a")
        assert decision.delay == 1.0
        with pytest.raises(RateLimitExceeded, match=r"retry after 0\.500 s"):
            await limiter.acquire("a", timeout=0.5)
        with pytest.raises(ValueError, match="timeout must be"):
            await limiter.acquire("b", timeout=-1)
        await limiter.refund(decision)
        await limiter.reset("a")
        assert (await limiter.peek("a")).remaining == 2

    asyncio.run(use())


def test_a_decorator_limits_each_call_by_its_arguments(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(10, 1), store=store)

    @limiter.limit(key=lambda user, text: user, cost=lambda user, text: len(text))
    def send(user: str, text: str) -> str:
        """Send a text message."""
        return text.upper()

    assert_type(send("alice", "hello"), str)
    assert send("alice", text="there") == "THERE"
    assert (send.__name__, send.__doc__) == ("send", "Send a text message.")
    with pytest.raises(RateLimitExceeded, match=r"of 10 at 1/s: retry after 1\.000 s"):
        send("alice", "x")
    assert send("bob", "0123456789") == "0123456789"


def test_the_async_limiter_decides_alike_on_both_kinds_of_store(store: TableStore, clock: ManualClock) -> None:
    async def use() -> None:
        limits = TokenBucket(4, 2), LeakyBucket(20, 4)
        plain = Limiter(*limits, store=MemoryStore(100, clock=clock))
        other = AsyncLimiter(*limits, store=AsyncMemoryStore(store))
        for cost in (1, 2, 0, 3, 9, 1):
            assert await other.try_acquire("a", cost) == plain.try_acquire("a", cost)
            assert await other.peek("a", cost) == plain.peek("a", cost)
        decision, same = await other.acquire("b", 2), plain.acquire("b", 2)
        assert decision == same
        await other.refund(decision)
        plain.refund(same)
        assert await other.peek("b") == plain.peek("b")
        await other.reset("a")
        plain.reset("a")
        assert await other.peek("a") == plain.peek("a")
        keys: list[str | bytes] = ["c", "c", "d", "c", "c", "c", "d"]
        assert await other.try_acquire_many(keys) == plain.try_acquire_many(keys)

    asyncio.run(use())


def test_bad_arguments_are_the_same_errors_on_both_kinds_of_store(
    either_store: MemoryStore | AsyncMemoryStore,
) -> None:
    async def use() -> None:
        limiter = AsyncLimiter(TokenBucket(1, 1), store=either_store)
        for ask in (limiter.try_acquire, limiter.acquire, limiter.peek, limiter.reset):
            with pytest.raises(TypeError, match="a key must be str or bytes, not "):
                await ask(5)  # type: ignore[arg-type]
        for ask in (limiter.try_acquire, limiter.acquire, limiter.peek):
            with pytest.raises(ValueError, match="cost must be"):
                await ask("a", -1)
        with pytest.raises(TypeError, match="a key must be str or bytes, not "):
            await limiter.try_acquire_many(["fine", 5])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="not one key"):
            await limiter.try_acquire_many("abc")
        assert (await limiter.peek("fine")).remaining == 1

    asyncio.run(use())


def test_a_subclass_of_the_async_limiter_has_a_say_in_every_verb(either_store: MemoryStore | AsyncMemoryStore) -> None:
    class Counting(AsyncLimiter):
        asked = 0

        async def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
            self.asked += 1
            return await super().try_acquire(key, cost)

    limiter = Counting("5/s", store=either_store)
    assert asyncio.run(limiter.try_acquire("a"))
    assert limiter.asked == 1


def test_a_limiter_that_cannot_await_its_store_says_who_can(store: TableStore) -> None:
    with pytest.raises(TypeError, match="AsyncMemoryStore must be awaited, which Limiter cannot: use AsyncLimiter"):
        Limiter("1/s", store=AsyncMemoryStore(store))  # type: ignore[arg-type]


def test_a_decorator_on_an_async_function_awaits_the_turn(store: TableStore, clock: ManualClock) -> None:
    async def use(limiter: Limiter | AsyncLimiter) -> None:
        @limiter.limit(key="all")
        async def call(number: int) -> int:
            return number

        began = clock.ticks()
        assert [await call(n) for n in range(3)] == [0, 1, 2]
        assert (clock.ticks() - began) / 16e9 == 0.2

    asyncio.run(use(Limiter(LeakyBucket(2, 10), store=store)))
    asyncio.run(use(AsyncLimiter(LeakyBucket(2, 10), store=store, name="async")))
    asyncio.run(use(AsyncLimiter(LeakyBucket(2, 10), store=AsyncMemoryStore(store), name="awaited")))


def test_a_block_is_limited_too(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(1, 1), store=store)
    with limiter.limit("job") as decision:
        assert_type(decision, Decision)
        assert decision.remaining == 0
    with pytest.raises(RateLimitExceeded, match=r"retry after 1\.000 s"), limiter.limit("job"):
        pytest.fail("the block must not be entered")

    async def use() -> None:
        async with AsyncLimiter(TokenBucket(1, 1), store=store, name="b").limit("job", cost=1):
            pass
        awaited = AsyncLimiter(TokenBucket(1, 1), store=AsyncMemoryStore(store), name="c")
        async with awaited.limit("job"):
            pass
        with pytest.raises(RateLimitExceeded, match=r"retry after 1\.000 s"):
            async with awaited.limit("job"):
                pytest.fail("the block must not be entered")
        async with limiter.limit("other job"):
            pass

    asyncio.run(use())


def test_a_guard_that_makes_no_sense_is_an_error(store: TableStore) -> None:
    limiter, async_limiter = Limiter("1/s", store=store), AsyncLimiter("1/s", store=store, name="async")
    with pytest.raises(TypeError, match="key must be"):
        limiter.limit(key=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cost must be"):
        limiter.limit("x", cost="3")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"write @limiter\.limit"):
        limiter.limit(lambda user: user)("alice")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a block has no arguments"), limiter.limit(key=lambda: "x"):
        pass
    with pytest.raises(TypeError, match="not an async function"):
        async_limiter.limit("x")(lambda: None)
    with pytest.raises(TypeError, match="use 'async with'"), async_limiter.limit("x"):
        pass


def test_an_exception_in_a_guarded_function_passes_through(store: TableStore) -> None:
    @Limiter("1/s", store=store).limit("x")
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

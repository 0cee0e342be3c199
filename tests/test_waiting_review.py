"""Mends of waiting, one test each: rules of different keys, refunds after a move, late cancels, and who settles."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from ratekeeper import AsyncKeeper, LeakyBucket, Limiter, ManualClock, MemoryStore, Policy, TokenBucket
from ratekeeper.core import IMPLEMENTATION
from ratekeeper.decision import Charge
from ratekeeper.limits import TICKS_PER_SECOND, Limit
from ratekeeper.policy.verdict import PolicyDecision
from ratekeeper.stores.places import Need, fit
from ratekeeper.stores.waitlist import Waiter

CORES = ["c", "python"] if IMPLEMENTATION == "c" else ["python"]
LIMITS: list[Limit] = [TokenBucket(10, 1), TokenBucket(4, 2), LeakyBucket(6, 1), TokenBucket(1, 1)]


@pytest.mark.parametrize("seed", range(60))
def test_waiters_of_rules_with_different_keys_may_give_up_in_any_order(seed: int) -> None:
    """Ranges that begin before the last waiter's turn are of use, too: an assertion failed."""
    chance, clock = Random(seed), ManualClock()
    store = MemoryStore(50, clock=clock)
    scopes, waiting = chance.sample(range(4), 2), list[Waiter]()
    for _ in range(40):
        choice = chance.random()
        if choice < 0.5:
            waiter, most = Waiter(lambda: None), chance.choice([None, 5])
            if all(store.line.join(waiter, [Charge.of(f"s{i}", f"k{i}", LIMITS[i], 1, most) for i in scopes])):
                waiting.append(waiter)
        elif choice < 0.75 and waiting:
            store.line.give_up(waiting.pop(chance.randrange(len(waiting))))
        else:
            clock.advance(chance.choice([0.1, 0.5, 2]))
            waiting = [waiter for waiter in waiting if not store.line.leave(waiter)]
    clock.advance(1000)
    assert all(store.line.leave(waiter) for waiter in waiting)
    assert len(store.line) == 0


def test_no_ranges_have_room_for_a_cost_over_the_burst() -> None:
    """A window that never fills ran out of pieces."""
    assert fit([Need(4, 3)], [[(0, 8)]], 0, 0, together=False) is None


LEAKY_RULE = """
[[rules]]
name = "user"
key = ["user"]
algorithm = "leaky_bucket"
capacity = 10
leak_rate = 5
"""


class HeldClock(ManualClock):
    """Its tasks wait until the test lets time go on."""

    async def wait_async(self, woken: asyncio.Event, seconds: float) -> None:
        until = self.ticks() + round(seconds * TICKS_PER_SECOND)
        while not woken.is_set() and self.ticks() < until:
            await asyncio.sleep(0)


def test_a_waiter_that_moved_up_gives_back_nothing_of_another_place() -> None:
    """It rewound the place of who came next, so that two left at once."""
    asyncio.run(refund_after_a_move())


async def refund_after_a_move() -> None:
    clock = HeldClock()
    keeper, left = AsyncKeeper(Policy.parse(LEAKY_RULE), MemoryStore(clock=clock)), list[float]()

    async def call() -> object:
        decision = await keeper.acquire({"user": "alice"})
        left.append(round(clock.seconds(), 3))
        return decision

    await call()
    first, second = asyncio.create_task(call()), asyncio.create_task(call())
    await settle()
    first.cancel()
    await settle()
    clock.advance(0.2)
    decision = await second
    assert isinstance(decision, PolicyDecision)
    third = asyncio.create_task(call())
    await settle()
    await keeper.refund(decision)
    fourth = asyncio.create_task(call())
    await settle()
    for _ in range(2):
        clock.advance(0.2)
        await settle()
    assert third.done()
    assert fourth.done()
    assert [round(when - left[0], 3) for when in left] == [0, 0.2, 0.4, 0.6]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("core", CORES)
def test_a_reservation_cannot_be_cancelled_when_its_turn_has_come(core: str) -> None:
    """Its caller has gone ahead: what it gave back left a second time."""
    clock = ManualClock()
    limiter = Limiter(TokenBucket(10, 1), store=MemoryStore(clock=clock, implementation=core))  # type: ignore[arg-type]
    assert limiter.try_acquire("key", 10)
    first, second = limiter.reserve("key", 5), limiter.reserve("key", 5)
    clock.advance(first.delay)
    first.cancel()
    assert second.delay == 5
    assert not limiter.try_acquire("key")

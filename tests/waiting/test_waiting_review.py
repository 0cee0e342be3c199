"""Mends of waiting, one test each: rules of different keys, refunds after a move, late cancels, and settling."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from random import Random

import pytest

from ratekeeper import (
    AsyncKeeper,
    AsyncLimiter,
    Decision,
    Keeper,
    LeakyBucket,
    Limiter,
    ManualClock,
    MemoryStore,
    Policy,
    TokenBucket,
)
from ratekeeper.core import IMPLEMENTATION
from ratekeeper.decision import Charge
from ratekeeper.limits import TICKS_PER_SECOND, Limit
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.waiting.async_wait_queue import AsyncWaitQueue
from ratekeeper.waiting.places import Need, fit, put
from ratekeeper.waiting.turns import Reservation
from ratekeeper.waiting.waitlist import Waiter, Waitlist

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
            if all(store.wait_queue.join(waiter, [Charge.of(f"s{i}", f"k{i}", LIMITS[i], 1, most) for i in scopes])):
                waiting.append(waiter)
        elif choice < 0.75 and waiting:
            store.wait_queue.give_up(waiting.pop(chance.randrange(len(waiting))))
        else:
            clock.advance(chance.choice([0.1, 0.5, 2]))
            waiting = [waiter for waiter in waiting if not store.wait_queue.leave(waiter)]
    clock.advance(1000)
    assert all(store.wait_queue.leave(waiter) for waiter in waiting)
    assert len(store.wait_queue) == 0


def test_no_ranges_have_room_for_a_cost_over_the_burst() -> None:
    """A window that never fills ran out of pieces."""
    assert fit([Need(4, 3)], [[(0, 8)]], 0, 0, by_leaving=True) is None


LEAKY_RULE = """
[[rules]]
name = "user"
key = ["user"]
algorithm = "leaky_bucket"
capacity = 10
leak_rate = 5
"""


def test_an_answer_that_travelled_long_gives_nobody_a_turn_that_has_passed() -> None:
    """Ranges that lay spare meanwhile are void: with them a late caller would leave at once, right before the next."""
    needs = (Need(increment=24, burst=24),)
    waitlist = Waitlist((("scope", b"key"),), for_departure=False, lead=0)
    put(waitlist.spare[0], (75, 99))
    put(waitlist.spare[0], (147, 171))
    waiter, later = Waiter(bool), Waiter(bool)
    place = waitlist.add(waiter, needs, [(219, 243)], charged_at=51, now=93)
    assert place is not None
    assert place.turn == 147
    again = waitlist.add(later, needs, [(243, 267)], charged_at=51, now=250)
    assert again is not None
    assert again.turn == 243, "its own place, which it was charged for, is not made later"


class HeldClock(ManualClock):
    """Its tasks wait until the test lets time go on."""

    async def wait_async(self, woken: asyncio.Future[None], until: int) -> None:
        while not woken.done() and self.ticks() < until:
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


def rules(*own: str) -> Policy:
    return Policy.parse("".join(f"[[rules]]\n{rule}\n" for rule in own))


TENANT = 'name = "tenant"\nkey = ["tenant"]\ncapacity = 10\nrefill_rate = 1\ncost = "size"'
USER = 'name = "user"\nkey = ["user"]\ncapacity = 10\nrefill_rate = 1\nmax_wait = 100'


def come(keeper: Keeper, **attributes: str) -> Waiter | None:
    """Return one that waits, or has left; None if it is refused."""
    waiter, charges = Waiter(lambda: None), keeper.compiled.plan(attributes, 1, None).charges
    return waiter if all(keeper.store.wait_queue.join(waiter, charges)) else None


@pytest.mark.parametrize("core", CORES)
def test_ranges_of_a_bucket_without_a_mark_do_not_outlive_a_refund(core: str) -> None:
    """A refund had moved them: their taker was not charged, and 13 left at once of 10."""
    clock = ManualClock()
    keeper = Keeper(rules(TENANT, USER), MemoryStore(clock=clock, implementation=core))  # type: ignore[arg-type]

    early = keeper.try_acquire({"tenant": "t", "user": "early", "size": "5"})
    for _ in range(10):
        assert keeper.try_acquire({"tenant": "other", "user": "waits", "size": "1"})
    waiter = come(keeper, tenant="t", user="waits", size="3")
    assert waiter is not None
    assert keeper.try_acquire({"tenant": "t", "user": "next", "size": "1"})
    keeper.store.wait_queue.give_up(waiter)
    keeper.refund(early)
    clock.advance(6.0)
    assert come(keeper, tenant="t", user="waits", size="3")
    left = [keeper.try_acquire({"tenant": "t", "user": f"u{number}", "size": "1"}).allowed for number in range(20)]
    assert 3 + sum(left) == 10


def test_a_rule_that_makes_nobody_wait_does_not_keep_turns_from_being_used() -> None:
    """Callers of little patience used 38 of 600 turns."""
    clock, used = ManualClock(), 0
    wide = 'name = "tenant"\nkey = ["tenant"]\ncapacity = 100000\nrefill_rate = 1000'
    narrow = 'name = "user"\nkey = ["user"]\ncapacity = 1\nrefill_rate = 10\nmax_wait = 10'
    keeper = Keeper(rules(wide, narrow), MemoryStore(clock=clock))
    waiting: list[tuple[Waiter, int]] = []
    for step in range(1000):
        for waiter, came in list(waiting):
            left = keeper.store.wait_queue.leave(waiter)
            used += left
            if left or step - came >= 30:
                waiting.remove((waiter, came))
                if not left:
                    keeper.store.wait_queue.give_up(waiter)
        newcomer = come(keeper, user="u", tenant="t") if step % 5 == 0 else None
        if newcomer:
            waiting.append((newcomer, step))
        keeper.try_acquire({"user": f"other{step}", "tenant": "t"})
        clock.advance(0.01)
    assert used >= 99


def test_settling_waits_for_a_section_of_another_thread() -> None:
    """It gave up for good, and no later give-up asked for it again."""
    limiter = Limiter(TokenBucket(1, "1/minute"), store=MemoryStore(clock=ManualClock()))
    line = limiter.store.wait_queue
    limiter.try_acquire("key")
    waiters = [Waiter(lambda: None) for _ in range(2)]
    for waiter in waiters:
        line.join(waiter, limiter._charges("key", 1, None))
    inside, go_on, asked = threading.Event(), threading.Event(), list[object]()
    line.give_up(waiters[0], asked.append)
    line.give_up(waiters[1], asked.append)
    assert len(asked) == 2

    def section() -> None:
        inside.set()
        go_on.wait()

    threads = [threading.Thread(target=line._section, args=(section,)), threading.Thread(target=line.settle)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert not line._unsettled


class LeadingClock(ManualClock):
    """A store's clock that is ahead of this process's."""

    lead = 10 * TICKS_PER_SECOND

    def local(self) -> int:
        return super().ticks()

    def ticks(self) -> int:
        return super().ticks() + self.lead


def test_a_waiter_learns_that_its_turn_is_later_when_the_lead_falls() -> None:
    """It asked again and again, without sleep, until its turn came."""
    clock = LeadingClock()
    limiter = Limiter(TokenBucket(1, 2), store=MemoryStore(clock=clock))
    limiter.try_acquire("key")
    waiters = [Waiter(lambda: None) for _ in range(2)]
    for waiter in waiters:
        limiter.store.wait_queue.join(waiter, limiter._charges("key", 1, None))
        clock.lead -= TICKS_PER_SECOND // 4
    clock.advance_ticks(waiters[0].leaves_at - clock.local())
    assert not limiter.store.wait_queue.leave(waiters[0])
    assert waiters[0].leaves_at > clock.local()


def test_a_bucket_that_its_own_request_evicts_leaves_no_mark() -> None:
    store = MemoryStore(4, clock=ManualClock(), implementation="python")
    for number in range(4):
        store.decide([Charge.of("big", f"{number}", TokenBucket(1000, 1), 900, 0)])
    for number in range(100):
        evicted = Charge.of("fast", f"{number}", LeakyBucket(5, 1000), 1, 1)._replace(burst=0)
        store.decide([evicted, Charge.of("slow", f"{number}", TokenBucket(100, 1), 1, 1)])
    assert store._table._marked <= store._table._tats.keys()  # type: ignore[union-attr]


class Unreachable:
    """A store whose answers are made without it."""

    def __init__(self) -> None:
        self.refunded: list[Charge] = []

    async def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        await asyncio.sleep(0)
        return [Decision(True, one.limit, one.key, one.cost, 0, 0, 0, 5, -1, "allow") for one in charges]

    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        self.refunded.extend(charges)

    async def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        return True


def test_a_cancelled_caller_gives_back_nothing_that_the_store_has_not_charged() -> None:
    async def use() -> None:
        store = Unreachable()
        line = AsyncWaitQueue(store, ManualClock())  # type: ignore[arg-type]  # it is asked for no more
        joining = asyncio.create_task(line.join(Waiter(bool), [Charge.of("s", "key", TokenBucket(10, 1), 5, 0)]))
        await asyncio.sleep(0)
        joining.cancel()
        await settle()
        assert joining.cancelled()
        assert store.refunded == []

    asyncio.run(use())


def test_a_reservation_may_be_cancelled_after_its_event_loop() -> None:
    store = MemoryStore(clock=ManualClock())
    limiter = AsyncLimiter(TokenBucket(1, 1), store=store)

    async def use() -> Reservation[Decision]:
        await limiter.acquire("key")
        return await limiter.reserve("key")

    asyncio.run(use()).cancel()
    assert len(store.wait_queue) == 0

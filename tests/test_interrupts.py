"""Exceptions of signal handlers, at any moment of every verb: nothing is lost, no answer is wrong, nothing hangs."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import pytest
from interrupts import Storm

from ratekeeper import Keeper, LeakyBucket, Limiter, ManualClock, MemoryStore, Policy, TokenBucket
from ratekeeper.core.pytable import Table
from ratekeeper.decision import Charge
from ratekeeper.limits import Limit

SECOND = 16_000_000_000
START = 1_800_000_000
SMALL = TokenBucket(10, 1)
UNBEGUN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A verb that is struck as it begins leaves a coroutine that never began. Python says so, and nothing is lost."""


def table(max_keys: int, deny: bool, clock: ManualClock | None = None) -> Table:
    return Table(max_keys, deny, bytes(16), (clock or ManualClock(START)).ticks)


def charge(key: int | str, cost: int = 1, limit: Limit = SMALL) -> Charge:
    return Charge.of("test/0", str(key), limit, cost)


def check(used: Table) -> None:
    """Each bucket can be found by its TAT, and so can be forgotten in its turn."""
    earliest: dict[int, int] = {}
    for tat, bucket in used._by_tat:
        earliest[bucket] = min(tat, earliest.get(bucket, tat))
    assert all(earliest[bucket] <= tat for bucket, tat in used._tats.items())
    assert all(used._by_tat[(at - 1) // 2] <= used._by_tat[at] for at in range(1, len(used._by_tat)))
    assert len(used._tats) <= used._max_keys
    assert len(used._by_tat) <= 2 * used._max_keys + 66


def live(used: Table) -> dict[int, int]:
    """Return the buckets that are not full. To forget others changes nothing."""
    return {bucket: tat for bucket, tat in used._tats.items() if tat > used._clock()}


def verb(used: Table, choice: random.Random) -> Callable[[Table], object]:
    """Choose a verb with its arguments."""
    keys, cost = [choice.randrange(24) for _ in range(3)], choice.randrange(4)
    now = used._clock()
    tat = used._tats.get(used._fingerprint("test/0", str(keys[0])), 0)
    verbs: list[Callable[[Table], object]] = [
        lambda it: it.decide([charge(keys[0], cost)]),
        lambda it: it.charge("test/0", str(keys[0]), cost * SMALL.interval, SMALL.full),
        lambda it: it.decide([charge(key, 2) for key in keys]),
        lambda it: it.decide([charge(key) for key in keys], commit=False),
        lambda it: it.refund([charge(keys[0], 2)], now),
        lambda it: it.adjust("test/0", str(keys[0]), 2**62 - 1, 0),
        lambda it: it.adjust("test/0", str(keys[0]), SMALL.interval, (cost - 1) * SECOND if cost else None),
        lambda it: it.rewind("test/0", str(keys[0]), tat, max(0, tat - SECOND)),
    ]
    return choice.choice(verbs)


@pytest.mark.parametrize("deny", [False, True], ids=["evict", "deny"])
def test_a_python_table_is_in_order_after_an_exception_at_any_moment(deny: bool) -> None:
    clock = ManualClock(START)
    used, choice, storm = table(8, deny, clock), random.Random(1), Storm(1)
    for _ in range(6000):
        work = verb(used, choice)
        storm.strike(lambda work=work: work(used))  # type: ignore[misc]
        check(used)
        clock.advance_ticks(choice.randrange(SECOND))
    assert min(storm.struck, storm.spared) > 300
    clock.advance(100)
    assert all(used.decide([charge(f"new {number}")])[0].allowed for number in range(8))
    check(used)


def test_a_struck_verb_of_a_python_table_is_done_wholly_or_not_at_all() -> None:
    used, choice, storm = table(1000, False), random.Random(2), Storm(2)
    for _ in range(4000):
        before = live(used)
        other = table(1000, False)
        other._tats.update(used._tats)
        other._blocked_until = used._blocked_until
        other._by_tat.extend(used._by_tat)
        work = verb(used, choice)
        storm.strike(lambda work=work: work(used))  # type: ignore[misc]
        if live(used) != before:
            work(other)
            assert live(used) == live(other)
    assert min(storm.struck, storm.spared) > 300


class Asking:
    """Asks when it is collected, as a logger does that limits what it writes."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._itself = self  # so that only the collector takes it, at any moment

    def __del__(self) -> None:
        self._ask()


@pytest.mark.parametrize("by", ["signal", "collector"])
def test_a_verb_that_is_called_in_the_middle_of_another_has_its_way_and_nothing_is_lost(by: str) -> None:
    """In one thread: by a signal handler, or by an object that is collected."""
    used, choice, large = table(1000, False), random.Random(3), TokenBucket(10**8, 1000)
    charged = [0]
    used.decide([charge("three", 1, large)])

    def take(cost: int = 1) -> None:
        assert used.decide([charge("one", cost, large), charge("two", cost, large)])[0].allowed
        made = used.charge("test/0", "three", cost * large.interval, large.full)
        assert made
        assert made[1][0]
        charged[0] += cost

    def strike(*_: object) -> None:
        take(1000)

    before = signal.signal(signal.SIGALRM, strike)
    threshold = gc.get_threshold()
    try:
        for _ in range(3000):
            if by == "signal":
                signal.setitimer(signal.ITIMER_REAL, choice.uniform(1e-6, 1e-4))
            else:
                Asking(strike)
                gc.set_threshold(choice.randrange(1, 30))
            take()
            take()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.set_threshold(*threshold)
        signal.signal(signal.SIGALRM, before)
    gc.collect()
    assert charged[0] > 30_000
    looked = used.decide([charge(key, 0, large) for key in ("one", "two", "three")], commit=False)
    assert [large.capacity - look.remaining for look in looked] == [charged[0], charged[0], charged[0] + 1]
    check(used)


@UNBEGUN
def test_every_verb_of_a_memory_store_may_be_struck_and_what_was_not_is_done_once(
    implementation: Literal["c", "python"],
) -> None:
    store = MemoryStore(1000, clock=ManualClock(1000), implementation=implementation)
    large = TokenBucket(10**6, 1)
    limiter, storm = Limiter(large, TokenBucket(10**7, 10), store=store), Storm(4)
    done = struck = 0
    for turn in range(2000):
        if storm.strike(lambda: limiter.try_acquire("one")):
            done += 1
        else:
            struck += 1
        if turn % 4 == 0:
            storm.strike(lambda: limiter.try_acquire_many(["two", "three"] * 5))
            storm.strike(lambda: limiter.peek("one"))
            storm.strike(lambda: limiter.reset("two"))
            storm.strike(lambda: store.refund([Charge.of("other/0", "two", large, 1)], 5))
            storm.strike(lambda: store.rewind("other/0", "two", 5, 3))
            storm.strike(store.stats)
    used = large.capacity - limiter.peek("one").remaining
    assert done <= used <= done + struck
    assert min(storm.struck, storm.spared) > 100
    limiter.reset("two")
    assert limiter.try_acquire("two", 10**6)


INTERVAL = LeakyBucket(5, 10).interval
POLICY = Policy.parse("""
[[rules]]
name = "queue"
key = ["user"]
algorithm = "leaky_bucket"
capacity = 5
leak_rate = 10

[[rules]]
name = "burst"
key = ["user"]
capacity = 3
refill_rate = 20
max_wait = 10
""")


def user(name: str) -> dict[str, str]:
    return {"user": name}


def verbs_of(kind: type[Limiter | Keeper], store: MemoryStore) -> dict[str, Callable[[], Any]]:
    """Return every verb of a limiter or a keeper. Only those that wait or charge at once ask for the hot key."""
    limits, later = (LeakyBucket(5, 10), TokenBucket(3, 20)), time.time() + 3600
    asker: Any = Keeper(POLICY, store) if kind is Keeper else Limiter(*limits, store=store)
    hot, cold, blocked = map(user if kind is Keeper else str, ("hot", "cold", "blocked"))
    rule = ["queue"] if kind is Keeper else []
    verbs: dict[str, Callable[[], Any]] = {
        "try_acquire": lambda: asker.try_acquire(hot),
        "acquire": lambda: asker.acquire(hot),
        "reserve": lambda: asker.reserve(hot).cancel(),
        "peek": lambda: asker.peek(hot),
        "usage": lambda: asker.usage(hot),
        "refund": lambda: asker.refund(asker.try_acquire(cold)),
        "reset": lambda: asker.reset(cold, *rule),
        "grant": lambda: asker.grant(cold, 1, *rule),
        "block": lambda: asker.block(blocked, later, *rule),
        "unblock": lambda: asker.unblock(blocked, *rule),
    }
    if kind is Keeper:
        others: Any = Keeper(Policy.parse('[[rules]]\nname = "other"\nlimit = "5/s"'), store)
        return verbs | {"reset_rule": lambda: others.reset_rule("other"), "explain": lambda: asker.explain(hot)}
    others = Limiter("5/s", store=store)
    return verbs | {"reset_all": others.reset_all, "try_acquire_many": lambda: asker.try_acquire_many([cold] * 5)}


@UNBEGUN
@pytest.mark.parametrize("kind", [Limiter, Keeper])
def test_every_verb_may_be_struck_and_nobody_leaves_too_soon_or_waits_for_ever(
    kind: type[Limiter | Keeper], implementation: Literal["c", "python"]
) -> None:
    clock = ManualClock(1000)
    store = MemoryStore(1000, clock=clock, implementation=implementation)
    verbs = verbs_of(kind, store)
    public = {name for name, member in vars(kind).items() if callable(member) and not name.startswith("_")}
    assert public - verbs.keys() <= {"limit", "close", "ready"}
    storm, choice, left = Storm(7), random.Random(7), list[int]()
    for _ in range(3000):
        verb = choice.choice(sorted(verbs))
        answer = storm.strike(verbs[verb])
        if answer and verb in {"try_acquire", "acquire"}:
            left.append(clock.ticks())
        clock.advance_ticks(choice.randrange(INTERVAL // 2))
    assert min(storm.struck, storm.spared) > 300
    assert len(left) > 100
    assert all(later - earlier >= INTERVAL for earlier, later in pairwise(left))
    waits = threading.Thread(target=verbs["acquire"], daemon=True)
    waits.start()
    waits.join(30)
    assert not waits.is_alive(), "no lock is left behind"
    gc.collect()
    clock.advance(100)
    assert verbs["try_acquire"]()
    assert len(store.wait_queue) == 0

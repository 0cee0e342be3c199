"""Mends of waiting, one test each: rules of different keys, refunds after a move, late cancels, and who settles."""

from __future__ import annotations

from random import Random

import pytest

from ratekeeper import LeakyBucket, ManualClock, MemoryStore, TokenBucket
from ratekeeper.core import IMPLEMENTATION
from ratekeeper.decision import Charge
from ratekeeper.limits import Limit
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
            waiter, most = Waiter(bool), chance.choice([None, 5])
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

"""Callers of little patience whose questions travel to the store and back: each limit holds, and each turn is used.

All in virtual time. Each process is its own wait queue on one table.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from async_memory import AsyncMemoryStore
from impatient_callers import Callers, Departure
from test_waiting_bound import Left, keeps
from virtual_time import LoopClock, VirtualLoop

from ratekeeper import AsyncLimiter, LeakyBucket, MemoryStore, TokenBucket
from ratekeeper.limits import TICKS_PER_SECOND, Limit
from ratekeeper.stores.table_store import TableStore

RATE, SECONDS = 5, 60
LIMITS: dict[str, tuple[Limit, ...]] = {
    "token": (TokenBucket(4, RATE),),
    "leaky": (LeakyBucket(1000, RATE),),
    "token and leaky": (TokenBucket(4, RATE), LeakyBucket(1000, 8)),
    "three": (TokenBucket(4, RATE), TokenBucket(40, 6), LeakyBucket(1000, 8)),
}


class FarStore(AsyncMemoryStore):
    """A store at the other end of a network."""

    def __init__(self, store: TableStore, round_trip: float, chance: Random) -> None:
        super().__init__(store)
        self._round_trip = round_trip
        self._chance = chance

    async def _on_the_way(self, place: str, failing: set[str], verb: str) -> None:
        await asyncio.sleep(self._round_trip / 2 * self._chance.uniform(0.5, 1.5))


def history(limits: tuple[Limit, ...], processes: int, round_trip: float) -> list[list[Departure]]:
    """Return the departures of each process, whose callers together ask for twice the rate."""
    loop, chance = VirtualLoop(), Random(processes)
    first = MemoryStore(1000, clock=LoopClock(loop))
    tables = [first, *(TableStore(first._table, 1000, first.clock) for _ in range(processes - 1))]
    left: list[list[Departure]] = [[] for _ in tables]

    async def run() -> None:
        over, stores = asyncio.Event(), [FarStore(table, round_trip, chance) for table in tables]
        loop.call_later(SECONDS, over.set)
        gap = processes / (2 * RATE)
        limiters = [AsyncLimiter(*limits, store=store, name="it") for store in stores]
        coming = [
            Callers(limiter, gap, str(number), left[number].append).come(over)
            for number, limiter in enumerate(limiters)
        ]
        await asyncio.gather(*coming)
        for store in stores:
            await store.wait_queue.settle()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(run())
    return left


@pytest.mark.parametrize("round_trip", [0.004, 0.04])
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("limits", LIMITS)
def test_callers_with_little_patience_use_every_turn_though_questions_travel(
    limits: str, processes: int, round_trip: float
) -> None:
    """A round trip of a fifth of a turn's time cost 7 % of the turns in one process, and 9 % in three."""
    left = history(LIMITS[limits], processes, round_trip)
    counting = [Left(one.turn, 1, 0, one.number) for process in left for one in process if one.counts]
    for limit in LIMITS[limits]:
        keeps(limit, counting)
    for one in left:
        numbers = [departure.number for departure in sorted(one)]
        assert numbers == sorted(numbers), "in order of arrival"
    begin, end = 1004 * TICKS_PER_SECOND, (1000 + SECONDS) * TICKS_PER_SECOND
    used = sum(begin < departure.turn <= end for process in left for departure in process)
    assert used >= 0.95 * RATE * (SECONDS - 4)


def test_what_a_newcomer_leaves_unused_is_given_back_though_another_gave_up_while_its_question_travelled() -> None:
    """The store was asked for it only while the newcomer's charge lay behind, and so had the end of the axis."""
    loop = VirtualLoop()
    table = MemoryStore(1000, clock=LoopClock(loop))
    far = AsyncLimiter(LeakyBucket(1000, 1), store=FarStore(table, 0.2, Random(1)), name="it")

    async def run() -> tuple[float, float]:
        begin = loop.time()
        assert await far.acquire("k")
        leaver = asyncio.create_task(far.acquire("k"))
        await asyncio.sleep(0.5)
        newcomer = asyncio.create_task(far.acquire("k"))
        await asyncio.sleep(0.01)  # its question is on the way
        leaver.cancel()
        await asyncio.sleep(0.4)
        other_process = AsyncLimiter(LeakyBucket(1000, 1), store=AsyncMemoryStore(table), name="it")
        next_turn = loop.time() + (await other_process.peek("k")).delay
        await newcomer
        return loop.time() - begin, next_turn - begin

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        left, next_turn = runner.run(run())
    assert left < 1.2
    assert next_turn == pytest.approx(2.1, abs=0.1), "the turn behind the newcomer's, not the one after it"

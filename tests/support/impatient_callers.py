"""Callers of one key that come one after the other, wait with little patience, give up and refund, as chance has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from random import Random
from typing import NamedTuple

from ratekeeper import AsyncLimiter, Decision, Reservation

PATIENCE = 1.6  # seconds


class Departure(NamedTuple):
    """A caller that had its turn. One that was refunded does not count for the limit."""

    turn: int
    number: int  # in order of arrival
    counts: bool


class Callers:
    """Callers of a limiter, of whom one comes every `gap` seconds. `tell` is told of each departure."""

    def __init__(self, limiter: AsyncLimiter, gap: float, seed: str, tell: Callable[[Departure], object]) -> None:
        self._limiter = limiter
        self._gap = gap
        self._chance = Random(seed)
        self._tell = tell
        self._waiting: set[asyncio.Task[None]] = set()

    async def come(self, over: asyncio.Event) -> None:
        """Let callers come until it is over, and the last have left."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        numbers = count()
        while not over.is_set():
            number = next(numbers)
            # One asks when the one before has its answer: so the order of arrival is certain.
            turn = await self._limiter.reserve("key", 1, self._chance.choice([None, None, PATIENCE]))
            if turn:
                caller = asyncio.create_task(self._wait(turn, number))
                self._waiting.add(caller)
                caller.add_done_callback(self._waiting.discard)
            due += self._gap * self._chance.uniform(0.5, 1.5)
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), max(0, due - loop.time()))
        await asyncio.gather(*self._waiting)

    async def _wait(self, turn: Reservation[Decision], number: int) -> None:
        patience = PATIENCE if self._chance.random() < 0.8 else self._chance.random() * PATIENCE
        leaving = asyncio.create_task(self._leave(turn))
        await asyncio.wait([leaving], timeout=patience)
        if turn.delay > 0:  # else its turn has come, and only this process is late
            leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
            counts = self._chance.random() < 0.9
            if not counts:
                await self._limiter.refund(turn.decision)
            place = turn._waiter.place
            self._tell(Departure(place.turn if place else turn.decision.at_ticks, number, counts))

    async def _leave(self, turn: Reservation[Decision]) -> None:
        async with turn:
            pass

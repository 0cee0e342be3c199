"""A store that must be awaited, without a network: a local store whose answers take turns of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge, Decision
from ratekeeper.errors import StoreUnavailable
from ratekeeper.stores.table_store import TableStore
from ratekeeper.waiting.async_wait_queue import AsyncWaitQueue
from ratekeeper.waiting.waitlist import Waiter

T = TypeVar("T")


class AsyncMemoryStore:
    """The event loop goes on before each answer is made, and after. `holds`, by name, make it wait there for longer.

    While it is `away` it does not answer, as a store on a server.
    """

    def __init__(self, store: TableStore, clock: Clock | None = None) -> None:
        self.store = store
        self.clock = clock or store.clock
        self.wait_queue = AsyncWaitQueue(self, self.clock)
        self.asked: Counter[str] = Counter()
        self.asking = self.most_at_once = 0
        self.holds: dict[str, asyncio.Event] = {}
        self.away = False
        self.fail_before: set[str] = set()
        self.fail_after: set[str] = set()
        self.turns: Callable[[], int] = lambda: 1  # how many turns of the event loop a way takes

    async def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        return await self._answer("decide", lambda: self.store.decide(charges, commit=commit))

    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        await self._answer("refund", lambda: self.store.refund(charges, at_ticks))

    async def adjust(self, scope: str, key: str | bytes, *ticks: Any) -> None:
        await self._answer("adjust", lambda: self.store.adjust(scope, key, *ticks))

    async def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        return await self._answer("rewind", lambda: self.store.rewind(scope, key, expected_ticks, tat_ticks))

    async def reset_scope(self, scope: str) -> None:
        await self._answer("reset_scope", lambda: self.store.reset_scope(scope))

    @property
    def waiting(self) -> bool:
        return len(self.wait_queue) > 0

    async def _answer(self, verb: str, ask: Callable[[], T]) -> T:
        if self.away:
            raise StoreUnavailable("no answer", 1.0)
        self.asked[verb] += 1
        self.asking += 1
        self.most_at_once = max(self.most_at_once, self.asking)
        try:
            await self._on_the_way("before", self.fail_before, verb)
            answer = ask()
            await self._on_the_way("after", self.fail_after, verb)
            return answer
        finally:
            self.asking -= 1

    async def _on_the_way(self, place: str, failing: set[str], verb: str) -> None:
        for _ in range(self.turns()):
            await asyncio.sleep(0)
        if place in self.holds:
            await self.holds[place].wait()
        if verb in failing:
            raise OSError("the network is gone")


class LateClock:
    """A remote clock as it is known here: late, but never before an answer that came from there."""

    def __init__(self, clock: Clock, behind: int) -> None:
        self._clock = clock
        self.behind = behind
        self._known = 0
        self.wait, self.wait_async = clock.wait, clock.wait_async

    def ticks(self) -> int:
        self._known = max(self._known, self._clock.ticks() - self.behind)
        return self._known

    def heard(self, ticks: int) -> None:
        self._known = max(self._known, ticks)


class DrivenQueue:
    """An AsyncWaitQueue with the verbs of a WaitQueue, each run to its end: for tests that drive time by themselves."""

    def __init__(self, store: AsyncMemoryStore, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._line = store.wait_queue
        self._run = run

    def join(self, waiter: Waiter, charges: Sequence[Charge]) -> list[Decision]:
        decisions: list[Decision] = self._run(self._line.join(waiter, charges))
        return decisions

    def leave(self, waiter: Waiter) -> bool:
        return self._line.leave(waiter)

    def give_up(self, waiter: Waiter, later: object = None) -> None:
        self._line.give_up(waiter)
        if later is None:
            self.settle()

    def settle(self) -> None:
        self._run(self._line.settle())


def turn_of(waiter: Waiter) -> int:
    """Return when a waiter leaves, whether or not it has been told."""
    waitlist = waiter.waitlist
    if waitlist is None or waiter.place is not None:
        return waiter.place.turn if waiter.place else waiter.leaves_at
    turns = dict(zip(waitlist._waiters, waitlist._places, strict=False))
    return turns[waiter].turn - waitlist.lead

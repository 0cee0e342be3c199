"""Blocking: an async store as a store, for tests of the one suite. It must not know a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ratekeeper.decision import Charge, Decision
from ratekeeper.limits import Limit
from ratekeeper.stores.base import AsyncStore, ChargeGate, Gate, WaitForTurn
from ratekeeper.waiting.wait_queue import WaitQueue

T = TypeVar("T")


class Blocking:
    """Run each verb of an async store to its end, on an event loop that only this object uses."""

    def __init__(self, store: AsyncStore) -> None:
        self._store = store
        self._loop = asyncio.new_event_loop()
        self.clock = store.clock
        self.wait_queue = WaitQueue(self, store.clock)

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        return self._run(self._store.decide(charges, commit=commit))

    def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        self._run(self._store.refund(charges, at_ticks))

    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        return self._run(self._store.rewind(scope, key, expected_ticks, tat_ticks))

    def adjust(self, scope: str, key: str | bytes, back_ticks: int, block_ticks: int | None) -> None:
        self._run(self._store.adjust(scope, key, back_ticks, block_ticks))

    def reset_scope(self, scope: str) -> None:
        self._run(self._store.reset_scope(scope))

    def bind(self, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurn) -> Gate:
        return ChargeGate(self, scopes, limits, wait)

    def close(self) -> None:
        close: Callable[[], Coroutine[Any, Any, None]] | None = getattr(self._store, "close", None)
        if close is not None:
            self._run(close())
        self._loop.close()

    def _run(self, work: Awaitable[T]) -> T:
        async def awaiting() -> T:
            return await work

        return self._loop.run_until_complete(awaiting())

"""Many requests of one caller, which travel together: for a limiter that is asked for many keys at once. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ratekeeper.decision import Charge, Decision, combine
from ratekeeper.limits import Limit
from ratekeeper.stores.base import ChargeGate, Store, WaitForTurn, checked_keys
from ratekeeper.stores.redis.batches import MOST_TOGETHER


class DecidesMany(Store, Protocol):
    """A store that can be asked for many requests at once, each all or nothing by itself, in order."""

    def decide_many(self, requests: Sequence[Sequence[Charge]]) -> list[list[Decision]]: ...


class ManyGate(ChargeGate):
    """The gate of a store to which the way is long: many keys are few calls."""

    def __init__(
        self, store: DecidesMany, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurn
    ) -> None:
        super().__init__(store, scopes, limits, wait)
        self._decide_many = store.decide_many

    def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        keys = checked_keys(keys)
        answers: list[bool] = []
        for first in range(0, len(keys), MOST_TOGETHER):
            requests = [self._charges(key, cost) for key in keys[first : first + MOST_TOGETHER]]
            answers += [combine(decisions).allowed for decisions in self._decide_many(requests)]
        return answers

"""Many requests of one caller, which travel together: for a limiter that is asked for many keys at once. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

from ratekeeper.decision import Charge, Decision
from ratekeeper.limits import Limit
from ratekeeper.stores.base import ChargeGate, Store, Wait, checked_keys, speaking
from ratekeeper.stores.redis.batches import MOST_TOGETHER
from ratekeeper.stores.redis.plans import Plan
from ratekeeper.stores.redis.script import Ask

T = TypeVar("T")


class DecidesMany(Store, Protocol):
    """A store that can be asked for many requests at once, each all or nothing by itself, in order."""

    def decide_many(self, requests: Sequence[Sequence[Charge]]) -> list[list[Decision]]: ...


class ManyGate(ChargeGate):
    """The gate of a store to which the way is long: many keys are few calls."""

    def __init__(self, store: DecidesMany, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: Wait) -> None:
        super().__init__(store, scopes, limits, wait)
        self._decide_many = store.decide_many

    def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        keys = checked_keys(keys)
        answers: list[bool] = []
        for first in range(0, len(keys), MOST_TOGETHER):
            requests = [self._charges(key, cost) for key in keys[first : first + MOST_TOGETHER]]
            answers += [speaking(decisions).allowed for decisions in self._decide_many(requests)]
        return answers


def together(plans: Sequence[Plan[T]]) -> Plan[list[T]]:
    """Run plans side by side: what they ask for travels together, and if that fails, it fails for each of them."""
    results: dict[int, T] = {}
    asking: dict[int, list[Ask]] = {}

    def go_on(place: int, step: Callable[[], list[Ask]]) -> None:
        try:
            asking[place] = step()
        except StopIteration as stop:
            results[place] = stop.value

    for place, plan in enumerate(plans):
        go_on(place, partial(next, plan))
    while asking:
        asked, asking = asking, {}
        try:
            replies = iter((yield [ask for asks in asked.values() for ask in asks]))
        except GeneratorExit:
            raise
        except BaseException as error:
            for place in asked:
                go_on(place, partial(plans[place].throw, error))
        else:
            for place, asks in asked.items():
                go_on(place, partial(plans[place].send, list(islice(replies, len(asks)))))
    return [results[place] for place in range(len(plans))]

"""The gate of one limit on the Python table: the hot path where the C core is not in use. It must not know limiters."""

from __future__ import annotations

from ratekeeper.core import pytable
from ratekeeper.decision import Decision
from ratekeeper.limits import Limit
from ratekeeper.stores.base import ChargeGate, Store, WaitForTurn


class TableGate(ChargeGate):
    """`ChargeGate`, but a request for tokens of a known bucket makes no charge: `Table.charge` takes plain numbers.

    >>> from ratekeeper import MemoryStore, TokenBucket
    >>> store = MemoryStore(100, implementation="python")
    >>> gate = TableGate(store, store._table, "search/0", TokenBucket(5, 1), wait=print)
    >>> [gate.try_acquire("alice").remaining for _ in range(2)]
    [4, 3]
    """

    def __init__(self, store: Store, table: pytable.Table, scope: str, limit: Limit, wait: WaitForTurn) -> None:
        super().__init__(store, (scope,), (limit,), wait)
        self._charge = table.charge
        self._scope = scope
        self._limit = limit
        self._interval = limit.interval
        self._max_cost = limit.max_cost
        self._full = 0 if limit.queues else limit.full

    def try_acquire(self, key: str | bytes, cost: int = 1) -> Decision:
        if type(cost) is int and 0 < cost <= self._max_cost:
            increment = cost * self._interval
            made = self._charge(self._scope, key, increment, self._full or increment)
            if made:
                now, (allowed, _, ahead, delay, retry_after) = made
                if allowed:
                    return Decision(True, self._limit, key, cost, ahead, 0, 0, now)
                return Decision(False, self._limit, key, cost, ahead - increment, delay, retry_after, now, -1)
        return super().try_acquire(key, cost)

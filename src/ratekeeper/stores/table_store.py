"""The base of the stores on a local table, in whatever memory: the verbs, the gate, the wait queue, the statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ratekeeper import core
from ratekeeper.clock import Clock, SystemClock
from ratekeeper.core import pytable
from ratekeeper.errors import StoreError
from ratekeeper.forks import forget_in_child
from ratekeeper.limits import Limit
from ratekeeper.stores.base import ChargeGate, Gate, WaitForTurn, checked_adjustment
from ratekeeper.stores.table_gate import TableGate
from ratekeeper.waiting.wait_queue import WaitQueue

MAX_KEYS = 1_000_000
"""The live buckets that a table has room for, by default."""


class StoreStats(NamedTuple):
    """A store's health. A bucket is live until it is full again; a full one costs nothing to forget.

    `evicted_live` counts live buckets that were evicted for newcomers, and `refused_full` newcomers that found no room.
    `retries` counts decisions that began again, because another thread or process changed the bucket at that instant.

    >>> StoreStats(max_keys=1000, live=5, evicted_live=0, refused_full=0, retries=0).live
    5
    """

    max_keys: int
    live: int
    evicted_live: int
    refused_full: int
    retries: int


class TableStore:
    """A store whose buckets are in a table that this process can touch."""

    def __init__(self, table: core.Table, max_keys: int, clock: Clock | None) -> None:
        self.clock: Clock = SystemClock() if clock is None else clock
        self._max_keys = max_keys
        self._table = table
        if isinstance(table, pytable.Table):
            forget_in_child(table)
        self.decide = table.decide
        self.refund = table.refund
        self.rewind = table.rewind
        self.wait_queue = WaitQueue(table, self.clock)

    def bind(self, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurn) -> Gate:
        """Return the hot path for one limiter: a C object where the C core is in use."""
        table = self._table
        if not isinstance(table, pytable.Table):
            return table.gate(scopes, limits, wait)
        if len(limits) == 1:
            return TableGate(self, table, scopes[0], limits[0], wait)
        return ChargeGate(self, scopes, limits, wait)

    def adjust(self, scope: str, key: str | bytes, back_ticks: int, block_ticks: int | None) -> None:
        """Change a bucket by hand. See `Store.adjust`."""
        if not self._table.adjust(scope, key, *checked_adjustment(back_ticks, block_ticks)):
            raise StoreError(
                f"the table is full (max_keys={self._max_keys:,}), and has no room for the block. Try again when a "
                "bucket has refilled, or make the table larger"
            )

    def reset_scope(self, scope: str) -> None:
        """Forget all buckets of a scope. See `Store.reset_scope`. It is one step here, whatever the number of keys."""
        if not self._table.reset_scope(scope):
            raise StoreError(
                f"the table has had {pytable.MAX_RESETS:,} resets of rules, and has no room for more. Begin another "
                "table"
            )

    def policy_gate(self, matcher: object, asked: Callable[[list[Any]], list[Any]] | None) -> Any:
        """Return the hot path for a policy, a C object; None if the table or the matcher is in Python.

        `asked` returns limits that are looked up and not known; it is None for a policy without such limits.
        """
        gate = getattr(self._table, "policy_gate", None)
        return gate(matcher, asked) if gate is not None and core.is_native(matcher) else None

    def stats(self) -> StoreStats:
        """Count the live buckets, by a look at every cell: some milliseconds for a million."""
        return StoreStats(self._max_keys, *self._table.stats())


def denies_when_full(max_keys: int, on_full: str) -> bool:
    """Return whether a table denies newcomers when it is full. Raises ValueError for a bad argument."""
    if not isinstance(max_keys, int) or isinstance(max_keys, bool) or not 1 <= max_keys <= 2**32:
        raise ValueError(f"max_keys must be a whole number from 1 to 2**32, not {max_keys!r}")
    if on_full not in ("evict", "deny"):
        raise ValueError(f"on_full must be 'evict' or 'deny', not {on_full!r}")
    return on_full == "deny"

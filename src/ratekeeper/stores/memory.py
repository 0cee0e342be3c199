"""MemoryStore: the buckets of one process, in a table of fixed size. Knows no limiter and no policy."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ratekeeper import core
from ratekeeper.clock import Clock, SystemClock
from ratekeeper.limits import Limit
from ratekeeper.stores.base import ChargeGate, Gate, Wait
from ratekeeper.stores.waiting import Line


class StoreStats(NamedTuple):
    """A store's health. A bucket is live while it is not full again; a full one costs nothing to forget."""

    max_keys: int
    live: int
    evicted_live: int
    refused_full: int


class MemoryStore:
    """Keep up to `max_keys` live buckets in this process, thread-safe, in 16 / 0.7 = 23 bytes each (C core).

    The memory is reserved at once and used only as keys come. When more buckets are live than fit, `on_full="evict"`
    lets the one with the least debt go, so that a flood of new keys evicts the flood; `on_full="deny"` refuses the
    newcomer. Both are counted in `stats()`. A forked child has a copy of its own.
    """

    def __init__(
        self,
        max_keys: int = 1_000_000,
        *,
        on_full: Literal["evict", "deny"] = "evict",
        clock: Clock | None = None,
        implementation: Literal["c", "python"] = core.IMPLEMENTATION,
    ) -> None:
        if not isinstance(max_keys, int) or isinstance(max_keys, bool) or not 1 <= max_keys <= 2**32:
            raise ValueError(f"max_keys must be a whole number from 1 to 2**32, not {max_keys!r}")
        if on_full not in ("evict", "deny"):
            raise ValueError(f"on_full must be 'evict' or 'deny', not {on_full!r}")
        self.clock: Clock = SystemClock() if clock is None else clock
        self._max_keys = max_keys
        ticks = None if clock is None else clock.ticks
        self._table = core.make_table(max_keys, on_full == "deny", ticks, implementation)
        self.decide = self._table.decide
        self.refund = self._table.refund
        self.reset = self._table.reset
        self.rewind = self._table.rewind
        self.line = Line(self._table, self.clock)

    def bind(self, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: Wait) -> Gate:
        """Return the hot path for one limiter: a C object where the C core is in use."""
        gate = getattr(self._table, "gate", None)
        return gate(scopes, limits, wait) if gate else ChargeGate(self, scopes, limits, wait)

    def stats(self) -> StoreStats:
        """Count the live buckets, by a look at every cell: some milliseconds for a million."""
        return StoreStats(self._max_keys, *self._table.stats())

"""MemoryStore: the buckets of one process, in a table of fixed size. It must not know limiters and policies."""

from __future__ import annotations

from typing import Literal

from ratekeeper import core
from ratekeeper.clock import Clock, ticks_of
from ratekeeper.forks import OfOneProcess
from ratekeeper.stores.table_store import MAX_KEYS, TableStore, denies_when_full


class MemoryStore(OfOneProcess, TableStore):
    """Keep up to `max_keys` live buckets in this process, thread-safe, in 16 / 0.7 = 23 bytes each (C core).

    The memory is reserved at once and used only as keys come. When more buckets are live than fit, `on_full="evict"`
    evicts the one with the least debt, so that a flood of new keys evicts itself; `on_full="deny"` denies the newcomer.
    Both are counted in `stats()`. A forked child has its own copy: worker processes that share their limits
    need a `SharedMemoryStore`.

    >>> store = MemoryStore(max_keys=10_000)
    >>> store.stats().live
    0
    """

    _instead = "make one in each process. Processes that share their limits need a SharedMemoryStore or a server"

    def __init__(
        self,
        max_keys: int = MAX_KEYS,
        *,
        on_full: Literal["evict", "deny"] = "evict",
        clock: Clock | None = None,
        implementation: Literal["c", "python"] = core.IMPLEMENTATION,
    ) -> None:
        deny = denies_when_full(max_keys, on_full)
        ticks = ticks_of(clock)
        super().__init__(core.make_table(max_keys, deny, ticks, implementation), max_keys, clock)
        self._on_full = on_full

    def __repr__(self) -> str:
        return f"MemoryStore(max_keys={self._max_keys}, on_full={self._on_full!r})"

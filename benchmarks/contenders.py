"""The protocol of a limiter under test, and ratekeeper as one. The other libraries are in peers.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from ratekeeper import IMPLEMENTATION, Limiter, MemoryStore, TokenBucket


@dataclass(frozen=True, slots=True)
class Rate:
    """The limit that all contenders get: so many at once, and so many in each period."""

    count: int
    seconds: int = 3600


@dataclass(frozen=True, slots=True)
class Contender:
    """A limiter that was built.

    ask      what is timed: says for a key whether a request may go ahead, now, without blocking
    allowed  reads that answer
    patient  as `ask`, but never refuses just because another thread holds a lock
    clear    forgets a key
    settle   waits for work in the background, so that others are not disturbed by it
    tidy     does all that the library would do in time to give memory back
    """

    ask: Callable[[str], object]
    allowed: Callable[[Any], bool] = bool
    patient: Callable[[str], object] | None = None
    clear: Callable[[str], object] | None = None
    settle: Callable[[], object] | None = None
    tidy: Callable[[], object] | None = None


Build: TypeAlias = Callable[..., Contender]


@dataclass(frozen=True, slots=True)
class Entrant:
    """A way to build a contender, and what is known about it.

    exact  made to admit no more than its limit, also under threads (whether it does: see exactness.py)
    log    it keeps an entry for each request admitted, so its costs grow with the limit
    ours   it is ratekeeper
    """

    name: str
    build: Build
    exact: bool = True
    log: bool = False
    ours: bool = False


def build_ratekeeper(implementation: Literal["c", "python"], rate: Rate, max_keys: int = 1_000_000) -> Contender:
    store = MemoryStore(max_keys, implementation=implementation)
    limiter = Limiter(TokenBucket(rate.count, f"{rate.count}/{rate.seconds}s"), store=store)
    return Contender(limiter.try_acquire, clear=limiter.reset)


C_CORE = "ratekeeper, C core"
PYTHON_CORE = "ratekeeper, Python core"


def our_entrants() -> Mapping[str, Entrant]:
    """Return ratekeeper's two cores by name; only the Python core if the C core was not built."""
    found = [Entrant(PYTHON_CORE, partial(build_ratekeeper, "python"), ours=True)]
    if IMPLEMENTATION == "c":
        found.insert(0, Entrant(C_CORE, partial(build_ratekeeper, "c"), ours=True))
    return {entrant.name: entrant for entrant in found}

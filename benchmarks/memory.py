"""The memory of live buckets, and of buckets that were full again long ago. Each contender runs in its own process,
`python -m benchmarks.memory CONTENDER KIND COUNT`, which prints bytes.

The growth of the process is measured. Keys are made one by one and not kept, so a library that keeps them pays for
them.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks.contenders import C_CORE, Contender, Entrant, Rate, build_ratekeeper, our_entrants
from benchmarks.peers import peer_entrants

Kind: TypeAlias = Literal["live", "expired"]

LIVE = Rate(10, seconds=3600)
EXPIRED = Rate(10, seconds=1)
OVER = 3.5
"""Seconds after which every peer of EXPIRED has forgotten, if it ever does: some keep a window, or two, or a second."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How much a process grew, in bytes, by asking once for each of `keys` keys."""

    contender: str
    kind: Kind
    keys: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many keys each process is asked about.

    table is for the C core, whose table has a fixed size: so many keys are a load of 70 %. The others grow key by key,
    so that fewer say as much, in less time.
    """

    live: int = 200_000
    expired: int = 250_000
    table: int = 1_000_000


def measure_all(entrants: Mapping[str, Entrant], sizes: Sizes, progress: Callable[[int, int], object]) -> list[Growth]:
    """Measure every contender, two at a time: time does not matter here."""
    counts: dict[Kind, int] = {"live": sizes.live, "expired": sizes.expired}
    jobs: list[tuple[str, Kind, int]] = [
        (name, kind, sizes.table if name == C_CORE else count) for kind, count in counts.items() for name in entrants
    ]
    with ThreadPoolExecutor(2) as pool:
        grown = []
        progress(0, len(jobs))
        for done, growth in enumerate(pool.map(lambda job: _measure_apart(*job), jobs), start=1):
            grown.append(growth)
            progress(done, len(jobs))
    return grown


def _measure_apart(name: str, kind: Kind, keys: int) -> Growth:
    command = [sys.executable, "-m", "benchmarks.memory", name, kind, str(keys)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    return Growth(name, kind, keys, int(answer.stdout))


def main(arguments: Sequence[str]) -> None:
    name, kind, count = arguments
    entrant = {**our_entrants(), **peer_entrants()}[name]
    rate = LIVE if kind == "live" else EXPIRED
    warm = entrant.build(rate)  # imports and single objects are not a bucket's cost
    for number in range(100):
        warm.ask(f"warm:{number}")
    contender = _build(entrant, rate, int(count))
    before = _resident()
    for number in range(int(count)):
        contender.ask(f"client:{number}")
    if kind == "expired":
        _let_expire(contender)
    print(_resident() - before)


def _build(entrant: Entrant, rate: Rate, count: int) -> Contender:
    """Build a contender; the C core with a table for so many keys, as its user would."""
    return build_ratekeeper("c", rate, max_keys=count) if entrant.name == C_CORE else entrant.build(rate)


def _let_expire(contender: Contender) -> None:
    """Wait until all buckets are full, then use the library, as some clean up only when they are used."""
    time.sleep(OVER)
    for number in range(1_000):
        contender.ask(f"late:{number}")
    if contender.tidy:
        contender.tidy()


def _resident() -> int:
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(sys.argv[1:])

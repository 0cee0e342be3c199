"""`python -m benchmarks.memory`: the memory of live buckets, and of buckets that were full again long ago.

Each contender runs in its own process, and the growth of the process is measured. Keys are made one by one and not
kept, so a library that keeps them pays for them.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks import results
from benchmarks.contenders import C_CORE, Contender, Entrant, Rate, build_ratekeeper, our_entrants
from benchmarks.peers import DISTRIBUTIONS, peer_entrants
from benchmarks.results import Row, Table

Kind: TypeAlias = Literal["live", "expired"]

LIVE = Rate(10, seconds=3600)
EXPIRED = Rate(10, seconds=1)
OVER = 3.5
"""Seconds after which every peer of EXPIRED has forgotten, if it ever does: some keep a window, or two, or a second."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many keys each process is asked about.

    table is for the C core, whose table has a fixed size: so many keys are a load of 70 %. The others grow key by key,
    so that fewer say as much, in less time.
    """

    live: int = 200_000
    expired: int = 250_000
    table: int = 1_000_000

    def of(self, name: str, kind: Kind) -> int:
        return self.table if name == C_CORE else self.live if kind == "live" else self.expired


def measure_apart(name: str, kind: Kind, keys: int) -> Row:
    """Return by how many bytes a key a process grows that asks once for each of so many keys."""
    code = f"from benchmarks.memory import grow; grow({name!r}, {kind!r}, {keys})"
    answer = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    grown = int(answer.stdout)
    a_key = results.rounded(grown / keys)
    return Row(name, a_key, a_key, {"keys": f"{keys:,}", "MiB": f"{grown / 2**20:,.1f}"})


def grow(name: str, kind: Kind, count: int) -> None:
    """Print by how many bytes this process grows."""
    entrant = {**our_entrants(), **peer_entrants()}[name]
    rate = LIVE if kind == "live" else EXPIRED
    warm = entrant.build(rate)  # imports and single objects are not a bucket's cost
    for number in range(100):
        warm.ask(f"warm:{number}")
    contender = _build(entrant, rate, count)
    before = _resident()
    for number in range(count):
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


TITLES: dict[Kind, str] = {
    "live": "Memory: live buckets",
    "expired": "Memory: still held after one-shot keys are long full again",
}


def measure(quick: bool) -> list[Table]:
    names = [*our_entrants(), *peer_entrants()]
    sizes = Sizes(20_000, 20_000, 100_000) if quick else Sizes()
    jobs: list[tuple[Kind, str]] = [(kind, name) for kind in TITLES for name in names]
    rows: dict[Kind, list[Row]] = {kind: [] for kind in TITLES}
    with ThreadPoolExecutor(2) as pool:  # two at a time: time does not matter here
        grown = pool.map(lambda job: measure_apart(job[1], job[0], sizes.of(job[1], job[0])), jobs)
        for number, ((kind, _), row) in enumerate(zip(jobs, grown, strict=True), 1):
            results.say(f"memory: {number} of {len(jobs)}")
            rows[kind].append(row)
    return [Table(title, "bytes a key", rows[kind]) for kind, title in TITLES.items()]


if __name__ == "__main__":
    results.main("memory", measure, DISTRIBUTIONS)

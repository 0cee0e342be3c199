"""Turn the raw numbers of one run into tables: a ratio for every figure, and the targets with their measurements."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from typing import Any

from benchmarks import speed
from benchmarks.contenders import C_CORE, Entrant
from benchmarks.exactness import LIMIT, SWITCH_INTERVAL, TRIALS, Admitted
from benchmarks.memory import Growth
from benchmarks.peers import DISTRIBUTIONS
from benchmarks.timing import Case


@dataclass(frozen=True, slots=True)
class Target:
    """A promise of ratekeeper, with its measurements: by the best rounds, and by the median ones.

    Where others use the machine too, a median is also about them; a best round is nearly not.
    """

    text: str
    measured: tuple[float, ...]
    unit: str
    met: str


@dataclass(frozen=True, slots=True)
class Results:
    """All raw numbers of one run."""

    cases: Sequence[Case]
    memory: Sequence[Growth]
    exactness: Sequence[Admitted]
    entrants: Mapping[str, Entrant]
    key_count: int

    def of(self, group: str) -> list[Case]:
        return [case for case in self.cases if case.group == group]

    def find(self, group: str, name: str) -> Case | None:
        return next((case for case in self.of(group) if case.name == name), None)

    def case(self, group: str, name: str) -> Case:
        """Return a case that every run has."""
        found = self.find(group, name)
        if found is None:
            raise LookupError(f"no case {name!r} in {group!r}")
        return found

    def fastest_exact_peer(self, group: str) -> Case | None:
        peers = [case for case in self.of(group) if self._is_exact_peer(case.name)]
        return min(peers, key=lambda case: case.best, default=None)

    def _is_exact_peer(self, name: str) -> bool:
        entrant = self.entrants.get(name)
        return entrant is not None and entrant.exact and not entrant.ours

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": machine(),
            "versions": versions(),
            "key_count": self.key_count,
            "ns_per_decision": [
                {"group": case.group, "name": case.name, "rounds": case.times} for case in self.cases
            ],
            "memory": [asdict(growth) for growth in self.memory],
            "exactness": [asdict(admitted) for admitted in self.exactness],
            "targets": [asdict(target) for target in targets(self)],
        }  # fmt: skip


# ---- where it was measured ----


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def versions() -> dict[str, str]:
    found = {platform.python_implementation(): platform.python_version()}
    for name in ("ratekeeper", *DISTRIBUTIONS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


# ---- tables ----


def report(results: Results) -> str:
    parts = [
        f"Machine: {machine()}",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()),
        *_speed_tables(results),
        *_memory_tables(results),
        *_exactness_table(results),
        _target_table(results),
    ]
    return "\n\n".join(parts) + "\n"


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, aligned for people who read it as plain text."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join([f"### {title}", "", *aligned])


def _speed_tables(results: Results) -> Iterator[str]:
    clock = {"x clock": results.case(speed.FLOORS, speed.CLOCK)}
    lookups = {"x dict.get": results.case(speed.SPREAD, speed.DICT)}
    nothing = {"x empty await": results.case(speed.FLOORS, speed.AWAIT)}
    many = f"One thread, {results.key_count:,} keys in random order"
    yield _speed_table(results, "Floors", speed.FLOORS, clock)
    for group in (speed.HOT, speed.REFUSED):
        yield _speed_table(results, f"One thread, {group}", group, clock | _peer(results, group))
    yield _speed_table(results, many, speed.SPREAD, lookups | _peer(results, speed.SPREAD))
    yield _speed_table(results, "ratekeeper's other verbs, one hot key", speed.OURS, clock | nothing)
    for group in (speed.THREADS_HOT, speed.THREADS_SPREAD):
        yield _speed_table(results, f"{group}: time on the wall, all threads together", group, _peer(results, group))


def _peer(results: Results, group: str) -> dict[str, Case]:
    peer = results.fastest_exact_peer(group)
    return {"x fastest exact peer": peer} if peer else {}


def _speed_table(results: Results, title: str, group: str, references: Mapping[str, Case]) -> str:
    rows = [
        [
            case.name,
            f"{case.best:,.0f} / {case.median:,.0f}",
            f"{1e9 / case.best:,.0f}",
            *(" / ".join(f"{ratio:.2f}" for ratio in _ratios(case, reference)) for reference in references.values()),
        ]
        for case in results.of(group)
    ]
    return _table(title, ["best / median", "ns a decision", "a second, best", *references], rows)


def _memory_tables(results: Results) -> Iterator[str]:
    titles = {
        "live": "Memory: live buckets",
        "expired": "Memory: still held after one-shot keys are long full again",
    }
    for kind, title in titles.items():
        rows = [
            [growth.contender, f"{growth.keys:,}", f"{growth.bytes / 2**20:,.1f}", f"{growth.bytes / growth.keys:,.1f}"]
            for name in results.entrants
            for growth in results.memory
            if growth.contender == name and growth.kind == kind
        ]
        if rows:
            yield _table(title, ("growth of the process", "keys", "MiB", "bytes a key"), rows)


def _exactness_table(results: Results) -> Iterator[str]:
    if results.exactness:
        rows = [
            [it.contender, _span(it.counts), f"{it.raised}", it.end or "well", _verdict(it.counts)]
            for it in results.exactness
        ]
        title = f"Admitted of {LIMIT}: 8 threads, switched every {SWITCH_INTERVAL * 1e6:.0f} us, {TRIALS} trials"
        yield _table(title, ("8 threads ask 800 times", "admitted", "exceptions", "end", "limit held"), rows)


def _span(counts: Sequence[int]) -> str:
    return f"{min(counts)} to {max(counts)}" if counts else "?"


def _verdict(counts: Sequence[int]) -> str:
    most = max(counts, default=0)
    if most > LIMIT:
        return f"no: {most / LIMIT:.2f} x"
    return "yes" if counts else "?"


# ---- targets ----


def targets(results: Results) -> list[Target]:
    hot, many = results.find(speed.HOT, C_CORE), results.find(speed.SPREAD, C_CORE)
    batch = results.case(speed.OURS, speed.BATCH)
    table = next((it for it in results.memory if it.contender == C_CORE and it.kind == "live"), None)
    clock, lookups = results.case(speed.FLOORS, speed.CLOCK), results.case(speed.SPREAD, speed.DICT)
    peer = results.fastest_exact_peer(speed.HOT)
    size = (table.bytes / table.keys,) if table else ()
    return [
        _target("hot key: at most 2.0 x time.monotonic_ns()", _ratios(hot, clock), "x", most=2.0),
        _target("hot key: at most 0.5 x the fastest exact peer", _ratios(hot, peer), "x", most=0.5),
        _target(f"{results.key_count:,} random keys: at most 2.0 x dict.get", _ratios(many, lookups), "x", most=2.0),
        _target("memory at 70 % load: 16 to 24 bytes a live bucket", size, "bytes", most=24),
        _target("batches: at least 5 M decisions a second", (1e3 / batch.best, 1e3 / batch.median), "M/s", least=5),
    ]


def _ratios(case: Case | None, reference: Case | None) -> tuple[float, ...]:
    """Return best to best and median to median."""
    return (case.best / reference.best, case.median / reference.median) if case and reference else ()


def _target(text: str, measured: tuple[float, ...], unit: str, least: float = 0, most: float = inf) -> Target:
    kept = [least <= value <= most for value in measured]
    if not kept:
        return Target(text, measured, unit, "not measured")
    if any(kept) and not all(kept):
        return Target(text, measured, unit, "only by the best" if kept[0] else "only by the median")
    return Target(text, measured, unit, "yes" if all(kept) else "MISSED")


def _target_table(results: Results) -> str:
    rows = [
        [
            target.text,
            " / ".join(f"{value:.3g}" for value in target.measured) + f" {target.unit}",
            target.met,
        ]
        for target in targets(results)
    ]
    return _table("Targets, C core", ("target", "best / median", "met"), rows)

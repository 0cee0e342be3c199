"""A benchmark's result: its rows, and where and how they were measured. As JSON in results/, and as Markdown.

Pages and plots are made from these files alone. So this module knows no limiter and no library beside the standard one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from typing import Any, Protocol

FOLDER = Path(__file__).parent / "results"
DIGITS = 4
"""How many significant digits are recorded: more would only be noise in a diff."""


class Measured(Protocol):
    """Anything with a name, its figure by the best round and by the median one: a `Row`, or a case of `timing`."""

    @property
    def name(self) -> str: ...
    @property
    def best(self) -> float: ...
    @property
    def median(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Row:
    """A figure by the best round and by the median one, and what else was seen, in words, by column.

    Where others use the machine too, a median is also about them; a best round is nearly not.
    """

    name: str
    best: float
    median: float
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Figures of one unit. Each has a ratio to each reference; the reference's name is the ratio's column."""

    title: str
    unit: str
    rows: Sequence[Row]
    references: Sequence[Row] = ()
    more_is_better: bool = False

    def row(self, name: str) -> Row:
        return _named(self.rows, name, self.title)

    def figure(self, row: str, column: str, kind: str) -> float:
        """Return a row's figure if `column` is the unit, else its ratio to a reference; `kind` is best or median."""
        value = getattr(self.row(row), kind)
        if column == self.unit:
            return float(value)
        return float(value / getattr(_named(self.references, column, self.title), kind))


@dataclass(frozen=True, slots=True)
class Result:
    """All tables of one benchmark, and where and how they were measured."""

    benchmark: str
    command: str
    date: str
    machine: str
    cores: int
    versions: Mapping[str, str]
    tables: Sequence[Table]

    def table(self, title: str) -> Table:
        found = [table for table in self.tables if table.title == title]
        if not found:
            known = ", ".join(repr(table.title) for table in self.tables)
            raise LookupError(f"results/{self.benchmark}.json has no table {title!r}; it has {known}")
        return found[0]


def _named(rows: Iterable[Row], name: str, title: str) -> Row:
    for row in rows:
        if row.name == name:
            return row
    raise LookupError(f"{title!r} has no row or reference {name!r}")


# ---- from measurements to tables ----


def table_of(
    title: str, unit: str, cases: Iterable[Measured], references: Mapping[str, Measured | None] | None = None
) -> Table:
    """Return a table of these cases. A reference that was not measured is left out."""
    known = {column: case for column, case in (references or {}).items() if case is not None}
    return Table(
        title,
        unit,
        [_row(case, case.name) for case in cases],
        [_row(case, column) for column, case in known.items()],
    )


def _row(case: Measured, name: str) -> Row:
    notes = case.notes if isinstance(case, Row) else {}
    return Row(name, rounded(case.best), rounded(case.median), notes)


def rounded(value: float) -> float:
    """Return the value with as many digits as are recorded."""
    return float(f"{value:.{DIGITS}g}")


def target(text: str, measured: tuple[float, float], least: float = -inf, most: float = inf) -> Row:
    """Return a promise of ratekeeper, what was measured by best and by median, and whether it is kept."""
    by_best, by_median = (least <= value <= most for value in measured)
    met = "yes" if by_best and by_median else "by the best" if by_best else "by the median" if by_median else "MISSED"
    return Row(text, rounded(measured[0]), rounded(measured[1]), {"met": met})


def ratio(case: Measured, reference: Measured) -> tuple[float, float]:
    """Return best to best and median to median."""
    return case.best / reference.best, case.median / reference.median


def ratio_row(name: str, case: Measured, reference: Measured, shown: Mapping[str, Measured]) -> Row:
    """Return a case as a ratio to a reference, with the figures that are shown beside it, by column."""
    best, median = ratio(case, reference)
    notes = {column: pair(other.best, other.median) for column, other in shown.items()}
    return Row(name, rounded(best), rounded(median), notes)


# ---- JSON ----


def save(result: Result) -> Path:
    path = FOLDER / f"{result.benchmark}.json"
    path.write_text(json.dumps(asdict(result), indent=1) + "\n")
    return path


def load(benchmark: str) -> Result:
    """Return a recorded result. Raise `LookupError` if there is none of this name."""
    path = FOLDER / f"{benchmark}.json"
    if not path.exists():
        raise LookupError(f"no result {benchmark!r}: python -m benchmarks.{benchmark} --record makes it")
    raw = json.loads(path.read_text())
    return Result(**{**raw, "tables": [_table(table) for table in raw["tables"]]})


def _table(raw: dict[str, Any]) -> Table:
    rows = {name: [Row(**row) for row in raw[name]] for name in ("rows", "references")}
    return Table(**{**raw, **rows})


# ---- Markdown ----


def figure(value: float) -> str:
    """Return a figure for people: three digits or more."""
    size = abs(value)
    places = 0 if size >= 100 or value == 0 else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:,.{places}f}"


def pair(best: float, median: float) -> str:
    """Return both figures, or one if there is only one."""
    return figure(best) if best == median else f"{figure(best)} / {figure(median)}"


def markdown_table(table: Table) -> str:
    """Return a table in Markdown, aligned for people who read it as plain text."""
    notes = list(dict.fromkeys(column for row in table.rows for column in row.notes))
    head = ["best / median", table.unit, *(reference.name for reference in table.references), *notes]
    lines = [head]
    for row in table.rows:
        ratios = [pair(*ratio(row, reference)) for reference in table.references]
        lines.append([row.name, pair(row.best, row.median), *ratios, *(row.notes.get(column, "") for column in notes)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join([f"### {table.title}", "", *aligned])


def markdown(result: Result) -> str:
    """Return a result in Markdown: where it was measured, then its tables."""
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    where = f"`{result.command}`, {result.date}, {result.machine}, {result.cores} cores.\n{versions}."
    return "\n\n".join([where, *map(markdown_table, result.tables)])


# ---- the command of every benchmark ----

BEGUN = time.monotonic()


def say(text: str) -> None:
    """Print a step's progress on stderr, with the seconds since the beginning."""
    print(f"{time.monotonic() - BEGUN:5.0f} s  {text}", file=sys.stderr, flush=True)


def say_round(name: str) -> Callable[[int, int], None]:
    """Return what prints a few of the rounds of a step."""

    def tell(at: int, of: int) -> None:
        if at == of or at % max(1, of // 4) == 0:
            say(f"{name}: {at} of {of}")

    return tell


def main(benchmark: str, measure: Callable[[bool], Sequence[Table]], distributions: Iterable[str]) -> None:
    """Run `python -m benchmarks.<benchmark>`: measure, print the tables, and record them if told so."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="fewer rounds and keys: a look, not a measurement")
    how.add_argument("--record", action="store_true", help=f"write results/{benchmark}.json")
    arguments = parser.parse_args()
    say(benchmark)
    tables = measure(arguments.quick)
    command = f"python -m benchmarks.{benchmark}"
    date = datetime.now(UTC).date().isoformat()
    result = Result(benchmark, command, date, _machine(), os.cpu_count() or 1, _versions(distributions), tables)
    print(markdown(result))
    if arguments.record:
        say(f"recorded in {save(result).name}")


def _machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {platform.system()}"


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    found = {platform.python_implementation(): platform.python_version()}
    for name in ("ratekeeper", *distributions):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found

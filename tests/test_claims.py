"""README and docs claim no more than benchmarks/results holds: tables, figures and plots are made from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import pages, plots, results
from benchmarks.__main__ import BENCHMARKS

ROOT = Path(__file__).parent.parent
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
MARKED = re.compile(rf"{pages.FIGURE.pattern}|{pages.TABLES.pattern}", re.DOTALL)
SPEED = re.compile(
    r"\d[\d.,]* (?:ns|us|µs|nanoseconds|microseconds)\b|\d[\d.,]* (?:x|times) as |\d x (?:faster|slower)"
)
A_TICK = "1/16 ns"
"""The unit of time inside: by definition, not by measurement."""


def claims_without_result(text: str) -> list[str]:
    """Return the figures of speed that no marker of a result surrounds."""
    return SPEED.findall(CODE.sub("", MARKED.sub("", text)).replace(A_TICK, ""))


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_and_figure_is_as_recorded(page: Path) -> None:
    assert page.read_text() == pages.filled(page.read_text()), "run python -m benchmarks.pages"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_figure_of_speed_that_was_not_recorded(page: Path) -> None:
    assert claims_without_result(page.read_text()) == []


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_begins_with_a_figure(page: Path) -> None:
    """Markdown would take such a line for a block of HTML, and end the paragraph."""
    assert re.findall(r"(?m)^<!-- figure.*", page.read_text()) == []


def test_a_figure_of_speed_without_a_result_is_found() -> None:
    assert claims_without_result("A decision takes 90 ns, `5 ns`, and is 3 times as fast.") == ["90 ns", "3 times as "]


def test_the_plots_show_what_is_recorded() -> None:
    drawn = dict(plots.drawn())
    assert {path: path.read_text() for path in plots.FOLDER.iterdir()} == drawn, "run python -m benchmarks.plots"


def test_every_benchmark_is_recorded_and_its_tables_are_in_the_readme() -> None:
    shown = {found[2] for found in pages.TABLES.finditer((ROOT / "benchmarks" / "README.md").read_text())}
    assert shown == set(BENCHMARKS) == {path.stem for path in results.FOLDER.iterdir()}


@pytest.mark.parametrize(
    ("value", "up", "written"),
    [(1.66, True, "1.7"), (1.7, True, "1.7"), (1.71, True, "1.8"), (104.2, True, "110"), (22.9, True, "23"),
     (5.28, False, "5.2"), (9_643_541, False, "9,600,000"), (0.0311, True, "0.032")],
)  # fmt: skip
def test_a_figure_is_rounded_to_its_worse_side(value: float, up: bool, written: str) -> None:
    assert pages.rounded(value, up) == written

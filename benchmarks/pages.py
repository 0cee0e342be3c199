"""`python -m benchmarks.pages`: write the recorded results into the pages, as tables and as single figures.

A page has comments, which readers do not see, around what is written by this program:

    <!-- results: speed -->
    (all tables of results/speed.json)
    <!-- end of results -->

    <!-- figure: speed; One thread, hot key, allowed; ratekeeper, C core; x clock; best -->1.7<!-- end -->

A figure names the benchmark, the table, the row, the column (its unit or a ratio), and best or median. It has two
digits, and is rounded to the worse side: no page claims more than was measured. It must not begin a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import ceil, floor, log10
from pathlib import Path

from benchmarks import results

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
TABLES = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
FIGURE = re.compile(r"(<!-- figure: ([^>]*) -->)[^<]*(<!-- end -->)")


def filled(text: str) -> str:
    """Return a page with the tables and figures of the recorded results."""
    text = TABLES.sub(lambda found: f"{found[1]}\n{results.markdown(results.load(found[2]))}\n\n{found[3]}", text)
    return FIGURE.sub(lambda found: f"{found[1]}{claim(found[2])}{found[3]}", text)


def claim(name: str) -> str:
    """Return the figure of this name, rounded to two digits, away from the better side."""
    parts = [part.strip() for part in name.split(";")]
    if len(parts) != 5:
        raise ValueError(f"a figure is 'benchmark; table; row; column; best or median', not {name!r}")
    benchmark, title, row, column, kind = parts
    table = results.load(benchmark).table(title)
    return rounded(table.figure(row, column, kind), up=not table.more_is_better)


def rounded(value: float, up: bool) -> str:
    """Return a positive value with two significant digits."""
    places = 1 - floor(log10(value))
    steps = round(value * 10**places, 6)  # what floating point adds must not round 1.7 up to 1.8
    near = (ceil if up else floor)(steps) / 10**places
    return f"{near:,.{max(0, places)}f}"


def write_all() -> Iterator[Path]:
    """Write every page that has changed, and yield it."""
    for page in PAGES:
        text = page.read_text()
        if (new := filled(text)) != text:
            page.write_text(new)
            yield page.relative_to(ROOT)


if __name__ == "__main__":
    for path in write_all():
        print(path)

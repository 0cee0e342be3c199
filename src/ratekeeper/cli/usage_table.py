"""The table of `ratekeeper usage` and its like: the state of each bucket of a request. Knows no store, no service."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

from ratekeeper.cli.duration import duration
from ratekeeper.cli.style import Cell, Style

_BAR = 20
_TITLES = ("rule", "used", "", "left", "next in", "full in")


class Row(NamedTuple):
    """One bucket. Times are in seconds; `most` is less than 0 if its limit refuses all."""

    title: str
    used: int
    most: int
    remaining: int
    retry_after: float
    reset_after: float

    def cells(self) -> tuple[str, ...]:
        """Return its cells, as a table shows them."""
        if self.most < 0:
            return self.title, "refuses all", "", "0", "never", ""
        filled = ceil(_BAR * self.used / max(1, self.most))
        return (
            self.title,
            f"{self.used:,} of {self.most:,}",
            f"[{'#' * filled}{'.' * (_BAR - filled)}]",
            f"{self.remaining:,}",
            duration(self.retry_after) if self.retry_after else "now",
            duration(self.reset_after),
        )


def usage_table(rows: Iterable[Row]) -> list[str]:
    """Return the lines of the table."""
    return Style(colour=False).table([[Cell(text) for text in row] for row in (_TITLES, *(it.cells() for it in rows))])

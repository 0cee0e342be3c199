"""Tables and colours for a terminal. Colours are for a terminal alone, and never with NO_COLOR. Knows no command."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}

_NO_END = 10_000
"""Columns that are enough for any line."""


class Cell(NamedTuple):
    """A string in a table, and the name of its style."""

    text: str
    style: str = ""


class Style:
    """Writes styled strings, with escape codes if `colour`, to fit into `columns` where they can."""

    def __init__(self, colour: bool, columns: int = _NO_END) -> None:
        self.colour = colour
        self.columns = columns

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """Return the style for a stream: coloured if that is a terminal that shows colours, and nobody objects.

        A stream that is not a terminal has room for all, unless COLUMNS says otherwise.
        """
        colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        return cls(colour, shutil.get_terminal_size((_NO_END, 0)).columns)

    def __call__(self, text: str, style: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self.colour and style and text else text

    def table(self, rows: Iterable[Sequence[Cell]], right: Iterable[int] = ()) -> list[str]:
        """Return the lines of a table. The columns numbered in `right` are aligned at the right.

        A row of one cell is a line by itself, and makes no column wider.
        """
        kept, at_right = list(rows), frozenset(right)
        widths = _widths(kept)
        lines = []
        for row in kept:
            if len(row) == 1:
                lines.append(self(row[0].text, row[0].style))
                continue
            parts = []
            for place, (cell, room) in enumerate(zip(row, widths, strict=True)):
                space = " " * (room - width(cell.text))
                shown = self(cell.text, cell.style)
                parts.append(space + shown if place in at_right else shown + space)
            lines.append("  ".join(parts).rstrip())
        return lines

    def fits(self, rows: Sequence[Sequence[Cell]]) -> bool:
        """Return whether the columns of a table fit into those that there are."""
        widths = _widths(rows)
        return sum(widths) + 2 * (len(widths) - 1) <= self.columns


def _widths(rows: Sequence[Sequence[Cell]]) -> list[int]:
    whole = [row for row in rows if len(row) != 1]
    return [max(width(cell.text) for cell in column) for column in zip(*whole, strict=True)]


def width(text: str) -> int:
    """Return the columns of a terminal that a string takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def safe(text: str, longest: int | None = None) -> str:
    """Return a string from outside with escapes, so that it cannot control a terminal, and cut to columns."""
    shown = text if longest is None else text[: longest + 1]
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)
    if longest is None or width(shown) <= longest:
        return shown
    dots = "..."[: max(0, longest)]
    while shown and width(shown) > longest - len(dots):
        shown = shown[:-1]
    return shown + dots


def encodes(text: str) -> bool:
    """Return whether standard output can show a string."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True

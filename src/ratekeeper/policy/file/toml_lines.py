"""Finds the line of each table, key and list item in a TOML file, which `tomllib` does not tell.

It searches for brackets and `key =` in TOML that tomllib has read already, so it need not notice errors. It knows
nothing of policies. If it does not list a value, the line is that of the table around the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Path: TypeAlias = tuple[str | int, ...]
"""The keys and the list indices that lead to a value: ("rules", 0, "match", "path")."""

_PART = r"""(?:[\w-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_KEY = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_TOKEN = re.compile(
    rf"""
      (?P<text>   \"\"\"(?:\\.|[^\\])*?\"{{3,5}} | '''.*?'{{3,5}} )
    | (?P<comment> \#[^\n]* )
    | (?P<header> ^[ \t]*(?:\[[ \t]*{_KEY}[ \t]*\] | \[\[[ \t]*{_KEY}[ \t]*\]\]) )
    | (?P<key>    {_KEY}(?=[ \t]*=) )
    | (?P<value>  {_PART} )
    | (?P<mark>   [\[\]{{}},] )
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


@dataclass(slots=True)
class _Open:
    """A list or inline table that has not been closed yet. `index` is the item being read; None in a table."""

    path: Path
    index: int | None


class _Scan:
    """The state of one search. `at` is the path of the value that comes next."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.lengths: dict[Path, int] = {}
        self.table: Path = ()
        self.open: list[_Open] = []
        self.at: Path = ()

    def header(self, text: str, line: int) -> None:
        path: Path = ()
        for part in _parts(text.strip(" \t[]")):
            # A table under [[rules]] belongs to the last rule before it.
            path = (*path, self.lengths[path] - 1, part) if path in self.lengths else (*path, part)
        self.lines.setdefault(path, line)
        if text.lstrip().startswith("[["):
            self.lengths[path] = self.lengths.get(path, 0) + 1
            path = (*path, self.lengths[path] - 1)
            self.lines[path] = line
        self.table = path

    def key(self, text: str, line: int) -> None:
        self.at = self.open[-1].path if self.open else self.table
        for part in _parts(text):
            self.at = (*self.at, part)
            self.lines.setdefault(self.at, line)

    def mark(self, mark: str, line: int) -> None:
        if mark in "[{":
            self.lines.setdefault(self.at, line)
            self.open.append(_Open(self.at, 0 if mark == "[" else None))
        elif mark in "]}":
            self.open = self.open[:-1]
        elif self.open and (index := self.open[-1].index) is not None:
            self.open[-1].index = index + 1
        if self.open and self.open[-1].index is not None:
            self.at = (*self.open[-1].path, self.open[-1].index)


def lines_of(text: str) -> dict[Path, int]:
    """Return the line, from 1, on which each table, key and list item begins.

    >>> lines_of('[[rules]]\\nkey = ["user",\\n "team"]')[("rules", 0, "key", 1)]
    3
    """
    scan = _Scan()
    line, seen = 1, 0
    for token in _TOKEN.finditer(text):
        line += text.count("\n", seen, token.start())
        seen = token.start()
        kind = token.lastgroup
        if kind == "header" and not scan.open:
            scan.header(token[0], line)
        elif kind == "key":
            scan.key(token[0], line)
        elif kind == "mark":
            scan.mark(token[0], line)
        elif kind != "comment" and scan.open:
            scan.lines.setdefault(scan.at, line)
    return scan.lines


def line_of(lines: Mapping[Path, int], path: Path) -> int | None:
    """Return the line of the value at `path`, or else of the innermost table around it that is known."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def _parts(key: str) -> list[str]:
    """Split a dotted key. An escape in a quoted part is left as it stands, so that the key is not found: no harm."""
    return [part.strip("\"'") for part in re.findall(_PART, key)]

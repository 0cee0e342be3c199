"""Read TOML tables with types: each value has its type, or an error says where it is and what would be right.

Errors are collected, so that a person can mend all of a file at once. This module knows TOML's types and nothing of
policies. It quotes a value only if it cannot be a secret: a string in a policy may be an API key.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import date, time
from math import isnan
from typing import TYPE_CHECKING, TypeVar

from ratekeeper.errors import PolicyError, did_you_mean
from ratekeeper.policy.file.toml_lines import line_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ratekeeper.policy.file.toml_lines import Path

T = TypeVar("T")

_SHOWN = 40


class Report:
    """All errors of one file."""

    def __init__(self, source: str, lines: Mapping[Path, int]) -> None:
        self._source = source
        self._lines = lines
        self._errors: list[tuple[int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    def add(self, path: Path, message: str) -> None:
        """Add an error in the value at `path`. It is one line: a name in it may have line breaks, which are escaped."""
        message = "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
        line = line_of(self._lines, path)
        place = self._source if line is None else f"{self._source}:{line}"
        self._errors.append((line or 0, f"{place}: {message}"))

    def finish(self) -> None:
        """Raise one `PolicyError` with all the errors, a line each, in the file's order; return if there are none."""
        if self._errors:
            ordered = sorted(self._errors, key=lambda error: error[0])
            raise PolicyError("\n".join(message for _, message in ordered))


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file. The methods that read a key add an error and return a stand-in when it is not right.

    `title` is the table's name in messages: "[tiers]" or "rule 'free keys'".
    """

    values: Mapping[str, object]
    path: Path
    title: str
    report: Report

    def error(self, message: str, *inner: str | int) -> None:
        """Add an error in this table, or in the value at `inner`."""
        self.report.add((*self.path, *inner), f"{self.title}: {message}" if self.title else message)

    def unknown(self, key: str, known: Iterable[str]) -> None:
        """Add the error that the table has an unknown key, with the nearest known one."""
        self.error(f"unknown key {shown(key)}{did_you_mean(key[:_SHOWN], known)}", key)

    def check_keys(self, known: Iterable[str]) -> None:
        """Add an error for each key that is not known."""
        known = list(known)
        for key in self.values:
            if key not in known:
                self.unknown(key, known)

    def lacks(self, key: str, example: str, known: Iterable[str]) -> bool:
        """Return whether a required key is missing. If so, add an error, unless a misspelt key has one already."""
        if key in self.values:
            return False
        strangers = [other[:_SHOWN].lower() for other in self.values if other not in set(known)]
        if not difflib.get_close_matches(key, strangers, n=1, cutoff=0.6):
            self.error(f"{key!r} is missing: write, say, {example}")
        return True

    def text(self, key: str, default: str = "") -> str:
        """Return a string that is not empty."""
        value = self.values.get(key, default)
        if isinstance(value, str) and (value or key not in self.values):
            return value
        self.error(f"{key!r} must be a string, not {kind(value)}", key)
        return default

    def texts(self, key: str, single: bool = True) -> tuple[str, ...]:
        """Return the strings of a list; if `single`, also a lone string. Empty if there is an error."""
        value = self.values[key]
        if isinstance(value, str) and single:
            value = [value]
        if not isinstance(value, list):
            wanted = "a string or a list of strings" if single else "a list"
            hint = f': write {key} = ["..."]' if isinstance(value, str) else ""
            self.error(f"{key!r} must be {wanted}, not {kind(value)}{hint}", key)
            return ()
        for place, item in enumerate(value):
            if not isinstance(item, str) or not item:
                self.error(f"{key!r} must hold strings: number {place + 1} is {kind(item)}", key, place)
                return ()
        return tuple(value)

    def flag(self, key: str) -> bool:
        """Return true or false; false if not given."""
        value = self.values.get(key, False)
        if isinstance(value, bool):
            return value
        self.error(f"{key!r} must be true or false, not {kind(value)}", key)
        return False

    def choice(self, key: str, choices: Mapping[str, T], default: str) -> T | None:
        """Return the meaning of the word, or None if it is not one of the choices."""
        word = self.values.get(key, default)
        if isinstance(word, str) and word in choices:
            return choices[word]
        if isinstance(word, str):
            self.error(f"{key!r} cannot be {shown(word)}{did_you_mean(word[:_SHOWN], choices)}", key)
        else:
            self.error(f"{key!r} must be one of {', '.join(choices)}, not {kind(word)}", key)
        return None

    def table(self, key: str, title: str) -> Table | None:
        """Return the table under `key`, or None if there is none."""
        if key not in self.values:
            return None
        value = self.values[key]
        if isinstance(value, dict):
            return Table(value, (*self.path, key), title, self.report)
        self.error(f"{key!r} must be a table, not {kind(value)}", key)
        return None

    def tables(self, key: str, example: str) -> list[Table]:
        """Return the tables of the list under `key`, titled by their number. Empty if there is none or an error."""
        value = self.values.get(key, [])
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            return [Table(item, (*self.path, key, place), self.title, self.report) for place, item in enumerate(value)]
        found = "a list of something else" if isinstance(value, list) else kind(value)
        self.error(f"{key!r} must be a list of tables, not {found}: write {example}", key)
        return []


def kind(value: object) -> str:
    """Name the type of a value in words, without the value."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    if isinstance(value, int | float) and value < 0:
        return "a negative number"
    if isinstance(value, float) and isnan(value):
        return "nan"
    names = ((int, "a whole number"), (float, "a number"), (list, "a list"), (dict, "a table"), (date | time, "a time"))
    return next((name for types, name in names if isinstance(value, types)), "something else")


def shown(text: str) -> str:
    """Quote a string, cut short if it is long."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")

"""LogEntry: one request of the past, to be decided again. Knows no log and no recording, which it comes from."""

from __future__ import annotations

from typing import NamedTuple


class UnreadableLine(ValueError):
    """A line of a log is not a request. Its message says why without quoting the line, which may hold a key."""


class LogEntry(NamedTuple):
    """A past request, of a log or of a recording. Entries sort by time, and entries of the same time by their line.

    at    ticks since 1970
    line  the line of the log, from 1; in a recording the place of the request, from 1
    cost  multiplies each rule's own cost
    """

    at: int
    line: int
    attributes: dict[str, str]
    cost: int = 1

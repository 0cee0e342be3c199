"""Reads the keys of a rule whose limit is looked up: `limit = "app:plan"`, `default`, `ttl` and `on_lookup_error`."""

from __future__ import annotations

from collections.abc import Mapping

from ratekeeper.errors import LimitError
from ratekeeper.limits import Limit, parse_limit
from ratekeeper.policy.lookups.lookup import LONGEST_TTL, NAME, ON_LOOKUP_ERROR, Lookup, OnLookupError
from ratekeeper.policy.reader import Table, kind, shown
from ratekeeper.rates import parse_rate

APP = "app:"
LOOKUP_KEYS = ("default", "ttl", "on_lookup_error")

_ON_ERROR: Mapping[str, OnLookupError] = {word: word for word in ON_LOOKUP_ERROR}
_BAD_NUMBERS = (ValueError, OverflowError)


def is_looked_up(table: Table) -> bool:
    """Return whether the application gives the table's limit."""
    limit = table.values.get("limit")
    return isinstance(limit, str) and limit.startswith(APP)


def read_lookup(table: Table, fixed: tuple[str, ...]) -> tuple[Limit, Lookup] | None:
    """Return a rule's default limit and its look-up; None if there is an error. `fixed` are keys of a fixed limit."""
    name = str(table.values["limit"]).removeprefix(APP)
    if not NAME.fullmatch(name):
        table.error(f"{shown(APP + name)} names no look-up: write, say, limit = 'app:plan'", "limit")
    for key in fixed:
        if key in table.values:
            table.error(f"{key!r} is not for a limit that your application gives: write a 'default'", key)
    ttl = _ttl(table)
    on_error = table.choice("on_lookup_error", _ON_ERROR, "last known")
    default = _default(table)
    if default is None or on_error is None or table.report:
        return None
    return default, Lookup(name, ttl, on_error)


def check_no_lookup(table: Table) -> None:
    """Add an error for each key that only a looked-up limit has."""
    for key in LOOKUP_KEYS:
        if key in table.values:
            table.error(f"{key!r} is for a limit that your application gives: limit = 'app:plan'", key)


def _default(table: Table) -> Limit | None:
    if table.lacks("default", "default = '10/minute', the limit while no other is known", table.values):
        return None
    try:
        return parse_limit(table.values["default"])  # type: ignore[arg-type]  # its error explains a wrong type
    except _BAD_NUMBERS as error:
        table.error(str(error), "default")
        return None


def _ttl(table: Table) -> float:
    """Return the seconds of `ttl`: a number, or a string such as "60s" or "5 minutes"."""
    value = table.values.get("ttl", 60)
    seconds = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(min(value, LONGEST_TTL + 1))
    elif isinstance(value, str):
        try:
            seconds = float(1 / parse_rate(f"1/{value}"))
        except LimitError:
            seconds = -1.0
    if 0 < seconds <= LONGEST_TTL:
        return seconds
    table.error(f"'ttl' must be seconds, more than 0 and at most a year, or '60s', not {_as_given(value)}", "ttl")
    return 60.0


def _as_given(value: object) -> str:
    return shown(value) if isinstance(value, str) and value else kind(value)

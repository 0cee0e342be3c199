"""The times that access logs write, in ticks since 1970, exactly: dates of the common log format, ISO 8601, numbers.

This module knows nothing of the lines around them. Consecutive lines repeat the same second, so each string is
converted once.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import inf

from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.replay.entries import UnreadableLine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = 253_402_300_800 * TICKS_PER_SECOND
"""The end of the year 9999 in UTC, the last that a date can show."""

_TICKS_PER_US = TICKS_PER_SECOND // 1_000_000
# By name rather than by strptime, which expects the reader's language, not that of the log.
_MONTHS = {
    "Jan": 1, "Feb": 2, "Mar": 3, "Apr": 4, "May": 5, "Jun": 6,
    "Jul": 7, "Aug": 8, "Sep": 9, "Oct": 10, "Nov": 11, "Dec": 12,
}  # fmt: skip
_COMMON = re.compile(r"(\d{1,2})/(\w{3})/(\d{4}):(\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9})\d*)? ([+-])(\d\d):?(\d\d)")
_NUMBER = re.compile(r"(\d{1,20})(?:\.(\d{1,9})\d*)?")
_UNITS = ((10**11, 1), (10**14, 1_000), (10**17, 1_000_000), (10**20, 1_000_000_000))
"""A number since 1970 shows its unit by its size: below 10**11 it is in seconds, which works until the year 5138."""


def ticks_of(value: object) -> int:
    """Return a JSON value's time: seconds, ms, us or ns since 1970, or a string. Raise `UnreadableLine` for others."""
    if isinstance(value, str):
        return text_ticks(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value in (inf, -inf) or value != value:
        raise UnreadableLine("its time is neither a number nor a string")
    per_second = _units_per_second(value)
    if isinstance(value, int):
        return value * (TICKS_PER_SECOND // per_second)
    # A float of today's seconds is good to a quarter of a microsecond: rounding to a microsecond loses nothing.
    return round(value / per_second * 1_000_000) * _TICKS_PER_US


@lru_cache(maxsize=4096)
def text_ticks(text: str) -> int:
    """Return the time in a string: ISO 8601 (UTC by default), the common log format, or a number since 1970.

    Raise `UnreadableLine` if it is none of them.

    >>> text_ticks("10/Oct/2000:13:55:36 -0700") == text_ticks("2000-10-10T20:55:36Z") == text_ticks("971211336")
    True
    """
    number = _NUMBER.fullmatch(text)
    if number:
        whole, fraction = int(number[1]), number[2] or ""
        ticks_per_unit = TICKS_PER_SECOND // _units_per_second(whole)
        return whole * ticks_per_unit + _part(fraction, ticks_per_unit)
    try:
        common = _COMMON.fullmatch(text)
        if common:
            ticks = _common_ticks(common)
        else:
            moment = datetime.fromisoformat(text)
            ticks = _since_epoch(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, KeyError, OverflowError):
        raise UnreadableLine("its time is not a date that exists, nor a number") from None
    if not 0 <= ticks < _END:
        raise UnreadableLine("its time is before 1970 or after the year 9999")
    return ticks


def _units_per_second(value: float) -> int:
    for end, per_second in _UNITS:
        if 0 <= value < end:
            return per_second
    raise UnreadableLine("its time is a number out of range")


def _common_ticks(match: re.Match[str]) -> int:
    day, month, year, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    # A leap second is written as 60; no clock that counts from 1970 has one.
    date = (int(year), _MONTHS[month], int(day))
    moment = datetime(*date, int(hour), int(minute), min(59, int(second)), tzinfo=UTC)
    offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
    ticks = _since_epoch(moment) + (-1 if sign == "+" else 1) * _ticks(offset)
    return ticks + _part(fraction or "", TICKS_PER_SECOND)


def _part(fraction: str, whole: int) -> int:
    """Return the part of `whole` that the digits after a point give."""
    return int(fraction or 0) * whole // int("1" + "0" * len(fraction))


def _since_epoch(moment: datetime) -> int:
    return _ticks(moment - _EPOCH)


def _ticks(span: timedelta) -> int:
    return ((span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds) * _TICKS_PER_US

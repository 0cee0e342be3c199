"""From a server's response to the length of a pause before the next request. Pure functions.

A server asks for a pause in one of three ways. The first that is there counts:

1. `Retry-After` of a 429 or 503 (RFC 9110), in seconds or as a date. Elsewhere it means something else, or nothing.
2. `RateLimit` of any response (draft-ietf-httpapi-ratelimit-headers-11): `"name";r=0;t=30`. The longest `t` of the
   items with nothing left counts.
3. `X-RateLimit-Remaining: 0` with `X-RateLimit-Reset` of any response. The reset is in seconds from now, in seconds
   since 1970, or in milliseconds since 1970: its size tells which.

Of a header that is there twice, as a gateway may add its own, the longest wait counts.

A server is not trusted: a header that cannot be read is ignored, and a pause is never longer than the client's bound.
Times since 1970 are compared with the response's own `Date`, so that only the server's clock counts. Without a `Date`
they are ignored. Knows no library, no limiter and no clock.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from re import ASCII
from re import compile as pattern
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LONGEST_PAUSE = 3600.0
"""The seconds that a server can make a client wait, by default: the longest window of public APIs."""

_LEGACY = [(f"{prefix}-remaining", f"{prefix}-reset") for prefix in ("x-ratelimit", "ratelimit", "x-rate-limit")]
_SINCE_1970 = 1e9  # seconds from now would be 30 years
_IN_MILLISECONDS = 1e11  # seconds since 1970 would be the year 5138

_NUMBER = pattern(r"\d{1,99}(?:\.\d{1,99})?", ASCII)
_MEMBER = pattern(r"\s*((?:[A-Za-z]+,)?[^,]+)")
"""A member of a list of numbers or dates. A date's weekday has its own comma."""
_STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
_TOKEN = r"[A-Za-z*][!#-'*+.^-z|~\w:/-]*"
_PARAMETER = rf";[ ]*([a-z*][a-z0-9_.*-]*)(?:=({_STRING}|{_TOKEN}|-?[0-9.]+|:[A-Za-z0-9+/=]*:|\?[01]))?"
_PARAMETERS = pattern(_PARAMETER, ASCII)
_ITEM = pattern(rf"[ \t]*(?:{_STRING}|{_TOKEN})((?:{_PARAMETER})*)[ \t]*(,|$)", ASCII)


def pause_after(status: int, headers: Iterable[tuple[str, str]], longest: float = LONGEST_PAUSE) -> float:
    """Return the seconds for which a response asks the client to pause: from 0 to `longest`.

    >>> pause_after(429, [("Retry-After", "30")])
    30.0
    >>> pause_after(200, [("RateLimit", '"minute";r=0;t=12, "day";r=90;t=7000')])
    12.0
    >>> pause_after(200, [("RateLimit", '"minute";r=3;t=12')])
    0.0
    """
    fields = _joined(headers)
    said = _retry_after(fields) if status in (429, 503) else None
    if said is None:
        said = _rate_limit(fields.get("ratelimit", ""))
    if said is None:
        said = _legacy(fields)
    return 0.0 if said is None else min(max(0.0, said), longest)


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the fields by name in lower case. Lines of one name are one list (RFC 9110, 5.3)."""
    fields: dict[str, str] = {}
    for raw_name, value in headers:
        name = raw_name.lower()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _retry_after(fields: Mapping[str, str]) -> float | None:
    members = _members(fields.get("retry-after", ""))
    return max(_if_all_read(_wait(member, fields) for member in members), default=None)


def _wait(value: str, fields: Mapping[str, str]) -> float | None:
    number = _number(value)
    return _from_now(_date(value), fields) if number is None else number


def _rate_limit(value: str) -> float | None:
    """Return the longest `t` of the items with nothing left. A broken list is ignored."""
    waits = []
    at = 0
    while at < len(value):
        item = _ITEM.match(value, at)
        if item is None:
            return None
        parameters = dict(_PARAMETERS.findall(item[1]))
        left, wait = _number(parameters.get("r", "")), _number(parameters.get("t", ""))
        if left == 0 and wait is not None:
            waits.append(wait)
        at = item.end()
    return max(waits, default=None)


def _legacy(fields: Mapping[str, str]) -> float | None:
    for remaining, reset_at in _LEGACY:
        pairs = zip(_numbers(fields.get(remaining, "")), _numbers(fields.get(reset_at, "")), strict=False)
        resets = [reset for left, reset in pairs if left == 0]
        if resets:
            reset = max(resets)
            if reset < _SINCE_1970:
                return reset
            return _from_now(reset / 1000 if reset >= _IN_MILLISECONDS else reset, fields)
    return None


def _from_now(since_1970: float | None, fields: Mapping[str, str]) -> float | None:
    """Return the seconds from the response's `Date` to a time.

    A `Date` is in whole seconds, so the result is up to a second too long, and never too short.
    """
    now = _date(fields.get("date", ""))
    return None if now is None or since_1970 is None else since_1970 - now


def _number(value: str) -> float | None:
    return float(value) if _NUMBER.fullmatch(value.strip()) else None


def _numbers(value: str) -> list[float]:
    """Return the numbers of a header that may be there several times; none if one cannot be read."""
    return _if_all_read(map(_number, _members(value)))


def _members(value: str) -> list[str]:
    """Return the members of a list. Empty ones do not count (RFC 9110, 5.6.1)."""
    return [member for member in _MEMBER.findall(value) if member.strip()]


def _if_all_read(numbers: Iterable[float | None]) -> list[float]:
    read = []
    for number in numbers:
        if number is None:
            return []
        read.append(number)
    return read


def _date(value: str) -> float | None:
    """Return an HTTP-date in seconds since 1970, in any of its three forms. The form without a zone is UTC too."""
    try:
        parsed = parsedate_to_datetime(value)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):  # Python versions differ in the error for garbage
        return None

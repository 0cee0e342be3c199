"""The headers about limits in the styles that an application chooses. Pure functions; they know no framework.

The default style is in `headers`, and costs no more for the others.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from email.utils import formatdate
from math import ceil
from typing import Literal, TypeAlias, get_args

from ratekeeper.errors import did_you_mean
from ratekeeper.http.headers import LegacyReset, legacy_headers, rate_limit_lines
from ratekeeper.policy.decision import PolicyDecision

HeaderStyle: TypeAlias = Literal["ietf", "ietf-06", "x-epoch", "x-delta", "retry-after-date"]
"""Headers about limits. `Retry-After` is always there if waiting helps.

ietf              RateLimit-Policy and RateLimit, of the present draft
ietf-06           RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset, of the drafts up to 06; seconds from now
x-epoch           X-RateLimit-Limit, -Remaining and -Reset, in seconds since 1970, as at GitHub
x-delta           the same, in seconds from now
retry-after-date  Retry-After is a date, and not seconds
"""

HeaderStyles: TypeAlias = HeaderStyle | Collection[HeaderStyle]
"""One style, or several together."""

DEFAULT: HeaderStyles = "ietf"

_DATE = "retry-after-date"
_FIELDS: Mapping[str, tuple[LegacyReset, str]] = {
    "ietf-06": ("delta", "RateLimit"), "x-epoch": ("epoch", "X-RateLimit"), "x-delta": ("delta", "X-RateLimit"),
}  # fmt: skip
_RETRY_AFTER = "retry-after"


def checked_styles(styles: HeaderStyles) -> frozenset[str] | None:
    """Return the styles as a set; None for the default. Raise TypeError or ValueError for anything else."""
    chosen = (styles,) if isinstance(styles, str) else styles
    known = get_args(HeaderStyle)
    if not isinstance(chosen, Collection):
        raise TypeError(f"headers must be a style such as 'ietf', or several, not {styles!r}")
    for style in chosen:
        if not isinstance(style, str):
            raise TypeError(f"headers must be styles such as 'ietf', not {style!r}")
        if style not in known:
            raise ValueError(f"headers has no style {style!r}{did_you_mean(style, known)}")
    if {"x-epoch", "x-delta"}.issubset(chosen):
        raise ValueError("headers has 'x-epoch' and 'x-delta', which give one header two values: choose one of them")
    return None if set(chosen) == {DEFAULT} else frozenset(chosen)


def styled_lines(decision: PolicyDecision, styles: frozenset[str] | None) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response in these styles, or the default, as lines: bytes, with names in lower case."""
    lines = rate_limit_lines(decision)
    if styles is None:
        return lines
    now = time.time()
    if "ietf" not in styles:
        lines = [line for line in lines if line[0] == b"retry-after"]
    if _DATE in styles:
        lines = [(name, _date(value, now) if name == b"retry-after" else value) for name, value in lines]
    for style in sorted(styles & _FIELDS.keys()):
        reset, prefix = _FIELDS[style]
        fields = legacy_headers(decision, reset, now, prefix)
        lines += [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in fields]
    return lines


def dated(headers: Iterable[tuple[str, str]], styles: frozenset[str]) -> Iterable[tuple[str, str]]:
    """Return a response's headers. Retry-After is a date, if the styles say so."""
    if _DATE not in styles:
        return headers
    now = time.time()
    return [
        (name, _date(value.encode(), now).decode() if name.lower() == _RETRY_AFTER else value)
        for name, value in headers
    ]


def _date(seconds: bytes, now: float) -> bytes:
    """Return when some seconds have passed, as a date of HTTP (RFC 9110), rounded up to a second."""
    return formatdate(ceil(now) + int(seconds), usegmt=True).encode("ascii")

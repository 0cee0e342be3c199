"""Finds patterns that no path can match: paths are decoded, have no query, and have one spelling."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from ratekeeper.policy.patterns import clipped

_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*")
_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:\d+)?(?=/)|localhost(:\d+)?(?=/)")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")


class _Mistake(NamedTuple):
    """A part that a pattern must not have, the reason, and the part to write instead."""

    found: re.Pattern[str]
    why: str
    instead: str


_MISTAKES = (
    _Mistake(re.compile(r"\?[^/?*]*=.*"), "a path has no query", ""),
    _Mistake(re.compile(r"^\^|(?<=[^$])\$$"), "a pattern is not a regular expression", ""),
    _Mistake(
        re.compile(r"\{[^/{}]*\}|<[^/<>]*>|(?<=/):[A-Za-z_]\w*"), "a path has no placeholders, a 'route' has", "*"
    ),
    _Mistake(re.compile(r"\[[^/\[\]]*\]"), "brackets are not wildcards, as '*' and '?' are", "?"),
    _Mistake(re.compile(r";[^/]*"), "a path is matched without its parameters", ""),
)


def why_no_path(pattern: str) -> str | None:
    """Return the reason why a pattern can match no path, and its correction; None if it can match.

    >>> why_no_path("/users/{id}")
    "'/users/{id}': a path has no placeholders, a 'route' has: write '/users/*'"
    """
    mended = _mended(pattern)
    if mended is None:
        return None
    why, mend = mended
    while (mended := _mended(mend)) is not None:  # what was taken out may have hidden another mistake
        mend = mended[1]
    return f"{clipped(pattern)}: {why}: write {clipped(mend)}"


def _mended(pattern: str) -> tuple[str, str] | None:
    """Return the mistake in a pattern, and the pattern without it; None if there is none."""
    mend, reasons = pattern, []
    if _ORIGIN.match(mend):
        reasons.append("a path has no scheme and no host")
        mend = _ORIGIN.sub("", mend, count=1) or "/"
    for mistake in _MISTAKES:
        if mistake.found.search(mend):
            reasons.append(mistake.why)
            mend = mistake.found.sub(mistake.instead, mend)
    if _ENCODED.search(mend):
        reasons.append("a path is matched decoded")
        mend = unquote(mend, errors="replace")
    if mend[:1] not in ("/", "*", "?"):
        host = _HOST.match(mend)
        reasons.append("a path has no host" if host else "a path begins with a slash")
        mend = mend[host.end() :] if host else f"/{mend}"
    if (resolved := _resolved(mend)) != mend:
        reasons.append("a path has no empty, '.' or '..' segments")
        mend = resolved
    return (reasons[0], mend) if reasons else None


def _resolved(pattern: str) -> str:
    """Return a pattern without segments that are empty or made of dots, but for an empty one at the end."""
    first, *segments = pattern.split("/")
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    if segments and segments[-1] in ("", ".", ".."):
        kept.append("")
    return "/".join([first, *kept]) if segments else first

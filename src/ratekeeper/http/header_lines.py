"""From a request's header lines to the value of a header or a cookie. Pure functions; they know no policy.

A header that can be read in two ways is refused. The work is linear in a request's size, which is bounded before
anything is joined.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ratekeeper import core
from ratekeeper.errors import BadRequestError
from ratekeeper.policy.sources import is_quoted, unquoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_LINES = 1_000
"""The header lines of a request that are read. More are a 431."""

MOST_BYTES = 65_536
"""The bytes of one header, in all its lines. More are a 431."""

_DASHED = bytes.maketrans(b"_", b"-")
_FOLDED = bytes(range(128)).lower().translate(_DASHED) + bytes(range(128, 256))

_LISTS = frozenset({
    "accept", "accept-charset", "accept-encoding", "accept-language", "access-control-request-headers", "allow",
    "cache-control", "connection", "content-encoding", "content-language", "expect", "forwarded", "if-match",
    "if-none-match", "pragma", "prefer", "te", "trailer", "transfer-encoding", "upgrade", "vary", "via",
    "warning", "x-forwarded-for",
})  # fmt: skip
"""The headers that are lists by their definition: their lines are joined."""


def is_list(name: str) -> bool:
    """Return whether a header is a list by its definition. `name` is in lower case."""
    return name in _LISTS


def header_value(lines: Sequence[tuple[bytes, bytes]], name: str) -> str | None:
    """Return the value of a header, from its lines; None if it is missing or empty. `name` is in lower case.

    The lines of a header that is a list by its definition are joined. Raises `BadRequestError` if another header is
    repeated, or has "_" for "-": servers differ in how they read that. Raises it too for too many lines or bytes.
    """
    if (find := core.find_header) is not None:
        found = find(lines, name, name in _LISTS)
        if found is not NotImplemented:
            return found  # type: ignore[no-any-return]  # a string or None
    return defined_value(lines, name)


def defined_value(lines: Sequence[tuple[bytes, bytes]], name: str) -> str | None:
    """Return the same. This is the definition; in C there is only what is usual."""
    if len(lines) > MOST_LINES:
        raise BadRequestError(f"the request has more than {MOST_LINES} header lines", 431)
    raw_name, dashed, size = _spellings(name)
    found = [(key, value) for key, value in lines if len(key) == size and key.translate(_FOLDED) == dashed]
    if not found:
        return None
    key, value = found[0]
    if len(found) > 1 or key.lower() != raw_name or len(value) > MOST_BYTES:
        return _joined(found, raw_name, name)
    if name not in _LISTS:  # the usual header
        return text_of(value) or None
    return _list_of(value)


def _joined(found: list[tuple[bytes, bytes]], raw_name: bytes, name: str) -> str | None:
    """Return the value of a header in unusual lines. Raise `BadRequestError` unless it has one reading."""
    if any(key.lower() != raw_name for key, _ in found):
        raise BadRequestError(
            f"the header {name!r} is written with other dashes and underscores, which some servers accept"
        )
    values = [value for _, value in found]
    if sum(map(len, values)) > MOST_BYTES:
        raise BadRequestError(f"the header {name!r} is longer than {MOST_BYTES} bytes", 431)
    if name == "cookie":  # HTTP/2 may split it
        return text_of(b"; ".join(values))
    if name in _LISTS:
        return _list_of(b",".join(values))
    if len(values) > 1:
        raise BadRequestError(f"the header {name!r} is repeated, so the caller is ambiguous")
    return text_of(values[0]) or None


def _list_of(value: bytes) -> str | None:
    return listed(decoded(value)) or None


def text_of(value: bytes) -> str:
    """Return the characters of a header: UTF-8 if they are valid, else latin-1. See `trimmed`."""
    return trimmed(decoded(value))


def trimmed(text: str) -> str:
    """Return the value of a header without spaces of any kind at its ends, as applications differ in that.

    A value of only spaces beyond ASCII stays: it is not empty.
    """
    return text.strip() or text.strip(" \t")


def listed(text: str) -> str:
    """Return the value of a header that is a list, with one comma and one space between its parts."""
    text = trimmed(text)
    return ", ".join([part.strip() for part in text.split(",")]) if "," in text else text.strip()


def decoded(value: bytes) -> str:
    """Return the characters that somebody sent: UTF-8 if they are valid, else latin-1. No bytes are an error."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def cookie_value(header: str | None, name: str) -> str | None:
    """Return a cookie's value in a `Cookie` header, as `http.cookies` reads it; None if it is missing or empty.

    Raises `BadRequestError` if the cookie has different values: applications differ in which they take.
    """
    values = set(_cookie_values(header or "", name))
    if len(values) > 1:
        raise BadRequestError(f"the cookie {name!r} has several values, so the caller is ambiguous")
    return next(iter(values), None) or None


def _cookie_values(header: str, name: str) -> Iterable[str]:
    for pair in header.split(";"):
        key, _, value = pair.partition("=")
        if key.strip() == name:
            yield unquoted(value.strip())
        # `http.cookies` reads white space as a separator too, and others do not: "a=b s=c" has two readings.
        words = "=".join(part.strip() for part in pair.split("=")).split()
        if len(words) > 1 and not is_quoted(value.strip()):
            found = [value for key, _, value in (word.partition("=") for word in words) if key == name]
            yield from ("", *map(unquoted, found)) if found else ()


@lru_cache(maxsize=256)
def _spellings(name: str) -> tuple[bytes, bytes, int]:
    """Return a header's name as bytes, the same with dashes only, and its length."""
    raw_name = name.encode("latin-1")
    return raw_name, raw_name.translate(_DASHED), len(raw_name)


def raw_lines(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return headers as the lines of a response: bytes, with names in lower case."""
    return [(_raw_name(name), value.encode("latin-1")) for name, value in headers]


@lru_cache(maxsize=64)
def _raw_name(name: str) -> bytes:
    return name.lower().encode("latin-1")

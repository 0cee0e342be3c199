"""Reads the table [attributes] of a policy file into the source of each attribute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ratekeeper.errors import did_you_mean
from ratekeeper.policy.file.rule import HEADER, HEADER_NAME
from ratekeeper.policy.reader import Table, kind, shown
from ratekeeper.policy.sources import (
    CLIENT_OPTIONS,
    AppSource,
    BearerSource,
    ClientIP,
    CookieSource,
    HeaderSource,
    PathSource,
    Source,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_COOKIE = "cookie:"
_WORDS: Mapping[str, Source] = {
    "client_ip": ClientIP(), "bearer": BearerSource(), "path": PathSource(), "app": AppSource(),
}  # fmt: skip
_FORMS = ("header:NAME", "cookie:NAME", *_WORDS)
_OPTIONS = {"client_ip": tuple(CLIENT_OPTIONS), "path": ("ignore_case",)}
"""The sources that may have options, and which."""


def read_attributes(table: Table | None, has_tiers: bool) -> dict[str, Source]:
    """Return the source of each attribute. If a source is wrong, uses of its attribute are not errors too."""
    sources: dict[str, Source] = {}
    if table is None:
        return sources
    for name, value in table.values.items():
        if name.startswith(HEADER) or not name:
            table.error(f"{shown(name)} cannot be an attribute's name", name)
        elif name == "tier" and has_tiers:
            table.error("'tier' is given by [tiers]: take one of them out", name)
        source = sources[name] = _source(table, name, value) or AppSource()
        if isinstance(source, PathSource) and name != "path":
            table.error(f"{shown(name)} cannot be the path: write path = {{ from = 'path', ignore_case = true }}", name)
    return sources


def _source(table: Table, name: str, value: object) -> Source | None:
    if isinstance(value, dict):
        return _source_with_options(Table(value, (*table.path, name), f"{table.title}: {name}", table.report))
    if not isinstance(value, str):
        hint = "'header:NAME', 'cookie:NAME', 'bearer', 'app', 'client_ip', or { from = 'client_ip', ... }"
        table.error(f"{shown(name)} must be {hint}, not {kind(value)}", name)
    elif value in _WORDS:
        return _WORDS[value]
    elif value.startswith(HEADER):
        if HEADER_NAME.fullmatch(value, len(HEADER)):
            return HeaderSource(value.removeprefix(HEADER))
        table.error(f"{shown(name)}: {shown(value)} names no header: write, say, 'header:x-api-key'", name)
    elif value.startswith(_COOKIE):
        if HEADER_NAME.fullmatch(value, len(_COOKIE)):  # a cookie's name is a token too (RFC 6265)
            return CookieSource(value.removeprefix(_COOKIE))
        table.error(f"{shown(name)}: {shown(value)} names no cookie: write, say, 'cookie:session'", name)
    else:
        table.error(f"{shown(name)} cannot come from {shown(value)}{did_you_mean(value[:40], _FORMS)}", name)
    return None


def _source_with_options(table: Table) -> Source | None:
    word = table.values.get("from")
    options = _OPTIONS.get(word, ()) if isinstance(word, str) else ()
    table.check_keys(("from", *(options or (*CLIENT_OPTIONS, "ignore_case"))))
    if table.lacks("from", "from = 'client_ip'", ("from", *CLIENT_OPTIONS)):
        return None
    if not options:
        table.choice("from", dict.fromkeys(_OPTIONS, True), "")
        return None
    if word == "path":
        return PathSource(table.flag("ignore_case"))
    numbers = {name: value for name in options if name in table.values and (value := _number(table, name)) is not None}
    return ClientIP(**numbers)


def _number(table: Table, name: str) -> int | None:
    """Return an option of a client's address; None if it is wrong."""
    value, (least, most) = table.values[name], CLIENT_OPTIONS[name]
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    found = str(value) if isinstance(value, int) and not isinstance(value, bool) else kind(value)
    table.error(f"{name!r} must be a whole number from {least} to {most}, not {found}", name)
    return None

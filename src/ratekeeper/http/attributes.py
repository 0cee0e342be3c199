"""From a request to its attributes: method, path, client, and the policy's own from headers. Pure functions.

A request is judged as the application will read it. A part with two readings is refused, or judged by the stricter
reading. So a client cannot choose a spelling that names a new bucket, leaves a rule, or joins an exemption. Knows no
framework, no rule and no limiter.
"""

from __future__ import annotations

from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from ratekeeper.errors import BadRequestError
from ratekeeper.http.header_lines import is_list, listed, trimmed
from ratekeeper.http.line_steps import line_reader
from ratekeeper.http.paths import USUAL_PATH, plain_path, read_path
from ratekeeper.policy.addresses import LONGEST_ADDRESS, client_of, known_client
from ratekeeper.policy.sources import (
    METHODS,
    OTHER,
    BearerSource,
    ClientIP,
    CookieSource,
    HeaderSource,
    PathSource,
    Readings,
    bearer_token,
    is_ambiguous,
    readings_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ratekeeper.policy.sources import Source

ALWAYS_KNOWN = frozenset({"method", "path", "client"})
"""The attributes of every HTTP request."""

OWN_KEY = "(key)"
"""The attribute that an endpoint's own key function returns. No policy can have one of this name."""

OF_ROUTE = frozenset({"route", "endpoint"})
"""The attributes of a request in a framework that tells its route."""

_READ_AS = {**{method: method for method in METHODS}, "HEAD": "GET"}
_AUTHORIZATION = "authorization"
_FORWARDED_FOR = "x-forwarded-for"


class RequestLike(Protocol):
    """A request that attributes are read from. An `Exchange` is one."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str | bytes: ...
    @property
    def prefix(self) -> str: ...
    @property
    def peer(self) -> str | None: ...
    def route(self) -> str | None: ...
    def header(self, name: str, /) -> str | None: ...
    def cookie(self, name: str, /) -> str | None: ...


class AttributeReader:
    """Reads requests' attributes, as a policy's `attributes` say. Built once, used for every request.

    `wanted` are the names that the policy reads; without it, every attribute is read. Nearly all policies read the path
    and the address of the peer, so `read` has them in line: a call costs more than they do. `read_lines` reads a
    gateway's request in C where it is usual; None without the C core, or if the policy reads what only Python can.
    """

    __slots__ = ("_method", "_path", "_peer", "_readers", "_route", "_sources", "_spellings", "read_lines")

    def __init__(
        self,
        attributes: Mapping[str, Source],
        default_client: ClientIP | None = None,
        wanted: Collection[str] | None = None,
    ) -> None:
        sources = {"path": PathSource(), "client": default_client or ClientIP(), **attributes}
        self._sources: dict[str, Source] = {
            name: source for name, source in sources.items() if wanted is None or name in wanted
        }
        path, client = self._sources.get("path"), self._sources.get("client")
        self._path = path if isinstance(path, PathSource) else None
        self._peer = client if isinstance(client, ClientIP) and not client.trusted_proxies else None
        inline = {name for name, source in (("path", self._path), ("client", self._peer)) if source is not None}
        readers = ((name, _reader_of(source)) for name, source in self._sources.items() if name not in inline)
        self._readers = tuple((name, read) for name, read in readers if read is not None)
        spellings = ((name, _spelling_of(source)) for name, source in self._sources.items())
        self._spellings = {name: spell for name, spell in spellings if spell is not None}
        self._route = wanted is None or not OF_ROUTE.isdisjoint(wanted)
        self._method = (wanted is None or "method" in wanted or self._route) and "method" not in attributes
        if self._method:
            self._spellings["method"] = _spelled_method
        methods = _READ_AS if self._method else None
        self.read_lines = None if self._route else line_reader(self._sources, methods)

    def read(self, request: RequestLike) -> dict[str, str]:
        """Return the attributes: `method`, `path`, `client`, and the policy's own that have a value.

        `route` is the template of the request's route, if the framework tells it, and `endpoint` is the method and the
        route. If the policy takes `client` from a header, a request without the header has no `client`. Raises
        `BadRequestError` for a request that can be read in two ways.
        """
        found = {}
        if self._method:
            method = request.method
            found["method"] = _READ_AS.get(method) or read_method(method)
        if (path := self._path) is not None:
            raw, prefix = request.path, request.prefix
            plain = not prefix and not path.ignore_case and len(raw) <= USUAL_PATH
            found["path"] = (plain_path(raw) if plain else None) or _path_of(path, raw, prefix)
        if (peer := self._peer) is not None:
            entry = request.peer or ""
            of_entry = known_client if len(entry) <= LONGEST_ADDRESS else client_of
            found["client"] = of_entry(entry, peer.ipv4_prefix, peer.ipv6_prefix)
        for name, read in self._readers:
            value = read(request)
            if value:
                found[name] = value
        if self._route and (template := request.route()) is not None:
            found["route"] = template
            found["endpoint"] = f"{read_method(request.method)} {template}"
        return found

    def respell(self, attributes: Mapping[str, str]) -> dict[str, str]:
        """Return a program's attributes in the spelling that a request's would have.

        An empty value is a missing value, as in a header.
        """
        found, spellings = {}, self._spellings
        for name, value in attributes.items():
            if value and (spell := spellings.get(name)) is not None:
                value = spell(value)  # noqa: PLW2901
            if value:
                found[name] = value
        return found


def _spelling_of(source: Source) -> Callable[[str], str] | None:
    """Return the function that brings a program's value to its one spelling; None if any value is in it already."""
    if isinstance(source, PathSource):
        return partial(read_path, source=source)
    if isinstance(source, ClientIP):
        return lambda value: client_of(value.strip(), source.ipv4_prefix, source.ipv6_prefix)
    if isinstance(source, HeaderSource):
        trim = listed if is_list(source.name) else trimmed
        return (lambda value: source.spelled(trim(value))) if _is_respelled(source) else trim
    return (lambda value: source.spelled(value.strip())) if isinstance(source, BearerSource | CookieSource) else None


def _is_respelled(source: HeaderSource) -> bool:
    return source.is_host or source.name == _AUTHORIZATION


def _reader_of(source: Source) -> Callable[[RequestLike], str | None] | None:
    """Return the function that reads a source's attribute; None if only the application knows it."""
    if isinstance(source, PathSource):
        return lambda request: _path_of(source, request.path, request.prefix)
    if isinstance(source, ClientIP):
        return partial(_client_of, source)
    if isinstance(source, HeaderSource):
        read = _authorization_of if source.name == _AUTHORIZATION else methodcaller("header", source.name)
        return partial(_spelled_of, source, read) if _is_respelled(source) else read
    if isinstance(source, BearerSource):
        return _bearer_of
    return partial(_cookie_of, source) if isinstance(source, CookieSource) else None


def _path_of(source: PathSource, raw: str | bytes, prefix: str) -> str:
    path = read_path(raw, source)
    prefix = prefix and source.spelled(prefix.rstrip("/"))
    if not prefix:
        return path
    readings = readings_of(path)
    below = [reading[len(prefix) :] for reading in readings if reading.startswith(f"{prefix}/")]
    return Readings.of([*below, *readings])


def _client_of(source: ClientIP, request: RequestLike) -> str:
    forwarded_for = request.header(_FORWARDED_FOR) if source.trusted_proxies else None
    return client_address(forwarded_for, request.peer, source)


def _spelled_of(source: HeaderSource, read: Callable[[RequestLike], str | None], request: RequestLike) -> str | None:
    value = read(request)
    return source.spelled(value) if value else None


def _bearer_of(request: RequestLike) -> str | None:
    value = _authorization_of(request)
    return bearer_token(value) if value else None


def _authorization_of(request: RequestLike) -> str | None:
    value = request.header(_AUTHORIZATION)
    if value and is_ambiguous(value):
        raise BadRequestError("the header 'authorization' has several tokens, so the caller is ambiguous")
    return value


def _cookie_of(source: CookieSource, request: RequestLike) -> str | None:
    if not request.header("cookie"):  # raises for a header that is too long, before a framework reads it
        return None
    value = request.cookie(source.name)
    return source.spelled(value) if value else None


def put_attribute(attributes: dict[str, str], name: str, value: object) -> None:
    """Set an attribute to the value of the user's function: a string, or an int or a UUID, which means its string.

    None takes the attribute away: the application knows better than a header. Raises TypeError for another type.
    """
    if isinstance(value, str):
        attributes[name] = value
    elif value is None:
        attributes.pop(name, None)
    elif isinstance(value, UUID):
        attributes[name] = str(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        attributes[name] = f"{value:d}"
    else:
        what = "a key function" if name == OWN_KEY else f"the function of the attribute {name!r}"
        raise TypeError(f"{what} must return a string, an int, a UUID or None, not {type(value).__name__}")


def read_method(method: str) -> str:
    """Return a request's method as rules see it: upper case, HEAD as GET, `OTHER` if it is not registered."""
    return _READ_AS.get(method) or _READ_AS.get(method.upper(), OTHER)


def _spelled_method(value: str) -> str:
    """Return a program's method, trimmed as a gateway's header is, as rules see it; empty if it is missing."""
    method = trimmed(value)
    return read_method(method) if method else ""


def client_address(forwarded_for: str | None, peer: str | None, source: ClientIP) -> str:
    """Return the address to charge: the one that the outermost trusted proxy saw.

    Each proxy appends the address of its peer to `X-Forwarded-For`. So the n-th proxy wrote the n-th entry from the
    right, and a client may have written all to its left. Without trusted proxies, or without the header, it is our
    peer. With fewer entries than proxies, the request took a shorter way: then it is the leftmost entry. Our peer would
    be a proxy, and all clients of that way would share one bucket. A forger gains nothing: one that can reach us past
    the proxies could as well send enough entries.

    >>> client_address("10.9.9.9, 203.0.113.9:4711", "10.0.0.1", ClientIP(trusted_proxies=1))
    '203.0.113.9'
    """
    hops = source.trusted_proxies
    entry = peer or ""
    if forwarded_for and hops > 0:
        entries = forwarded_for.rsplit(",", hops)
        entry = entries[max(0, len(entries) - hops)].strip()
    return client_of(entry, source.ipv4_prefix, source.ipv6_prefix)

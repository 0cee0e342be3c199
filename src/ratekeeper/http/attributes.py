"""From a request to its attributes: method, path, client, and what the policy takes from headers. Pure functions.

A request is judged as the application will read it. What can be read in two ways is refused, or judged by the stricter
reading. So a client cannot choose a spelling that names a new bucket, leaves a rule, or joins an exemption. Knows no
framework, no rule and no limiter.
"""

from __future__ import annotations

from functools import partial
from posixpath import normpath
from re import compile as pattern
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import quote_from_bytes, unquote
from uuid import UUID

from ratekeeper.errors import BadRequestError
from ratekeeper.policy.addresses import client_of
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
    from collections.abc import Callable, Collection, Iterator, Mapping

    from ratekeeper.policy.sources import Source

ALWAYS_KNOWN = frozenset({"method", "path", "client"})
"""The attributes of every HTTP request."""

OF_ROUTE = frozenset({"route", "endpoint"})
"""Those of a request to a framework that tells its route."""

MOST_PATH = 8_192
"""Characters of a path that are looked at. A longer one is a 414."""

_READ_AS = {**{method: method for method in METHODS}, "HEAD": "GET"}
_AUTHORIZATION = "authorization"
_FORWARDED_FOR = "x-forwarded-for"
_ORIGIN = pattern(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#]*")
_PARAMETERS = pattern(r";[^/]*")
_ENCODED_SLASH = pattern(r"%2[fF]")
_MANY_SLASHES = pattern(r"//+")
_ASCII = bytes(range(128))


class RequestLike(Protocol):
    """What attributes are read from. An `Exchange` is one."""

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

    `wanted` are the names that the policy looks at; without them all are read that can be.
    """

    __slots__ = ("_method", "_readers", "_route", "_sources")

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
        readers = ((name, _reader_of(source)) for name, source in self._sources.items())
        self._readers = tuple((name, read) for name, read in readers if read is not None)
        self._route = wanted is None or not OF_ROUTE.isdisjoint(wanted)
        self._method = (wanted is None or "method" in wanted or self._route) and "method" not in attributes

    def read(self, request: RequestLike) -> dict[str, str]:
        """Return the attributes: `method`, `path`, `client`, and those of the policy that have a value.

        `route` is the template that the path matches, if the framework tells it, and `endpoint` that with the method.
        A policy that takes `client` from a header gets it from there only: without the header there is no `client`.
        Raises `BadRequestError` for a request that could be read in two ways.
        """
        found = {"method": read_method(request.method)} if self._method else {}
        for name, read in self._readers:
            value = read(request)
            if value:
                found[name] = value
        if self._route and (template := request.route()) is not None:
            found["route"] = template
            found["endpoint"] = f"{read_method(request.method)} {template}"
        return found

    def respell(self, attributes: Mapping[str, str]) -> dict[str, str]:
        """Return attributes that a program gives, in the spelling in which they would be read from a request.

        An empty value is a missing one, as an empty header is.
        """
        spelled = {name: self._respelled(name, value) for name, value in attributes.items()}
        return {name: value for name, value in spelled.items() if value}

    def _respelled(self, name: str, value: str) -> str:
        source = self._sources.get(name)
        if name == "method" and self._method:
            return read_method(value)
        if isinstance(source, PathSource):
            return read_path(value, source) if value else ""
        if isinstance(source, ClientIP):
            return client_of(value, source.ipv4_prefix, source.ipv6_prefix) if value else ""
        return source.spelled(value) if isinstance(source, HeaderSource | BearerSource | CookieSource) else value


def _reader_of(source: Source) -> Callable[[RequestLike], str | None] | None:
    """Return the function that reads a source's attribute; None for what only the application can tell."""
    if isinstance(source, PathSource):
        return partial(_path_of, source)
    if isinstance(source, ClientIP):
        return partial(_client_of, source)
    if isinstance(source, HeaderSource):
        return partial(_header_of, source)
    if isinstance(source, BearerSource):
        return _bearer_of
    return partial(_cookie_of, source) if isinstance(source, CookieSource) else None


def _path_of(source: PathSource, request: RequestLike) -> str:
    path = read_path(request.path, source)
    if (prefix := request.prefix) and path.startswith(f"{prefix}/"):
        return Readings.of([path[len(prefix) :], *readings_of(path)])
    return path


def _client_of(source: ClientIP, request: RequestLike) -> str:
    forwarded = request.header(_FORWARDED_FOR) if source.trusted_proxies else None
    return client_address(forwarded, request.peer, source)


def _header_of(source: HeaderSource, request: RequestLike) -> str | None:
    value = _authorization_of(request) if source.name == _AUTHORIZATION else request.header(source.name)
    return source.spelled(value) if value else None


def _bearer_of(request: RequestLike) -> str | None:
    value = _authorization_of(request)
    return bearer_token(value) if value else None


def _authorization_of(request: RequestLike) -> str | None:
    value = request.header(_AUTHORIZATION)
    if value and is_ambiguous(value):
        raise BadRequestError(
            "the header 'authorization' has several tokens, so it cannot be told whose request this is"
        )
    return value


def _cookie_of(source: CookieSource, request: RequestLike) -> str | None:
    if not request.header("cookie"):  # raises for more than can be looked at, before a framework looks
        return None
    value = request.cookie(source.name)
    return source.spelled(value) if value else None


def put_attribute(attributes: dict[str, str], name: str, value: object) -> None:
    """Set an attribute that the application gives. A number or UUID, as most users' ids are, is as good as its string.

    Another type is an error later. None takes the attribute away: of a header by this name the application knows
    better.
    """
    if value is None:
        attributes.pop(name, None)
    else:
        attributes[name] = str(value) if isinstance(value, int | UUID) else cast("str", value)


def read_method(method: str) -> str:
    """Return a request's method as rules see it: upper case, HEAD as GET, and `OTHER` for what is not registered."""
    return _READ_AS.get(method) or _READ_AS.get(method.upper(), OTHER)


def read_path(raw: str | bytes, source: PathSource | None = None) -> str:
    """Return the path of a request target, in all its `Readings` if they differ. A key takes the first.

    The first has percent-encoding decoded, once (UTF-8; what is not becomes U+FFFD); then empty, `.` and `..` segments
    resolved, and `;parameters` and a trailing slash taken away. The others are how routers may read it instead. A query
    is not part of a path. Each begins with "/". Raises `BadRequestError` for a path that is too long.

    >>> read_path("/y/../%61pi//x/?page=2")
    '/api/x'
    """
    if isinstance(raw, bytes):
        raw = raw.decode("ascii") if raw.isascii() else quote_from_bytes(raw, _ASCII)
    raw = raw.partition("?")[0]
    if len(raw) > MOST_PATH:
        raise BadRequestError(f"the path is longer than {MOST_PATH} characters", 414)
    if not raw.startswith("/"):
        # A request line may name the origin too: "GET http://example.com/api/x" is a request for /api/x.
        raw = "/" + _ORIGIN.sub("", raw, count=1).removeprefix("/")
    marked = "%" in raw or "//" in raw or "/." in raw or ";" in raw or "#" in raw or "\\" in raw
    if marked or (raw.endswith("/") and raw != "/"):
        readings = _readings(raw)
        return Readings.of(map(source.spelled, readings) if source is not None else readings)
    return raw if source is None else source.spelled(raw)


def _readings(raw: str) -> Iterator[str]:
    """Yield the ways in which routers read a path, the resolved one first."""
    texts = dict.fromkeys(text for target in _targets(raw) for text in _decoded(target))
    for text in texts:
        for reading in dict.fromkeys((_resolved(text), _MANY_SLASHES.sub("/", text), _resolved_as_url(text), text)):
            yield reading.rstrip("/") or "/"
            yield reading


def _targets(raw: str) -> Iterator[str]:
    """Yield the paths that servers may find in a request target."""
    if "#" in raw:  # the beginning of a fragment to some, to others a letter of the path
        yield raw.partition("#")[0]
    yield raw
    if raw.startswith("//"):  # the beginning of a host's name to some
        yield "/" + raw[2:].partition("/")[2]


def _decoded(target: str) -> Iterator[str]:
    """Yield what a path may be decoded to: with and without parameters, encoded slashes as slashes or as letters."""
    decoded = unquote(target, errors="replace")
    texts = [_PARAMETERS.sub("", decoded), decoded]
    if _ENCODED_SLASH.search(target):
        kept = unquote(_ENCODED_SLASH.sub("%252F", target), errors="replace")
        texts += [unquote(_PARAMETERS.sub("", target), errors="replace"), kept, _PARAMETERS.sub("", kept)]
    for text in texts:
        yield text
        if "\\" in text:  # a slash to those who read it as browsers do
            yield text.replace("\\", "/")


def _resolved(path: str) -> str:
    """Return a decoded path with empty, `.` and `..` segments resolved; nothing climbs above the root."""
    resolved = normpath(f"/{path.lstrip('/')}")
    folder = resolved != "/" and path.endswith(("/", "/.", "/.."))
    return f"{resolved}/" if folder else resolved


def _resolved_as_url(path: str) -> str:
    """Return a path as `_resolved` does, but as RFC 3986 has it: an empty segment is one that `..` takes away."""
    if "//" not in path or "/.." not in path:
        return path
    kept: list[str] = []
    for segment in path[1:].split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return _MANY_SLASHES.sub("/", "/" + "/".join(kept))


def client_address(forwarded_for: str | None, peer: str | None, source: ClientIP) -> str:
    """Return whom to charge: the address that the outermost of the trusted proxies saw.

    Each proxy appends the address it was connected from to `X-Forwarded-For`, so the n-th entry from the right was
    written by the n-th proxy, and all to its left is hearsay. Without trusted proxies, or without the header, it is the
    peer. With fewer entries than proxies the request took a shorter way, and the leftmost is the furthest that any
    proxy saw: the peer would be a proxy, hence one bucket for all who come that way. It gives a forger nothing: who can
    reach us past the proxies can as well send as many entries as are asked for.

    >>> client_address("10.9.9.9, 203.0.113.9:4711", "10.0.0.1", ClientIP(trusted_proxies=1))
    '203.0.113.9'
    """
    hops = source.trusted_proxies
    entry = peer or ""
    if forwarded_for and hops > 0:
        entries = forwarded_for.rsplit(",", hops)
        entry = entries[max(0, len(entries) - hops)].strip()
    return client_of(entry, source.ipv4_prefix, source.ipv6_prefix)

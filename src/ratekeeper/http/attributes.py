"""From a request to its attributes: method, path, client, and what the policy takes from headers. Pure functions.

A request is judged as the application will read it. What can be read in two ways is refused, or judged by the stricter
reading. So a client cannot choose a spelling that names a new bucket, leaves a rule, or joins an exemption. Knows no
framework, no rule and no limiter.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol, cast
from uuid import UUID

from ratekeeper.errors import BadRequestError
from ratekeeper.http.paths import read_path
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
    from collections.abc import Callable, Collection, Mapping

    from ratekeeper.policy.sources import Source

ALWAYS_KNOWN = frozenset({"method", "path", "client"})
"""The attributes of every HTTP request."""

OF_ROUTE = frozenset({"route", "endpoint"})
"""Those of a request to a framework that tells its route."""

_READ_AS = {**{method: method for method in METHODS}, "HEAD": "GET"}
_AUTHORIZATION = "authorization"
_FORWARDED_FOR = "x-forwarded-for"


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
    prefix = source.spelled(request.prefix.rstrip("/"))
    if not prefix:
        return path
    readings = readings_of(path)
    below = [reading[len(prefix) :] for reading in readings if reading.startswith(f"{prefix}/")]
    return Readings.of([*below, *readings])


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

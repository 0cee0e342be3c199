"""From a request to its attributes: method, path, client, and what the policy takes from headers. Pure functions.

What is read here decides whose bucket is charged, so all of it is written against a caller who would rather be somebody
else: one path has one spelling, and a client's address is what a trusted proxy saw, never what the client said of
itself. Knows no framework, no rule and no limiter.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from re import compile as pattern
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast
from urllib.parse import quote_from_bytes, unquote

from ratekeeper.policy.sources import ClientIP, CookieSource, HeaderSource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from ratekeeper.policy.sources import Source

UNKNOWN_CLIENT = "unknown"
"""The `client` of every request whose address cannot be told: one value, so that nonsense buys no fresh bucket."""

ALWAYS_KNOWN = frozenset({"method", "path", "client"})
"""The attributes of every HTTP request."""

OF_ROUTE = frozenset({"route", "endpoint"})
"""Those of a request to a framework that tells its route."""

_FORWARDED_FOR = "x-forwarded-for"
_JOINTS = {_FORWARDED_FOR: ", ", "cookie": "; "}
_PEER = ClientIP(trusted_proxies=0)
_ORIGIN = pattern(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/]*")
_ASCII = bytes(range(128))
_LONGEST_ADDRESS = 100  # with brackets, zone and port; anything longer is not worth a place in the cache
_LOW_64_BITS = 2**64 - 1


class Headers(Protocol):
    """A request's headers, by lower-cased name: a mapping will do."""

    def get(self, name: str, /) -> str | None: ...


class RequestLike(Protocol):
    """What the limiter needs to know of an HTTP request: a `Request`, or a framework's own that can tell the same.

    path     the request line's own, still percent-encoded (ASGI's `raw_path`); a query string may follow
    headers  by lower-cased name, see `header_map`
    peer     the address at the other end of the connection, None if it has none
    route    asks the framework for the template that the path matches, such as "/items/{id}"; None if it matches none.
             Called only if a rule looks at it
    """

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str | bytes: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def peer(self) -> str | None: ...
    @property
    def route(self) -> Callable[[], str | None] | None: ...


class Request(NamedTuple):
    """A request as values. See `RequestLike`."""

    method: str
    path: str | bytes
    headers: Headers
    peer: str | None = None
    route: Callable[[], str | None] | None = None


class AttributeReader:
    """Reads requests' attributes, as a policy's `attributes` say. Built once, used for every request.

    `wanted` are the names that the policy looks at; without them all are read that can be.

    >>> reader = AttributeReader({})
    >>> reader.read(Request("get", "/api//users?page=2", {}, "192.0.2.7"))
    {'method': 'GET', 'path': '/api/users', 'client': '192.0.2.7'}
    """

    __slots__ = ("_clients", "_cookies", "_headers", "_method", "_path", "_route")

    def __init__(
        self,
        attributes: Mapping[str, Source],
        default_client: ClientIP = _PEER,
        wanted: Collection[str] | None = None,
    ) -> None:
        sources = {"client": default_client, **attributes}
        if wanted is not None:
            sources = {name: by for name, by in sources.items() if name in wanted}
        self._clients = tuple((name, by.trusted_proxies) for name, by in sources.items() if isinstance(by, ClientIP))
        self._headers = tuple((name, by.name) for name, by in sources.items() if isinstance(by, HeaderSource))
        self._cookies = tuple((name, by.name) for name, by in sources.items() if isinstance(by, CookieSource))
        self._path = wanted is None or "path" in wanted
        self._route = wanted is None or not OF_ROUTE.isdisjoint(wanted)
        self._method = wanted is None or "method" in wanted or self._route

    def read(self, request: RequestLike) -> dict[str, str]:
        """Return the attributes: `method`, `path`, `client`, and those of the policy that have a value.

        `route` is the template that the path matches, if the framework tells it, and `endpoint` that with the method,
        of which HEAD counts as GET. A policy that takes `client` from a header gets it from there only: without the
        header there is no `client`.
        """
        found = {"method": request.method.upper()} if self._method else {}
        if self._path:
            found["path"] = normal_path(request.path)
        for name, hops in self._clients:
            forwarded = request.headers.get(_FORWARDED_FOR) if hops else None
            found[name] = client_address(forwarded, request.peer, hops)
        for name, header in self._headers:
            value = request.headers.get(header)
            if value:
                found[name] = value
        if self._cookies:
            self._read_cookies(request.headers, found)
        if self._route and request.route is not None and (template := request.route()) is not None:
            found["route"] = template
            found["endpoint"] = f"{'GET' if found['method'] == 'HEAD' else found['method']} {template}"
        return found

    def _read_cookies(self, headers: Headers, found: dict[str, str]) -> None:
        cookies: dict[str, str] = {}
        for pair in (headers.get("cookie") or "").split(";"):
            name, _, value = pair.strip(" \t").partition("=")
            cookies[name] = "" if name in cookies else value.strip('"')  # of one that is repeated, see `header_map`
        for attribute, name in self._cookies:
            if cookies.get(name):
                found[attribute] = cookies[name]


def put_attribute(attributes: dict[str, str], name: str, value: object) -> None:
    """Set an attribute. A number, as most users' ids are, is as good as its text; another type is an error later."""
    if value is None:
        attributes.pop(name, None)  # of a header by this name the application knows better
    else:
        attributes[name] = str(value) if isinstance(value, int) else cast("str", value)


def header_map(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return ASGI's list of headers as a mapping by lower-cased name.

    `X-Forwarded-For` is a list, and HTTP/2 may split `Cookie`, so their values are joined. Any other header that is
    repeated counts as empty: servers differ in which of its values they go by, so a caller could add junk to a key of
    theirs and have a fresh bucket.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.strip(b" \t").decode("latin-1")
        if name not in headers:
            headers[name] = value
        else:
            joint = _JOINTS.get(name)
            headers[name] = f"{headers[name]}{joint}{value}" if joint else ""
    return headers


def forwarded_request(request: Request) -> Request:
    """Return the request that a proxy asks about, for a sub-request such as Caddy's `forward_auth` sends.

    Method and path are from `X-Forwarded-Method` and `X-Forwarded-Uri`, or else the sub-request's own. Caddy and
    Traefik overwrite both; nginx must be told to. No other convention is read: a proxy hands on the headers of a
    convention that is not its own as the client sent them.

    >>> forwarded_request(Request("GET", "/check", {"x-forwarded-method": "POST", "x-forwarded-uri": "/api/x"}))[:2]
    ('POST', b'/api/x')
    """
    method, path = request.headers.get("x-forwarded-method"), request.headers.get("x-forwarded-uri")
    # Headers are decoded one byte a character; the path's bytes are UTF-8, so they are handed on as bytes.
    return request._replace(
        method=method or request.method, path=path.encode("latin-1", "replace") if path else request.path
    )


def normal_path(raw: str | bytes) -> str:
    """Return the one spelling of a path, so that no other spelling of it slips past a rule.

    Query and fragment are cut; percent-encoding is decoded, once (UTF-8; what is not becomes U+FFFD); then, as they may
    have been encoded, slashes are collapsed and `.` and `..` resolved. A trailing slash stays. Always begins with "/".

    >>> normal_path("/y/../%61pi//x/?page=2")
    '/api/x/'
    """
    if isinstance(raw, bytes):
        raw = raw.decode("ascii") if raw.isascii() else quote_from_bytes(raw, _ASCII)
    if "?" in raw or "#" in raw:
        raw = raw.partition("#")[0].partition("?")[0]
    if raw.startswith("/") and "%" not in raw and "//" not in raw and "/." not in raw:
        return raw
    if not raw.startswith("/"):
        # A request line may name the origin too: "GET http://example.com/api/x" is a request for /api/x.
        raw = "/" + _ORIGIN.sub("", raw, count=1) if _ORIGIN.match(raw) else "/" + raw
    return _resolved(unquote(raw, errors="replace"))


def _resolved(path: str) -> str:
    """Return a decoded path with empty, `.` and `..` segments resolved; nothing climbs above the root."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    if kept and segments[-1] in ("", ".", ".."):  # these name a folder: "/a/." is "/a/"
        kept.append("")
    return "/" + "/".join(kept)


def client_address(forwarded_for: str | None, peer: str | None, trusted_proxies: int) -> str:
    """Return whom to charge: the address that the outermost of `trusted_proxies` proxies saw.

    Each proxy appends the address it was connected from to `X-Forwarded-For`, so the n-th entry from the right was
    written by the n-th proxy, and all to its left is hearsay. Without trusted proxies, or without the header, it is the
    peer. With fewer entries than proxies the request took a shorter way, and the leftmost is the furthest that any
    proxy saw: the peer would be a proxy, hence one bucket for all who come that way. It gives a forger nothing: who can
    reach us past the proxies can as well send as many entries as are asked for.

    IPv6 counts by /64, which is what one customer gets: by address, one would have 2**64 buckets.

    >>> client_address("10.9.9.9, 203.0.113.9:4711", "10.0.0.1", trusted_proxies=1)
    '203.0.113.9'
    """
    if not forwarded_for or trusted_proxies < 1:
        return _bucket(peer) if peer and len(peer) <= _LONGEST_ADDRESS else UNKNOWN_CLIENT
    entries = forwarded_for.rsplit(",", trusted_proxies)
    entry = entries[max(0, len(entries) - trusted_proxies)].strip()
    return _bucket(entry) if len(entry) <= _LONGEST_ADDRESS else UNKNOWN_CLIENT


@lru_cache(maxsize=8192)
def _bucket(entry: str) -> str:
    """Return an entry's address in its one spelling, IPv6 as its /64, without port or zone. Cached: parsing is slow."""
    if entry.startswith("[") and "]" in entry:
        entry = entry[1 : entry.index("]")]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    try:
        address = ip_address(entry)
    except ValueError:
        return UNKNOWN_CLIENT
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) & ~_LOW_64_BITS)}/64"  # the zone is no part of the number

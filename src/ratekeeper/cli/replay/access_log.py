"""A line of an access log -> a `LogEntry`: the time, and the attributes that a policy would have seen live.

Reads the common and combined log formats (Apache, nginx) and JSON lines (Caddy, nginx, Traefik, an application's own).
The format is recognised line by line, so a log may mix them. This module knows no file, no limiter, and of a policy
only the attributes that it asks for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from ratekeeper.cli.replay.log_time import text_ticks, ticks_of
from ratekeeper.errors import BadRequestError
from ratekeeper.http.attributes import AttributeReader, client_address, read_method
from ratekeeper.http.header_lines import is_list
from ratekeeper.http.paths import read_path
from ratekeeper.policy.addresses import UNKNOWN_CLIENT, client_of
from ratekeeper.policy.model import Policy
from ratekeeper.policy.sources import BearerSource, ClientIP, CookieSource, HeaderSource, PathSource
from ratekeeper.replay.entries import LogEntry, UnreadableLine
from ratekeeper.replay.plan import asked_for

UNDERSTOOD = "the common and combined log formats (Apache, nginx), and JSON lines (Caddy, nginx, Traefik, your own)"

# No group is possessive, only the characters in it: Python before 3.11.5 misreads what follows such a group.
_QUOTED = r'"([^"\\]*+(?:\\.[^"\\]*+)*)"'
_COMBINED = re.compile(
    r"(?:[\w.-]+:\d+ )?"  # Apache's vhost_combined begins with the server's own name and port
    r"(\S+) \S+ (.*?) \[(\d{1,2}/\w{3}/\d{4}:[^\]]{8,30})\] "
    rf"{_QUOTED} (\d{{3}}|-)"
    rf'(?: [^" ]++)*(?: {_QUOTED} {_QUOTED}(?: "([\da-fA-F.:, \[\]]+)")?)?'  # the last is nginx's $http_x_forwarded_for
)
_REQUEST = re.compile(r"([A-Za-z][A-Za-z_-]*) (\S.*?)(?: HTTP/[\d.]+)?")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_SCALARS = frozenset({str, int, float})

_TIME = ("time", "timestamp", "ts", "@timestamp", "time_iso8601", "msec", "time_local", "StartUTC")
_METHOD = ("method", "request_method", "http_method", "RequestMethod")
_PATH = ("path", "uri", "url", "request_uri", "RequestPath")
_CLIENT = ("client", "client_ip", "remote_addr", "remote_ip", "clientip", "remote_host", "ClientHost", "ip")
_USER = ("user", "remote_user", "user_id", "username", "ClientUsername")


class _Header(NamedTuple):
    """A header that gives a policy an attribute, and the names that its field may have in a log."""

    attribute: str
    name: str
    fields: tuple[str, ...]

    @classmethod
    def of(cls, attribute: str, name: str) -> _Header:
        underscored = name.replace("-", "_")
        return cls(attribute, name, (name, underscored, name.title(), f"http_{underscored}"))


_FORWARDED_FOR = _Header.of("", "x-forwarded-for")


class LineReader:
    """Reads the lines of one log for one policy.

    Attributes are read as they are live (`http.attributes`): paths normalised, IPv6 clients by /64. A header that the
    log does not have may stand in a field with the header's name or the attribute's name. The log is taken to be the
    front proxy's, so its address is the one that `trusted_proxies = 1` names. X-Forwarded-For is read only for more
    proxies than one. If the log has resolved an address, the host name stands for it. A JSON line's client, user and
    request are kept, and all fields that the policy asks for.

    >>> reader = LineReader(Policy.parse('[[rules]]\\nname = "all"\\nlimit = "5/s"'))
    >>> reader.read('::1 - bob [10/Oct/2000:13:55:36 -0700] "get /a//b?c HTTP/1.0" 200 1').attributes
    {'method': 'GET', 'path': '/a/b', 'status': '200', 'client': '::/64', 'user': 'bob'}
    """

    __slots__ = ("_asked_for", "_clients", "_header_names", "_headers", "_kept", "_logged_headers", "_path", "_respell")

    def __init__(self, policy: Policy) -> None:
        sources = policy.attributes.items()
        self._asked_for = asked_for(policy)
        self._clients = {"client": ClientIP()} | {
            name: replace(by, trusted_proxies=max(0, by.trusted_proxies - 1))
            for name, by in sources
            if isinstance(by, ClientIP)
        }
        self._headers = tuple(_Header.of(name, by.name) for name, by in sources if isinstance(by, HeaderSource))
        self._header_names = frozenset(header.name for header in (*self._headers, _FORWARDED_FOR))
        in_fields = (name for header in (*self._headers, _FORWARDED_FOR) for name in header.fields)
        self._kept = self._asked_for.union(in_fields, _METHOD, _PATH, _CLIENT, _USER, ("host", "request"))
        self._logged_headers = tuple(it for it in self._headers if it.name in ("referer", "user-agent"))
        path = policy.attributes.get("path")
        self._path = path if isinstance(path, PathSource) else PathSource()
        of_headers = [name for name, by in sources if isinstance(by, HeaderSource | BearerSource | CookieSource)]
        self._respell = AttributeReader(policy.attributes, wanted=of_headers).respell

    def read(self, text: str, line: int = 1) -> LogEntry:
        """Read a line. Raise `UnreadableLine` if it cannot be read."""
        text = text.strip()
        try:
            return self._read_json(text, line) if text.startswith("{") else self._read_combined(text, line)
        except BadRequestError as error:  # as the service would refuse it
            raise UnreadableLine(str(error)) from None

    def _read_combined(self, text: str, line: int) -> LogEntry:
        match = _COMBINED.match(text)
        if match is None:
            raise UnreadableLine("neither the common or combined log format, nor JSON")
        host, user, time, request, status, referer, agent, forwarded = match.groups()
        request_line = _request_line(request, self._path)
        attributes = {"method": request_line.method, "path": request_line.path, "status": status}
        self._add_clients(attributes, None if host == "-" else host, forwarded)
        if user != "-" and user:
            attributes["user"] = _unescaped(user)
        if referer and referer != "-":
            attributes["referer"] = _unescaped(referer)
        if agent and agent != "-":
            attributes["user_agent"] = _unescaped(agent)
        for header in self._logged_headers:
            if (copied := attributes.get(header.name.replace("-", "_"))) is not None:
                attributes[header.attribute] = copied
        return LogEntry(text_ticks(time), line, attributes)

    def _read_json(self, text: str, line: int) -> LogEntry:
        fields = _fields(text)
        at = ticks_of(_first(fields, _TIME, "it has no time"))
        kept = self._kept
        attributes = {
            name: value if type(value) is str else str(value)
            for name, value in fields.items()
            if name in kept and type(value) in _SCALARS and value != "" and value != "-"
        }
        request = attributes.pop("request", None)
        if request is not None and (match := _REQUEST.fullmatch(request)):
            attributes = {"method": match[1], "path": match[2]} | attributes
        _rename(attributes, _METHOD)
        _rename(attributes, _PATH)
        _rename(attributes, _USER)
        if "path" in attributes:
            attributes["path"] = read_path(attributes["path"], self._path)
        elif self._asked_for and self._asked_for.isdisjoint(attributes):
            raise UnreadableLine("it has no path, nor anything else that the policy asks for")
        if "method" in attributes:
            attributes["method"] = read_method(attributes["method"])
        self._add_from_headers(attributes, fields)
        return LogEntry(at, line, self._respell(attributes))

    def _add_from_headers(self, attributes: dict[str, str], fields: Mapping[str, object]) -> None:
        """Add the attributes that the policy takes from headers, and the clients."""
        logged = fields.get("headers")
        headers: dict[str, str] = {}
        if isinstance(logged, dict):
            asked = self._header_names
            headers = {low: _header_text(low, one) for name, one in logged.items() if (low := name.lower()) in asked}
        found = {header.attribute: _header_value(header, headers, attributes) for header in self._headers}
        peer = next((attributes[name] for name in _CLIENT if name in attributes), None)
        if peer is None and client_of(attributes.get("host", "")) != UNKNOWN_CLIENT:
            peer = attributes["host"]  # Apache calls the client so; elsewhere it is the name of the server
        self._add_clients(attributes, peer, _header_value(_FORWARDED_FOR, headers, attributes))
        attributes.update({name: value for name, value in found.items() if value})

    def _add_clients(self, attributes: dict[str, str], peer: str | None, forwarded: str | None) -> None:
        if peer is None and forwarded is None:
            return
        for name, source in self._clients.items():
            attributes[name] = _client(forwarded, peer, source)


class _RequestLine(NamedTuple):
    method: str
    path: str


@lru_cache(maxsize=16_384)
def _request_line(text: str, path: PathSource) -> _RequestLine:
    """Read a log's `GET /path HTTP/1.1`. Cached: a few paths are most of the traffic."""
    match = _REQUEST.fullmatch(_unescaped(text))
    if match is None:  # "-" where a client went away, or the bytes of TLS on a port for HTTP
        raise UnreadableLine('its request is not "METHOD /path HTTP/1.1"')
    return _RequestLine(read_method(match[1]), read_path(match[2], path))


@lru_cache(maxsize=65_536)
def _client(forwarded: str | None, peer: str | None, source: ClientIP) -> str:
    """Return the client as it would be live, or the host name if the log has resolved the address."""
    address = client_address(forwarded, peer, source)
    from_peer = peer is not None and not (forwarded and source.trusted_proxies)
    return str(peer) if address == UNKNOWN_CLIENT and from_peer else address


def _unescaped(text: str) -> str:
    r"""Undo what Apache and nginx do to a field in quotes: `\"`, `\\`, `\n`, and `\xhh` for a byte."""

    if "\\" not in text:
        return text

    def plain(match: re.Match[bytes]) -> bytes:
        return bytes.fromhex(match[1].decode()) if match[1] else _ESCAPED.get(match[2], match[2])

    return _ESCAPE.sub(plain, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")


def _fields(text: str) -> dict[str, object]:
    """Return a JSON line's fields, together with the fields of Caddy's object `request`."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableLine("it begins as JSON does, but is not JSON") from None
    request = fields.get("request")
    return {**fields, **request} if isinstance(request, dict) else fields


def _first(fields: Mapping[str, object], names: Iterable[str], complaint: str) -> object:
    for name in names:
        if fields.get(name) is not None:
            return fields[name]
    raise UnreadableLine(complaint)


def _rename(attributes: dict[str, str], names: tuple[str, ...]) -> None:
    """Rename the first of these fields that is present to the usual name, the first in the list."""
    for name in names:
        if name in attributes:
            attributes[names[0]] = attributes[name]
            return


def _header_text(name: str, value: object) -> str:
    """Return a logged header's value; a list is joined. Raise `UnreadableLine` for another header that is repeated."""
    if isinstance(value, list):
        if len(value) > 1 and not is_list(name):
            raise UnreadableLine(f"the header {name!r} is repeated, so the caller is ambiguous")
        return ", ".join(str(one) for one in value)
    return str(value) if type(value) in _SCALARS else ""


def _header_value(header: _Header, headers: Mapping[str, str], attributes: Mapping[str, str]) -> str | None:
    value = headers.get(header.name)
    if value:
        return value
    return next((attributes[name] for name in header.fields if name in attributes), None)

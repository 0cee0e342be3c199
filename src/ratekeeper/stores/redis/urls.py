"""From a store's URL to its client. A URL is checked whole before anything is opened.

Client libraries are loaded here, when one is used. This file must not know requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ratekeeper.errors import MissingExtraError, StoreError, did_you_mean

LIBRARIES = ("redis", "valkey")
"""Client libraries: all that is used here has the same name in both."""

MAX_CONNECTIONS = 10_000
"""Of one process: as many as there are threads that ask at once. A server refuses before that."""

_FORMS = (
    "redis://host:6379/0, rediss://host:6379/0 (TLS), unix:///path/to.sock, valkey://host:6379/0, "
    "redis+cluster://host:6379,host2:6379, redis+sentinel://host:26379,host2:26379/service/0"
)
_TLS = {"rediss": True, "valkeys": True, "redis": False, "valkey": False}
_SHOWN_USER = "***@"
KINDS = ("", "+cluster", "+sentinel")
SCHEMES = ("unix", *(base + kind for base in _TLS for kind in KINDS))
"""The schemes of a store's URL."""

_IN_TEXT = re.compile(rf"\b(?:{'|'.join(map(re.escape, SCHEMES))})://[^\s\"'`<>]*", re.IGNORECASE)

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_NUMBERS = ("db", "protocol", "max_connections")
_OPTIONS = (*_NUMBERS, "username", "password", "client_name")
_TLS_OPTIONS = (*_FILES, "ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers")
_TIMEOUT, _ONCE = "set the store's timeout", "nothing is ever asked twice"
_ELSEWHERE = {
    "timeout": _TIMEOUT, "socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT,
    "retry": _ONCE, "retry_on_timeout": _ONCE, "retry_on_error": _ONCE,
}  # fmt: skip
"""Options of client libraries that must not be set, and why."""


MAX_SECONDS = 3600
"""Of a timeout, and of a wait between two tries: more is a mistake, and far more is too much for timers."""


def checked_seconds(name: str, value: float) -> float:
    """Return a number of seconds, more than 0 and less than an hour. Raise ValueError for another value."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < MAX_SECONDS:
        raise ValueError(f"{name} must be more than 0 seconds, and less than an hour, not {value!r}")
    return value


def read_url(url: str) -> SplitResult:
    """Return a URL's parts. Raises ValueError if it cannot be one of a store, in words that name no secret."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its words have the password in them
        raise ValueError("in a user or a password, write [ ] as %5B %5D, and what is not ASCII in that way") from None
    base, _, kind = parts.scheme.partition("+")
    if parts.scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {parts.scheme!r}")
    _check_signs(parts)
    if kind and parts.query:
        raise ValueError("only a single server's URL may have options after a '?'")
    if not kind:
        _check_options(parts)
    if base == "unix" and (parts.netloc.rpartition("@")[2] or not parts.path.strip("/")):
        raise ValueError("it names no socket: three slashes begin a path, as in unix:///run/redis.sock")
    if not kind and base != "unix":
        if len(hosts_of(parts, 0)) > 1:
            raise ValueError("only a cluster or sentinels may have several hosts")
        if not _is_number(parts.path.strip("/") or "0"):
            raise ValueError("after the host, only a database's number may follow")
    return parts


def _check_signs(parts: SplitResult) -> None:
    """Raise ValueError for a sign that ends a part of the URL where its writer did not mean it to."""
    if "@" in parts.query + parts.fragment or ("@" in parts.path and parts.scheme != "unix"):  # cut off in a password
        raise ValueError("in a user, a password or an option, write / ? # @ as %2F %3F %23 %40")
    if parts.fragment:  # a client leaves it out
        raise ValueError("in a URL, write # as %23")


def hosts_of(parts: SplitResult, port: int) -> list[tuple[str, int]]:
    """Return the hosts of a URL, of which there may be several. Raises ValueError if one has no name."""
    hosts = []
    for text in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{text}")
        if not one.hostname:
            raise ValueError("it names no host")
        hosts.append((one.hostname, port if one.port is None else one.port))
    return hosts


def has_tls(parts: SplitResult) -> bool:
    """Return whether the server is reached by TLS."""
    return _TLS.get(parts.scheme.partition("+")[0], False)


def hide_secrets(url: str) -> str:
    """Return a URL for people: without a user and a password, which may be in its options too."""
    before, at, after = url.rpartition("@")
    shown = f"{_scheme(before)}{_SHOWN_USER}{after}" if at else url
    return shown.partition("?")[0]


def _scheme(url: str) -> str:
    """Return the beginning of a URL that names no user, also if a slash is missing."""
    found = re.match(r"[^:/]*:/{0,2}", url)
    return "" if found is None else found[0]


def hide_secrets_in(text: str) -> str:
    """Return a string for people: the secrets of each URL of a store in it are hidden."""
    return _IN_TEXT.sub(lambda found: hide_secrets(found[0]), text)


def bad_url(url: str, reason: str) -> StoreError:
    """Return the error for a URL that cannot be one of a store, with the right forms."""
    return StoreError(f"{hide_secrets(url)!r} is not a URL of a Redis store: {reason}. Write one of {_FORMS}")


def _check_options(parts: SplitResult) -> None:
    """Raise ValueError for options that a client rejects only at its first request, and for those that a store sets."""
    known = (*_OPTIONS, *_TLS_OPTIONS) if has_tls(parts) else _OPTIONS
    options = parse_qsl(parts.query, keep_blank_values=True)
    names = [name for name, _ in options]
    path_db = "" if parts.scheme == "unix" else parts.path.strip("/")
    for name, value in options:
        if names.count(name) > 1:  # a client would use one of them
            raise ValueError(f"the option {name[:40]!r} stands there twice")
        if name == "db" and path_db not in ("", value):
            raise ValueError(f"it names two databases, {path_db[:40]} and {value[:40]}")
        if name in _ELSEWHERE:
            raise ValueError(f"{name!r} cannot be an option: {_ELSEWHERE[name]}")
        if name not in known:
            raise ValueError(f"there is no option {name[:40]!r}{did_you_mean(name, known)}")
        if not value or (name in _NUMBERS and not _is_number(value)):
            raise ValueError(f"the option {name!r} needs a {'number' if name in _NUMBERS else 'value'}")
        if name == "protocol" and value not in ("2", "3"):
            raise ValueError("the option 'protocol' is 2 or 3")
        if name in _FILES and not Path(value).is_file():  # else it would be taken for an outage
            raise ValueError(f"the option {name!r} names no file")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


class ClientMaker(NamedTuple):
    """Makes a client, and knows its kind. `owned`: the client is made here, so it is closed here."""

    make: Callable[[], Any]
    library: Any
    clustered: bool
    owned: bool
    shown: str  # in a repr: no secrets


def client_maker(where: Any, timeout: float, asynchronous: bool) -> ClientMaker:
    """Return the maker of a URL's client, or of the given client. Raises `StoreError` for a bad URL."""
    checked_seconds("timeout", timeout)
    return _from_url(where, timeout, asynchronous) if isinstance(where, str) else _from_client(where, asynchronous)


def _from_client(client: Any, asynchronous: bool) -> ClientMaker:
    bases = {base.__module__.partition(".")[0] for base in type(client).__mro__}
    found = next((name for name in LIBRARIES if name in bases), None)
    if found is None:
        raise TypeError(f"a Redis store takes a URL, or a client of redis or valkey, not {client!r}")
    library, kind = import_module(found), type(client)
    awaited = isinstance(client, library.asyncio.Redis | library.asyncio.RedisCluster)
    if not awaited and not isinstance(client, library.Redis | library.RedisCluster):
        raise TypeError(f"a Redis store takes a URL, or a client of {found}, not a {kind.__module__}.{kind.__name__}")
    if awaited != asynchronous:
        use, other = ("RedisStore", "AsyncRedisStore")[:: -1 if asynchronous else 1]
        raise TypeError(f"{kind.__module__}.{kind.__name__} is for {other}, not for {use}")
    clustered = isinstance(client, library.RedisCluster | library.asyncio.RedisCluster)
    shown = f"<{kind.__module__}.{kind.__qualname__}>"  # its repr may hold a password
    return ClientMaker(lambda: client, library, clustered, owned=False, shown=shown)


def _from_url(url: str, timeout: float, asynchronous: bool) -> ClientMaker:
    url = url.strip()  # as it is read
    try:
        parts = read_url(url)
        kind = parts.scheme.partition("+")[2]
        library = _library()
        near = library.asyncio if asynchronous else library
        options = _options(library, near, timeout)
        if kind:
            options |= {"username": _unquoted(parts.username), "password": _unquoted(parts.password)}
            options |= {"ssl": True} if has_tls(parts) else {}
            make = (_cluster if kind == "cluster" else _sentinel)(library, near, parts, options)
        else:
            make = _single(url, near, parts, options)
    except ValueError as error:
        raise bad_url(url, str(error)) from None
    return ClientMaker(make, library, kind == "cluster", owned=True, shown=repr(hide_secrets(url)))


def _options(library: Any, near: Any, timeout: float) -> dict[str, Any]:
    """Return how clients are made here. They never try again: a lost answer may be one to a charge that was made."""
    retry = import_module(f"{near.__name__}.retry").Retry
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "max_connections": MAX_CONNECTIONS,
        "retry": retry(import_module(f"{library.__name__}.backoff").NoBackoff(), 0),
    }


def _single(url: str, near: Any, parts: SplitResult, options: dict[str, Any]) -> Callable[[], Any]:
    """Return what makes the client of a server, by its URL in the words that client libraries know."""
    scheme = "unix" if parts.scheme == "unix" else "rediss" if has_tls(parts) else "redis"
    url = scheme + url[len(parts.scheme) :]
    return lambda: near.Redis.from_url(url, **options)


def _cluster(library: Any, near: Any, parts: SplitResult, options: dict[str, Any]) -> Callable[[], Any]:
    """Return what makes a cluster's client: the blocking one asks the cluster at once, so it is made when needed."""
    hosts = hosts_of(parts, 6379)
    if parts.path.strip("/"):
        raise ValueError("a cluster has only one database: end the URL after the hosts")
    node = import_module(f"{near.__name__}.cluster").ClusterNode
    if library.__name__ == "valkey":
        options |= {"cluster_error_retry_attempts": 0}
    return lambda: near.RedisCluster(startup_nodes=[node(*host) for host in hosts], **options)


def _sentinel(_: Any, near: Any, parts: SplitResult, options: dict[str, Any]) -> Callable[[], Any]:
    """Return what makes the client of the server that sentinels watch."""
    hosts = hosts_of(parts, 26379)
    service, _, db = parts.path.strip("/").partition("/")
    if not service or not _is_number(db or "0"):
        raise ValueError("after the hosts, the service's name must follow, and a database's number may")
    to_sentinels = _without_login(options)
    to_server = options | {"db": int(db or 0)}
    return lambda: near.Sentinel(hosts, sentinel_kwargs=to_sentinels).master_for(unquote(service), **to_server)


def _without_login(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options for the sentinels themselves: the login is the server's."""
    return {name: value for name, value in options.items() if name not in ("username", "password", "db")}


def _library() -> Any:
    for name in LIBRARIES:
        if find_spec(name) is not None:
            return import_module(name)
    raise MissingExtraError("RedisStore", "redis")


def _unquoted(part: str | None) -> str | None:
    return None if part is None else unquote(part)

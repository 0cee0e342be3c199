"""A store's URL: what it may say, all checked before anything is opened. Knows no client library."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from ratekeeper.errors import StoreError, did_you_mean

_FORMS = (
    "redis://host:6379/0, rediss://host:6379/0 (TLS), unix:///path/to.sock, valkey://host:6379/0, "
    "redis+cluster://host:6379,host2:6379, redis+sentinel://host:26379,host2:26379/service/0"
)
_TLS = {"rediss": True, "valkeys": True, "redis": False, "valkey": False}
_SHOWN_USER = "***@"
KINDS = ("", "+cluster", "+sentinel")
SCHEMES = ("unix", *(base + kind for base in _TLS for kind in KINDS))
"""The schemes of a store's URL."""

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_NUMBERS = ("db", "protocol", "max_connections")
_OPTIONS = (*_NUMBERS, "username", "password", "client_name")
_TLS_OPTIONS = (*_FILES, "ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers")
_TIMEOUT, _ONCE = "set the store's timeout", "nothing is ever asked twice"
_ELSEWHERE = {
    "timeout": _TIMEOUT, "socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT,
    "retry": _ONCE, "retry_on_timeout": _ONCE, "retry_on_error": _ONCE,
}  # fmt: skip
"""What a client library would take, and why it is not to be set."""


def read_url(url: str) -> SplitResult:
    """Return a URL's parts. Raises ValueError for one that is none, in words that name no secret."""
    parts = urlsplit(url)
    base, _, kind = parts.scheme.partition("+")
    if parts.scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {parts.scheme!r}")
    if "@" in parts.query + parts.fragment or ("@" in parts.path and base != "unix"):  # cut off in a password
        raise ValueError("in a user, a password or an option, write / ? # @ as %2F %3F %23 %40")
    if kind and parts.query:
        raise ValueError("only a single server's URL may have options after a '?'")
    if not kind:
        _check_options(parts)
    if not kind and base != "unix":
        if len(hosts_of(parts, 0)) > 1:
            raise ValueError("only of a cluster or of sentinels may there be several hosts")
        if not _is_number(parts.path.strip("/") or "0"):
            raise ValueError("after the host may go a database's number")
    return parts


def hosts_of(parts: SplitResult, port: int) -> list[tuple[str, int]]:
    """Return the hosts of a URL, of which there may be several. Raises ValueError if one is none."""
    hosts = []
    for text in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{text}")
        if not one.hostname:
            raise ValueError("it names no host")
        hosts.append((one.hostname, port if one.port is None else one.port))
    return hosts


def has_tls(parts: SplitResult) -> bool:
    """Is the server to be reached by TLS?"""
    return _TLS.get(parts.scheme.partition("+")[0], False)


def hide_secrets(url: str) -> str:
    """Return a URL for people: without a user and a password, which may be in its options too."""
    before, at, after = url.rpartition("@")
    shown = f"{before.partition('://')[0]}://{_SHOWN_USER}{after}" if at else url
    return shown.partition("?")[0]


def bad_url(url: str, reason: str) -> StoreError:
    """Return the error for a URL that is none, with what would be right."""
    return StoreError(f"{hide_secrets(url)!r} is no URL of a Redis store: {reason}. Write one of {_FORMS}")


def _check_options(parts: SplitResult) -> None:
    """Refuse what a client would not know, but say so only at the first request; and what a store must set itself."""
    known = (*_OPTIONS, *_TLS_OPTIONS) if has_tls(parts) else _OPTIONS
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _ELSEWHERE:
            raise ValueError(f"{name!r} is no option of it: {_ELSEWHERE[name]}")
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

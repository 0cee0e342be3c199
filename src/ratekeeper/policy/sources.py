"""The sources of a request's attributes, and the one spelling of each. Values and pure functions.

They know no request.

A client may write many values in more than one way. An attribute has one spelling, and a policy's own strings are
brought to the same one (`spelled`), so that they match by their meaning.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote

from ratekeeper.errors import PolicyError
from ratekeeper.policy.addresses import IPV4_PREFIX, IPV6_PREFIX

OTHER = "OTHER"
"""The `method` of every request with an unregistered method: one value, so that inventions buy no fresh bucket."""

METHODS = frozenset({
    "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "LABEL", "LINK",
    "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "OPTIONS",
    "ORDERPATCH", "PATCH", "POST", "PRI", "PROPFIND", "PROPPATCH", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH",
    "TRACE", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
})  # fmt: skip
"""The methods of IANA's registry, but for HEAD, which counts as GET."""

_AUTHORIZATION = "authorization"
_HOSTS = frozenset({"host", "x-forwarded-host"})
_LETTERS_OF_ONE_CASE = str.maketrans(
    "\u0130\u0131\u017f\u1e9b\ufb05"  # Latin
    "\u00b5\u03a3\u03c2\u03d0\u03d1\u03d5\u03d6\u03f0\u03f1\u03f5\u0345\u1fbe\u1fd3\u1fe3"  # Greek
    "\u1c80\u1c81\u1c82\u1c83\u1c84\u1c85\u1c86\u1c87\u1c88",  # Cyrillic
    "iis\u1e61\ufb06"
    "\u03bc\u03c3\u03c3\u03b2\u03b8\u03c6\u03c0\u03ba\u03c1\u03b5\u03b9\u03b9\u0390\u03b0"
    "\u0432\u0434\u043e\u0441\u0442\u0442\u044a\u0463\ua64b",
)
"""The letters that a regular expression that ignores case takes for others, and `lower` does not.

The capital sigma is among them as `lower` makes another letter of it at the end of a word.
"""
_OF_ONE_WORD = frozenset({"basic", "bearer", "token"})
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
_FROM_URL_SAFE = str.maketrans("-_", "+/")
_TO_URL_SAFE = str.maketrans("+/", "-_")
_ESCAPE = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)


class Readings(str):
    """A value that can be read in more than one way, such as a path with `..` in it.

    As a string it is the first reading. `all` has all readings, that one first. A rule matches if any reading does, an
    exemption only if each does. A key takes the first reading that the rule matches.
    """

    __slots__ = ("all",)
    all: tuple[str, ...]

    @classmethod
    def of(cls, readings: Iterable[str]) -> str:
        """Return the value. It is a plain string if all readings are the same."""
        each = tuple(dict.fromkeys(readings))
        if len(each) == 1:
            return each[0]
        value = cls(each[0])
        value.all = each
        return value


def readings_of(value: str) -> tuple[str, ...]:
    """Return all readings of an attribute's value."""
    return value.all if isinstance(value, Readings) else (value,)


@dataclass(frozen=True, slots=True)
class HeaderSource:
    """An attribute that is a request header's value. `name` is kept in lower case."""

    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.lower())

    @property
    def is_host(self) -> bool:
        """Whether it is the host that a request is for."""
        return self.name in _HOSTS

    def spelled(self, value: str) -> str:
        """Return the one spelling of a value. Of most headers it is the value itself."""
        if self.is_host:
            return host_of(value)
        return _credentials(value) if self.name == _AUTHORIZATION else value


@dataclass(frozen=True, slots=True)
class BearerSource:
    """An attribute that is the token of `Authorization: Bearer TOKEN`."""

    def spelled(self, value: str) -> str:
        """Return the one spelling of a token."""
        return _token(value)


@dataclass(frozen=True, slots=True)
class CookieSource:
    """An attribute that is a cookie's value."""

    name: str

    def spelled(self, value: str) -> str:
        """Return the one spelling of a cookie's value: without quotes, escapes and percent-encoding.

        Some applications do not read all of these, and some read "+" as a space.
        """
        return unquote(unquoted(value), errors="replace").replace(" ", "+")


@dataclass(frozen=True, slots=True)
class ClientIP:
    """An attribute that is the client's address, as the outermost of your `trusted_proxies` proxies sees it.

    Clients are told apart by the first `ipv4_prefix` or `ipv6_prefix` bits. Raise `PolicyError` for a wrong number.
    """

    trusted_proxies: int = 0
    ipv4_prefix: int = IPV4_PREFIX
    ipv6_prefix: int = IPV6_PREFIX

    def __post_init__(self) -> None:
        for name, (least, most) in CLIENT_OPTIONS.items():
            value = getattr(self, name)
            if value.__class__ is not int or not least <= value <= most:
                raise PolicyError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


CLIENT_OPTIONS = {"trusted_proxies": (0, 1000), "ipv4_prefix": (8, 32), "ipv6_prefix": (32, 128)}
"""The least and the greatest value of each option of `ClientIP`."""


@dataclass(frozen=True, slots=True)
class PathSource:
    """The attribute `path`. With `ignore_case`, for applications whose routes do so, it is in lower case."""

    ignore_case: bool = False

    def spelled(self, value: str) -> str:
        """Return the one spelling of a path, or of a pattern for paths."""
        return value.translate(_LETTERS_OF_ONE_CASE).lower() if self.ignore_case else value


@dataclass(frozen=True, slots=True)
class AppSource:
    """An attribute that the application gives, such as the user that it has logged in."""


Source: TypeAlias = HeaderSource | BearerSource | CookieSource | ClientIP | PathSource | AppSource


def host_of(value: str) -> str:
    """Return the host in a header, in lower case. With a port it has a second reading, as many routers ignore it.

    >>> host_of("API.example.com"), readings_of(host_of("api.example.com:80"))
    ('api.example.com', ('api.example.com', 'api.example.com:80'))
    """
    whole = value.lower()
    name = whole[: whole.find("]") + 1] if whole.startswith("[") else whole.partition(":")[0]
    alone = name.removesuffix(".") or whole  # routers ignore a dot at the end too
    return alone if name == whole else Readings.of((alone, whole))


def unquoted(value: str) -> str:
    r"""Return a cookie's value without its quotes and escapes, as `http.cookies` reads it; in linear time.

    >>> unquoted(r'"a\"b\054c"')
    'a"b,c'
    """
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)) if found[1] else found[2], value[1:-1])


def is_quoted(value: str) -> bool:
    """Return whether a cookie's value is one string in quotes."""
    return len(value) > 1 and value[0] == value[-1] == '"' and '"' not in _ESCAPE.sub("", value[1:-1])


def is_ambiguous(authorization: str) -> bool:
    """Return whether an `Authorization` header has several words where one token should be: applications take any.

    >>> is_ambiguous("Bearer k-1 k-2"), is_ambiguous('Digest username="a", uri="/"')
    (True, False)
    """
    scheme, rest = _scheme_and_rest(authorization)
    return scheme in _OF_ONE_WORD and len(rest.split(None, 1)) > 1


def bearer_token(authorization: str) -> str | None:
    """Return the token of an `Authorization` header, in its one spelling; None if the scheme is another.

    >>> bearer_token("BEARER   k-1 ")
    'k-1'
    """
    scheme, token = _scheme_and_rest(authorization)
    return _token(token) or None if scheme == "bearer" else None


def _credentials(authorization: str) -> str:
    """Return an `Authorization` header with its scheme in lower case, one space, and the credentials spelled alike."""
    scheme, rest = _scheme_and_rest(authorization)
    if scheme == "basic":
        rest = _base64(rest) or rest
    elif scheme == "bearer":
        rest = _token(rest)
    return f"{scheme} {rest}" if rest else scheme


def _scheme_and_rest(authorization: str) -> tuple[str, str]:
    scheme, *rest = authorization.split(None, 1) or [""]  # at any kind of space, as applications do
    return scheme.lower(), rest[0].strip() if rest else ""


def _token(token: str) -> str:
    """Return a token; of a signed one (JWS: three parts of base64) with the signature in its one spelling.

    Only the signature can be written in more than one way: libraries skip characters that are not base64, and the last
    character has bits that mean nothing.
    """
    token = token.strip()
    if token.count(".") == 2:
        signed, _, signature = token.rpartition(".")
        spelled = _base64(signature)
        return f"{signed}.{spelled.translate(_TO_URL_SAFE).rstrip('=') if spelled else signature}"
    return token


def _base64(text: str) -> str | None:
    """Return base64 in its one spelling, read as leniently as libraries do; None if it is not base64."""
    letters = _NOT_BASE64.sub("", text.translate(_FROM_URL_SAFE))
    try:
        return b64encode(binascii.a2b_base64(letters + "=" * (-len(letters) % 4))).decode("ascii")
    except binascii.Error:  # no length that base64 has
        return None

"""Where a request's attributes come from. Values: they know no request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class HeaderSource:
    """An attribute that is a request header's value. `name` is kept in lower case."""

    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.lower())


@dataclass(frozen=True, slots=True)
class ClientIP:
    """An attribute that is the client's address, as seen by the outermost of `trusted_proxies` proxies of one's own."""

    trusted_proxies: int = 0


@dataclass(frozen=True, slots=True)
class CookieSource:
    """An attribute that is a cookie's value."""

    name: str


@dataclass(frozen=True, slots=True)
class AppSource:
    """An attribute that the application gives, such as the user that it has logged in."""


Source: TypeAlias = HeaderSource | CookieSource | ClientIP | AppSource

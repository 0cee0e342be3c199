"""One site in each framework, limited as a test says, on a real server in this process. It notes which function ran.

/graphql/..., /files/...            any path below           /any      every method
/items/ITEM                         one segment              /inner    @rate_limit("1/hour", name="inner")
/login /cookie /key /token /do      GET and POST             /both     that inside @rate_limit("9/hour", name="outer")
/healthz                            GET and POST             /own      raises its own limiter's RateLimitExceeded
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from http.cookies import CookieError, SimpleCookie
from inspect import iscoroutinefunction
from typing import Any, NamedTuple, TypeAlias

from raw_client import RawClient
from site_parts import exceed_a_limit_of_its_own

from ratekeeper import ManualClock, MemoryStore
from ratekeeper.http.rate_limit import rate_limit

BELOW = ("graphql", "files")
PLAIN = ("login", "cookie", "key", "token", "do", "healthz")


class Call(NamedTuple):
    """A function of the site that ran, with the values that its framework gave it of the request."""

    function: str
    method: str
    key: str | None
    cookie: str | None
    authorization: str | None
    item: str | None = None

    @property
    def token(self) -> str | None:
        """The token, read as many an application does."""
        words = (self.authorization or "").split()
        return words[1] if len(words) > 1 and words[0].lower() == "bearer" else None


class Site(NamedTuple):
    """A site to ask, and the calls of its functions so far."""

    client: RawClient
    calls: list[Call]

    def ran(self, function: str) -> list[Call]:
        return [call for call in self.calls if call.function == function]


MakeSite: TypeAlias = Callable[..., AbstractContextManager[Site]]


def decorated(name: str, function: Any) -> Any:
    """Return a function with its own limits, or with its own limiter that refuses."""
    if name == "both":
        return rate_limit("9/hour", name="outer")(rate_limit("1/hour", name="inner")(function))
    if name == "own":
        return _refused_by_its_own_limiter(function)
    return rate_limit("1/hour", name="inner")(function) if name == "inner" else function


def _refused_by_its_own_limiter(function: Any) -> Any:
    if iscoroutinefunction(function):

        @wraps(function)
        async def refused_async(*args: Any, **kwargs: Any) -> None:
            await function(*args, **kwargs)
            exceed_a_limit_of_its_own()

        return refused_async

    @wraps(function)
    def refused(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)
        exceed_a_limit_of_its_own()

    return refused


def memory() -> MemoryStore:
    return MemoryStore(clock=ManualClock())


def cookie_of(header: str) -> str | None:
    """Return the session's cookie as a plain application reads it."""
    try:
        morsel = SimpleCookie(header).get("session")
    except CookieError:
        return None
    return morsel.value if morsel is not None else None


def route_of(path: str) -> tuple[str, str | None]:
    """Route as a plain application does, which takes a path as it stands."""
    name, _, rest = path.removeprefix("/").partition("/")
    if rest:
        return (name, rest) if name in BELOW or (name == "items" and "/" not in rest) else ("", None)
    return (name, None) if name in (*PLAIN, "inner", "both", "own", "any") and path == f"/{name}" else ("", None)

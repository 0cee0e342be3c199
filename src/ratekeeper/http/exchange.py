"""Exchange: one request on its way through a framework, and the decisions made of it. Knows no framework and no policy.

A middleware makes one for each request and sets it as the current one, so that a limit on an endpoint finds it without
an argument of the endpoint's.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ratekeeper.http.header_lines import cookie_value, header_value
from ratekeeper.http.headers import legacy_headers, rate_limit_headers
from ratekeeper.policy.decision import PolicyDecision

if TYPE_CHECKING:
    from ratekeeper.errors import RatekeeperError
    from ratekeeper.http.attributes import AttributeReader
    from ratekeeper.http.headers import LegacyReset

MOST_DECISIONS = 100
"""Decisions that are kept of one request."""

CURRENT: ContextVar[Exchange | None] = ContextVar("ratekeeper_exchange", default=None)
"""Set by a middleware for the time of a request."""


class Limits(Protocol):
    """What decides the requests of an application: see `ratekeeper.http.limiter`."""

    legacy: LegacyReset | None

    def charge(self, exchange: Exchange, limit: Any = None) -> RatekeeperError | None: ...
    def charge_async(self, exchange: Exchange, limit: Any = None) -> Coroutine[Any, Any, RatekeeperError | None]: ...
    def answered(self, exchange: Exchange, status: int) -> None: ...
    def answered_async(self, exchange: Exchange, status: int) -> Coroutine[Any, Any, None]: ...
    def answer(self, exchange: Exchange, refusal: RatekeeperError) -> Any: ...
    def answer_async(self, exchange: Exchange, refusal: RatekeeperError) -> Coroutine[Any, Any, Any]: ...


class Exchange(ABC):
    """A request, of which nothing is read before a policy looks at it. An adapter says how each part is read.

    prefix     what the application takes away from the beginning of a path, if it is there
    limits     what decides the application's requests
    decisions  made of this request so far, refused or not: the last ones of many
    error      what an endpoint's limit has raised, so that an adapter can tell what became of it
    begun      whether the application has begun to answer: what it was charged for has been had
    loop       the event loop that the request is on, if it is on one
    """

    prefix: str = ""
    limits: Limits
    loop: asyncio.AbstractEventLoop | None = None
    error: RatekeeperError | None = None
    begun: bool = False
    cost: int = 1

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.keeper: Any = None
        self.decisions: list[PolicyDecision] = []

    def note(self, decision: PolicyDecision, keeper: Any) -> None:
        """Keep a decision, and a keeper on the store by which it can be given back.

        Of very many decisions, such as those of a long websocket, the first are forgotten.
        """
        self.keeper = keeper
        self.decisions.append(decision)
        if len(self.decisions) > MOST_DECISIONS:
            del self.decisions[0]

    @property
    @abstractmethod
    def native(self) -> Any:
        """The framework's own request, which functions of the user's are given."""

    @property
    @abstractmethod
    def method(self) -> str: ...

    @property
    @abstractmethod
    def path(self) -> str | bytes:
        """The request line's own, still percent-encoded."""

    @property
    @abstractmethod
    def peer(self) -> str | None:
        """The address at the other end of the connection, None if it has none."""

    @property
    def lines(self) -> Sequence[tuple[bytes, bytes]]:
        """The header lines, as they came, with names in lower case."""
        raise NotImplementedError

    def header(self, name: str, /) -> str | None:
        """Return the value of a header. Raises `BadRequestError` if it can be read in two ways."""
        return header_value(self.lines, name)

    def cookie(self, name: str, /) -> str | None:
        """Return a cookie as the application reads it. Raises `BadRequestError` if that cannot be told."""
        return cookie_value(self.header("cookie"), name)

    def route(self) -> str | None:
        """Return the template of the route that the request takes, such as "/items/{id}", if it can be told."""
        return None

    def read(self, reader: AttributeReader) -> dict[str, str]:
        """Return the request's attributes."""
        return reader.read(self)

    def time_left(self) -> float | None:
        """Return for how many seconds the client will still wait, None if it does not say: HTTP's never do."""
        return None

    def hung_up(self) -> Coroutine[Any, Any, None] | None:
        """Return a coroutine that ends when the client has gone, None if that cannot be told."""
        return None

    def refuse(self, refusal: RatekeeperError) -> NoReturn:
        """Raise a refusal in an endpoint, or in a framework's hook: nothing else can stop the function."""
        self.error = refusal
        raise refusal

    def limit_headers(self) -> list[tuple[str, str]]:
        """Return the headers that tell the client of all decisions."""
        if not self.decisions:
            return []
        decision = self.decisions[0] if len(self.decisions) == 1 else _combined(self.decisions)
        headers = rate_limit_headers(decision)
        legacy = self.limits.legacy
        return headers + legacy_headers(decision, legacy, time.time()) if legacy else headers


def _combined(decisions: list[PolicyDecision]) -> PolicyDecision:
    """Return the last decision of each rule, as one."""
    rules = tuple({rule.name: rule for decision in decisions for rule in decision.rules}.values())
    return PolicyDecision(rules, next((one.missing for one in decisions if one.missing is not None), None))


def current() -> Exchange:
    """Return the exchange that this function is called in. Raises RuntimeError if there is none."""
    exchange = CURRENT.get()
    if exchange is None:
        raise RuntimeError("no request is under way that ratekeeper knows of: add its middleware to the application")
    return exchange

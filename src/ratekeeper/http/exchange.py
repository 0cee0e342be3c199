"""Exchange: one request on its way through a framework, and the decisions made of it. Knows no framework and no policy.

A middleware makes one for each request and sets it as the current one. So a limit on an endpoint finds it, and the
endpoint needs no argument for it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias, TypeVar

from ratekeeper.http.header_lines import cookie_value, header_value
from ratekeeper.http.header_styles import styled_lines
from ratekeeper.http.headers import named, rate_limit_lines
from ratekeeper.policy.decision import PolicyDecision

if TYPE_CHECKING:
    from ratekeeper.errors import RatekeeperError
    from ratekeeper.http.attributes import AttributeReader
    from ratekeeper.http.rate_limit import rate_limit

T = TypeVar("T")

RequestFunction: TypeAlias = Callable[[Any], Any]
"""The user's function of the framework's request."""

Asked: TypeAlias = tuple[Any, Mapping[str, str], int]
"""A question about a request: the keeper, the attributes, and the cost."""

MOST_DECISIONS = 100
"""The decisions about one request that are kept."""

_OVER_A_LIMIT = frozenset({int(HTTPStatus.TOO_MANY_REQUESTS)})
ANSWERS = _OVER_A_LIMIT | {int(HTTPStatus.FORBIDDEN)}
"""The statuses of answers to a refusal."""

CURRENT: ContextVar[Exchange | None] = ContextVar("ratekeeper_exchange", default=None)
"""The exchange of the request that is under way. A middleware sets it."""


class AnyRequestLimiter(Protocol):
    """Decides the requests of an application: a `RequestLimiter` or an `AsyncRequestLimiter`."""

    styles: frozenset[str] | None

    def charge(self, exchange: Exchange, limit: Any = None) -> RatekeeperError | None: ...
    def charge_async(self, exchange: Exchange, limit: Any = None) -> Coroutine[Any, Any, RatekeeperError | None]: ...
    def answered(self, exchange: Exchange, status: int) -> None: ...
    def answered_async(self, exchange: Exchange, status: int) -> Coroutine[Any, Any, None]: ...
    def answer(self, exchange: Exchange, refusal: RatekeeperError) -> Any: ...
    def call(self, function: Callable[..., Any], *args: Any) -> Coroutine[Any, Any, Any]: ...
    def run(self, exchange: Exchange, work: Coroutine[Any, Any, T]) -> T: ...
    def refund_async(self, exchange: Exchange) -> Coroutine[Any, Any, None]: ...
    def answer_async(self, exchange: Exchange, refusal: RatekeeperError) -> Coroutine[Any, Any, Any]: ...


class Exchange(ABC):
    """A request. An adapter says how each part is read. Nothing is read before a policy looks at it."""

    prefix: str = ""
    """The beginning of a path that the application ignores."""
    limiter: AnyRequestLimiter
    """The limiter of the application."""
    decisions: list[PolicyDecision]
    """The decisions about this request so far, allowed or refused. Only the last ones are kept."""
    asked: Asked | None = None
    """The last question about this request to the policy's keeper."""
    asked_others: Mapping[Any, Asked] = MappingProxyType({})
    """The last question to each other keeper: of an endpoint's limit, or of a part of the policy."""
    error: RatekeeperError | None = None
    """The refusal that an endpoint's limit has raised, so that an adapter can see what became of it."""
    watched: bool = False
    """Whether the limiter must look at the beginning of the response."""
    left_to_view: frozenset[int] = frozenset()
    """The statuses that answer a refusal, if a limit leaves that to the application: `enforce=False`, or one inside."""
    begun: bool = False
    """Whether the application has begun to answer: then the charge stays."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop of the request; None in a framework that calls."""
    left_out: frozenset[str] = frozenset()
    """The names of the policy's rules that do not limit the request, as its endpoint says."""
    replaced_later: frozenset[str] = frozenset()
    """Of these rules, those whose place a limit takes that the endpoint charges. It is empty when that is done."""
    limited_inside: bool = False
    """Whether the endpoint belongs to an application inside that has limits too. Then that one charges its limits."""
    prepaid: tuple[rate_limit, ...] = ()
    """The endpoint's limits that were charged in the place of these rules, until the endpoint calls them."""
    cost: int = 1
    """The tokens that the request takes, multiplied by the cost of the limit."""
    around: Exchange | None = None
    """The same request on its way through an application outside, which has limits too; None if there is none."""
    waits: bool = True
    """Whether the request is held until its turn; else its client learns the turn, and waits by itself."""

    def __init__(self, limiter: AnyRequestLimiter) -> None:
        self.limiter = limiter
        self.decisions = []

    def tell_around(self, decision: PolicyDecision | None = None) -> None:
        """Tell the applications outside that a limit in here has refused. For them, it is the application's answer.

        With a `decision`, only the statuses that `answers_to` it are an answer.
        """
        if self.around is not None:
            self.around.leave(ANSWERS if decision is None else answers_to(decision))

    def leave(self, statuses: frozenset[int]) -> None:
        """Leave the answer to a refusal to the application, here and outside."""
        self.left_to_view |= statuses
        self.watched = True
        if self.around is not None:
            self.around.leave(statuses)

    @property
    def refused(self) -> bool:
        """Whether a limit of the endpoint, or of an application inside, has refused the request."""
        return self.error is not None or bool(self.left_to_view)

    def is_answer(self, status: int) -> bool:
        """Return whether a response is the application's own answer to a refusal."""
        return status in (self.left_to_view if self.error is None else ANSWERS)

    def note_other(self, asked: Asked) -> None:
        """Keep a question to another keeper than the policy's."""
        self.asked_others = {**self.asked_others, asked[0]: asked}

    def all_asked(self) -> list[Asked]:
        """Return the last question to each keeper."""
        return [*([] if self.asked is None else [self.asked]), *self.asked_others.values()]

    @property
    @abstractmethod
    def native(self) -> Any:
        """The framework's own request: the argument of the user's functions."""

    @property
    @abstractmethod
    def method(self) -> str:
        """The method, as the request line has it."""

    @property
    @abstractmethod
    def path(self) -> str | bytes:
        """The path, as the request line has it: still percent-encoded."""

    @property
    @abstractmethod
    def peer(self) -> str | None:
        """The address at the other end of the connection, None if it has none."""

    @property
    def lines(self) -> Sequence[tuple[bytes, bytes]]:
        """The header lines as they came, with names in lower case."""
        raise NotImplementedError

    def header(self, name: str, /) -> str | None:
        """Return the value of a header; None if it is missing. Raises `BadRequestError` if it has two readings."""
        return header_value(self.lines, name)

    def cookie(self, name: str, /) -> str | None:
        """Return a cookie as the application reads it. Raises `BadRequestError` if applications differ in that."""
        return cookie_value(self.header("cookie"), name)

    def route(self) -> str | None:
        """Return the template of the request's route, such as "/items/{id}"; None if it is unknown."""
        return None

    def functions(self) -> tuple[Any, ...]:
        """Return the functions that the framework will call: the endpoint, and then its dependencies.

        Empty if no endpoint will answer. A framework that does not tell it before has none.
        """
        return ()

    def is_due(self, limit: rate_limit) -> bool:
        """Return whether an endpoint's limit must be charged when it is called: the middleware may have charged it."""
        if limit not in self.prepaid:
            return limit.limits(self.method)
        self.prepaid = tuple([one for one in self.prepaid if one is not limit])
        return False

    def read(self, reader: AttributeReader) -> dict[str, str]:
        """Return the request's attributes."""
        return reader.read(self)

    def time_left(self) -> float | None:
        """Return for how many seconds the client will still wait; None if it does not say, as in HTTP."""
        return None

    def hung_up(self) -> Coroutine[Any, Any, None] | None:
        """Return a coroutine that ends when the client hangs up; None if nothing tells that."""
        return None

    def refuse(self, refusal: RatekeeperError) -> NoReturn:
        """Raise a refusal in an endpoint, or in a hook of the framework: nothing else can stop the function."""
        self.note_refusal(refusal)
        raise refusal

    def note_refusal(self, refusal: RatekeeperError) -> None:
        """Keep the refusal of an endpoint's limit."""
        self.error, self.watched = refusal, True

    def limit_headers(self) -> list[tuple[str, str]]:
        """Return the headers that tell the client its limits, of all decisions."""
        return named(self.limit_lines())

    def limit_lines(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of `limit_headers` as a response's lines: bytes, with names in lower case."""
        if not self.decisions:
            return []
        decision = self.decisions[0] if len(self.decisions) == 1 else combined(self.decisions)
        styles = self.limiter.styles
        return rate_limit_lines(decision) if styles is None else styled_lines(decision, styles)  # as most: a call less


def answers_to(decision: PolicyDecision) -> frozenset[int]:
    """Return the statuses of answers to a refusal by these limits.

    A 403 is one only if they deny: else it may be the answer to something else, such as a wrong password.
    """
    return ANSWERS if decision.denied or decision.missing else _OVER_A_LIMIT


def combined(decisions: list[PolicyDecision]) -> PolicyDecision:
    """Return the last decision of each rule, as one."""
    if len(decisions) == 1:
        return decisions[0]
    rules = tuple({rule.label: rule for decision in decisions for rule in decision.rules}.values())
    return PolicyDecision(rules, next((one.missing for one in decisions if one.missing is not None), None))


def current() -> Exchange:
    """Return the exchange of the request that is under way. Raises RuntimeError if there is none."""
    exchange = CURRENT.get()
    if exchange is None:
        raise RuntimeError(
            "no request is under way: add ratekeeper's middleware, around this code too, and use limits only within "
            "requests"
        )
    return exchange

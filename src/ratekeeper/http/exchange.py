"""Exchange: one request on its way through a framework, and what was decided of it. Knows no framework.

A middleware makes one for each request and sets it as the current one, so that a limit on an endpoint finds it without
an argument of the endpoint's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ratekeeper.errors import CostError, PolicyError, RatekeeperError, RateLimitExceeded, StoreUnavailable
from ratekeeper.http.headers import rate_limit_headers
from ratekeeper.http.problem import explained, problem, unavailable
from ratekeeper.policy.verdict import PolicyDecision

if TYPE_CHECKING:
    from ratekeeper.http.attributes import RequestLike
    from ratekeeper.http.limits import AsyncLimits, Limits
    from ratekeeper.http.rate_limit import RateLimit
    from ratekeeper.http.response import Response

CURRENT: ContextVar[Exchange | None] = ContextVar("ratekeeper_exchange", default=None)
"""Set by a middleware for the time of a request."""


class Exchange:
    """A request, and the decisions made of it so far.

    native   makes the framework's own request, which functions of the user's are given
    loop     the event loop that it is on, if it is on one
    error    what an endpoint's limit has raised, so that it is told from an error of the application's own
    """

    error: RatekeeperError | None = None
    _native: Any = None
    _charged: dict[str, RateLimit] | None = None

    def __init__(
        self,
        limits: Limits | AsyncLimits,
        request: RequestLike,
        native: Callable[[], Any],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.limits = limits
        self._request = request
        self.loop = loop
        self.decisions: list[PolicyDecision] = []
        self._make_native = native

    @property
    def request(self) -> RequestLike:
        """What attributes are read from."""
        return self._request

    @property
    def native(self) -> Any:
        """The framework's own request. Made when it is first asked for, as few need it."""
        if self._native is None:
            self._native = self._make_native()
        return self._native

    def patience(self) -> float | None:
        """Return for how many seconds the client will still wait, None if it does not say: HTTP's never do."""
        return None

    def limits_of(self, limit: RateLimit) -> Any:
        """Return what decides by an endpoint's own limit.

        Raises `PolicyError` if two limits without a name of one route would charge the same buckets.
        """
        if limit.unnamed and limit.endpoint is None:
            self._charged = self._charged or {}
            for rule in limit.policy.rules:
                if self._charged.setdefault(rule.name, limit) is not limit:
                    raise PolicyError(f"two limits of one endpoint are both {rule.name!r}: give one of them a name=")
        return self.limits.under(limit)

    def limit_headers(self) -> list[tuple[str, str]]:
        """Return the headers that tell the client of all decisions."""
        if not self.decisions:
            return []
        decision = self.decisions[0] if len(self.decisions) == 1 else _all(self.decisions)
        headers = rate_limit_headers(decision)
        return headers + self.limits.legacy_headers(decision) if self.limits.legacy else headers


def current() -> Exchange:
    """Return the exchange that this function is called in. Raises RuntimeError if there is none."""
    exchange = CURRENT.get()
    if exchange is None:
        raise RuntimeError("no request is under way that ratekeeper knows of: add its middleware to the application")
    return exchange


def response_to(error: RatekeeperError) -> Response:
    """Return the response to a request that ended so, but for the headers about limits."""
    if isinstance(error, RateLimitExceeded) and isinstance(error.decision, PolicyDecision):
        return problem(error.decision)
    if isinstance(error, StoreUnavailable):
        return unavailable(retry_after=error.retry_after)
    if isinstance(error, CostError):
        return explained(400, str(error))
    raise error


def refusal_of(error: RatekeeperError) -> PolicyDecision | None:
    """Return the decision that an error tells of: none, if it is of a limiter of the application's own."""
    decision = error.decision if isinstance(error, RateLimitExceeded) else None
    return decision if isinstance(decision, PolicyDecision) else None


def _all(decisions: list[PolicyDecision]) -> PolicyDecision:
    rules = tuple(rule for decision in decisions for rule in decision.rules)
    return PolicyDecision(rules, next((one.missing for one in decisions if one.missing is not None), None))

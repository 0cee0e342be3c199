"""Django REST framework: a throttle. So the framework itself answers a refused request. It reads Django's settings.

It decides when the framework has authenticated the user, by a token too. Django's middlewares run before that.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from http import HTTPStatus
from math import inf
from typing import Any, ClassVar, TypeAlias

from ratekeeper.errors import MissingExtraError
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http.endpoints import exempt
from ratekeeper.http.exchange import CURRENT
from ratekeeper.http.limiter import RequestLimiter
from ratekeeper.http.rate_limit import Key, rate_limit
from ratekeeper.http.responses import detail_of, response_to
from ratekeeper.limits import Limit
from ratekeeper.policy.decision import as_policy_decision

try:
    from django.core.signals import setting_changed
    from rest_framework.exceptions import PermissionDenied, Throttled
    from rest_framework.request import Request
    from rest_framework.throttling import BaseThrottle

    from ratekeeper.frameworks.django import RequestExchange, read_settings
except ImportError:
    raise MissingExtraError("ratekeeper.frameworks.drf", "drf") from None

__all__ = ["RateLimitThrottle", "exempt", "rate_limit"]

Given: TypeAlias = str | Limit | tuple[str | Limit, ...] | list[str | Limit]

_OWN = "_ratekeeper_exchange"
_MAKING = threading.RLock()  # two threads must not make the same object


class RateLimitThrottle(BaseThrottle):  # type: ignore[misc]  # it has no types
    """Limit a view's requests by user, or by address if no user has logged in.

    The limits are the view's `throttle_limits`, or else the class's `limits`. Without either, the policy of the
    settings decides, unless `RateLimitMiddleware` has done so already. With `throttle_limits`, each endpoint has its
    own buckets, or those of the view's `throttle_scope`. They take the place of the policy's rules whose names are in
    the view's `throttle_replaces`. If the view answers before its throttles are called, these rules count after all.

    Without the middleware, the framework still sends Retry-After, but no RateLimit headers. A store that does not
    answer, a repeated header and a bad cost are then a 500.
    """

    limits: ClassVar[Given] = ()
    """The limits of all views that use this class, or strings such as "100/hour"."""
    scope: ClassVar[str | None] = None
    """The name of the buckets of `limits`; the default is the class's name."""

    def __init__(self) -> None:
        self._wait: float | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        """Charge the request. Return False if it is refused.

        Raise `PermissionDenied` if a rule denies it, and `Throttled` if the refusing rule has a message.
        """
        exchange = _exchange_of(request)
        limit = self._limit(request, view)
        if exchange.error is not None:  # the framework calls all throttles, also after one has refused
            return False
        if limit is None and exchange.charged:
            return True
        exchange.charged = True
        if limit is not None:
            exchange.replaced_later = frozenset()
        refusal = exchange.limiter.charge(exchange, limit)
        if isinstance(refusal, RateLimitExceeded):
            exchange.note_refusal(refusal)
            decision = as_policy_decision(refusal.decision)
            status = HTTPStatus.FORBIDDEN if decision.denied else HTTPStatus.TOO_MANY_REQUESTS
            exchange.limiter.answered(exchange, status)  # the framework sends it
            if decision.denied:
                raise PermissionDenied(detail_of(response_to(refusal)))
            wait = refusal.decision.retry_after
            self._wait = None if wait == inf else wait
            if decision.message is not None:
                raise Throttled(self._wait, decision.message)
            return False
        if refusal is not None:
            exchange.refuse(refusal)  # the store does not answer, or the request is wrong in itself
        return True

    def wait(self) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]  # its own has no types
        """Return the seconds after which a refused request would pass; None if it never would."""
        return self._wait

    def _limit(self, request: Request, view: Any) -> rate_limit | None:
        own = getattr(view, "throttle_limits", None)
        given = self.limits if own is None else own
        if not given:
            return None
        name = getattr(view, "throttle_scope", None) if own is not None else self.scope or type(self).__name__
        known = bool(request.user and request.user.is_authenticated)
        limits = tuple(given) if isinstance(given, tuple | list) else (given,)
        with _MAKING:
            return _limit_of(limits, _user if known else "client", name)


def _user(request: Any) -> str:
    return f"user {request.user.pk}"  # no address looks like this


@lru_cache(maxsize=1024)
def _limit_of(limits: tuple[str | Limit, ...], key: Key, name: str | None) -> rate_limit:
    limit = rate_limit(*limits, key=key, name=name)
    if key != "client":
        limit.owner = _limit_of(limits, "client", name)
    return limit


def _exchange_of(request: Request) -> RequestExchange:
    """Return the one exchange of a request: the middleware's, or else the throttle's own."""
    around = CURRENT.get()
    if isinstance(around, RequestExchange):
        return around
    own: RequestExchange | None = getattr(request._request, _OWN, None)
    if own is None:
        with _MAKING:
            own = RequestExchange(_shared_limiter(), request._request)
        setattr(request._request, _OWN, own)
    return own


@lru_cache(maxsize=1)
def _shared_limiter() -> RequestLimiter:
    """Return the process's limiter, for requests without the middleware."""
    return RequestLimiter(**read_settings())


def _changed(*, setting: str, **_: Any) -> None:
    """Follow `override_settings` in tests."""
    if setting == "RATEKEEPER":
        _shared_limiter.cache_clear()


setting_changed.connect(_changed)

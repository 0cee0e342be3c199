"""Django REST framework: a throttle, so that the framework itself answers who is refused. Set up as `django` is.

It decides when the framework has found out who asks, by a token too; Django's middlewares are called before that.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from http import HTTPStatus
from math import inf
from typing import Any, ClassVar, TypeAlias

from ratekeeper.errors import MissingExtraError
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http.exchange import CURRENT
from ratekeeper.http.limiter import RequestLimiter
from ratekeeper.http.rate_limit import Key, RateLimit
from ratekeeper.limits import Limit

try:
    from django.core.signals import setting_changed
    from django.http import HttpRequest
    from rest_framework.request import Request
    from rest_framework.throttling import BaseThrottle

    from ratekeeper.frameworks.django import RequestExchange, read_settings
except ImportError:
    raise MissingExtraError("ratekeeper.frameworks.drf", "drf") from None

__all__ = ["RateLimitThrottle"]

Given: TypeAlias = str | Limit | tuple[str | Limit, ...] | list[str | Limit]

_OWN = "_ratekeeper_exchange"
_MAKING = threading.RLock()  # what is made once must not be made by two threads


class RateLimitThrottle(BaseThrottle):  # type: ignore[misc]  # it has no types of its own
    """Limit a view's requests, of each user, or of each address where nobody has logged in.

    limits  the limits of all views that use this class, or text such as "100/hour"; they share buckets, by `scope` or
            else by the class's name

    A view's own `throttle_limits` come before these; each endpoint then has its own buckets, or those of its
    `throttle_scope`. Without either it is the policy of the settings that decides, unless `RateLimitMiddleware` has
    done so already.

    Without that middleware the framework still tells Retry-After, but there are no RateLimit headers. A store that does
    not answer, a repeated header and a bad cost are then errors of the application's, 500.
    """

    limits: ClassVar[Given] = ()
    scope: ClassVar[str | None] = None

    def __init__(self) -> None:
        self._wait: float | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        """Charge the request; False if it is refused."""
        exchange = _exchange_of(request)
        limit = self._limit(request, view)
        if exchange.error is not None:  # the framework asks all throttles, also after one has refused
            return False
        if limit is None and exchange.charged:
            return True
        exchange.charged = True
        refusal = exchange.limits.charge(exchange, limit)
        if isinstance(refusal, RateLimitExceeded):
            exchange.error = refusal
            exchange.limits.answered(exchange, HTTPStatus.TOO_MANY_REQUESTS)  # which the framework will say
            wait = refusal.decision.retry_after
            self._wait = None if wait == inf else wait
            return False
        if refusal is not None:
            exchange.refuse(refusal)  # the store does not answer, or the request is wrong in itself
        return True

    def wait(self) -> float | None:
        """Return the seconds after which a refused request would pass, None if it never would."""
        return self._wait

    def _limit(self, request: Request, view: Any) -> RateLimit | None:
        own = getattr(view, "throttle_limits", None)
        given = self.limits if own is None else own
        if not given:
            return None
        name = getattr(view, "throttle_scope", None) if own is not None else self.scope or type(self).__name__
        known = bool(request.user and request.user.is_authenticated)
        limits = tuple(given) if isinstance(given, tuple | list) else (given,)
        with _MAKING:
            return _rate_limit(limits, _user if known else "client", name)


def _user(request: HttpRequest) -> str:
    return f"user {request.user.pk}"  # which no address looks like


@lru_cache(maxsize=1024)
def _rate_limit(limits: tuple[str | Limit, ...], key: Key, name: str | None) -> RateLimit:
    limit = RateLimit(*limits, key=key, name=name)
    if key != "client":
        limit.owner = _rate_limit(limits, "client", name)
    return limit


def _exchange_of(request: Request) -> RequestExchange:
    """Return the one exchange of a request: the middleware's, or else one of our own."""
    around = CURRENT.get()
    if isinstance(around, RequestExchange):
        return around
    own: RequestExchange | None = getattr(request._request, _OWN, None)
    if own is None:
        with _MAKING:
            own = RequestExchange(_limits(), request._request)
        setattr(request._request, _OWN, own)
    return own


@lru_cache(maxsize=1)
def _limits() -> RequestLimiter:
    """The process's own, for when there is no middleware to have any."""
    return RequestLimiter(**read_settings())


def _changed(*, setting: str, **_: Any) -> None:
    """Follow `override_settings` in tests."""
    if setting == "RATEKEEPER":
        _limits.cache_clear()


setting_changed.connect(_changed)

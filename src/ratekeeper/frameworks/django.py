"""Django: a middleware, sync and async, that reads the settings. Knows no other framework.

A request is charged in `process_view`, where the route and the user are known. A request that is answered without a
view (by another middleware, or because the page does not exist) is charged when its response passes. So guessing paths
is limited too.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import Any, ClassVar, cast
from urllib.parse import quote

from ratekeeper.errors import MissingExtraError, did_you_mean
from ratekeeper.frameworks.wsgi import EnvironExchange
from ratekeeper.http.endpoints import check_endpoints, exempt
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.limiter import AsyncRequestLimiter, RequestLimiter, refusal_in
from ratekeeper.http.options import Options, wrong_rejection
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.request_limits import (
    ASYNC_LIMITS,
    LIMITS,
    AsyncKeptLimits,
    AsyncRequestLimits,
    KeptLimits,
    RequestLimits,
)
from ratekeeper.http.responses import Response
from ratekeeper.http.workers import warn_if_limits_multiply

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.core.signals import setting_changed
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase
    from django.urls import get_resolver
    from django.utils.module_loading import import_string
except ImportError:
    raise MissingExtraError("ratekeeper.frameworks.django", "django") from None

__all__ = ["AsyncRequestLimits", "RateLimitMiddleware", "RequestLimits", "exempt", "rate_limit"]

_SETTING = "RATEKEEPER"
_KEYS = ("policy", "store", *Options.__annotations__)
_FUNCTIONS = frozenset({"attributes", "cost", "exempt", "limits", "on_decision", "rejection"})


class RateLimitMiddleware:
    """Decide each request by a policy, and tell the client its limits. Goes before all that may answer by itself.

    The setting RATEKEEPER is a dict, such as {"policy": BASE_DIR / "policy.toml"}. Its keys are `policy`, `store` (see
    `ratekeeper.frameworks.asgi`) and `ratekeeper.http.options.Options`. A function may be named by its dotted path.
    Functions get Django's request, and may be async under ASGI. `rejection` returns an `HttpResponse`. The attribute
    `route` is the route's template after a "/", such as "/items/<int:item>/", and `endpoint` is the method and the
    route; a request without a view has neither.

    A view's own limit is `@rate_limit("5/minute")`, on a function or on a method of a class, sync or async. A view's
    limit that cannot be used is an error when Django starts.
    """

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        limiter = self._limiter
        check_endpoints(
            _views(cast("Any", get_resolver()).url_patterns), limiter.policy_of, limiter.check_replaced_later
        )
        setting_changed.connect(self._changed)

    def __call__(self, request: HttpRequest) -> Any:
        if self._is_async:
            return self._call_async(request)
        warn_if_limits_multiply(self._limiter.store, bool(request.META.get("wsgi.multiprocess")))
        request.ratekeeper = LIMITS  # pyright: ignore[reportAttributeAccessIssue]
        exchange = RequestExchange(self._limiter, request)
        token = CURRENT.set(exchange)
        try:
            response = self._get_response(request)
            response = self._charge_late(exchange) or response
            self._limiter.answered(exchange, response.status_code)
            if response.streaming:  # pyright: ignore[reportAttributeAccessIssue]
                request.ratekeeper = KeptLimits(exchange)  # pyright: ignore[reportAttributeAccessIssue]
            return _told(response, exchange)
        finally:
            CURRENT.reset(token)

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        warn_if_limits_multiply(self._limiter.store)
        request.ratekeeper = ASYNC_LIMITS  # pyright: ignore[reportAttributeAccessIssue]
        exchange = RequestExchange(self._limiter, request)
        exchange.loop = get_running_loop()
        token = CURRENT.set(exchange)
        try:
            response = await self._get_response(request)
            response = await self._charge_late_async(exchange) or response
            await self._limiter.answered_async(exchange, response.status_code)
            if response.streaming:  # pyright: ignore[reportAttributeAccessIssue]
                request.ratekeeper = AsyncKeptLimits(exchange)  # pyright: ignore[reportAttributeAccessIssue]
            return _told(response, exchange)
        finally:
            CURRENT.reset(token)

    @property
    def process_view(self) -> Callable[..., Any]:
        """Django's hook before a view, of the middleware's kind: Django runs a hook of the other kind in a thread."""
        return self._view_async if self._is_async else self._view

    @property
    def process_exception(self) -> Callable[..., Any]:
        """Django's hook after an error of a view, of the middleware's kind."""
        return self._exception_async if self._is_async else self._exception

    def _view(self, *_: Any) -> HttpResponseBase | None:
        return self._charge(_under_way())

    async def _view_async(self, *_: Any) -> HttpResponseBase | None:
        return await self._charge_async(_under_way())

    def _exception(self, _: HttpRequest, error: Exception) -> HttpResponseBase | None:
        refusal = refusal_in(error)
        return None if refusal is None else _response(self._limiter.answer(_under_way(), refusal))

    async def _exception_async(self, _: HttpRequest, error: Exception) -> HttpResponseBase | None:
        refusal = refusal_in(error)
        return None if refusal is None else _response(await self._limiter.answer_async(_under_way(), refusal))

    def _charge(self, exchange: RequestExchange) -> HttpResponseBase | None:
        """Charge a request. Return the response if it is refused."""
        exchange.charged = True
        return self._refusal(exchange, self._limiter.charge(exchange))

    def _charge_late(self, exchange: RequestExchange) -> HttpResponseBase | None:
        """Charge a request that no view has answered, or whose view has not called the throttle in place of rules."""
        if not exchange.charged:
            return self._charge(exchange)
        return self._refusal(exchange, self._limiter.charge_replaced(exchange)) if exchange.is_owed else None

    def _refusal(self, exchange: RequestExchange, refusal: Any) -> HttpResponseBase | None:
        return None if refusal is None else _response(self._limiter.answer(exchange, refusal))

    async def _charge_async(self, exchange: RequestExchange) -> HttpResponseBase | None:
        exchange.charged = True
        return await self._refusal_async(exchange, await self._limiter.charge_async(exchange))

    async def _charge_late_async(self, exchange: RequestExchange) -> HttpResponseBase | None:
        if not exchange.charged:
            return await self._charge_async(exchange)
        if not exchange.is_owed:
            return None
        return await self._refusal_async(exchange, await self._limiter.charge_replaced_async(exchange))

    async def _refusal_async(self, exchange: RequestExchange, refusal: Any) -> HttpResponseBase | None:
        return None if refusal is None else _response(await self._limiter.answer_async(exchange, refusal))

    @cached_property
    def _limiter(self) -> Any:
        return AsyncRequestLimiter(**read_settings()) if self._is_async else RequestLimiter(**read_settings())

    def _changed(self, *, setting: str, **_: Any) -> None:
        """Follow `override_settings` in tests."""
        if setting == _SETTING:
            self.__dict__.pop("_limiter", None)


class RequestExchange(EnvironExchange):
    """A request, as Django reads it. It has a WSGI environ under ASGI too."""

    charged: bool = False
    """Whether the policy has decided the request."""

    def __init__(self, limiter: RequestLimiter | AsyncRequestLimiter, request: HttpRequest) -> None:
        super().__init__(limiter, request.META)
        self.prefix = request.META["SCRIPT_NAME"]  # which Django has decoded
        self._request = request

    @property
    def is_owed(self) -> bool:
        """Whether rules were left out for a throttle that was never called, and no limit has refused the request."""
        return bool(self.replaced_later) and not self.refused

    @property
    def native(self) -> HttpRequest:
        return self._request

    @property
    def method(self) -> str:
        return self._request.method or ""  # another middleware may have set it

    @property
    def path(self) -> str:
        # Not `path`: under ASGI it may lack the script's name.
        return quote(self._request.META["SCRIPT_NAME"].rstrip("/") + self._request.path_info)

    def cookie(self, name: str, /) -> str | None:
        return self._request.COOKIES.get(name) or None

    def route(self) -> str | None:
        match = self._request.resolver_match
        return None if match is None else f"/{match.route}"

    def functions(self) -> tuple[Any, ...]:
        match = self._request.resolver_match
        return () if match is None else (match.func,)


def _views(patterns: Iterable[Any]) -> Iterator[Any]:
    """Yield the views of URL patterns."""
    for pattern in patterns:
        if hasattr(pattern, "url_patterns"):
            yield from _views(pattern.url_patterns)
            continue
        yield pattern.callback


def read_settings() -> dict[str, Any]:
    """Return the settings, as arguments of a request limiter. Raises ImproperlyConfigured."""
    if not hasattr(settings, _SETTING) and (other := _mistyped()):
        raise ImproperlyConfigured(f"there is a setting {other}, which limits nothing: did you mean {_SETTING}?")
    given = getattr(settings, _SETTING, {})
    if not isinstance(given, Mapping):
        right = 'a dict, such as {"policy": BASE_DIR / "policy.toml"}'
        raise ImproperlyConfigured(f"the setting {_SETTING} must be {right}, not {type(given).__name__}")
    for key in given:
        if key not in _KEYS:
            raise ImproperlyConfigured(f"the setting {_SETTING} has an unknown key {key!r}{did_you_mean(key, _KEYS)}")
    return {key: _imported(value, key) if key in _FUNCTIONS else value for key, value in given.items()}


def _mistyped() -> str | None:
    """Return the name of a setting that may stand for ours, such as RATE_KEEPER; None if there is none."""
    names = {name.replace("_", ""): name for name in dir(settings) if name.isupper()}
    near = [name for name in names if name.startswith(_SETTING)] or get_close_matches(_SETTING, names, 1, 0.85)
    return names[near[0]] if near else None


def _imported(value: Any, place: str) -> Any:
    """Return the function of a dotted path, or of each of several paths; any other value as it is."""
    if isinstance(value, Mapping):
        return {name: _imported(one, f"{place}.{name}") for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_imported(one, place) for one in value]
    if not isinstance(value, str):
        return value
    try:
        return import_string(value)
    except ImportError as error:
        raise ImproperlyConfigured(f"the setting {_SETTING}, {place}: {error}") from error


def _under_way() -> RequestExchange:
    exchange = CURRENT.get()
    assert isinstance(exchange, RequestExchange)  # Django calls hooks within the middleware
    return exchange


def _response(answer: Any) -> HttpResponseBase:
    if not isinstance(answer, Response):
        if not isinstance(answer, HttpResponseBase):
            raise wrong_rejection(answer, "an HttpResponse")
        return answer
    return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))


def _told(response: HttpResponseBase, exchange: Exchange) -> HttpResponseBase:
    for name, value in exchange.limit_headers():
        response[name] = value
    return response

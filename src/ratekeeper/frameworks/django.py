"""Django: a middleware, sync and async, that is set up in the settings. Knows no other framework.

A request is charged in `process_view`: only there is the route known, and the user. What is answered without a view, by
another middleware or as there is no such page, is charged when its answer comes by, so that guessing paths is limited.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import quote

from ratekeeper.errors import MissingExtraError, did_you_mean
from ratekeeper.frameworks.wsgi import EnvironExchange
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.limiter import REFUSALS, AsyncRequestLimiter, RequestLimiter
from ratekeeper.http.options import Options
from ratekeeper.http.rate_limit import check_endpoints, rate_limit
from ratekeeper.http.response import Response
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

__all__ = ["RateLimitMiddleware", "rate_limit"]

_SETTING = "RATEKEEPER"
_KEYS = ("policy", "store", *Options.__annotations__)
_FUNCTIONS = frozenset({"attributes", "cost", "exempt", "on_decision", "rejection"})


class RateLimitMiddleware:
    """Decide each request by a policy, and tell the client its limits. Goes before all that may answer itself.

    The setting RATEKEEPER is a dict, such as {"policy": BASE_DIR / "policy.toml"}. For its `policy` and `store` see
    `ratekeeper.frameworks.asgi`, for the others `ratekeeper.http.options`; a function may be given by its dotted
    path. Functions are given Django's request, and may be async under ASGI. `rejection` returns an `HttpResponse`. The
    attribute `route` is the route's template after a "/", such as "/items/<int:item>/", and `endpoint` that with the
    method; what no view answers has neither.

    A view's own limit is `@rate_limit("5/minute")`, on a function or on a method of a class, sync or async. A limit on
    a view that cannot be used is an error when Django starts.
    """

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        # Django looks at what kind of function a hook is: of the wrong kind, it would be run in another thread.
        self.process_view = self._view_async if self._is_async else self._view
        self.process_exception = self._exception_async if self._is_async else self._exception
        if self._is_async:
            markcoroutinefunction(self)
        check_endpoints(_views(get_resolver().url_patterns), self._limits.policy_of)
        setting_changed.connect(self._changed)

    def __call__(self, request: HttpRequest) -> Any:
        if self._is_async:
            return self._call_async(request)
        warn_if_limits_multiply(self._limits.store, bool(request.META.get("wsgi.multiprocess")))
        exchange = RequestExchange(self._limits, request)
        token = CURRENT.set(exchange)
        try:
            response = self._get_response(request)
            response = response if exchange.charged else self._charge(exchange) or response
            self._limits.answered(exchange, response.status_code)
            return _told(response, exchange)
        finally:
            CURRENT.reset(token)

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        warn_if_limits_multiply(self._limits.store)
        exchange = RequestExchange(self._limits, request)
        exchange.loop = get_running_loop()
        token = CURRENT.set(exchange)
        try:
            response = await self._get_response(request)
            response = response if exchange.charged else await self._charge_async(exchange) or response
            await self._limits.answered_async(exchange, response.status_code)
            return _told(response, exchange)
        finally:
            CURRENT.reset(token)

    def _view(self, *_: Any) -> HttpResponseBase | None:
        return self._charge(_under_way())

    async def _view_async(self, *_: Any) -> HttpResponseBase | None:
        return await self._charge_async(_under_way())

    def _exception(self, _: HttpRequest, error: Exception) -> HttpResponseBase | None:
        return _response(self._limits.answer(_under_way(), error)) if isinstance(error, REFUSALS) else None

    async def _exception_async(self, _: HttpRequest, error: Exception) -> HttpResponseBase | None:
        if not isinstance(error, REFUSALS):
            return None
        return _response(await self._limits.answer_async(_under_way(), error))

    def _charge(self, exchange: RequestExchange) -> HttpResponseBase | None:
        """Charge a request. Return the response to one that is refused."""
        exchange.charged = True
        refusal = self._limits.charge(exchange)
        return None if refusal is None else _response(self._limits.answer(exchange, refusal))

    async def _charge_async(self, exchange: RequestExchange) -> HttpResponseBase | None:
        exchange.charged = True
        refusal = await self._limits.charge_async(exchange)
        return None if refusal is None else _response(await self._limits.answer_async(exchange, refusal))

    @cached_property
    def _limits(self) -> Any:
        return AsyncRequestLimiter(**read_settings()) if self._is_async else RequestLimiter(**read_settings())

    def _changed(self, *, setting: str, **_: Any) -> None:
        """Follow `override_settings` in tests."""
        if setting == _SETTING:
            self.__dict__.pop("_limits", None)


class RequestExchange(EnvironExchange):
    """A request of Django's, which has a WSGI environ under ASGI too.

    charged  whether it has been asked if the policy allows it
    """

    charged = False

    def __init__(self, limits: RequestLimiter | AsyncRequestLimiter, request: HttpRequest) -> None:
        super().__init__(limits, request.META)
        self._request = request

    @property
    def native(self) -> HttpRequest:
        return self._request

    @property
    def path(self) -> str:
        # Not `path`: under ASGI it may lack the script's name, as a server that adds none has it.
        return quote(self._request.META["SCRIPT_NAME"].rstrip("/") + self._request.path_info)

    def cookie(self, name: str, /) -> str | None:
        return self._request.COOKIES.get(name) or None

    def route(self) -> str | None:
        match = self._request.resolver_match
        return None if match is None else f"/{match.route}"


def _views(patterns: Iterable[Any]) -> Iterator[Any]:
    """Yield the views of URL patterns, and the methods of those that are classes."""
    for pattern in patterns:
        if hasattr(pattern, "url_patterns"):
            yield from _views(pattern.url_patterns)
            continue
        yield pattern.callback
        if (view_class := getattr(pattern.callback, "view_class", None)) is not None:
            yield from (getattr(view_class, method, None) for method in view_class.http_method_names)


def read_settings() -> dict[str, Any]:
    """Return the arguments for a request limiter that the settings give. Raises ImproperlyConfigured."""
    given = getattr(settings, _SETTING, {})
    if not isinstance(given, Mapping):
        right = 'a dict, such as {"policy": BASE_DIR / "policy.toml"}'
        raise ImproperlyConfigured(f"the setting {_SETTING} must be {right}, not {type(given).__name__}")
    for key in given:
        if key not in _KEYS:
            raise ImproperlyConfigured(f"the setting {_SETTING} has an unknown key {key!r}{did_you_mean(key, _KEYS)}")
    return {key: _imported(value, key) if key in _FUNCTIONS else value for key, value in given.items()}


def _imported(value: Any, place: str) -> Any:
    """Return a function that is given by its dotted path, or each of several; all else as it is."""
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
        return answer
    return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))


def _told(response: HttpResponseBase, exchange: Exchange) -> HttpResponseBase:
    for name, value in exchange.limit_headers():
        response[name] = value
    return response

"""An application's endpoints: their limits in code, and the policy's rules that do not limit them. Knows no framework.

A framework's exchange tells the functions that it will call for a request. So this is known before the policy decides.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ratekeeper.errors import BadRequestError, PolicyError
from ratekeeper.http import rate_limit as in_code
from ratekeeper.http.exchange import Exchange
from ratekeeper.http.rate_limit import LIMIT, WRAPPED, name_of, rate_limit
from ratekeeper.http.rate_limit_arguments import check_is_function, names_of
from ratekeeper.policy.sources import METHODS

F = TypeVar("F", bound=Callable[..., Any])

_EXEMPT = "__ratekeeper_exempt__"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_METHODS = ("head", *(method.lower() for method in METHODS))
_REPLACES = "throttle_replaces"
_OF_ALL_METHODS = ("dispatch", "dispatch_request")


class Marks(NamedTuple):
    """The marks in code on the functions that answer a request."""

    exempt: bool
    """Whether no rule of the policy limits the request."""
    replacing: tuple[rate_limit, ...]
    """The limits that take the place of some of the policy's rules."""
    replaced_later: frozenset[str]
    """The names of rules whose place a throttle of the endpoint takes, which the endpoint itself charges."""


def exempt(function: F) -> F:
    """Mark an endpoint, so that no rule of the middleware's policy limits it. Return the function.

        @app.get("/healthz")
        @exempt
        async def healthz() -> str: ...

    Its own limits (`rate_limit`) still count. Raises TypeError for a class, as the mark is for its methods, and for a
    part of an application.
    """
    check_is_function("exempt", function)
    try:
        function.__dict__[_EXEMPT] = True
    except AttributeError:
        raise TypeError(f"exempt is for functions, and {function!r} cannot be marked: write a function") from None
    in_code.any_mark = True
    return function


def marks_of(functions: tuple[Any, ...], method: str) -> Marks:
    """Return the marks of a request's functions: the endpoint, and then its dependencies."""
    exempted, replacing = False, dict[rate_limit, None]()
    for place, function in enumerate(functions):
        for own in _parts(function, (method.lower(),)):
            for wrapped in _chain(own):
                if (limit := _limit(wrapped)) is not None and limit.replaces and limit.limits(method):
                    replacing[limit] = None
                exempted = exempted or (place == 0 and _EXEMPT in getattr(wrapped, "__dict__", ()))
    later = frozenset[str]() if exempted else replaced_by_throttle(functions[0])
    return Marks(exempted, tuple(replacing), later)


def replaced_by_throttle(endpoint: Any) -> frozenset[str]:
    """Return the names of the rules whose place a view's throttle takes, as Django REST framework's views say it.

    A view set has them by its action, in `initkwargs`.
    """
    owner = getattr(endpoint, "cls", None)
    if not inspect.isclass(owner):
        return frozenset()
    of_action = getattr(endpoint, "initkwargs", {})
    names = of_action[_REPLACES] if _REPLACES in of_action else getattr(owner, _REPLACES, ())
    return names_of(_REPLACES, names, "each address")


def is_preflight(exchange: Exchange) -> bool:
    """Return whether a request is a CORS preflight, as the Fetch standard defines it.

    It is an OPTIONS request with one Origin and one Access-Control-Request-Method, which is a method.
    """
    if exchange.method != "OPTIONS":
        return False
    try:
        origin, method = exchange.header("origin"), exchange.header("access-control-request-method")
    except BadRequestError:  # a browser sends each once
        return False
    return bool(origin and method and _TOKEN.fullmatch(method))


def check_endpoints(
    endpoints: Iterable[Any],
    check: Callable[[rate_limit], object],
    check_names: Callable[[str, frozenset[str]], object] | None = None,
) -> None:
    """Check the limits of an application's endpoints. `check` raises for a limit that cannot be used there.

    `check_names` raises for rules that a view's throttle cannot replace.
    Raise `PolicyError` for a `rate_limit` above the framework's decorator: the framework would call the function
    without its limit.
    """
    endpoints = list(endpoints)
    for endpoint in endpoints:
        if check_names is not None and (names := replaced_by_throttle(endpoint)):
            check_names(f"{_REPLACES} of {name_of(endpoint.cls)}", names)
            in_code.any_mark = True
    chains = [list(_chain(part)) for endpoint in endpoints for part in _parts(endpoint, _METHODS)]
    inner = {id(getattr(function, "__wrapped__", None)) for chain in chains for function in chain if _limit(function)}
    for chain in chains:
        for function in chain:
            if (limit := _limit(function)) is not None:
                check(limit)
            if getattr(function, WRAPPED, False) and id(function) not in inner:
                raise PolicyError(
                    f"@rate_limit on {name_of(function)} limits nothing: it stands above the decorator that makes the "
                    "function an endpoint. Put it directly above the function"
                )


def views_of(app: Any) -> list[Any]:
    """Return the views of an application of Flask or Quart, or of its method `wsgi_app` or `asgi_app`; [] of others."""
    views = getattr(getattr(app, "__self__", app), "view_functions", None)
    return list(views.values()) if isinstance(views, dict) else []


def _parts(endpoint: Any, methods: Iterable[str]) -> Iterator[Any]:
    """Yield an endpoint, and the functions of its class that answer these methods."""
    yield endpoint
    owner = endpoint if inspect.isclass(endpoint) else getattr(endpoint, "view_class", getattr(endpoint, "cls", None))
    if not inspect.isclass(owner):
        return
    actions = getattr(endpoint, "actions", None)  # of a view set of Django REST framework
    names = actions if isinstance(actions, dict) else {}
    for method in set(_METHODS).intersection(methods):  # a client may send any word
        fallback = "get" if method == "head" and not hasattr(owner, "head") and "head" not in names else method
        yield getattr(owner, names.get(fallback, fallback), None)
    for name in _OF_ALL_METHODS:
        yield getattr(owner, name, None)


def _chain(endpoint: Any) -> Iterator[Any]:
    """Yield an endpoint and all functions that it is wrapped around."""
    seen: set[int] = set()
    while endpoint is not None and id(endpoint) not in seen:
        seen.add(id(endpoint))
        yield endpoint
        inner = getattr(endpoint, "__wrapped__", None) or getattr(endpoint, "__func__", None)
        endpoint = endpoint.func if isinstance(endpoint, partial) else inner


def _limit(function: Any) -> rate_limit | None:
    return function if isinstance(function, rate_limit) else getattr(function, "__dict__", {}).get(LIMIT)

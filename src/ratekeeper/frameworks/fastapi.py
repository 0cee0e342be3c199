"""FastAPI: Starlette's middleware, which FastAPI is built on. Its `rate_limit` is a decorator and a dependency."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast, overload

from ratekeeper.coroutines import is_async_function
from ratekeeper.errors import MissingExtraError
from ratekeeper.http import rate_limit as http

try:
    from fastapi import params
except ImportError:
    raise MissingExtraError("ratekeeper.frameworks.fastapi", "fastapi") from None

from ratekeeper.frameworks.starlette import AsyncRequestLimits, RateLimitMiddleware, exempt

__all__ = ["AsyncRequestLimits", "RateLimitMiddleware", "exempt", "rate_limit"]

P = ParamSpec("P")
R = TypeVar("R")

_PARAMETER = "ratekeeper_key"
_NOTHING = object()
_VALUE: ContextVar[Any] = ContextVar("ratekeeper_dependency", default=_NOTHING)
"""The value of the dependency that is the key of the limit which is charged now."""


class rate_limit(http.rate_limit):  # noqa: N801
    """Limit an endpoint: as in every framework, and by a key that is the value of a dependency.

        @app.get("/search")
        @rate_limit("5/second", key=Depends(current_user_id))

        Depends(rate_limit("5/second", key=Depends(current_user_id)))

    The dependency returns a string, an int, a UUID or None, as a key function does. FastAPI calls it once in a request,
    also if the endpoint depends on it, and shows its parameters and its security in OpenAPI. Such a limit cannot
    replace rules of the policy, as its key is not known before.
    """

    _dependency: params.Depends | None = None

    def _key_of(self, key: Any) -> Any:
        if not isinstance(key, params.Depends):
            return key
        if key.dependency is None:
            raise TypeError("key=Depends() has no dependency: write, say, key=Depends(current_user_id)")
        if self.replaces:
            raise TypeError(
                "a key from a dependency is not known when rules are replaced: leave replaces out, or give a key that "
                "the middleware can read"
            )
        self._dependency = key
        self.__dict__["__call__"] = self._charge_by
        self.__signature__ = inspect.Signature([_parameter(_PARAMETER, key)])
        return _value

    @overload
    def __call__(self, *, ratekeeper_key: Any = ...) -> Coroutine[Any, Any, None]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...
    def __call__(self, function: Any = None, *, ratekeeper_key: Any = _NOTHING) -> Any:
        """Return a function with this limit. Without a function, charge the current request by FastAPI's key."""
        if function is not None:
            return super().__call__(function)
        return self.charge_async() if self._dependency is None else self._charge_by(ratekeeper_key)

    async def _charge_by(self, ratekeeper_key: Any) -> None:
        token = _VALUE.set(ratekeeper_key)
        try:
            await self.charge_async()
        finally:
            _VALUE.reset(token)

    def _limited(self, function: Callable[P, R]) -> Callable[P, R]:
        limited = super()._limited(function)
        if self._dependency is None:
            return limited
        signature = inspect.signature(function)
        name = _PARAMETER
        while name in signature.parameters:  # of another limit's key
            name += "_"
        with_key = (_taking_key_async if is_async_function(function) else _taking_key)(limited, name)
        parameters = [*signature.parameters.values(), _parameter(name, self._dependency)]
        parameters.sort(key=lambda parameter: parameter.kind)  # **kwargs is the last
        with_key.__signature__ = signature.replace(parameters=parameters)
        return cast("Callable[P, R]", with_key)


def _parameter(name: str, dependency: params.Depends) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=dependency)


def _value(_: Any) -> Any:
    """Return the value of the dependency: a key function, of any request."""
    value = _VALUE.get()
    if value is _NOTHING:
        raise RuntimeError(
            "FastAPI has not called the dependency that is the key of this limit: put it on an endpoint of FastAPI, "
            "directly above its function, or among its dependencies"
        )
    return value


def _taking_key(limited: Any, name: str) -> Any:
    """Return a limited function that takes its key as one more argument."""

    @wraps(limited)
    def with_key(*args: Any, **kwargs: Any) -> Any:
        token = _VALUE.set(kwargs.pop(name, _NOTHING))
        try:
            return limited(*args, **kwargs)
        finally:
            _VALUE.reset(token)

    return with_key


def _taking_key_async(limited: Any, name: str) -> Any:
    """As `_taking_key`, for an async function."""

    @wraps(limited)
    async def with_key(*args: Any, **kwargs: Any) -> Any:
        token = _VALUE.set(kwargs.pop(name, _NOTHING))
        try:
            return await limited(*args, **kwargs)
        finally:
            _VALUE.reset(token)

    return with_key

"""rate_limit: a limit of one endpoint, in code. It knows no framework, only the current exchange."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Coroutine
from functools import partial, wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar, Unpack, cast, overload

from ratekeeper.coroutines import is_async_function
from ratekeeper.errors import PolicyError
from ratekeeper.http.attributes import OWN_KEY, read_method
from ratekeeper.http.exchange import CURRENT, Exchange, RequestFunction, current
from ratekeeper.http.rate_limit_arguments import (
    RuleOptions,
    check_arguments,
    check_is_function,
    methods_of,
    names_of,
    policy_of_limits,
)
from ratekeeper.limits import Limit
from ratekeeper.policy.model import Policy

P = ParamSpec("P")
R = TypeVar("R")

Key: TypeAlias = str | tuple[str, ...] | RequestFunction
Cost: TypeAlias = int | RequestFunction

LIMIT = "__ratekeeper_limit__"
"""The attribute of a limited function that has its limit."""
WRAPPED = "__ratekeeper_wrapped__"
"""The attribute of a function inside a limited function."""

MOST_LIMITS = 1_000
"""The different answers of a `limit` function that are kept, ready for use."""

any_mark = False
"""Whether a function of this process is marked: only then the policy asks for the endpoint of a request."""


class rate_limit:  # noqa: N801  it is written as a decorator is
    """Limit an endpoint, as its decorator or as a dependency of FastAPI. The middleware decides, on its store.

        @rate_limit("5/second", "100/hour")
        Depends(rate_limit("2/minute", key="api_key"))

    limits    limits, or strings such as "10/second". A request is charged by all of them, or by none
    limit     a function of the request that returns other limits in their place: a limit, its string, a list, or None
              for `limits`. It is called for each request. Debts stay when its answer changes
    key       the attribute, or attributes, that tell callers apart ("client" is the address); or a function of the
              request that returns a string, an int, a UUID or None. None leaves the key out: see `missing`
    cost      the tokens that a request takes, or a function of the request that returns them
    name      limits with one name share buckets; without a name, each endpoint has its own buckets
    endpoint  a name for the endpoint, in place of its function or its route
    replaces  the names of the policy's rules that do not limit the endpoint, as this limit takes their place. Then the
              middleware charges this limit, before the endpoint is called: so its key must be known there
    enforce   False leaves a refusal to the endpoint, which reads the request's decision (see `RequestLimits`) and
              answers. The headers are sent
    methods   the methods that it limits, such as ["POST"]; None limits all. HEAD is GET
    others    as in `Rule`: max_wait, shadow, missing, on_error, message

    The decorator goes directly above the function, under the framework's own decorator. The function may be sync or
    async, with any arguments. A class's view and a method have the buckets of their class.

    The object is called in two ways. With a function it returns the limited function. Without one it charges the
    current request, and is awaited: FastAPI calls a dependency so. FastAPI must see an async function without
    parameters: so each object has its own `__call__`, which is `charge_async`, and its own `__signature__`.
    """

    policy: Policy
    """The limits, as rules."""
    attributes: dict[str, RequestFunction | str]
    """The attributes that only this limit's rules read."""
    cost: Cost
    """The tokens that a request takes, or a function that returns them."""
    named: bool
    """Whether the limit has a name, and shares its buckets by it."""
    endpoint: str | None
    """The name of the endpoint; None if the request's route tells it."""
    limit: RequestFunction | None
    """A function of the request that returns its limits."""
    varies: bool
    """Whether other requests may have other limits in the same buckets."""
    replaces: frozenset[str]
    """The names of the policy's rules that this limit takes the place of."""
    methods: frozenset[str] | None
    """The methods that it limits; None limits all."""
    enforce: bool
    """Whether a refusal is answered here, and not left to the endpoint."""
    owner: rate_limit | None = None
    """Another limit that may charge the same buckets, as their keys differ."""

    def __init__(
        self,
        *limits: Limit | str,
        limit: RequestFunction | None = None,
        key: Key = "client",
        cost: Cost = 1,
        name: str | None = None,
        endpoint: str | None = None,
        replaces: Collection[str] = (),
        methods: Collection[str] | None = None,
        enforce: bool = True,
        _varies: bool = False,
        **rule_options: Unpack[RuleOptions],
    ) -> None:
        self.replaces = names_of("replaces", replaces, "each address")
        self.__dict__["__call__"] = self.charge_async
        self.__signature__ = inspect.Signature()
        given_key, key = key, self._key_of(key)
        check_arguments(limits, key, cost, name, rule_options)
        self.cost, self.named, self.endpoint = cost, name is not None, endpoint
        if not isinstance(enforce, bool):
            raise TypeError(f"enforce must be True or False, not {enforce!r}")
        self.enforce = enforce
        self.methods = None if methods is None else methods_of(methods)
        if self.replaces:
            global any_mark  # noqa: PLW0603  once in a process
            any_mark = True
        self.attributes = {OWN_KEY: key} if callable(key) else {}
        if endpoint is not None:
            self.attributes["endpoint"] = endpoint
        own = (OWN_KEY,) if callable(key) else (key,) if isinstance(key, str) else tuple(key)
        if not (limit is None or callable(limit)):
            raise TypeError(f"limit must be a function of the request, not {limit!r}: give limits by position")
        self.limit = limit
        self.varies = _varies or limit is not None
        self.policy = policy_of_limits(
            limits, own if self.named else ("endpoint", *own), name, self.varies, rule_options
        )
        self._limits = limits
        self._in_request = name is None and endpoint is None and CURRENT.get() is not None
        self._like_this = partial(
            type(self), key=given_key, cost=cost, name=name, replaces=replaces, methods=methods, enforce=enforce,
            **rule_options,
        )  # fmt: skip
        self._others: dict[tuple[Limit | str, ...], rate_limit] = {}  # by the answers of `limit`
        self._classes: dict[str, rate_limit] = {}  # Django decorates a class's view anew in each request

    def _key_of(self, key: Key) -> Key:
        """Return the key that the middleware can read. A framework that knows other keys has a subclass."""
        return key

    def __repr__(self) -> str:
        return f"rate_limit({', '.join(repr(str(limit)) for limit in self._limits)})" + (
            f" of {self.endpoint}" if self.endpoint else ""
        )

    def limits(self, method: str) -> bool:
        """Return whether it limits requests of a method, as the request line has it."""
        return self.methods is None or read_method(method) in self.methods

    def by_answer(self, answer: Any) -> rate_limit:
        """Return the limit of a request, by the answer of `limit`. Raise TypeError if that is not a limit."""
        if answer is None:
            return self
        limits = tuple(answer) if isinstance(answer, list | tuple) else (answer,)
        if not limits or not all(isinstance(one, str | Limit) for one in limits):
            raise TypeError(
                f"{self.limit!r} must return a limit, such as '10/second', a list of limits, or None, not {answer!r}"
            )
        other = self._others.get(limits)
        if other is None:
            if len(self._others) >= MOST_LIMITS:
                self._others.clear()
            other = self._others[limits] = self._like_this(*limits, endpoint=self.endpoint, _varies=True)
            other.owner = self
        return other

    def check_replaced(self, exchange: Exchange) -> None:
        """Raise `PolicyError` if the policy's rules that this limit replaces have limited the request too."""
        if not self.replaces <= exchange.left_out:
            raise PolicyError(
                f"{self} replaces rules of the policy, but it was not known before they were charged: put it on the "
                "endpoint itself, directly above its function, or among its dependencies"
            )

    def charge(self) -> None:
        """Charge the current request. Raises `RateLimitExceeded`, which the middleware answers."""
        exchange = current()
        if exchange.is_due(self) and (refusal := exchange.limiter.charge(exchange, self)) is not None:
            exchange.refuse(refusal)

    async def charge_async(self) -> None:
        """Charge the current request, in an async function. Raises as `charge` does."""
        exchange = current()
        if exchange.is_due(self) and (refusal := await exchange.limiter.charge_async(exchange, self)) is not None:
            exchange.refuse(refusal)

    @overload
    def __call__(self) -> Coroutine[Any, Any, None]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...
    def __call__(self, function: Any = None) -> Any:
        """Return a function with this limit. Without a function, charge the current request: see the class."""
        return self.charge_async() if function is None else self._limited(function)

    def _limited(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return a function that charges its request first.

        Raises TypeError for a class, as the limit is for its methods, for a part of an application, and for a
        generator, which begins after its response.
        """
        check_is_function("rate_limit", function)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"rate_limit is for functions and methods that return, not for {function!r}")
        limit = self._of(function)
        if is_async_function(function):

            @wraps(function)
            async def limited_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                await limit.charge_async()
                return await cast("Any", function)(*args, **kwargs)

            return _marked(cast("Callable[P, R]", limited_async), function, limit)

        @wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            limit.charge()
            return function(*args, **kwargs)

        return _marked(limited, function, limit)

    def _of(self, function: Callable[..., Any]) -> rate_limit:
        """Return the limit for a function: this one if it has an endpoint, else a new one for the function."""
        if self.endpoint is not None:
            return self
        own = name_of(function)
        if self._in_request and "<locals>" in own:
            raise TypeError(f"rate_limit is put on {own} anew in each request: decorate it outside, or say name=")
        if self.replaces and own.startswith("django.utils.decorators."):
            raise TypeError("a method_decorator hides the limit until the view is called: put rate_limit on the method")
        limit = self._classes.get(own) or self._like_this(*self._limits, limit=self.limit, endpoint=own)
        if isinstance(function, partial) or hasattr(function, "view_class"):
            limit = self._classes.setdefault(own, limit)
        return limit


def _marked(limited: Callable[P, R], function: Callable[P, R], limit: rate_limit) -> Callable[P, R]:
    """Return a limited function with a mark that names its limit. Mark the function itself as wrapped."""
    limited.__dict__.pop(WRAPPED, None)  # `wraps` has copied it
    limited.__dict__[LIMIT] = limit
    if inspect.isfunction(function):
        function.__dict__[WRAPPED] = True
    return limited


def name_of(function: Any) -> str:
    """Return the name that tells a function from others: of its module and itself, or of its class."""
    bound = function.func if isinstance(function, partial) else function
    owner = getattr(function, "view_class", None) or getattr(bound, "__self__", None)
    if owner is not None and not inspect.ismodule(owner):
        owner = owner if inspect.isclass(owner) else type(owner)
        method = "" if hasattr(function, "view_class") else f".{bound.__name__}"
        return f"{owner.__module__}.{owner.__qualname__}{method}"
    named = cast("Any", function if hasattr(function, "__qualname__") else type(function))
    name = named.__qualname__
    if name.endswith(".as_view.<locals>.view"):  # Flask gives each view its __name__ before it is decorated
        name = named.__name__
    return f"{named.__module__}.{name}"

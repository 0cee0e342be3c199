"""RateLimit and rate_limit: a limit for one endpoint, in code. They know no framework, only the current exchange."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypedDict, TypeVar, Unpack, cast

from ratekeeper.decision import OnError
from ratekeeper.http.exchange import current
from ratekeeper.limits import Limit, parse_limit
from ratekeeper.policy.model import Missing, Policy, Rule

P = ParamSpec("P")
R = TypeVar("R")

Ask: TypeAlias = Callable[[Any], Any]
Key: TypeAlias = str | tuple[str, ...] | Ask
Cost: TypeAlias = int | Ask

KEY = "key"
"""The attribute that a RateLimit's own function gives."""


class RuleOptions(TypedDict, total=False):
    """What a limit in code can say as a rule of a policy does: see `Rule`."""

    max_wait: float | None
    shadow: bool
    missing: Missing
    on_error: OnError | None


class RateLimit:
    """Limit the requests of the endpoints that it is put on. The middleware decides, on its store.

    limits    limits, or text such as "10/second"; of several, all are charged or none
    key       whom to charge: the attribute, or attributes, that tell callers apart ("client" is the address), or a
              function of the request, awaited if it is async. One that returns None leaves the key out: see `missing`
    cost      tokens a request takes, or a function of the request
    name      endpoints whose limits have one name share buckets; without a name each endpoint has its own
    endpoint  what to tell the endpoint by, if not by its route
    others    as of `Rule`: max_wait, shadow, missing, on_error

    In FastAPI a dependency, `Depends(RateLimit("5/second"))`; everywhere else see `rate_limit`.
    """

    def __init__(
        self,
        *limits: Limit | str,
        key: Key = "client",
        cost: Cost = 1,
        name: str | None = None,
        endpoint: str | None = None,
        **rule_options: Unpack[RuleOptions],
    ) -> None:
        if not limits:
            raise ValueError("a RateLimit without a limit would limit nothing: give one, such as '10/second'")
        self.unnamed, self.endpoint = name is None, endpoint
        own = (KEY,) if callable(key) else (key,) if isinstance(key, str) else tuple(key)
        bucket_key = own if name is not None else ("endpoint", *own)
        rules = []
        for given in limits:
            limit, text = (parse_limit(given), given) if isinstance(given, str) else (given, str(given))
            rule_name = text if name is None else name if len(limits) == 1 else f"{name}: {text}"
            rules.append(Rule(rule_name, limit, key=bucket_key, **rule_options))
        self.policy = Policy(tuple(rules), source="RateLimit")
        self.attributes: dict[str, Ask | str] = {KEY: key} if callable(key) else {}
        if endpoint is not None:
            self.attributes["endpoint"] = endpoint
        self.cost = cost

    def charge(self) -> None:
        """Charge the current request. Raises `RateLimitExceeded`, which the middleware turns into the response."""
        exchange = current()
        exchange.limits_of(self).charge(exchange)

    async def charge_async(self) -> None:
        """As `charge`, in an async function."""
        exchange = current()
        await exchange.limits_of(self).charge_async(exchange)

    async def __call__(self) -> None:
        """As `charge_async`: what FastAPI calls a dependency."""
        await self.charge_async()


def rate_limit(
    *limits: Limit | str,
    key: Key = "client",
    cost: Cost = 1,
    name: str | None = None,
    **rule_options: Unpack[RuleOptions],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that limits an endpoint, sync or async, whatever its arguments. See `RateLimit`.

    Without a `name` each function has its own buckets. It is to be the inner one, under the framework's own decorator
    that makes a function an endpoint. Raises TypeError for a class, whose methods it is for, and for a generator, which
    begins after its response.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isclass(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"rate_limit is for functions and methods that return, not for {function!r}")
        named = function if hasattr(function, "__qualname__") else type(function)
        own = f"{named.__module__}.{named.__qualname__}"
        limit = RateLimit(*limits, key=key, cost=cost, name=name, endpoint=own, **rule_options)
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):

            @wraps(function)
            async def limited_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                await limit.charge_async()
                return await cast("Any", function)(*args, **kwargs)

            return cast("Callable[P, R]", limited_async)

        @wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            limit.charge()
            return function(*args, **kwargs)

        return limited

    return decorate

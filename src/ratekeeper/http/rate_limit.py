"""RateLimit and rate_limit: a limit for one endpoint, in code. They know no framework, only the current exchange."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial, wraps
from typing import Any, ParamSpec, TypeAlias, TypedDict, TypeVar, Unpack, cast

from ratekeeper.decision import OnError
from ratekeeper.errors import PolicyError
from ratekeeper.http.exchange import CURRENT, current
from ratekeeper.limits import Limit, checked_cost, parse_limit
from ratekeeper.policy.model import Missing, Policy, Rule

P = ParamSpec("P")
R = TypeVar("R")

Ask: TypeAlias = Callable[[Any], Any]
Key: TypeAlias = str | tuple[str, ...] | Ask
Cost: TypeAlias = int | Ask

KEY = "(key)"
"""The attribute that a RateLimit's own function gives. No policy has one of that name."""

_LIMIT = "__ratekeeper_limit__"
_WRAPPED = "__ratekeeper_wrapped__"


class RuleOptions(TypedDict, total=False):
    """What a limit in code can say as a rule of a policy does: see `Rule`."""

    max_wait: float | None
    shadow: bool
    missing: Missing
    on_error: OnError | None


class RateLimit:
    """Limit the requests of the endpoints that it is put on. The middleware decides, on its store.

    limits    limits, or strings such as "10/second"; of several, all are charged or none
    key       whom to charge: the attribute, or attributes, that tell callers apart ("client" is the address), or a
              function of the request, awaited if it is async. One that returns None leaves the key out: see `missing`
    cost      tokens a request takes, or a function of the request
    name      endpoints whose limits have one name share buckets; without a name each endpoint has its own
    endpoint  what to tell the endpoint by, if not by its route
    others    as of `Rule`: max_wait, shadow, missing, on_error

    In FastAPI a dependency, `Depends(RateLimit("5/second"))`; everywhere else see `rate_limit`.
    """

    owner: RateLimit | None = None
    """Another limit that may charge the same buckets, as its keys are told from these."""

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
        for given in limits:
            if not isinstance(given, str | Limit):
                raise TypeError(f"a limit must be a TokenBucket, a LeakyBucket or a string, not {given!r}")
        _check(key, cost, name)
        self.named, self.endpoint = name is not None, endpoint
        own = (KEY,) if callable(key) else (key,) if isinstance(key, str) else tuple(key)
        bucket_key = own if self.named else ("endpoint", *own)
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
        if (refusal := exchange.limits.charge(exchange, self)) is not None:
            exchange.refuse(refusal)

    async def charge_async(self) -> None:
        """As `charge`, in an async function."""
        exchange = current()
        if (refusal := await exchange.limits.charge_async(exchange, self)) is not None:
            exchange.refuse(refusal)

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

    Without a `name` each function has its own buckets; a class's view and a method are told by their class. It is to be
    the inner one, under the framework's own decorator that makes a function an endpoint. Raises TypeError for a class,
    whose methods it is for, and for a generator, which begins after its response.
    """
    if len(limits) == 1 and callable(limits[0]):
        raise TypeError("write @rate_limit('5/second'): without a limit, the function would be taken for one")
    within_request = name is None and CURRENT.get() is not None
    make = partial(RateLimit, *limits, key=key, cost=cost, name=name, **rule_options)
    make()  # a mistake shows here, also where nothing is decorated yet
    made: dict[str, RateLimit] = {}  # of classes' views, which Django decorates anew for each request

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isclass(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"rate_limit is for functions and methods that return, not for {function!r}")
        own = _name_of(function)
        if within_request and "<locals>" in own:
            raise TypeError(f"rate_limit is put on {own} anew in each request: decorate it outside, or say name=")
        limit = made.get(own) or make(endpoint=own)
        if isinstance(function, partial) or hasattr(function, "view_class"):
            limit = made.setdefault(own, limit)
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):

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

    return decorate


def check_endpoints(endpoints: Iterable[Any], check: Callable[[RateLimit], object]) -> None:
    """Check the limits of an application's endpoints: `check` raises for one that cannot be used there.

    Raise `PolicyError` for an endpoint that a `rate_limit` was put around after the framework had taken it: the
    framework would call the function without its limit.
    """
    chains = [list(_chain(endpoint)) for endpoint in endpoints]
    inner = {id(getattr(function, "__wrapped__", None)) for chain in chains for function in chain if _limit(function)}
    for chain in chains:
        for function in chain:
            if (limit := _limit(function)) is not None:
                check(limit)
            if getattr(function, _WRAPPED, False) and id(function) not in inner:
                raise PolicyError(
                    f"@rate_limit on {_name_of(function)} limits nothing: it stands above the decorator that makes the "
                    "function an endpoint. Put it directly above the function"
                )


def _check(key: object, cost: object, name: object) -> None:
    """Raise TypeError or ValueError for what cannot be a key, a cost or a name."""
    attributes = key if isinstance(key, tuple | list) else () if callable(key) else (key,)
    if not all(isinstance(one, str) and one for one in attributes) or key in ((), []):
        raise TypeError(
            f"key must be an attribute, such as 'client', several, or a function of the request, not {key!r}"
        )
    if not callable(cost) and checked_cost(cost) == 0:  # type: ignore[arg-type]  # it checks
        raise ValueError("a cost of 0 would limit nothing: leave the limit out")
    if name is not None and not (isinstance(name, str) and name):
        raise TypeError(f"name must be a string, not {name!r}")


def _chain(endpoint: Any) -> Iterator[Any]:
    """Yield an endpoint and all functions that it is wrapped around."""
    seen: set[int] = set()
    while endpoint is not None and id(endpoint) not in seen:
        seen.add(id(endpoint))
        yield endpoint
        inner = getattr(endpoint, "__wrapped__", None) or getattr(endpoint, "__func__", None)
        endpoint = endpoint.func if isinstance(endpoint, partial) else inner


def _limit(function: Any) -> RateLimit | None:
    return function if isinstance(function, RateLimit) else getattr(function, "__dict__", {}).get(_LIMIT)


def _marked(limited: Callable[P, R], function: Callable[P, R], limit: RateLimit) -> Callable[P, R]:
    """Return a limited function that tells its limit. Note on the function itself that there is one around it."""
    limited.__dict__.pop(_WRAPPED, None)  # `wraps` has copied it
    limited.__dict__[_LIMIT] = limit
    if inspect.isfunction(function):
        function.__dict__[_WRAPPED] = True
    return limited


def _name_of(function: Any) -> str:
    """Return what tells a function from others: its module and name, or those of its class."""
    bound = function.func if isinstance(function, partial) else function
    owner = getattr(function, "view_class", None) or getattr(bound, "__self__", None)
    if owner is not None and not inspect.ismodule(owner):
        owner = owner if inspect.isclass(owner) else type(owner)
        method = "" if hasattr(function, "view_class") else f".{bound.__name__}"
        return f"{owner.__module__}.{owner.__qualname__}{method}"
    named = function if hasattr(function, "__qualname__") else type(function)
    name = named.__qualname__
    if name.endswith(".as_view.<locals>.view"):  # Flask's, which gives each its own __name__ before it is decorated
        name = named.__name__
    return f"{named.__module__}.{name}"

"""The arguments of a limit in code, and what they mean: checked names, methods, and the rules of a policy."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from typing import TypedDict

from ratekeeper.decision import OnError
from ratekeeper.errors import did_you_mean
from ratekeeper.http.attributes import read_method
from ratekeeper.limits import Limit, checked_cost, parse_limit
from ratekeeper.policy.model import Missing, Policy, Rule
from ratekeeper.policy.sources import OTHER


class RuleOptions(TypedDict, total=False):
    """The options of a limit in code that a policy's rule has too: see `Rule`."""

    max_wait: float | None
    """The seconds that a request may wait for its turn, instead of being refused."""
    shadow: bool
    """True decides, but refuses nothing."""
    missing: Missing
    """The treatment of a request without the key."""
    on_error: OnError | None
    """The decision while the store does not answer."""
    message: str | None
    """The text for people whose request is refused, in place of the usual one."""


_OF_APPLICATIONS = ("routes", "router", "url_map")
"""The attributes by which applications and routers differ from functions: of Starlette, FastAPI, aiohttp and Flask."""

_OPTIONS = ("limit", "key", "cost", "name", "endpoint", "replaces", "methods", "enforce", *RuleOptions.__annotations__)


def check_arguments(
    limits: tuple[object, ...], key: object, cost: object, name: object, options: Iterable[str]
) -> None:
    """Raise TypeError or ValueError for an argument of `rate_limit` that cannot be."""
    if not limits:
        raise ValueError("a rate_limit without a limit would limit nothing: give one, such as '10/second'")
    for given in limits:
        if callable(given):
            raise TypeError(
                "write @rate_limit('5/second'): without a limit, the function would be taken for the limit. Give a "
                "function that returns a request's limits as limit="
            )
        if not isinstance(given, str | Limit):
            raise TypeError(f"a limit must be a TokenBucket, a LeakyBucket or a string, not {given!r}")
    for option in options:
        if option not in RuleOptions.__annotations__:
            raise TypeError(f"rate_limit has no option {option!r}{did_you_mean(option, _OPTIONS)}")
    attributes = key if isinstance(key, tuple | list) else () if callable(key) else (key,)
    if not all(isinstance(one, str) and one for one in attributes) or key in ((), []):
        raise TypeError(
            f"key must be an attribute, such as 'client', several, or a function of the request, not {key!r}"
        )
    if not callable(cost) and checked_cost(cost) == 0:  # type: ignore[arg-type]  # it checks
        raise ValueError("a cost of 0 would limit nothing: leave the limit out")
    if name is not None and not (isinstance(name, str) and name):
        raise TypeError(f"name must be a string, not {name!r}")


def check_is_function(mark: str, function: object) -> None:
    """Raise TypeError for a class, and for a part of an application, such as a router: a mark on it would do nothing.

    `mark` is the name of the decorator.
    """
    if inspect.isclass(function):
        raise TypeError(f"{mark} is for functions and methods, not for {function!r}: mark its methods")
    if not callable(function) or any(hasattr(function, part) for part in _OF_APPLICATIONS):
        raise TypeError(
            f"{mark} is for functions and methods, not for {function!r}: put it on each endpoint, or write a rule "
            "of the policy that matches its paths"
        )


def names_of(option: str, names: Collection[str], such_as: str) -> frozenset[str]:
    """Return names as a set. Raise TypeError for anything else, such as one string, whose letters would be names."""
    is_list = isinstance(names, Collection) and not isinstance(names, str)
    if not is_list or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"{option} must be a list of names, such as {[such_as]}, not {names!r}")
    return frozenset(names)


def methods_of(methods: Collection[str]) -> frozenset[str]:
    """Return methods as requests have them. Raise ValueError for one that no request has."""
    for method in names_of("methods", methods, "POST"):
        if read_method(method) == OTHER:
            raise ValueError(f"methods has {method!r}, which is not a registered method, such as 'POST' or 'PATCH'")
    if not methods:
        raise ValueError("a rate_limit of no method would limit nothing: leave methods out to limit all")
    return frozenset(map(read_method, methods))


def policy_of_limits(
    limits: tuple[Limit | str, ...], key: tuple[str, ...], name: str | None, varies: bool, rule_options: RuleOptions
) -> Policy:
    """Return limits as the rules of a policy. If they vary, their places name their buckets, so that debts stay."""
    rules = []
    for place, given in enumerate(limits):
        limit, text = (parse_limit(given), given) if isinstance(given, str) else (given, str(given))
        if varies:
            rule_name = (name or "limit") + (f"/{place}" if place else "")
        else:
            rule_name = text if name is None else name if len(limits) == 1 else f"{name}: {text}"
        rules.append(Rule(rule_name, limit, key=key, **rule_options))
    return Policy(tuple(rules), source="rate_limit")

"""Options: what can be said of an application's limits, in every framework alike; and whether it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import iscoroutinefunction
from os import PathLike
from typing import Any, TypeAlias, TypedDict, get_args

from ratekeeper.http.headers import LegacyReset
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.model import Policy

Ask: TypeAlias = Callable[[Any], Any]
"""A function of the framework's request. Where the framework is asynchronous it may be async."""

Observer: TypeAlias = Callable[[Any, PolicyDecision], object]


class Options(TypedDict, total=False):
    """What can be said of an application's limits, in every framework alike.

    attributes       functions of the request that give attributes, such as {"user": lambda request: request.user.id};
                     one that returns None gives none. A string is the same for all
    cost             tokens that a request takes, or a function of the request; a rule's own cost is multiplied by it
    exempt           a function of the request: when it is true, nothing limits the request
    on_decision      called with the request and each decision, refused or not; or several such functions
    rejection        makes the response to a refused request, of the request and the decision; None is the usual one
    trusted_proxies  how many proxies of one's own are in front, unless the policy says where `client` comes from
    legacy           X-RateLimit headers too, with a Reset in seconds since 1970 ("epoch") or from now ("delta")
    enabled          False limits nothing: for tests
    max_waiting      requests that may wait for their turn at once, in a process; others are refused instead. A client
                     may have a tenth of them. By default 10,000, but at most half of the open files that the process
                     may have; where each request holds a thread, 2
    """

    attributes: Mapping[str, Ask | str]
    cost: int | Ask
    exempt: Ask | None
    on_decision: Observer | Iterable[Observer]
    rejection: Callable[[Any, PolicyDecision], Any] | None
    trusted_proxies: int
    legacy: LegacyReset | None
    enabled: bool
    max_waiting: int | None


def check_options(
    *,
    policy: object,
    attributes: object,
    cost: object,
    exempt: object,
    on_decision: object,
    rejection: object,
    trusted_proxies: object,
    legacy: object,
    enabled: object,
    max_waiting: object,
) -> None:
    """Raise TypeError or ValueError for an option that means nothing, when it is given rather than at a request."""
    _check(policy is None or isinstance(policy, str | PathLike | Policy),
           f"policy must be a Policy, or the name of its file, not {policy!r}")  # fmt: skip
    _check(attributes is None or isinstance(attributes, Mapping),
           f"attributes must be a mapping such as {{'user': lambda request: ...}}, not {attributes!r}")  # fmt: skip
    for name, ask in (attributes or {}).items() if isinstance(attributes, Mapping) else ():
        _check(isinstance(name, str) and bool(name), f"an attribute's name must be a string, not {name!r}")
        _check(callable(ask) or (isinstance(ask, str) and bool(ask)),
               f"the attribute {name!r} must be a function of the request, or a string, not {ask!r}")  # fmt: skip
    _check(callable(cost) or (_whole(cost) and cost != 0),
           f"cost must be a whole number, 1 or more, or a function of the request, not {cost!r}")  # fmt: skip
    for name, function in (("exempt", exempt), ("rejection", rejection)):
        _check(function is None or callable(function), f"{name} must be a function of the request, not {function!r}")
    several = isinstance(on_decision, Iterable) and not isinstance(on_decision, str)
    for observe in on_decision if several else (on_decision,):  # type: ignore[attr-defined]  # it is an Iterable
        _check(callable(observe), f"on_decision must be a function of the request and the decision, not {observe!r}")
        _check(not iscoroutinefunction(observe), "on_decision is called, not awaited: it must not be async")
    _check(_whole(trusted_proxies), f"trusted_proxies must be a number of proxies, 0 or more, not {trusted_proxies!r}")
    _check(legacy in (None, *get_args(LegacyReset)), f"legacy must be 'epoch', 'delta' or None, not {legacy!r}")
    _check(isinstance(enabled, bool), f"enabled must be True or False, not {enabled!r}")
    _check(max_waiting is None or _whole(max_waiting),
           f"max_waiting must be a number of requests, 0 or more, or None, not {max_waiting!r}")  # fmt: skip


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check(right: bool, what: str) -> None:
    if not right:
        raise TypeError(what)

"""Options: what an application may say of its limits, the same in every framework. Checked when they are given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from os import PathLike
from typing import Any, TypeAlias, TypedDict

from ratekeeper.coroutines import is_async_function
from ratekeeper.errors import did_you_mean
from ratekeeper.http.exchange import RequestFunction
from ratekeeper.http.header_styles import DEFAULT, HeaderStyles, checked_styles
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.lookups.lookup import LimitFunctions
from ratekeeper.policy.model import Policy

Observer: TypeAlias = Callable[[Any, PolicyDecision], object]
"""A function of the request and the decision."""


class Options(TypedDict, total=False):
    """The options of an application's limits: the same in every framework.

    Their functions get the framework's own request. Where the framework is asynchronous, they may be async.
    """

    attributes: Mapping[str, RequestFunction | str]
    """Functions that return attributes, such as {"user": lambda request: request.user.id}; None means no attribute.

    A string is the same attribute for all requests.
    """
    cost: int | RequestFunction
    """The tokens that a request takes, or a function that returns them. A rule's own cost is multiplied by it."""
    exempt: RequestFunction | None
    """A function: if it returns true, nothing limits the request."""
    exempt_preflights: bool
    """True: no rule of the policy limits a CORS preflight. A client can send any number of them: see `is_preflight`."""
    on_decision: Observer | Collection[Observer]
    """A function, or several, called with the request and each decision, allowed or refused."""
    rejection: Callable[[Any, PolicyDecision], Any] | None
    """A function that returns the response to a refused request; None means the usual response."""
    trusted_proxies: int
    """The number of trusted proxies in front. If the policy says how `client` is read, both must say the same."""
    headers: HeaderStyles
    """The headers about limits: "ietf" by default, other styles, or several. See `HeaderStyle`."""
    limits: LimitFunctions | None
    """The functions that look up the limits of rules with `limit = "app:NAME"`, by NAME: {"plan": plan_of}.

    Each gets the attributes of its rule's key, and returns a limit, its string, several in a list, or None for the
    rule's default. A `LookupFunction` sets the bounds.
    """
    enabled: bool
    """False limits nothing: for tests."""
    max_waiting: int | None
    """The requests that may wait for their turn at once in a process. More are refused. A client may have a tenth.

    The default is 10,000, but at most half of the files that the process may open; 2 where each request holds a thread.
    """


def check_options(policy: object, options: Mapping[str, object]) -> None:
    """Raise TypeError for an unknown option, or for a value that an option cannot have."""
    if not (policy is None or isinstance(policy, str | PathLike | Policy)):
        raise TypeError(f"policy must be a Policy, or the name of its file, not {policy!r}")
    for name, value in options.items():
        if name not in Options.__annotations__:
            known = ("policy", "store", *Options.__annotations__)
            raise TypeError(f"unknown option {name!r}{did_you_mean(name, known)}")
        is_right, right = _RIGHT.get(name, (_anything, ""))
        if not is_right(value):
            raise TypeError(f"{name} must be {right}, not {value!r}")
    checked_styles(options.get("headers", DEFAULT))  # type: ignore[arg-type]  # it checks
    _check_attributes(options.get("attributes") or {})
    observers: Any = options.get("on_decision", ())
    for observe in (observers,) if callable(observers) else observers:
        if not callable(observe):
            raise TypeError(f"on_decision must be a function of the request and the decision, not {observe!r}")
        if is_async_function(observe):
            raise TypeError("on_decision is called, not awaited: it must not be async")


def check_application(app: object, such_as: str) -> None:
    """Raise TypeError if a middleware is put around a policy, or another thing that no server could call."""
    if not callable(app):
        raise TypeError(f"the application comes first, as in {such_as}, and {app!r} cannot be called")


def wrong_rejection(answer: object, right: str) -> TypeError:
    """Return the error of a `rejection` whose answer the framework could not send. `right` is what it could."""
    return TypeError(f"rejection must return {right}, or None for the usual response, not {answer!r}")


def _check_attributes(attributes: Any) -> None:
    for name, given in attributes.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"an attribute's name must be a string, not {name!r}")
        if not (callable(given) or (isinstance(given, str) and given)):
            raise TypeError(f"the attribute {name!r} must be a function of the request, or a string, not {given!r}")


def _anything(value: object) -> bool:
    return True


def _true_or_false(value: object) -> bool:
    return isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _function_or_none(value: object) -> bool:
    return value is None or callable(value)


_RIGHT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "attributes": (
        lambda value: value is None or isinstance(value, Mapping),
        "a mapping such as {'user': lambda request: ...}",
    ),
    "cost": (
        lambda value: callable(value) or (_whole(value) and value != 0),
        "a whole number, 1 or more, or a function of the request",
    ),
    "exempt": (_function_or_none, "a function of the request"),
    "on_decision": (
        lambda value: callable(value) or (isinstance(value, Collection) and not isinstance(value, str)),
        "a function of the request and the decision, or a list of such functions",
    ),
    "rejection": (_function_or_none, "a function of the request and the decision"),
    "trusted_proxies": (_whole, "a number of proxies, 0 or more"),
    "limits": (
        lambda value: value is None or isinstance(value, Mapping),
        "a mapping such as {'plan': a function of the attributes of a rule's key}",
    ),
    "enabled": (_true_or_false, "True or False"),
    "exempt_preflights": (_true_or_false, "True or False"),
    "max_waiting": (lambda value: value is None or _whole(value), "a number of requests, 0 or more, or None"),
}
"""For each option, whether a value is right, and what would be."""

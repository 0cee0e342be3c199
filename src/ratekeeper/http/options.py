"""Options: what can be said of an application's limits, in every framework alike. Types only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypedDict

from ratekeeper.http.headers import LegacyReset
from ratekeeper.policy.verdict import PolicyDecision

Ask: TypeAlias = Callable[[Any], Any]
"""A function of the framework's request. Where the framework is asynchronous it may be async."""

Observer: TypeAlias = Callable[[Any, PolicyDecision], object]


class Options(TypedDict, total=False):
    """What can be said of an application's limits, in every framework alike.

    attributes       functions of the request that give attributes, such as {"user": lambda request: request.user.id};
                     one that returns None gives none. A text is the same for all
    cost             tokens that a request takes, or a function of the request; a rule's own cost is multiplied by it
    exempt           a function of the request: when it is true, nothing limits the request
    on_decision      called with the request and each decision, refused or not; or several such functions
    rejection        makes the response to a refused request, of the request and the decision; None is the usual one
    trusted_proxies  how many proxies of one's own are in front, unless the policy says where `client` comes from
    legacy           X-RateLimit headers too, with a Reset in seconds since 1970 ("epoch") or from now ("delta")
    enabled          False limits nothing: for tests
    """

    attributes: Mapping[str, Ask | str]
    cost: int | Ask
    exempt: Ask | None
    on_decision: Observer | Iterable[Observer]
    rejection: Callable[[Any, PolicyDecision], Any] | None
    trusted_proxies: int
    legacy: LegacyReset | None
    enabled: bool

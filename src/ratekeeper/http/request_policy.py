"""RequestPolicy: what a policy means for an application's requests, worked out once. Knows no framework.

The middlewares and the service share it, and a reload swaps it. `BucketOwners` sees to it that two limits do not charge
the same buckets by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakValueDictionary

from ratekeeper.errors import PolicyError
from ratekeeper.http.attributes import ALWAYS_KNOWN, OF_ROUTE, AttributeReader
from ratekeeper.policy.keeper import AsyncKeeper, Keeper

if TYPE_CHECKING:
    from ratekeeper.http.options import Ask
    from ratekeeper.http.rate_limit import RateLimit
    from ratekeeper.limits import Limit
    from ratekeeper.policy.model import Policy
    from ratekeeper.policy.sources import ClientIP

K = TypeVar("K", Keeper, AsyncKeeper)

_SAID_BY_GATEWAYS = {"path": "x-forwarded-uri", "method": "x-forwarded-method"}


@dataclass(frozen=True, slots=True)
class Given:
    """What an application says of its requests, whatever its policy.

    attributes  functions of the request, or constants, that give attributes
    client      how `client` is read, unless the policy says
    routes      whether the framework tells the route of a request
    """

    attributes: Mapping[str, Ask | str]
    client: ClientIP
    routes: bool


class RequestPolicy(Generic[K]):
    """A keeper, and all that follows from its policy for requests. Immutable.

    reader           reads the attributes that the policy looks at, but for those that the application gives
    constants        attributes that are the same for all requests
    functions        functions of the request that give the others
    cost             tokens that a request takes, or a function of the request
    waiting_rules    the names of the rules that let a request wait
    lacking          the attributes that the policy looks at, and that no request has
    names            the attributes that the policy knows; None if it knows any
    gateway_headers  the headers in which a gateway must say what a request is for
    """

    def __init__(self, keeper: K, given: Given, cost: int | Ask) -> None:
        policy = keeper.policy
        names = policy.names()
        self.keeper: K = keeper
        self.cost = cost
        self.reader = AttributeReader(policy.attributes, given.client, names - given.attributes.keys())
        self.client_reader = AttributeReader(policy.attributes, given.client, {"client"})
        self.constants = {name: value for name, value in given.attributes.items() if isinstance(value, str)}
        self.functions = tuple(
            (name, ask) for name, ask in given.attributes.items() if name in names and not isinstance(ask, str)
        )
        self.waiting_rules = keeper.compiled.waiting
        self.lacking = policy.lacking({*ALWAYS_KNOWN, *(OF_ROUTE if given.routes else ()), *given.attributes})
        self.names = names | policy.attributes.keys() | ALWAYS_KNOWN if policy.attributes else None
        # A gateway that forgets these would have every request judged as one for /check, and so unlimited.
        self.gateway_headers = tuple(header for name, header in _SAID_BY_GATEWAYS.items() if name in names)

    def check_complete(self) -> None:
        """Raise `PolicyError` if the policy looks at what no request has: all requests would share a bucket."""
        if self.lacking:
            name = self.lacking[0]
            raise PolicyError(
                f"{self.keeper.policy.source}: nothing gives the attribute {name!r}: say attributes={{{name!r}: a "
                "function of the request}, or in the policy's [attributes] where it comes from, such as "
                f"{name} = 'header:x-{name}'"
            )


class BucketOwners:
    """Which endpoint's limit charges which buckets. Two may charge the same only if they are given one name."""

    def __init__(self) -> None:
        self._owners: WeakValueDictionary[tuple[str, str], RateLimit] = WeakValueDictionary()
        self._named: dict[str, Limit] = {}

    def claim(self, limit: RateLimit, endpoint: str | None) -> None:
        """Note that a limit charges its buckets: of its name, or of an endpoint.

        Raise `PolicyError` if another limit charges them too, unless it has the same name and the same rate.
        """
        if limit.named:
            for rule in limit.policy.rules:
                if self._named.setdefault(rule.name, rule.limit) != rule.limit:
                    raise PolicyError(
                        f"two limits are named {rule.name!r}, so they share buckets, but one is {rule.limit} and the "
                        f"other {self._named[rule.name]}: give them one limit, or two names"
                    )
            return
        if endpoint is None:
            raise PolicyError(
                f"nothing tells the endpoint of the limit {limit.policy.rules[0].name!r}: give it a name= or endpoint="
            )
        owner = limit.owner or limit
        for rule in limit.policy.rules:
            if self._owners.setdefault((rule.name, endpoint), owner) is not owner:
                raise PolicyError(
                    f"two limits {rule.name!r} of {endpoint!r} would charge the same buckets: give one of them a name="
                )

    @staticmethod
    def beside(policy: Policy | None, limit: RateLimit) -> Policy:
        """Return the policy of an endpoint's limit beside that of the application.

        Attributes, tiers and exemptions are the application's: a client is who it is for the rules. Raise `PolicyError`
        if both would charge the same buckets.
        """
        if policy is None:
            return limit.policy
        names = {rule.name for rule in policy.rules}
        for rule in limit.policy.rules:
            if rule.name in names:
                raise PolicyError(f"an endpoint's limit and a rule of the policy are both named {rule.name!r}")
        return replace(policy, rules=limit.policy.rules, source=limit.policy.source, store=None)

"""RequestPolicy: a policy compiled for an application's requests. Knows no framework.

The middlewares and the service share it, and a reload swaps it. `BucketOwners` finds two limits that would charge the
same buckets by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakValueDictionary

from ratekeeper.errors import PolicyError
from ratekeeper.http.attributes import ALWAYS_KNOWN, OF_ROUTE, AttributeReader
from ratekeeper.http.headers import keep
from ratekeeper.http.line_steps import SAID_BY_GATEWAYS
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.policy.keeper import Keeper

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ratekeeper.http.exchange import RequestFunction
    from ratekeeper.http.rate_limit import rate_limit
    from ratekeeper.policy.decision import PolicyDecision
    from ratekeeper.policy.model import Policy
    from ratekeeper.policy.sources import ClientIP

K = TypeVar("K", Keeper, AsyncKeeper)


@dataclass(frozen=True, slots=True)
class Given:
    """An application's own options for its requests, whatever its policy."""

    attributes: Mapping[str, RequestFunction | str]
    """Functions of the request that return attributes, or constants."""
    client: ClientIP
    """How `client` is read if the policy does not say."""
    routes: bool
    """Whether the framework tells the route of a request."""


class RequestPolicy(Generic[K]):
    """A keeper, and what its policy means for requests. Immutable."""

    keeper: K
    """Decides by the policy, on the application's store."""
    at_once: Callable[..., PolicyDecision] | None
    """Decides as the keeper's `try_acquire`, without a coroutine; None if the store or a look-up must be awaited."""
    cost: int | RequestFunction
    """The tokens that a request takes, or a function that returns them."""
    reader: AttributeReader
    """Reads the policy's attributes, but for the application's own."""
    client_reader: AttributeReader
    """Reads only `client`."""
    constants: Mapping[str, str]
    """The application's attributes that are the same for all requests."""
    functions: tuple[tuple[str, RequestFunction], ...]
    """The application's functions of the request, by the attribute that each returns."""
    waiting_rules: frozenset[str]
    """The names of the rules that let a request wait."""
    plain: tuple[Callable[..., PolicyDecision], int] | None
    """`at_once` and `cost`, of a policy that asks no function of the application; else None."""
    lacking: Sequence[str]
    """The attributes that the policy reads and no request has."""
    names: frozenset[str] | None
    """The attributes that the policy knows; None if it knows any."""
    of_each_request: Sequence[str]
    """Of the attributes that every request over HTTP has, those that the policy looks at."""
    gateway_headers: tuple[str, ...]
    """The headers that a gateway must send, as the policy reads them."""

    def __init__(self, keeper: K, given: Given, cost: int | RequestFunction) -> None:
        policy = keeper.policy
        names = policy.names()
        self.keeper = keeper
        self.at_once = None if keeper.compiled.awaits else keeper.compiled.try_acquire
        self.cost = cost
        self.reader = AttributeReader(policy.attributes, given.client, names - given.attributes.keys())
        self.client_reader = AttributeReader(policy.attributes, given.client, {"client"})
        self.constants = {name: value for name, value in given.attributes.items() if isinstance(value, str)}
        self.functions = tuple(
            (name, function)
            for name, function in given.attributes.items()
            if name in names and not isinstance(function, str)
        )
        self.plain = None
        if self.at_once is not None and isinstance(cost, int) and not (self.constants or self.functions):
            self.plain = self.at_once, cost
        self.waiting_rules = keeper.compiled.waiting
        self._lets_wait: dict[Hashable, bool] = {}  # bounded
        self.lacking = policy.lacking({*ALWAYS_KNOWN, *(OF_ROUTE if given.routes else ()), *given.attributes})
        self.names = names | policy.attributes.keys() | ALWAYS_KNOWN if policy.attributes else None
        self.of_each_request = sorted(names & ALWAYS_KNOWN)
        # Without them every request would be judged as one for /check, and so would be unlimited.
        self.gateway_headers = tuple(header for name, header in SAID_BY_GATEWAYS.items() if name in names)

    def lets_wait(self, decision: PolicyDecision) -> bool:
        """Return whether a refused request may wait: only rules that let it wait refuse it."""
        key = decision.combination
        known = self._lets_wait.get(key)
        if known is None:
            refusing = [rule.name for rule in decision.enforced if not rule.decision.allowed]
            known = keep(self._lets_wait, key, bool(refusing) and self.waiting_rules.issuperset(refusing))
        return known

    def check_complete(self) -> None:
        """Raise `PolicyError` if the policy reads an attribute that no request has: all would share a bucket."""
        if self.lacking:
            name = self.lacking[0]
            raise PolicyError(
                f"{self.keeper.policy.source}: nothing gives the attribute {name!r}: write attributes={{{name!r}: a "
                "function of the request}, or say in the policy's [attributes] where it is, such as "
                f"{name} = 'header:x-{name.replace('_', '-')}'"
            )


def check_proxies(policy: Policy, trusted: int | None) -> None:
    """Raise `PolicyError` if a policy says how `client` is read, and the option `trusted_proxies` says otherwise.

    The policy would count. So with too few proxies all clients would share a bucket, and with too many they would
    choose their address.
    """
    source = policy.attributes.get("client")
    if source is None or trusted is None or trusted == getattr(source, "trusted_proxies", 0):
        return
    raise PolicyError(
        f"{policy.source}: [attributes] says how client is read, so the option trusted_proxies={trusted} would mean "
        f'nothing: leave it out, or write client = {{ from = "client_ip", trusted_proxies = {trusted} }} there'
    )


class BucketOwners:
    """Knows which endpoint's limit charges which buckets. Two limits may share buckets only by one name."""

    def __init__(self) -> None:
        self._owners: WeakValueDictionary[tuple[str, str], rate_limit] = WeakValueDictionary()
        self._named: WeakValueDictionary[str, rate_limit] = WeakValueDictionary()  # a limit may be made for a request

    def claim(self, limit: rate_limit, endpoint: str | None) -> None:
        """Note that a limit charges the buckets of its name, or of an endpoint.

        Raise `PolicyError` if another limit charges them, unless it has the same name and the same rate.
        """
        owner = limit.owner or limit
        if limit.named:
            for rule in () if limit.varies else limit.policy.rules:
                alike = self._named.setdefault(rule.name, owner).policy.rules
                other = next((one for one in alike if one.name == rule.name), rule)
                if other.limit != rule.limit:
                    raise PolicyError(
                        f"two limits are named {rule.name!r}, so they share buckets, but one is {rule.limit} and the "
                        f"other {other.limit}: give them one limit, or two names"
                    )
            return
        if endpoint is None:
            raise PolicyError(
                f"nothing tells the endpoint of the limit {limit.policy.rules[0].name!r}: give it a name= or endpoint="
            )
        for rule in limit.policy.rules:
            if self._owners.setdefault((rule.name, endpoint), owner) is not owner:
                raise PolicyError(
                    f"two limits {rule.name!r} of {endpoint!r} would charge the same buckets: give one of them a name="
                )

    @staticmethod
    def beside(policy: Policy | None, limit: rate_limit) -> Policy:
        """Return the policy of an endpoint's limit beside the application's policy.

        Attributes, tiers and exemptions are the application's. Raise `PolicyError` if both would charge the same
        buckets.
        """
        if policy is None:
            return limit.policy
        names = {rule.name for rule in policy.rules}
        for rule in limit.policy.rules:
            if rule.name in names:
                raise PolicyError(f"an endpoint's limit and a rule of the policy are both named {rule.name!r}")
        return replace(policy, rules=limit.policy.rules, source=limit.policy.source, store=None)

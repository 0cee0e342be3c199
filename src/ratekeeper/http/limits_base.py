"""LimitsBase: an application's policy, options and store, from its start to its end. How it is asked is in `limits`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from inspect import iscoroutinefunction
from os import PathLike
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar, cast
from weakref import WeakKeyDictionary, WeakMethod, WeakValueDictionary, finalize

from ratekeeper.errors import PolicyError, RatekeeperError
from ratekeeper.http.attributes import ALWAYS_KNOWN, OF_ROUTE, AttributeReader
from ratekeeper.http.exchange import Exchange, refusal_of
from ratekeeper.http.headers import LegacyReset, legacy_headers
from ratekeeper.http.options import Ask, Observer
from ratekeeper.policy.keeper import AsyncKeeper, Keeper
from ratekeeper.policy.model import Policy
from ratekeeper.policy.reload import PolicyWatch, watch_policy
from ratekeeper.policy.sources import ClientIP
from ratekeeper.policy.verdict import PolicyDecision
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.choice import MEMORY, StoreChoice

if TYPE_CHECKING:
    from ratekeeper.http.rate_limit import RateLimit

K = TypeVar("K", Keeper, AsyncKeeper)


class _Ready(NamedTuple, Generic[K]):
    """A policy, ready for requests: what a reload replaces, in one step."""

    keeper: K
    reader: AttributeReader
    may_wait: bool
    asks: tuple[tuple[str, Ask], ...]


class LimitsBase(Generic[K]):
    """Rules for an application's requests, and where they are kept.

    `policy` is a policy, or the name of its file, which is watched: a change takes effect within a second, and a broken
    file changes nothing (see `watch_policy`). Without one, only the endpoints' own limits count. `store` is where
    buckets live: a store, or its text as for `StoreChoice`; by default the policy's, or else this process's memory.
    `routes` says whether the framework tells the route of a request.
    """

    def __init__(
        self,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | AsyncStore | str | None = None,
        routes: bool = True,
        attributes: Mapping[str, Ask | str] | None = None,
        cost: int | Ask = 1,
        exempt: Ask | None = None,
        on_decision: Observer | Iterable[Observer] = (),
        rejection: Callable[[Any, PolicyDecision], Any] | None = None,
        trusted_proxies: int = 0,
        legacy: LegacyReset | None = None,
        enabled: bool = True,
    ) -> None:
        self._path = policy if isinstance(policy, str | PathLike) else None
        if isinstance(policy, str | PathLike):
            policy = Policy.load(policy)
        choice = StoreChoice(store) if isinstance(store, str) else (policy and policy.store) or StoreChoice(MEMORY)
        self._choice = choice if store is None or isinstance(store, str) else None
        self._closed = False
        self.store = self._open(self._choice) if self._choice else cast("Store | AsyncStore", store)
        self.rejection = rejection
        self.legacy = legacy
        self.enabled = enabled
        self._routes = routes
        self._attributes = dict(attributes or {})
        self._constants = {name: value for name, value in self._attributes.items() if isinstance(value, str)}
        self._cost = cost
        self._exempt = exempt
        self._observers = (on_decision,) if callable(on_decision) else tuple(on_decision)
        if any(iscoroutinefunction(observe) for observe in self._observers):
            raise TypeError("on_decision is called, not awaited: it must not be async")
        self._client = ClientIP(trusted_proxies)
        self._charged: WeakValueDictionary[tuple[str, str], RateLimit] = WeakValueDictionary()
        self._endpoints: WeakKeyDictionary[RateLimit, Self] = WeakKeyDictionary()
        self._ready: _Ready[K] | None = self._prepare(policy) if policy is not None else None
        self._watch = self._watched()

    def under(self, limit: RateLimit) -> Self:
        """Return what decides by an endpoint's own limit, on the same store and with the same options.

        Attributes, tiers and exemptions are the policy's: a client is who it is for the rules.
        """
        endpoints = self._endpoints  # another after a reload, and then the policy is too
        known = endpoints.get(limit)
        if known is None:
            policy = limit.policy
            if self._ready is not None:
                _check_apart(limit, self._ready.keeper.policy)
                policy = replace(self._ready.keeper.policy, rules=policy.rules, source=policy.source, store=None)
            self._check_functions(limit)
            known = endpoints[limit] = type(self)(
                policy, store=self.store, routes=self._routes, attributes={**self._attributes, **limit.attributes},
                cost=limit.cost, exempt=self._exempt, on_decision=self._observers,
                trusted_proxies=self._client.trusted_proxies, enabled=self.enabled,
            )  # fmt: skip
        return known

    def replace(self, policy: Policy) -> None:
        """Decide by another policy from now on, on the same store: what each bucket owes stays."""
        ready = self._prepare(policy)
        for limit in list(self._endpoints):
            _check_apart(limit, policy)
        self._ready = ready
        self._endpoints = WeakKeyDictionary()

    def _check_functions(self, limit: RateLimit) -> None:
        """Raises `PolicyError` if a limit would charge the buckets of another function of the same name."""
        for rule in limit.policy.rules:
            if limit.unnamed and limit.endpoint is not None:
                self._charged.setdefault((rule.name, limit.endpoint), limit)
                if self._charged[rule.name, limit.endpoint] is not limit:
                    raise PolicyError(f"two limits {rule.name!r} are on functions {limit.endpoint!r}: name one, name=")

    def reopen(self) -> None:
        """Go on after `close`: open the store again, and watch the policy's file."""
        if not self._closed:
            return
        self._closed = False
        if self._choice is not None:
            self.store = self._open(self._choice)
            self._endpoints.clear()
            self._ready = self._prepare(self._ready.keeper.policy) if self._ready else None
        self._watch = self._watched()

    def _watched(self) -> PolicyWatch | None:
        if self._path is None or self._ready is None:
            return None
        # Some frameworks have no end of an application, and tests make many: the watch ends with who uses the policy.
        own = WeakMethod(self.replace)

        def replace(policy: Policy) -> None:
            if (still := own()) is not None:
                still(policy)

        watch = watch_policy(self._path, replace, in_use=self._ready.keeper.policy)
        finalize(self, watch.abandon)
        return watch

    def _closing(self) -> Any:
        """Watch the policy's file no more; return the store's `close`, to be called or awaited, if it is ours."""
        if self._closed:
            return None
        self._closed = True
        if self._watch is not None:
            self._watch.stop()
        return getattr(self.store, "close", None) if self._choice is not None else None

    def legacy_headers(self, decision: PolicyDecision) -> list[tuple[str, str]]:
        """Return the X-RateLimit headers, if they are asked for."""
        return legacy_headers(decision, self.legacy, time.time()) if self.legacy else []

    def _open(self, choice: StoreChoice) -> Store | AsyncStore:
        raise NotImplementedError

    def _keeper(self, policy: Policy) -> K:
        raise NotImplementedError

    def _prepare(self, policy: Policy) -> _Ready[K]:
        """Raises `PolicyError` if the policy looks at what nobody gives: all requests would share a bucket."""
        lacking = policy.lacking({*ALWAYS_KNOWN, *(OF_ROUTE if self._routes else ()), *self._attributes})
        if lacking:
            name = lacking[0]
            raise PolicyError(
                f"{policy.source}: nothing gives the attribute {name!r}: say attributes={{{name!r}: a function of the "
                f"request}}, or in the policy's [attributes] where it comes from, such as {name} = 'header:x-{name}'"
            )
        reader = AttributeReader(policy.attributes, self._client, policy.names() - self._attributes.keys())
        asks = [
            (name, ask) for name, ask in self._attributes.items() if name in policy.names() and not isinstance(ask, str)
        ]
        return _Ready(self._keeper(policy), reader, any(rule.max_wait != 0 for rule in policy.rules), tuple(asks))

    def _note(self, exchange: Exchange, decision: PolicyDecision) -> None:
        """Have a decision told to the client, and to who asked to be told."""
        exchange.decisions.append(decision)
        for observe in self._observers:
            observe(exchange.native, decision)

    def _note_error(self, exchange: Exchange, error: RatekeeperError) -> None:
        exchange.error = error
        decision = refusal_of(error)
        if decision is not None:
            self._note(exchange, decision)


def _check_apart(limit: RateLimit, policy: Policy) -> None:
    """Raises `PolicyError` if an endpoint's limit would charge the buckets of a policy's rule."""
    names = {rule.name for rule in policy.rules}
    for rule in limit.policy.rules:
        if rule.name in names:
            raise PolicyError(f"an endpoint's limit and a rule of the policy are both named {rule.name!r}")

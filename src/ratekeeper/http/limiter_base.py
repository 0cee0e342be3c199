"""LimiterBase: an application's policy, options and store, from its start to its end.

How a request is charged is in `limiter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, Generic
from weakref import WeakKeyDictionary, WeakMethod, finalize

from ratekeeper.http.headers import LegacyReset
from ratekeeper.http.options import Ask, Observer, check_options
from ratekeeper.http.rate_limit import RateLimit
from ratekeeper.http.request_policy import BucketOwners, Given, K, RequestPolicy
from ratekeeper.http.waiting import WAITING_THREADS, WaitingRequests
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.model import Policy
from ratekeeper.policy.reload import PolicyWatch, watch_policy
from ratekeeper.policy.sources import ClientIP
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.spec import MEMORY, StoreSpec, opened


class LimiterBase(Generic[K]):
    """Rules for an application's requests, and where they are kept.

    `policy` is a policy, or the name of its file, which is watched: a change takes effect within a second, and a broken
    file changes nothing (see `watch_policy`). Without one, only the endpoints' own limits count. `store` is where
    buckets live: a store, or its string as for `StoreSpec`; by default the policy's, or else this process's memory.
    `routes` says whether the framework tells the route of a request. For the options see `ratekeeper.http.options`.
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
        max_waiting: int | None = None,
    ) -> None:
        check_options(
            policy=policy, attributes=attributes, cost=cost, exempt=exempt, on_decision=on_decision,
            rejection=rejection, trusted_proxies=trusted_proxies, legacy=legacy, enabled=enabled,
            max_waiting=max_waiting,
        )  # fmt: skip
        self._path = policy if isinstance(policy, str | PathLike) else None
        if isinstance(policy, str | PathLike):
            policy = Policy.load(policy)
        choice = StoreSpec(store) if isinstance(store, str) else (policy and policy.store) or StoreSpec(MEMORY)
        self._choice = choice if store is None or isinstance(store, str) else None
        self._closed = False
        self.store = opened(store, self._open) if self._choice is None else self._open(self._choice)
        self.rejection = rejection
        self.legacy = legacy
        self.enabled = enabled
        self._given = Given(dict(attributes or {}), ClientIP(trusted_proxies), routes)
        self._cost = cost
        self._exempt = exempt
        self._observers = (on_decision,) if callable(on_decision) else tuple(on_decision)
        most = self._most_waiting() if max_waiting is None else max_waiting
        self._waiting = WaitingRequests(most)
        self._waiting_threads = WaitingRequests(min(most, WAITING_THREADS))
        self._owners = BucketOwners()
        self._endpoints: WeakKeyDictionary[RateLimit, RequestPolicy[K]] = WeakKeyDictionary()
        self.in_use: RequestPolicy[K] | None = None
        self.in_use = self._compiled(policy) if policy is not None else None
        self._watch = self._watched()

    def policy_of(self, limit: RateLimit) -> RequestPolicy[K]:
        """Return the compiled policy of an endpoint's own limit, on the same store and with the same options.

        Raises `PolicyError` if it looks at what no request has, or would charge the buckets of another limit.
        """
        endpoints = self._endpoints  # another after a reload, and then the policy is too
        known = endpoints.get(limit)
        if known is None:
            if limit.named or limit.endpoint is not None:
                self._owners.claim(limit, limit.endpoint)
            known = endpoints[limit] = self._compiled_beside(self._policy, limit)
        return known

    def _compiled_beside(self, policy: Policy | None, limit: RateLimit) -> RequestPolicy[K]:
        given = replace(self._given, attributes={**self._given.attributes, **limit.attributes})
        compiled = RequestPolicy(self._keeper(self._owners.beside(policy, limit)), given, limit.cost)
        compiled.check_complete()
        return compiled

    def replace(self, policy: Policy) -> None:
        """Decide by another policy from now on, on the same store: what each bucket owes stays."""
        compiled, endpoints = self._compiled(policy), WeakKeyDictionary[RateLimit, RequestPolicy[K]]()
        for limit in [known for reference in self._endpoints.keyrefs() if (known := reference()) is not None]:
            endpoints[limit] = self._compiled_beside(policy, limit)
        self.in_use, self._endpoints = compiled, endpoints

    def reopen(self) -> None:
        """Go on after `close`: open the store again, and watch the policy's file."""
        if not self._closed:
            return
        self._closed = False
        if self._choice is not None:
            self.store = self._open(self._choice)
            self._endpoints.clear()
            self.in_use = self._compiled(self._policy) if self._policy else None
        self._watch = self._watched()

    @property
    def _policy(self) -> Policy | None:
        return None if self.in_use is None else self.in_use.keeper.policy

    def _compiled(self, policy: Policy) -> RequestPolicy[K]:
        compiled = RequestPolicy(self._keeper(policy), self._given, self._cost)
        self._check(compiled)
        return compiled

    def _check(self, policy: RequestPolicy[K]) -> None:
        """Raise `PolicyError` if a policy cannot be used here."""
        policy.check_complete()

    def _watched(self) -> PolicyWatch | None:
        if self._path is None:
            return None
        # Some frameworks have no end of an application, and tests make many: the watch ends with who uses the policy.
        own = WeakMethod(self.replace)

        def replace_if_alive(policy: Policy) -> None:
            if (still := own()) is not None:
                still(policy)

        watch = watch_policy(self._path, replace_if_alive, in_use=self._policy)
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

    def _open(self, choice: StoreSpec) -> Store | AsyncStore:
        raise NotImplementedError

    def _keeper(self, policy: Policy) -> K:
        raise NotImplementedError

    def _most_waiting(self) -> int:
        raise NotImplementedError

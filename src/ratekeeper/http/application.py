"""ApplicationLimits: an application's policy, options and store, from its start to its end.

How a request is charged is in `charging`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from typing import Any, ClassVar, Generic, Unpack
from weakref import WeakKeyDictionary, WeakMethod, finalize

from ratekeeper.errors import PolicyError, did_you_mean
from ratekeeper.http.endpoints import Marks
from ratekeeper.http.header_styles import DEFAULT, checked_styles
from ratekeeper.http.held import HELD_THREADS, HeldRequests
from ratekeeper.http.options import Options, check_options
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.request_policy import BucketOwners, Given, K, RequestPolicy, check_proxies
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.lookups.functions import Lookups
from ratekeeper.policy.lookups.lookup import LookupStats
from ratekeeper.policy.model import Policy
from ratekeeper.policy.reload import PolicyWatch, watch_policy
from ratekeeper.policy.sources import ClientIP
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.spec import MEMORY, StoreSpec, opened


class ApplicationLimits(Generic[K]):
    """The rules for an application's requests, and the store of their buckets.

    `policy` is a policy, or the name of its file. A file is watched: a change takes effect within a second, and a file
    with a mistake changes nothing (see `watch_policy`). Without a policy, only the endpoints' own limits count. `store`
    is a store, or its string as for `StoreSpec`; the default is the policy's, or else this process's memory. `routes`
    says whether the framework tells the route of a request.
    """

    store: Store | AsyncStore
    """The store of the buckets."""
    _awaits: ClassVar[bool]
    """Whether functions may be async."""
    in_use: RequestPolicy[K] | None = None
    """The compiled policy that decides requests now; None without a policy."""
    styles: frozenset[str] | None
    """The styles of the headers about limits; None for the default."""

    def __init__(
        self,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | AsyncStore | str | None = None,
        routes: bool = True,
        **options: Unpack[Options],
    ) -> None:
        check_options(policy, options)
        self._path = policy if isinstance(policy, str | PathLike) else None
        if isinstance(policy, str | PathLike):
            policy = Policy.load(policy)
        spec = StoreSpec(store) if isinstance(store, str) else (policy and policy.store) or StoreSpec(MEMORY)
        self._spec = spec if store is None or isinstance(store, str) else None
        self._closed = False
        self._lookups = Lookups(options.get("limits") or {}, self._awaits, shares=True)
        if policy is not None:
            self._lookups.check_read(policy)
        elif options.get("limits"):
            raise PolicyError("limits= is for the rules of a policy, and there is none: give a policy")
        self.store = opened(store, self._open) if self._spec is None else self._open(self._spec)
        self.styles = checked_styles(options.get("headers", DEFAULT))
        self._rejection = options.get("rejection")
        self._enabled = options.get("enabled", True)
        self._trusted = options.get("trusted_proxies")
        trusted = ClientIP(self._trusted or 0)
        self._given = Given(dict(options.get("attributes") or {}), trusted, routes)
        self._cost = options.get("cost", 1)
        self._exempt = options.get("exempt")
        self._exempts_preflights = options.get("exempt_preflights", False)
        self._is_plain = self._enabled and self._exempt is None and not self._exempts_preflights
        observers = options.get("on_decision", ())
        self._observers = (observers,) if callable(observers) else tuple(observers)
        self.recorded: Callable[[Any, PolicyDecision], object] | None = None
        """Observes each question, an `Asked`, and its decision. A loop over several observers would cost more."""
        self.refused: Callable[[Any, PolicyDecision], object] | None = None
        """Observes the decisions that refuse. So those that allow do not pay for it."""
        most = options.get("max_waiting")
        most = self._most_held() if most is None else most
        self._held = HeldRequests(most)
        self._held_threads = HeldRequests(min(most, HELD_THREADS))
        self._owners = BucketOwners()
        self._endpoints: WeakKeyDictionary[rate_limit, RequestPolicy[K]] = WeakKeyDictionary()
        self.in_use = self._compiled(policy) if policy is not None else None
        self._replaced_later: dict[str, frozenset[str]] = {}
        self._reduced: dict[frozenset[str], RequestPolicy[K] | None] = {}
        self._watch = self._watched()

    def policy_of(self, limit: rate_limit) -> RequestPolicy[K]:
        """Return the compiled policy of an endpoint's own limit, on the same store and with the same options.

        Raises `PolicyError` if it reads an attribute that no request has, or would charge the buckets of another limit.
        """
        endpoints = self._endpoints  # a reload makes another one, with the policy
        known = endpoints.get(limit)
        if known is None:
            if limit.named or limit.endpoint is not None:
                self._owners.claim(limit, limit.endpoint)
            known = endpoints[limit] = self._compiled_beside(self._policy, limit)
        return known

    def check_replaced_later(self, who: str, names: frozenset[str]) -> None:
        """Raise `PolicyError` if a view's throttle replaces a rule that the policy does not have. So does a reload."""
        _check_names(self._policy, who, names)
        self._replaced_later[who] = names

    def policy_beside(self, marks: Marks) -> tuple[RequestPolicy[K] | None, frozenset[str]]:
        """Return the policy in use without the rules that an endpoint's marks leave out, and their names.

        The policy is None if the application has none, or if no rule is left.
        """
        if (policy := self._policy) is None:
            return None, frozenset()
        names = frozenset(rule.name for rule in policy.rules)
        replaced = marks.replaced_later.union(*[limit.replaces for limit in marks.replacing])
        out = names if marks.exempt else names & replaced
        return self.policy_of_rules(names - out), out

    def policy_of_rules(self, names: frozenset[str]) -> RequestPolicy[K] | None:
        """Return the policy in use with these of its rules alone; None if it has none of them."""
        reduced = self._reduced  # a reload makes another one, after the policy
        policy = self._policy
        if policy is not None and names not in reduced:
            rules = tuple(rule for rule in policy.rules if rule.name in names)
            reduced[names] = self._compiled(replace(policy, rules=rules)) if rules else None
        return reduced.get(names)

    def _compiled_beside(self, policy: Policy | None, limit: rate_limit) -> RequestPolicy[K]:
        self._check_replaced(policy, limit)
        given = replace(self._given, attributes={**self._given.attributes, **limit.attributes})
        keeper = self._keeper(self._owners.beside(policy, limit))
        compiled = RequestPolicy(keeper, given, limit.cost)
        compiled.check_complete()
        return compiled

    def replace(self, policy: Policy) -> None:
        """Decide by another policy from now on, on the same store: what each bucket owes stays."""
        self._lookups.check_read(policy)
        for who, names in self._replaced_later.items():
            _check_names(policy, who, names)
        compiled, endpoints = self._compiled(policy), WeakKeyDictionary[rate_limit, RequestPolicy[K]]()
        for limit in [known for reference in self._endpoints.keyrefs() if (known := reference()) is not None]:
            endpoints[limit] = self._compiled_beside(policy, limit)
        self.in_use, self._endpoints = compiled, endpoints
        self._reduced = {}

    def reopen(self) -> None:
        """Go on after `close`: open the store again, and watch the policy's file."""
        if not self._closed:
            return
        self._closed = False
        if self._spec is not None:
            self.store = self._open(self._spec)
            self._endpoints.clear()
            self._reduced.clear()
            self.in_use = self._compiled(self._policy) if self._policy else None
        self._watch = self._watched()

    @property
    def waiting(self) -> int:
        """The requests that wait for their turn now."""
        return self._held.count + self._held_threads.count

    @property
    def lookups(self) -> dict[str, LookupStats]:
        """The counts of the look-ups of limits since the start, by their names in `limits`."""
        return self._lookups.stats()

    @property
    def _policy(self) -> Policy | None:
        return None if self.in_use is None else self.in_use.keeper.policy

    def _check_replaced(self, policy: Policy | None, limit: rate_limit) -> None:
        """Raise `PolicyError` if a limit replaces a rule that the policy does not have, or cannot be known before."""
        _check_names(policy, str(limit), limit.replaces)
        if limit.replaces and not self._given.routes:
            raise PolicyError(
                f"{limit} replaces rules of the policy, but this middleware does not know the endpoint before it "
                "charges the policy: write a rule with a match for its path instead"
            )

    def _compiled(self, policy: Policy) -> RequestPolicy[K]:
        compiled = RequestPolicy(self._keeper(policy), self._given, self._cost)
        self._check(compiled)
        return compiled

    def _check(self, policy: RequestPolicy[K]) -> None:
        """Raise `PolicyError` if a policy cannot be used here."""
        policy.check_complete()
        check_proxies(policy.keeper.policy, self._trusted)

    def _watched(self) -> PolicyWatch | None:
        if self._path is None:
            return None
        # Some frameworks never end an application, and tests make many: the watch ends with this object.
        own = WeakMethod(self.replace)

        def replace_if_alive(policy: Policy) -> None:
            if (still := own()) is not None:
                still(policy)

        watch = watch_policy(self._path, replace_if_alive, in_use=self._policy)
        finalize(self, watch.abandon)
        return watch

    def _closing(self) -> Any:
        """Stop watching the policy's file. Return the `close` of a store that was opened here, to call or await."""
        if self._closed:
            return None
        self._closed = True
        if self._watch is not None:
            self._watch.stop()
        return getattr(self.store, "close", None) if self._spec is not None else None

    def _open(self, spec: StoreSpec) -> Store | AsyncStore:
        raise NotImplementedError

    def _keeper(self, policy: Policy) -> K:
        raise NotImplementedError

    def _most_held(self) -> int:
        raise NotImplementedError


def _check_names(policy: Policy | None, who: str, names: frozenset[str]) -> None:
    """Raise `PolicyError` if one of the rules that are replaced is not in the policy."""
    known = [rule.name for rule in policy.rules] if policy is not None else []
    for name in sorted(names.difference(known)):
        hint = did_you_mean(name, known) if known else ": the middleware has no policy"
        raise PolicyError(f"{who} replaces the rule {name!r}, which the policy does not have{hint}")

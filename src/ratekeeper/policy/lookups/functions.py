"""Lookups: all functions of an application that look limits up, and the caches of a policy's rules.

They outlive a policy: after a reload, a rule whose look-up is the same keeps what is known of its buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from weakref import WeakValueDictionary

from ratekeeper.clock import Clock, SystemClock
from ratekeeper.errors import LimitUnavailable, PolicyError, did_you_mean
from ratekeeper.limits import Limit
from ratekeeper.policy.lookups.cache import RETRY_SECONDS, LookupCache
from ratekeeper.policy.lookups.lookup import LimitFunctions, Lookup, LookupStats, function_of
from ratekeeper.policy.lookups.source import LookupSource
from ratekeeper.policy.model import Policy, Rule

_Definition = tuple[tuple[str, ...], Lookup, Limit, object]


def limit_unavailable(rule: str, lookup: Lookup) -> LimitUnavailable:
    """Return the error that refuses a request whose limit is not known."""
    return LimitUnavailable(
        f"rule {rule!r}: its limit 'app:{lookup.name}' cannot be looked up, and its on_lookup_error is 'deny'",
        min(lookup.ttl, RETRY_SECONDS),
    )


class Lookups:
    """The functions by name, for one keeper, or for an application that `shares` them among keepers.

    `awaits` tells whether requests may await.
    """

    def __init__(self, given: LimitFunctions, awaits: bool, shares: bool = False) -> None:
        if not isinstance(given, Mapping):
            raise TypeError(f"limits must be a mapping such as {{'plan': a function}}, not {given!r}")
        self._sources = {name: LookupSource(name, function_of(name, one)) for name, one in given.items()}
        self.awaits = awaits
        self._shares = shares
        self._caches: WeakValueDictionary[_Definition, LookupCache] = WeakValueDictionary()  # those of policies in use
        for source in self._sources.values():
            if source.is_async and not awaits:
                raise TypeError(
                    f"the look-up {source.name!r} is async, which a Keeper cannot await: use AsyncKeeper, or write it "
                    "without async"
                )

    def caches_of(self, policy: Policy, clock: Clock) -> dict[str, LookupCache]:
        """Return the cache of each rule whose limit is looked up. Raise `PolicyError` if a function is missing.

        So it is with a function that no rule reads, unless they are shared: see `check_read`. Stores on different
        clocks share no cache: the age of an answer is by one clock. All system clocks are one.
        """
        axis = SystemClock if type(clock) is SystemClock else id(clock)  # a cache keeps its clock alive
        rules = [(rule, rule.lookup) for rule in policy.rules if rule.lookup is not None]
        self._check_given(policy, rules)
        if not self._shares:
            self.check_read(policy)
        caches: dict[_Definition, LookupCache] = {}
        for rule, lookup in rules:
            definition = rule.key, lookup, rule.limit, axis
            caches[definition] = (
                self._caches.get(definition)
                or caches.get(definition)
                or LookupCache(self._sources[lookup.name], lookup, rule.limit, clock.ticks)
            )
        self._caches.update(caches)
        return {rule.name: caches[rule.key, lookup, rule.limit, axis] for rule, lookup in rules}

    def stats(self) -> dict[str, LookupStats]:
        """Return what the look-ups of each name have done."""
        stats = {}
        # One step of C, unlike `values`, for which a reload in another thread is an error.
        every = [cache for one in self._caches.valuerefs() if (cache := one()) is not None]
        for name, source in self._sources.items():
            caches = [cache for cache in every if cache.source is source]
            known, under_way = sum(len(one.entries) for one in caches), sum(one.under_way for one in caches)
            counts = source.hits[0], source.lookups, source.errors, source.timeouts
            stats[name] = LookupStats(*counts, known, under_way)
        return stats

    def check_read(self, policy: Policy) -> None:
        """Raise `PolicyError` for a function that no rule of a policy reads."""
        read = {rule.lookup.name for rule in policy.rules if rule.lookup is not None}
        if unread := sorted(self._sources.keys() - read):
            raise PolicyError(
                f"{policy.source}: no rule reads the limit {unread[0]!r} that is given: write limit = "
                f"'app:{unread[0]}' in a rule, or give no function of this name"
            )

    def _check_given(self, policy: Policy, rules: Iterable[tuple[Rule, Lookup]]) -> None:
        for rule, lookup in rules:
            if lookup.name not in self._sources:
                near = did_you_mean(lookup.name, self._sources) if self._sources else ""
                raise PolicyError(
                    f"{policy.source}: rule {rule.name!r}: nothing gives the limit 'app:{lookup.name}'{near}. Give a "
                    f"function of the rule's key attributes: limits={{{lookup.name!r}: function}}, or to ratekeeper "
                    f"serve --limits {lookup.name}=package.module:function"
                )


def lookups_of(limits: LimitFunctions | Lookups | None, awaits: bool) -> Lookups:
    """Return the look-ups of an application as they are, or new ones by their functions."""
    return limits if isinstance(limits, Lookups) else Lookups({} if limits is None else limits, awaits)

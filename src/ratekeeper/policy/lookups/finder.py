"""LimitFinder: finds the limits that are looked up for the rules that charge a request. Knows no store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from ratekeeper import core
from ratekeeper.core.known_limits import KnownLimits
from ratekeeper.policy.compiled_rule import CompiledRule
from ratekeeper.policy.lookups.cache import LookupCache, LookupNeeded, Wanted
from ratekeeper.policy.lookups.functions import limit_unavailable

T = TypeVar("T")

Known: TypeAlias = Mapping[tuple[LookupCache, str], KnownLimits]
"""The limits that a request has waited for."""

NOTHING: Known = MappingProxyType({})
"""The default of `known`: the request has not waited."""

Values: TypeAlias = Sequence[str | None]
"""The values of a rule's key, in its order; None where the request lacks one."""


class LimitFinder:
    """Finds limits for the rules of one policy. If it `awaits`, it raises `LookupNeeded`; else it blocks meanwhile."""

    def __init__(self, rules: Sequence[CompiledRule], awaits: bool) -> None:
        self._rules = rules
        self._awaits = awaits

    def of(
        self, matches: Sequence[tuple[int, int, str, int]], values_of: Callable[[CompiledRule], Values], known: Known
    ) -> dict[int, KnownLimits]:
        """Return the limits of the matching rules whose limit is looked up, by the rules' places."""
        found: dict[int, KnownLimits] = {}
        wanted = []
        for place, limit, bucket, _ in matches:
            rule = self._rules[place]
            if limit >= 0 or rule.known is None:
                continue
            limits = known.get((rule.known, bucket)) or rule.known.fresh(bucket)
            if limits is not None and limits.limits:
                found[place] = limits
            else:
                wanted.append((place, bucket, values_of(rule)))
        if wanted:
            found.update(zip([place for place, _, _ in wanted], self.ask(wanted, known), strict=True))
        return found

    def ask(self, wanted: Sequence[tuple[int, str, Values]], known: Known = NOTHING) -> list[KnownLimits]:
        """Return the limits of rules by place, bucket and values of the key. The C core calls this too.

        Raise `LimitUnavailable` if a look-up has failed, and the rule denies requests then.
        """
        request = Wanted()
        for place, bucket, values in wanted:
            rule = self._rules[place]
            assert rule.known is not None
            if (before := known.get((rule.known, bucket))) is not None:
                request.known[rule.known, bucket] = before
                continue
            given = zip(rule.rule.key, values, strict=True)
            request.add(rule.known, bucket, {name: str(value) for name, value in given if value is not None})
        if not request.complete:
            if self._awaits:
                raise LookupNeeded(request)
            request.wait()
        return [self._checked(self._rules[place], bucket, request) for place, bucket, _ in wanted]

    @staticmethod
    def _checked(rule: CompiledRule, bucket: str, request: Wanted) -> KnownLimits:
        cache = rule.known
        assert cache is not None
        found = request.known[cache, bucket]
        if found.limits:
            return found
        if rule.shadow:  # it reports, and refuses nothing
            return core.known_limits((cache.default,), found.stale_at)
        raise limit_unavailable(rule.name, cache.lookup)


async def looked_up(make: Callable[..., T]) -> T:
    """Return a plan. Await the limits that are not known yet."""
    known: dict[tuple[LookupCache, str], KnownLimits] = {}
    while True:
        try:
            return make(known=known)
        except LookupNeeded as needed:
            wanted = needed.wanted
        await wanted.wait_async()
        known.update(wanted.known)

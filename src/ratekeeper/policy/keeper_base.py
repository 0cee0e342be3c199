"""Keeping: the base of both keepers, a compiled policy that another may replace at any time."""

from __future__ import annotations

from typing import Any

from ratekeeper.decision import Charge, scope_of
from ratekeeper.errors import PolicyError, did_you_mean
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.forks import OfOneProcess
from ratekeeper.limits import TokenBucket
from ratekeeper.policy.compiled import CompiledPolicy
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.lookups.functions import Lookups
from ratekeeper.policy.lookups.lookup import MOST_LIMITS, LookupStats
from ratekeeper.policy.model import Policy, checked_policy
from ratekeeper.stores.base import Store
from ratekeeper.stores.redis.fallback import NODES_NEEDED
from ratekeeper.stores.spec import MEMORY, StoreSpec

MEMORY_SPEC = StoreSpec(MEMORY)
PROBE = Charge.of(scope_of("ratekeeper"), "ready", TokenBucket(1, 1), 0, on_error="raise")


class Keeping(OfOneProcess):
    """The base of both keepers: the compiled policy, which another may replace at any time."""

    _instead = "make one in each process, of the same policy"
    store: Any  # each keeper declares the type
    compiled: CompiledPolicy
    _local: Store | None  # the store, if its answers come at once
    _lookups: Lookups

    @property
    def policy(self) -> Policy:
        """The policy that it decides by."""
        return self.compiled.policy

    def replace(self, policy: Policy) -> None:
        """Decide by another policy from now on. A request under way ends by the policy that it began with.

        The store stays, even if the policy has another [store], and so does each bucket's debt: see docs/policy.md.
        Any thread may call this. Raise `PolicyError`, and change nothing, for a policy that this keeper cannot use.
        """
        self.compiled = self._compiled(policy)

    def _compiled(self, policy: Policy) -> CompiledPolicy:
        """Return a policy, compiled for the store. Raise `PolicyError` for a rule that the store could not decide."""
        if not getattr(self.store, "knows_nodes", True):  # else each request of the rule would be the error
            for rule in checked_policy(policy).rules:
                if rule.on_error == "local":
                    raise PolicyError(f"{policy.source}: rule {rule.name!r}: {NODES_NEEDED}")
        return CompiledPolicy(policy, self._local, lookups=self._lookups)

    @property
    def lookups(self) -> dict[str, LookupStats]:
        """The counts of the look-ups of limits since the start, by their names in `limits`."""
        return self._lookups.stats()

    def _scopes_of_rule(self, name: str) -> list[str]:
        """Return the scopes of a rule, one for each of its limits. Raise ValueError for an unknown rule."""
        rules = {rule.name: rule for rule in self.compiled.rules}
        if name not in rules:
            raise ValueError(f"the policy has no rule {name!r}{did_you_mean(str(name), rules)}")
        looked_up = rules[name].known is not None
        return [scope_of(name, place) for place in range(MOST_LIMITS if looked_up else 1)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.policy!r}, store={type(self.store).__name__})"


def admitted(decision: PolicyDecision) -> PolicyDecision:
    """Return a decision that allows. Raise `RateLimitExceeded` for another."""
    if not decision.allowed:
        raise RateLimitExceeded(decision)
    return decision

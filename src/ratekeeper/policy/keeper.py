"""Keeper: a policy put to work on a store. It knows no HTTP.

Its verbs are a limiter's, with a request's attributes in place of a key. `compiled` finds the charges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike

from ratekeeper.adjustment import Adjustment, Until, block, forget, grant, ticks_until, unblock
from ratekeeper.coroutines import run_sync
from ratekeeper.decision import Charge
from ratekeeper.limits import Limit, wait_ticks
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.keeper_base import MEMORY_SPEC, PROBE, Keeping, admitted
from ratekeeper.policy.lookups.functions import Lookups, lookups_of
from ratekeeper.policy.lookups.lookup import LimitFunctions
from ratekeeper.policy.model import Policy, policy_of
from ratekeeper.policy.plan import RuleExplanation
from ratekeeper.policy.refunds import charges_to_refund
from ratekeeper.policy.support import RuleNames, chosen, chosen_to_block, chosen_to_grant, usage_of
from ratekeeper.stores.as_async import as_async
from ratekeeper.stores.base import Store, require_sync
from ratekeeper.stores.by_hand import adjust_buckets, reset_scopes
from ratekeeper.stores.spec import StoreSpec, opened
from ratekeeper.usage import Usage
from ratekeeper.verbs import with_hints
from ratekeeper.waiting.turns import Reservation, reserve, take_turn


@with_hints
class Keeper(Keeping):
    """Decide requests by a policy: every rule that matches is charged, or none is.

    `policy` is a policy, or the path of its file. `store` holds the buckets: a store, or a string as for `Limiter`. By
    default it is the one that the policy chooses, or else a new `MemoryStore`. `limits` has the functions, by name, for
    rules with `limit = "app:NAME"`; a `LookupFunction` sets their bounds. A request is a mapping of attributes. `cost`
    multiplies each rule's own cost. Thread-safe.

    All verbs raise `CostError` if the attribute for a rule's cost is not a number, and TypeError if an attribute that a
    rule looks at is not a string.

    >>> policy = Policy.parse('''
    ... [[rules]]
    ... name = "each user"
    ... key = ["user"]
    ... limit = "10/minute"
    ... ''')
    >>> keeper = Keeper(policy)
    >>> decision = keeper.try_acquire({"user": "alice"})
    >>> decision.allowed, decision.remaining
    (True, 9)
    """

    def __init__(
        self,
        policy: Policy | str | PathLike[str],
        store: Store | str | None = None,
        *,
        limits: LimitFunctions | Lookups | None = None,
    ) -> None:
        policy = policy_of(policy)
        self._lookups = lookups_of(limits, awaits=False)
        own = (policy.store or MEMORY_SPEC).open() if store is None else opened(store, StoreSpec.open)
        self.store: Store = require_sync(own, "Keeper")
        self._local = self.store
        self.compiled = self._compiled(policy)

    def try_acquire(self, attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision:
        """Decide one request and charge it if it is allowed: true if it may go ahead at this moment. Never blocks.

        A request that would have to wait is refused, also where a rule's `max_wait` or queue would let it wait.
        """
        return self.compiled.try_acquire(attributes, cost)  # type: ignore[misc]  # it has a local store

    def acquire(self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None) -> PolicyDecision:
        """Wait for the request's turn, as long as its rules' `max_wait` and `timeout` (seconds) allow.

        Raise `RateLimitExceeded` at once if the request is refused, or if its turn would come later. If the wait is
        interrupted, the place is given back, and those behind move up; see docs/waiting.md.
        """
        wait_ticks(timeout)  # a bad one is an error, whether or not the request must wait
        compiled = self.compiled
        decision = compiled.try_acquire(attributes, cost)  # type: ignore[misc]  # it has a local store
        if decision.allowed:
            return decision
        plan = compiled.plan(attributes, cost, timeout)
        return admitted(plan.answer(take_turn(self.store, plan.charges)))

    def reserve(
        self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None
    ) -> Reservation[PolicyDecision]:
        """Take the request's turn, and return at once: `delay` says when it comes.

        A turn that `acquire` would not wait for is not taken: then the reservation is false. It may be cancelled, and
        as a context manager waits for its turn.
        """
        wait_ticks(timeout)
        plan = self.compiled.plan(attributes, cost, timeout)
        return run_sync(reserve(as_async(self.store), plan.charges, plan.answer, blocking=self.store))

    def peek(self, attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision:
        """Return what `try_acquire` would answer now, charging nothing: `remaining` is the number of tokens left."""
        plan = self.compiled.plan(attributes, cost, 0)
        return plan.answer(self.store.decide(plan.charges, commit=False))

    def usage(self, attributes: Mapping[str, str]) -> list[Usage]:
        """Return the usage of each limit that the request would be charged to, in the file's order."""
        plan = self.compiled.buckets(attributes)
        return usage_of(plan, self.store.decide(plan.charges, commit=False), self.store.wait_queue.waiting_at)

    def refund(self, decision: PolicyDecision) -> None:
        """Give back an allowed request's charges, less the tokens that have refilled since. Give nothing back twice.

        A leaky bucket gets its place back if no request has come since. A refused request has nothing to give back.
        """
        tokens, places, at = charges_to_refund(decision)
        if tokens:
            self.store.refund(tokens, at)
        for place in places:
            self.store.rewind(*place)

    def reset(self, attributes: Mapping[str, str], rule: RuleNames | None = None) -> None:
        """Forget the debts and blocks of the buckets that the request would be charged to: they are full again.

        `rule` is the name of a rule, or several names: only their buckets. Raise ValueError if such a rule does not
        charge the request.
        """
        self._adjust(chosen(self.compiled, attributes, rule), forget)

    def grant(self, attributes: Mapping[str, str], tokens: int, rule: RuleNames | None = None) -> None:
        """Give the request's bucket that many tokens, up to a full bucket: see `Limiter.grant`.

        `rule` is the name of a rule, or several names. If several rules charge the request, it must be given.
        """
        self._adjust(chosen_to_grant(self.compiled, attributes, rule), partial(grant, tokens=tokens))

    def block(self, attributes: Mapping[str, str], until: Until, rule: RuleNames | None = None) -> None:
        """Refuse all requests of this bucket until then: see `Limiter.block`.

        `rule` is as for `grant`, and must be given for a rule without a key too: its block refuses everybody. Raise
        ValueError for a rule in shadow, and if the attributes lack a part of the rule's key.
        """
        self._adjust(chosen_to_block(self.compiled, attributes, rule), partial(block, ticks=ticks_until(until)))

    def unblock(self, attributes: Mapping[str, str], rule: RuleNames | None = None) -> None:
        """End a block of the request's buckets, or of those of `rule`: see `Limiter.unblock`."""
        self._adjust(chosen(self.compiled, attributes, rule), unblock)

    def reset_rule(self, name: str) -> None:
        """Forget the debts and blocks of all buckets of a rule. On a server this looks at all names there, in steps."""
        run_sync(reset_scopes(as_async(self.store), self._scopes_of_rule(name)))

    def _adjust(self, charges: list[Charge], adjust: Callable[[Limit], Adjustment]) -> None:
        run_sync(adjust_buckets(as_async(self.store), charges, adjust))

    def explain(self, attributes: Mapping[str, str], cost: int = 1) -> list[RuleExplanation]:
        """Return each rule's decision, or why it does not apply, in the file's order. Charge nothing."""
        plan = self.compiled.explain(attributes, cost)
        return plan.answer(self.store.decide(plan.charges, commit=False))

    def ready(self) -> None:
        """Return if the store can decide. Raise `StoreUnavailable` if it does not answer."""
        self.store.decide([PROBE], commit=False)

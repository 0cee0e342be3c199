"""Keeper and AsyncKeeper: a policy put to work on a store. They know no file and no HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from ratekeeper.decision import Charge, scope_of
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.limits import TokenBucket, wait_ticks
from ratekeeper.policy.compiled import CompiledPolicy, Plan, RuleExplanation, checked
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.model import Policy
from ratekeeper.refund import claim_refund
from ratekeeper.stores.as_async import as_async
from ratekeeper.stores.base import AsyncStore, Store, is_async, require_nonblocking, require_sync
from ratekeeper.stores.spec import MEMORY, StoreSpec
from ratekeeper.waiting.turns import take_turn, take_turn_async

_OWN = StoreSpec(MEMORY)
_LOOK = Charge.of(scope_of("ratekeeper"), "ready", TokenBucket(1, 1), 0, on_error="raise")


class Keeper:
    """Decide requests by a policy: every rule that matches is charged, or none is.

    `store` is where the buckets live: by default the one that the policy chooses, or else a `MemoryStore` of its own.
    Thread-safe.

    >>> policy = Policy.parse('''
    ... [[rules]]
    ... name = "each user"
    ... key = ["user"]
    ... limit = "10/minute"
    ... ''')
    >>> decision = Keeper(policy).check({"user": "alice"})
    >>> decision.allowed, decision.remaining
    (True, 9)
    """

    def __init__(self, policy: Policy, store: Store | None = None) -> None:
        self.store: Store = (
            require_sync(store, "Keeper") if store is not None else (checked(policy).store or _OWN).open()
        )
        self.compiled = CompiledPolicy(policy, self.store)

    @property
    def policy(self) -> Policy:
        """What it decides by."""
        return self.compiled.policy

    def replace(self, policy: Policy) -> None:
        """Decide by another policy from now on; a request under way ends by the one that it began with.

        The store stays, whatever the policy's [store] says, and with it what each bucket owes; see docs/policy.md.
        """
        self.compiled = CompiledPolicy(policy, self.store)

    def check(self, attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision:
        """Decide one request and charge it if it is allowed. Never blocks; `delay` says how long it must wait.

        `cost` multiplies each rule's own. Raises `CostError` if an attribute that should be a rule's cost is no number,
        TypeError if one that a rule looks at is no str.
        """
        compiled = self.compiled
        if compiled.lone is not None and cost.__class__ is int and cost == 1:
            return compiled.lone.check(attributes)
        plan = compiled.plan(attributes, cost)
        return plan.answer(self.store.decide(plan.charges))

    def acquire(self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None) -> PolicyDecision:
        """Wait for the request's turn, as long as its rules' `max_wait` and `timeout` (seconds) allow.

        Raises `RateLimitExceeded` at once if it is refused, or if its turn would come later. If the wait is
        interrupted, the place is given back, and those behind move up; see docs/waiting.md.
        """
        plan = _plan_to_wait(self.compiled, attributes, cost, timeout)
        return _admitted(plan.answer(take_turn(self.store, plan.charges)))

    def refund(self, decision: PolicyDecision) -> None:
        """Give back what an allowed request was charged, less what has refilled since; nothing twice.

        A leaky bucket gets its place back if nobody has come since. A refused decision has nothing to give.
        """
        tokens, places, at = _to_give_back(decision)
        if tokens:
            self.store.refund(tokens, at)
        for place in places:
            self.store.rewind(*place)

    def ready(self) -> None:
        """Return if the store can decide. Raises `StoreUnavailable` if it does not answer."""
        self.store.decide([_LOOK], commit=False)

    def explain(self, attributes: Mapping[str, str], cost: int = 1) -> list[RuleExplanation]:
        """Say of each rule, in the file's order, whether it applies and what it would decide. Charges nothing."""
        plan = self.compiled.explain(attributes, cost)
        return plan.answer(self.store.decide(plan.charges, commit=False))


class AsyncKeeper:
    """`Keeper` for asyncio: the same arguments and verbs, awaited.

    `store` may also be one that must be awaited, such as one on the network.
    """

    def __init__(self, policy: Policy, store: Store | AsyncStore | None = None) -> None:
        self.store: Store | AsyncStore = store if store is not None else (checked(policy).store or _OWN).open_async()
        self._store = as_async(require_nonblocking(self.store))
        # A local store's answer comes at once: to await it would cost as much as the decision.
        self._at_once = None if is_async(self.store) else require_sync(self.store, "Keeper")
        self._decide = self._at_once.decide if self._at_once else None
        self.compiled = CompiledPolicy(policy, self._at_once)

    @property
    def policy(self) -> Policy:
        """What it decides by."""
        return self.compiled.policy

    def replace(self, policy: Policy) -> None:
        """As `Keeper.replace`. Any thread may call it."""
        self.compiled = CompiledPolicy(policy, self._at_once)

    async def check(self, attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision:
        """As `Keeper.check`."""
        compiled = self.compiled
        if compiled.lone is not None and cost.__class__ is int and cost == 1:
            return compiled.lone.check(attributes)
        plan = compiled.plan(attributes, cost)
        decide = self._decide
        return plan.answer(decide(plan.charges) if decide else await self._store.decide(plan.charges))

    async def acquire(
        self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None
    ) -> PolicyDecision:
        """As `Keeper.acquire`. A waiting task that is cancelled gives its place back."""
        plan = _plan_to_wait(self.compiled, attributes, cost, timeout)
        return _admitted(plan.answer(await take_turn_async(self._store, plan.charges)))

    async def refund(self, decision: PolicyDecision) -> None:
        """As `Keeper.refund`."""
        tokens, places, at = _to_give_back(decision)
        if tokens:
            await self._store.refund(tokens, at)
        for place in places:
            await self._store.rewind(*place)

    async def ready(self) -> None:
        """As `Keeper.ready`."""
        await self._store.decide([_LOOK], commit=False)

    async def explain(self, attributes: Mapping[str, str], cost: int = 1) -> list[RuleExplanation]:
        """As `Keeper.explain`."""
        plan = self.compiled.explain(attributes, cost)
        return plan.answer(await self._store.decide(plan.charges, commit=False))


def _plan_to_wait(compiled: CompiledPolicy, attributes: Mapping[str, str], cost: int, timeout: float | None) -> Plan:
    """Plan for a caller who waits; raise at once for one that can only be refused."""
    wait_ticks(timeout)
    plan = compiled.plan(attributes, cost, timeout)
    if plan.missing is not None:
        raise RateLimitExceeded(plan.answer([]))
    return plan


def _admitted(decision: PolicyDecision) -> PolicyDecision:
    if not decision.allowed:
        raise RateLimitExceeded(decision)
    return decision


def _to_give_back(decision: PolicyDecision) -> tuple[list[Charge], list[tuple[str, str | bytes, int, int]], int]:
    """Return the tokens to refund, the places in leaky buckets to rewind, and when they were charged.

    Note that they are given back, so that they are not given twice.
    """
    tokens: list[Charge] = []
    places: list[tuple[str, str | bytes, int, int]] = []
    times: list[int] = []
    for name, one, _ in decision.rules if decision.allowed else ():
        # A rule in shadow may have refused, and a store that did not answer has charged nothing.
        given = claim_refund(one) if one.allowed and one.source == "exact" else 0
        if not given:
            continue
        charge = Charge.of(scope_of(name), one.key, one.limit, given)
        times.append(one.at_ticks)
        if one.limit.queues:
            tat = one.at_ticks + one.debt_ticks
            places.append((charge.scope, one.key, tat, tat - charge.increment))
        else:
            tokens.append(charge)
    return tokens, places, min(times, default=0)

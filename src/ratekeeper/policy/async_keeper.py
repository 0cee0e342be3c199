"""AsyncKeeper: `Keeper` for asyncio. It knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from os import PathLike

from ratekeeper.adjustment import Adjustment, Until, block, forget, grant, ticks_until, unblock
from ratekeeper.coroutines import pending
from ratekeeper.decision import Charge
from ratekeeper.limits import Limit, wait_ticks
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.keeper_base import MEMORY_SPEC, PROBE, Keeping, admitted
from ratekeeper.policy.lookups.cache import LookupNeeded
from ratekeeper.policy.lookups.finder import looked_up
from ratekeeper.policy.lookups.functions import Lookups, lookups_of
from ratekeeper.policy.lookups.lookup import LimitFunctions
from ratekeeper.policy.model import Policy, policy_of
from ratekeeper.policy.plan import RuleExplanation
from ratekeeper.policy.refunds import charges_to_refund
from ratekeeper.policy.support import RuleNames, chosen, chosen_to_block, chosen_to_grant, usage_of
from ratekeeper.stores.as_async import as_async
from ratekeeper.stores.base import AsyncStore, Store, is_async, require_nonblocking, require_sync
from ratekeeper.stores.by_hand import adjust_buckets, reset_scopes
from ratekeeper.stores.spec import StoreSpec, opened
from ratekeeper.usage import Usage
from ratekeeper.verbs import with_hints
from ratekeeper.waiting.turns import Reservation, reserve, take_turn_async


@with_hints
class AsyncKeeper(Keeping):
    """`Keeper` for asyncio: the same arguments and verbs, awaited. Waiting lets the event loop go on.

    The truth of a verb that decides is a TypeError until it is awaited, so that a forgotten `await` allows nothing.

    `store` may also be one that must be awaited, such as one on the network. The functions of `limits` may be async;
    others run in threads.

    >>> import asyncio
    >>> keeper = AsyncKeeper(Policy.parse('rules = [{name = "all", limit = "1/hour"}]'))
    >>> async def ask() -> list[bool]:
    ...     return [(await keeper.try_acquire({})).allowed for _ in range(2)]
    >>> asyncio.run(ask())
    [True, False]
    """

    def __init__(
        self,
        policy: Policy | str | PathLike[str],
        store: Store | AsyncStore | str | None = None,
        *,
        limits: LimitFunctions | Lookups | None = None,
    ) -> None:
        policy = policy_of(policy)
        self._lookups = lookups_of(limits, awaits=True)
        self.store: Store | AsyncStore = (
            (policy.store or MEMORY_SPEC).open_async() if store is None else opened(store, StoreSpec.open_async)
        )
        self._store = as_async(require_nonblocking(self.store))
        # A local store's answer comes at once: to await it would cost as much as the decision.
        self._local = None if is_async(self.store) else require_sync(self.store, "Keeper")
        self.compiled = self._compiled(policy)

    @pending
    async def try_acquire(self, attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision:
        """As `Keeper.try_acquire`."""
        compiled = self.compiled
        if compiled.try_acquire is not None:
            try:
                return compiled.try_acquire(attributes, cost)
            except LookupNeeded:
                pass
        plan = await looked_up(partial(compiled.plan, attributes, cost, 0))
        return plan.answer(await self._store.decide(plan.charges))

    @pending
    async def acquire(
        self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None
    ) -> PolicyDecision:
        """As `Keeper.acquire`. A waiting task that is cancelled gives its place back."""
        wait_ticks(timeout)
        compiled = self.compiled
        if compiled.try_acquire is not None:
            with suppress(LookupNeeded):
                decision = compiled.try_acquire(attributes, cost)
                if decision.allowed:
                    return decision
        plan = await looked_up(partial(compiled.plan, attributes, cost, timeout))
        return await take_turn_async(self._store, plan.charges, lambda decisions: admitted(plan.answer(decisions)))

    @pending
    async def reserve(
        self, attributes: Mapping[str, str], cost: int = 1, timeout: float | None = None
    ) -> Reservation[PolicyDecision]:
        """As `Keeper.reserve`; a context manager for `async with` only."""
        wait_ticks(timeout)
        plan = await looked_up(partial(self.compiled.plan, attributes, cost, timeout))
        return await reserve(self._store, plan.charges, plan.answer)

    @pending
    async def peek(self, attributes: Mapping[str, str], cost: int = 1) -> PolicyDecision:
        """As `Keeper.peek`."""
        plan = await looked_up(partial(self.compiled.plan, attributes, cost, 0))
        return plan.answer(await self._store.decide(plan.charges, commit=False))

    async def usage(self, attributes: Mapping[str, str]) -> list[Usage]:
        """As `Keeper.usage`."""
        plan = await looked_up(partial(self.compiled.buckets, attributes))
        looks = await self._store.decide(plan.charges, commit=False)
        return usage_of(plan, looks, self._store.wait_queue.waiting_at)

    async def refund(self, decision: PolicyDecision) -> None:
        """As `Keeper.refund`."""
        tokens, places, at = charges_to_refund(decision)
        if tokens:
            await self._store.refund(tokens, at)
        for place in places:
            await self._store.rewind(*place)

    async def reset(self, attributes: Mapping[str, str], rule: RuleNames | None = None) -> None:
        """As `Keeper.reset`."""
        await self._adjust(partial(chosen, self.compiled, attributes, rule), forget)

    async def grant(self, attributes: Mapping[str, str], tokens: int, rule: RuleNames | None = None) -> None:
        """As `Keeper.grant`."""
        await self._adjust(partial(chosen_to_grant, self.compiled, attributes, rule), partial(grant, tokens=tokens))

    async def block(self, attributes: Mapping[str, str], until: Until, rule: RuleNames | None = None) -> None:
        """As `Keeper.block`."""
        await self._adjust(
            partial(chosen_to_block, self.compiled, attributes, rule), partial(block, ticks=ticks_until(until))
        )

    async def unblock(self, attributes: Mapping[str, str], rule: RuleNames | None = None) -> None:
        """As `Keeper.unblock`."""
        await self._adjust(partial(chosen, self.compiled, attributes, rule), unblock)

    async def reset_rule(self, name: str) -> None:
        """As `Keeper.reset_rule`."""
        await reset_scopes(self._store, self._scopes_of_rule(name))

    async def _adjust(self, choose: Callable[..., list[Charge]], adjust: Callable[[Limit], Adjustment]) -> None:
        await adjust_buckets(self._store, await looked_up(choose), adjust)

    async def explain(self, attributes: Mapping[str, str], cost: int = 1) -> list[RuleExplanation]:
        """As `Keeper.explain`."""
        plan = await looked_up(partial(self.compiled.explain, attributes, cost))
        return plan.answer(await self._store.decide(plan.charges, commit=False))

    async def ready(self) -> None:
        """As `Keeper.ready`."""
        await self._store.decide([PROBE], commit=False)

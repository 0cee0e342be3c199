"""ServiceLimiter: charges requests of gateways, and questions of programs. Knows no protocol and no connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, cast

from ratekeeper.decision import Charge, Decision
from ratekeeper.errors import PolicyError, RatekeeperError
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.http.exchange import Exchange
from ratekeeper.http.limiter import REFUSALS, AsyncRequestLimiter
from ratekeeper.http.request_policy import RequestPolicy
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.lookups.finder import looked_up
from ratekeeper.stores.base import AsyncStore, Store, is_async


class CheckRequest(NamedTuple):
    """The question of a program about a request.

    attributes  the request's attributes
    cost        the tokens that it takes: each rule's own, times this
    timeout     seconds that it may wait for its turn, None for as long as its rules allow; with 0 it must not wait
    wait        the service holds the answer until the turn; else it answers at once, and the program waits
    """

    attributes: dict[str, str]
    cost: int = 1
    timeout: float | None = 0
    wait: bool = True


class ProgramExchange(Exchange):
    """A request whose attributes and cost a program states. The program, its peer, is not a client."""

    def __init__(self, limiter: ServiceLimiter, asked: CheckRequest) -> None:
        super().__init__(limiter)
        self._attributes = asked.attributes
        self.cost = asked.cost
        self.timeout = asked.timeout
        self.waits = asked.wait

    @property
    def native(self) -> ProgramExchange:
        return self

    @property
    def method(self) -> str:
        return self._attributes.get("method", "GET")

    @property
    def path(self) -> str:
        return self._attributes.get("path", "/")

    @property
    def peer(self) -> None:
        return None

    def read(self, reader: AttributeReader) -> dict[str, str]:
        return reader.respell(self._attributes)

    def time_left(self) -> float | None:
        return self.timeout


class ServiceLimiter(AsyncRequestLimiter):
    """A limiter for gateways and programs. Its policy may look at attributes that only programs can state."""

    def _check(self, policy: RequestPolicy[AsyncKeeper]) -> None:
        if policy.lacking and self.in_use is not None and not self.in_use.lacking:
            raise PolicyError(
                f"{policy.keeper.policy.source}: nothing in a gateway's request tells {policy.lacking[0]!r}: say in "
                "[attributes] which header does. If only programs ask, at /v1/check, restart the service"
            )

    async def charge_together(self, exchange: Exchange, asked: Sequence[CheckRequest]) -> RatekeeperError | None:
        policy = cast("RequestPolicy[AsyncKeeper]", self.in_use)
        try:
            spelled = [(policy.keeper, policy.reader.respell(one.attributes), one.cost) for one in asked]
            plans = [await looked_up(partial(policy.keeper.compiled.plan, *each[1:], 0)) for each in spelled]
            charges = [charge for plan in plans for charge in plan.charges]
            # One that is refused without the store refuses all, so nothing may be charged.
            commit = not any(plan.refuses for plan in plans)
            decisions = iter(await decide_async(self.store, charges, commit))
        except REFUSALS as error:
            return error
        refusal = None
        for plan, each in zip(plans, spelled, strict=True):
            exchange.asked = each
            own = plan.answer([next(decisions) for _ in plan.charges])
            refusal = self._noted(exchange, own, None) or refusal
        return refusal

    async def _wait(
        self,
        policy: RequestPolicy[AsyncKeeper],
        exchange: Exchange,
        attributes: dict[str, str],
        cost: int,
        decision: PolicyDecision,
    ) -> PolicyDecision:
        """Decide a request that may have to wait; a program's by the verb that it asks for."""
        if isinstance(exchange, ProgramExchange):
            if exchange.timeout == 0:
                return decision
            if not exchange.waits:
                return await self._reserve(policy.keeper, exchange.timeout, attributes, cost)
        return await super()._wait(policy, exchange, attributes, cost, decision)

    async def _reserve(
        self, keeper: AsyncKeeper, timeout: float | None, attributes: dict[str, str], cost: int
    ) -> PolicyDecision:
        """Take a turn for a program that waits for it by itself. Until the turn, it counts as one that waits here."""
        client, held, delay = attributes.get("client"), self._held_here(), 0.0
        if not held.enter(client):
            return await keeper.try_acquire(attributes, cost)
        try:
            reservation = await keeper.reserve(attributes, cost, timeout)
            delay = reservation.delay if reservation else 0.0
        finally:
            if delay:
                asyncio.get_running_loop().call_later(delay, held.leave, client)
            else:
                held.leave(client)
        return reservation.decision


async def decide_async(store: Store | AsyncStore, charges: Sequence[Charge], commit: bool = True) -> list[Decision]:
    """Return the decisions of any store."""
    if is_async(store):
        return await store.decide(charges, commit=commit)
    return cast("Store", store).decide(charges, commit=commit)

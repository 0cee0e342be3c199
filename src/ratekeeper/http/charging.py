"""Charging: charge requests, and answer refusals. Knows no framework, and not whether a framework calls or awaits.

A framework's adapter makes an `Exchange` of each request and charges it. A refusal comes back as a value: the error
that an endpoint's own limit would raise. The adapter sends the `answer` to it in place of the application's response.
It adds `exchange.limit_headers()` to every response.

Everything is written once, as coroutines. In a framework that calls, they never suspend.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from ratekeeper.errors import BadRequestError, ClientDisconnected, CostError, RatekeeperError, StoreUnavailable
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http import rate_limit as rate_limits
from ratekeeper.http.application import ApplicationLimits
from ratekeeper.http.attributes import put_attribute
from ratekeeper.http.endpoints import Marks, is_preflight, marks_of
from ratekeeper.http.exchange import MOST_DECISIONS, Asked, Exchange, RequestFunction, answers_to
from ratekeeper.http.header_styles import dated
from ratekeeper.http.held import HeldRequests
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.request_policy import K, RequestPolicy
from ratekeeper.http.responses import Response, response_to
from ratekeeper.limits import checked_cost
from ratekeeper.policy.decision import PolicyDecision, as_policy_decision

T = TypeVar("T")

AwaitedCharge: TypeAlias = Coroutine[Any, Any, RatekeeperError | None]
"""A charge to be awaited. It returns None, or the refusal."""

REFUSALS = (RateLimitExceeded, StoreUnavailable, CostError, BadRequestError, ClientDisconnected)
"""The errors that refuse a request. Each has a response."""


def refusal_in(error: Exception) -> RatekeeperError | None:
    """Return the refusal that an error is, or the first one of a group of refusals alone; None for all others."""
    while isinstance(error, ExceptionGroup):  # of the tasks of a TaskGroup
        if error.split(REFUSALS)[1] is not None:
            return None
        error = error.exceptions[0]
    return error if isinstance(error, REFUSALS) else None


class Charging(ApplicationLimits[K]):
    """The common part of both limiters. They differ in how they call the user's functions and the keeper."""

    def charge_now(self, exchange: Exchange) -> RatekeeperError | AwaitedCharge | None:
        """Charge a request by the policy as `charge_async` does: at once, if nothing must be awaited.

        Return None, or the refusal; else a coroutine of it. Most requests need none, and a coroutine costs as much as
        the decision.
        """
        policy = self.in_use
        if policy is None or policy.plain is None or not self._is_plain or rate_limits.any_mark:
            return self.charge_async(exchange)
        decide, tokens = policy.plain
        try:
            attributes = exchange.read(policy.reader)
            cost = tokens * exchange.cost
            exchange.asked = policy.keeper, attributes, cost
            decision = decide(attributes, cost)
        except REFUSALS as error:
            return error
        if policy.waiting_rules and not decision.allowed and (not exchange.waits or policy.lets_wait(decision)):
            return self._waited(policy, exchange, attributes, cost, decision)
        return self._noted(exchange, decision, None)

    async def charge_async(
        self, exchange: Exchange, limit: rate_limit | None = None, part: RequestPolicy[K] | None = None
    ) -> RatekeeperError | None:
        """Charge a request by the policy, by a `part` of it, or by an endpoint's `limit`.

        Wait for its turn, if a rule lets it wait. Return None, or the refusal, one of `REFUSALS`.
        """
        policy = part or (self.in_use if limit is None else self.policy_of(limit))
        if policy is None or not self._enabled:
            return None
        try:
            if self._exempt is not None and await self._ask(self._exempt, exchange):
                return None
            if (
                limit is None
                and part is None
                and (rate_limits.any_mark or self._exempts_preflights)
                and (marks := self._marks_of(exchange)) is not None
            ):
                return await self._charge_marked(exchange, marks)
            if limit is not None and limit.limit is not None:
                limit = limit.by_answer(await self._ask(limit.limit, exchange))
                policy = self.policy_of(limit)
            attributes = exchange.read(policy.reader)
            if policy.constants or policy.functions:
                await self._add_own(attributes, policy, exchange)
            cost = policy.cost if isinstance(policy.cost, int) else checked_cost(await self._ask(policy.cost, exchange))
            cost = cost * exchange.cost
            if limit is None and part is None:
                exchange.asked = policy.keeper, attributes, cost
            else:
                self._note_other(exchange, limit, (policy.keeper, attributes, cost))
            if policy.at_once is not None:
                decision = policy.at_once(attributes, cost)
            else:
                decision = await self.call(policy.keeper.try_acquire, attributes, cost)
        except REFUSALS as error:
            return error
        if policy.waiting_rules and not decision.allowed:
            return await self._waited(policy, exchange, attributes, cost, decision, limit)
        return self._noted(exchange, decision, limit)

    async def _waited(
        self,
        policy: RequestPolicy[K],
        exchange: Exchange,
        attributes: dict[str, str],
        cost: int,
        decision: PolicyDecision,
        limit: rate_limit | None = None,
    ) -> RatekeeperError | None:
        """Let a request that is refused at this moment wait, if it may, and note the decision."""
        try:
            decision = await self._wait(policy, exchange, attributes, cost, decision)
        except REFUSALS as error:
            return error
        return self._noted(exchange, decision, limit)

    def _noted(self, exchange: Exchange, decision: PolicyDecision, limit: rate_limit | None) -> RatekeeperError | None:
        """Note a decision. Return the refusal of its request; None if a limit leaves it to the application."""
        decisions = exchange.decisions
        decisions.append(decision)
        if len(decisions) > MOST_DECISIONS:  # a long websocket has very many: the first are forgotten
            del decisions[0]
        if self._observers:
            native = exchange.native
            for observe in self._observers:
                observe(native, decision)
        if self.recorded is not None:
            self.recorded(exchange.asked, decision)
        if decision.allowed:
            return None
        exchange.tell_around(decision)
        if self.refused is not None:
            self.refused(exchange.asked, decision)
        if limit is None or limit.enforce:
            return RateLimitExceeded(decision)
        exchange.leave(answers_to(decision))
        return None

    async def _charge_marked(self, exchange: Exchange, marks: Marks) -> RatekeeperError | None:
        """Charge a request by the rules that limit its endpoint, and then by the limits in place of the others."""
        part, exchange.left_out = self.policy_beside(marks)
        exchange.watched = True
        if part is not None and (refusal := await self.charge_async(exchange, None, part)) is not None:
            return refusal
        for limit in marks.replacing:
            if (refusal := await self.charge_async(exchange, limit)) is not None:
                return refusal
        exchange.prepaid = marks.replacing
        exchange.replaced_later = exchange.left_out & marks.replaced_later
        return None

    async def charge_replaced_async(self, exchange: Exchange) -> RatekeeperError | None:
        """Charge a request by the rules whose place its endpoint's throttle takes, as that was never called."""
        part, exchange.replaced_later = self.policy_of_rules(exchange.replaced_later), frozenset()
        return None if part is None else await self.charge_async(exchange, None, part)

    async def charge_left_out_async(self, exchange: Exchange) -> RatekeeperError | None:
        """Charge a request by the rules that its endpoint leaves out, as another endpoint has answered it."""
        part, exchange.left_out = self.policy_of_rules(exchange.left_out), frozenset()
        return None if part is None else await self.charge_async(exchange, None, part)

    def _marks_of(self, exchange: Exchange) -> Marks | None:
        """Return the marks of the request's endpoint; None if it has none. By option, a preflight is exempt."""
        if self._exempts_preflights and is_preflight(exchange):
            return Marks(True, (), frozenset())
        functions = exchange.functions()
        marks = marks_of(functions, exchange.method) if functions else None
        if marks and exchange.limited_inside:
            marks = Marks(marks.exempt, (), frozenset())
        return marks if marks and any(marks) else None

    async def answer_async(self, exchange: Exchange, refusal: RatekeeperError) -> Any:
        """Return the `Response` to a refusal, or the framework's own response that `rejection` has made.

        A refused request costs nothing: the charges of earlier limits are given back.
        """
        await self.give_back_async(exchange)
        if isinstance(refusal, RateLimitExceeded):
            exchange.tell_around()
            decision = as_policy_decision(refusal.decision)
            if decision not in exchange.decisions:  # the application's own limiter made it
                exchange.decisions.append(decision)
            if (rejection := self._rejection) is not None:
                own = await self._awaited(rejection(exchange.native, decision), rejection)
                if own is not None:
                    return own
        return self.response_to(refusal)

    def response_to(self, refusal: RatekeeperError) -> Response:
        """Return the usual response to a refusal. Raise an error that is not a refusal."""
        response = response_to(refusal)
        return response if self.styles is None else response._replace(headers=dated(response.headers, self.styles))

    def _note_other(self, exchange: Exchange, limit: rate_limit | None, asked: Asked) -> None:
        """Note a question to another keeper than the policy's.

        Raise `PolicyError` if it is that of an endpoint's limit which cannot count right for the request.
        """
        if limit is not None:
            limit.check_replaced(exchange)
            if not limit.named:
                self._owners.claim(limit, asked[1].get("endpoint"))
        exchange.note_other(asked)

    async def _add_own(self, attributes: dict[str, str], policy: RequestPolicy[K], exchange: Exchange) -> None:
        """Add the application's own attributes of a request."""
        attributes.update(policy.constants)
        for name, function in policy.functions:
            put_attribute(attributes, name, await self._ask(function, exchange))

    async def _wait(
        self,
        policy: RequestPolicy[K],
        exchange: Exchange,
        attributes: dict[str, str],
        cost: int,
        decision: PolicyDecision,
    ) -> PolicyDecision:
        """Hold a request that is refused at this moment until its turn, unless too many are held already."""
        keeper = policy.keeper
        if not policy.lets_wait(decision):
            return decision
        client, held = exchange.read(policy.client_reader).get("client") or exchange.peer, self._held_here()
        if not held.enter(client):
            return decision
        try:
            turn = self.call(keeper.acquire, attributes, cost, exchange.time_left())
            return await self._decided(self._until_hung_up(exchange, turn))
        finally:
            held.leave(client)

    def _held_here(self) -> HeldRequests:
        """Return the held requests that a request of this thread or task belongs to."""
        return self._held

    @staticmethod
    async def _decided(turn: Coroutine[Any, Any, PolicyDecision]) -> PolicyDecision:
        """Return a turn's decision, also if it refuses."""
        try:
            return await turn
        except RateLimitExceeded as refused:
            return as_policy_decision(refused.decision)

    async def answered_async(self, exchange: Exchange, status: int) -> None:
        """Record that the response has begun. Give charges back if it is the application's own answer to a refusal."""
        if exchange.is_answer(status):
            await self.give_back_async(exchange)
        exchange.begun = True

    async def give_back_async(self, exchange: Exchange) -> None:
        """Give back the charges of a refused request, unless its answer has begun."""
        if exchange.begun:
            return
        try:
            await self.refund_async(exchange)
        except StoreUnavailable:
            return  # it stays charged: the client must get its answer

    async def refund_async(self, exchange: Exchange) -> None:
        """Give back the charges of a request so far."""
        made = exchange.decisions
        for index, decision in enumerate(made):
            if decision.allowed and decision.rules:
                keeper, *_ = exchange.all_asked()[0]  # all keepers have one store
                await self.call(keeper.refund, decision)
                made[index] = decision.given_back()

    async def ready(self) -> None:
        """Raise `StoreUnavailable` if the store does not answer."""
        if self.in_use is not None:
            await self.call(self.in_use.keeper.ready)

    async def _ask(self, function: RequestFunction, exchange: Exchange) -> Any:
        return await self._awaited(function(exchange.native), function)

    async def _awaited(self, value: Any, function: Callable[..., Any]) -> Any:
        """Return the value of the user's function. Await it, if the function is async."""
        raise NotImplementedError

    async def _until_hung_up(self, exchange: Exchange, turn: Coroutine[Any, Any, T]) -> T:
        """Return the result of a turn. Raises `ClientDisconnected` if the client hangs up before that."""
        return await turn

    def call(self, function: Callable[..., Any], *args: Any) -> Coroutine[Any, Any, Any]:
        """Call a method of the keeper, as a coroutine in both limiters."""
        raise NotImplementedError

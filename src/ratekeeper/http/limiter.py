"""RequestLimiter and AsyncRequestLimiter: charge requests, and answer refusals. They know no framework.

A framework's adapter makes an `Exchange` of each request and charges it. A refusal comes back as a value: the error
that an endpoint's own limit would raise. The adapter sends the `answer` to it in place of the application's response.
It adds `exchange.limit_headers()` to every response.

Everything is written once, as coroutines. In a framework that calls, they never suspend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from http import HTTPStatus
from inspect import isawaitable
from typing import Any, TypeVar

from ratekeeper.coroutines import run_sync
from ratekeeper.errors import (
    BadRequestError,
    ClientDisconnected,
    CostError,
    RatekeeperError,
    StoreUnavailable,
)
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http.application import ApplicationLimits
from ratekeeper.http.attributes import put_attribute
from ratekeeper.http.exchange import Exchange, RequestFunction
from ratekeeper.http.held import HELD_THREADS, HeldRequests, most_by_descriptors
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.request_policy import K, RequestPolicy
from ratekeeper.http.responses import response_to
from ratekeeper.policy.decision import PolicyDecision, as_policy_decision
from ratekeeper.policy.keeper import AsyncKeeper, Keeper
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.spec import StoreSpec

__all__ = ["REFUSALS", "AsyncRequestLimiter", "RequestLimiter"]

T = TypeVar("T")

_FOR_THREAD: ContextVar[bool] = ContextVar("ratekeeper_for_thread", default=False)
"""Whether a thread waits for the result of this task."""

REFUSALS = (RateLimitExceeded, StoreUnavailable, CostError, BadRequestError, ClientDisconnected)
"""The errors that refuse a request. Each has a response."""


class _Charging(ApplicationLimits[K]):
    """The common part of both limiters. They differ in how they call the user's functions and the keeper."""

    async def charge_async(self, exchange: Exchange, limit: rate_limit | None = None) -> RatekeeperError | None:
        """Charge a request by the policy, or by an endpoint's `limit`. Wait for its turn, if a rule lets it wait.

        Return None, or the refusal, one of `REFUSALS`.
        """
        policy = self.in_use if limit is None else self.policy_of(limit)
        if policy is None or not self._enabled:
            return None
        try:
            if self._exempt is not None and await self._ask(self._exempt, exchange):
                return None
            attributes = exchange.read(policy.reader)
            if policy.constants or policy.functions:
                await self._add_own(attributes, policy, exchange)
            if limit is not None and not limit.named:
                self._owners.claim(limit, attributes.get("endpoint"))
            cost = policy.cost if isinstance(policy.cost, int) else await self._ask(policy.cost, exchange)
            cost = cost * exchange.cost
            if policy.at_once is not None:
                decision = policy.at_once(attributes, cost)
            else:
                decision = await self._call(policy.keeper.try_acquire, attributes, cost)
            if policy.waiting_rules and not decision.allowed:
                decision = await self._wait(policy, exchange, attributes, cost, decision)
        except REFUSALS as error:
            return error
        exchange.note(decision, policy.keeper)
        for observe in self._observers:
            observe(exchange.native, decision)
        return None if decision.allowed else RateLimitExceeded(decision)

    async def answer_async(self, exchange: Exchange, refusal: RatekeeperError) -> Any:
        """Return the `Response` to a refusal, or the framework's own response that `rejection` has made.

        A refused request costs nothing: the charges of earlier limits are given back.
        """
        await self.give_back_async(exchange)
        if isinstance(refusal, RateLimitExceeded):
            decision = as_policy_decision(refusal.decision)
            if decision not in exchange.decisions:  # the application's own limiter made it
                exchange.decisions.append(decision)
            if (rejection := self._rejection) is not None:
                own = await self._awaited(rejection(exchange.native, decision), rejection)
                if own is not None:
                    return own
        return response_to(refusal)

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
        refusing = [rule.name for rule in decision.enforced if not rule.decision.allowed]
        if not refusing or not policy.waiting_rules.issuperset(refusing):
            return decision
        client, held = exchange.read(policy.client_reader).get("client") or exchange.peer, self._held_here()
        if not held.enter(client):
            return decision
        try:
            turn = self._call(keeper.acquire, attributes, cost, exchange.time_left())
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
        if exchange.error is not None and status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.FORBIDDEN):
            await self.give_back_async(exchange)
        exchange.begun = True

    async def give_back_async(self, exchange: Exchange) -> None:
        """Give back the charges of a refused request, unless its answer has begun."""
        made = [] if exchange.begun else exchange.decisions
        for index, decision in enumerate(made):
            if decision.allowed and decision.rules:
                with suppress(StoreUnavailable):  # it stays charged: the client must get its answer
                    await self._call(exchange.keeper.refund, decision)
                    made[index] = decision.given_back()

    async def ready(self) -> None:
        """Raise `StoreUnavailable` if the store does not answer."""
        if self.in_use is not None:
            await self._call(self.in_use.keeper.ready)

    async def _ask(self, function: RequestFunction, exchange: Exchange) -> Any:
        return await self._awaited(function(exchange.native), function)

    async def _awaited(self, value: Any, function: Callable[..., Any]) -> Any:
        """Return the value of the user's function. Await it, if the function is async."""
        raise NotImplementedError

    async def _until_hung_up(self, exchange: Exchange, turn: Coroutine[Any, Any, T]) -> T:
        """Return the result of a turn. Raises `ClientDisconnected` if the client hangs up before that."""
        return await turn

    def _call(self, function: Callable[..., Any], *args: Any) -> Coroutine[Any, Any, Any]:
        """Call a method of the keeper, as a coroutine in both limiters."""
        raise NotImplementedError


class RequestLimiter(_Charging[Keeper]):
    """Charges requests in frameworks that call. A request that waits for its turn blocks its thread."""

    def charge(self, exchange: Exchange, limit: rate_limit | None = None) -> RatekeeperError | None:
        """Charge a request: `charge_async`, called."""
        return run_sync(self.charge_async(exchange, limit))

    def answer(self, exchange: Exchange, refusal: RatekeeperError) -> Any:
        """Return the response to a refusal: `answer_async`, called."""
        return run_sync(self.answer_async(exchange, refusal))

    def answered(self, exchange: Exchange, status: int) -> None:
        """Record that the response has begun: `answered_async`, called, unless it has nothing to do."""
        if exchange.error is None:
            exchange.begun = True
        else:
            run_sync(self.answered_async(exchange, status))

    def close(self) -> None:
        """Stop watching the policy's file. Close the store if it was opened here."""
        closing = self._closing()
        if closing:
            closing()

    async def _awaited(self, value: Any, function: Callable[..., Any]) -> Any:
        if isawaitable(value):
            if (close := getattr(value, "close", None)) is not None:
                close()
            raise TypeError(f"{function!r} is async, but this framework does not await: write it without async")
        return value

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def _open(self, spec: StoreSpec) -> Store:
        return spec.open()

    def _keeper(self, policy: Policy) -> Keeper:
        return Keeper(policy, self.store)  # type: ignore[arg-type]  # it raises if the store must be awaited

    def _most_held(self) -> int:
        return HELD_THREADS


class AsyncRequestLimiter(_Charging[AsyncKeeper]):
    """Charges requests in frameworks that await. A request that waits for its turn blocks nothing."""

    def charge(self, exchange: Exchange, limit: rate_limit | None = None) -> RatekeeperError | None:
        """Charge a request from the thread of an endpoint that is not async."""
        return self._on_loop(exchange, self.charge_async(exchange, limit))

    def answer(self, exchange: Exchange, refusal: RatekeeperError) -> Any:
        """Return the response to a refusal, called from a thread."""
        return self._on_loop(exchange, self.answer_async(exchange, refusal))

    def answered(self, exchange: Exchange, status: int) -> None:
        """Record that the response has begun, called from a thread."""
        self._on_loop(exchange, self.answered_async(exchange, status))

    async def close(self) -> None:
        """Stop watching the policy's file. Close the store if it was opened here."""
        closing = self._closing()
        closed = closing() if closing else None
        if isawaitable(closed):
            await closed

    def _on_loop(self, exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
        assert exchange.loop is not None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self._for_thread(work), exchange.loop).result()
        work.close()
        raise RuntimeError("this limit would block the event loop: make the function async, or call it in a thread")

    async def _for_thread(self, work: Coroutine[Any, Any, T]) -> T:
        _FOR_THREAD.set(True)  # only this task sees it: each task has its own context
        return await work

    def _held_here(self) -> HeldRequests:
        return self._held_threads if _FOR_THREAD.get() else self._held

    async def _awaited(self, value: Any, function: Callable[..., Any]) -> Any:
        return await value if isawaitable(value) else value

    def _call(self, function: Callable[..., Any], *args: Any) -> Coroutine[Any, Any, Any]:
        return function(*args)  # type: ignore[no-any-return]  # an AsyncKeeper's verbs

    async def _until_hung_up(self, exchange: Exchange, turn: Coroutine[Any, Any, T]) -> T:
        watching = exchange.hung_up()
        if watching is None:
            return await turn
        turn_task, gone = asyncio.ensure_future(turn), asyncio.ensure_future(watching)
        try:
            await asyncio.wait({turn_task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if turn_task.done():
                return turn_task.result()
            raise ClientDisconnected("the client hung up while its request waited for its turn")
        finally:
            turn_task.cancel()
            if gone.done() and not gone.cancelled():
                gone.exception()  # the server's error: the client has gone
            gone.cancel()

    def _open(self, spec: StoreSpec) -> Store | AsyncStore:
        return spec.open_async()

    def _keeper(self, policy: Policy) -> AsyncKeeper:
        return AsyncKeeper(policy, self.store)

    def _most_held(self) -> int:
        return most_by_descriptors()

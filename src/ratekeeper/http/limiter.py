"""RequestLimiter and AsyncRequestLimiter: how a request is charged, and what answers a refusal. Knows no framework.

A framework's adapter makes an `Exchange` of each request and charges it. A refusal comes back as a value: the error
that an endpoint's own limit would raise. The adapter sends the `answer` to it in place of the application's response.
To whatever is sent it adds `exchange.limit_headers()`.

All is written once, as coroutines. In a framework that calls, they never suspend.
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
from ratekeeper.http.attributes import put_attribute
from ratekeeper.http.exchange import Exchange
from ratekeeper.http.limiter_base import LimiterBase
from ratekeeper.http.options import Ask
from ratekeeper.http.problem import response_to
from ratekeeper.http.rate_limit import RateLimit
from ratekeeper.http.request_policy import K, RequestPolicy
from ratekeeper.http.waiting import WAITING_THREADS, WaitingRequests, places_by_descriptors
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.keeper import AsyncKeeper, Keeper
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.spec import StoreSpec

__all__ = ["REFUSALS", "AsyncRequestLimiter", "RequestLimiter"]

T = TypeVar("T")

_FOR_THREAD: ContextVar[bool] = ContextVar("ratekeeper_for_thread", default=False)
"""Whether a thread waits for what a task does."""

REFUSALS = (RateLimitExceeded, StoreUnavailable, CostError, BadRequestError, ClientDisconnected)
"""The errors that are the refusal of a request. Each has a response."""


class _Charging(LimiterBase[K]):
    """What both limiters do. They differ in how a function of the user's is called, and in who awaits."""

    async def charge_async(self, exchange: Exchange, limit: RateLimit | None = None) -> RatekeeperError | None:
        """Charge a request that is within the limits, by the policy or by an endpoint's `limit`. Wait for its turn.

        Return None, or the refusal, one of `REFUSALS`.
        """
        policy = self.in_use if limit is None else self.policy_of(limit)
        if policy is None or not self.enabled:
            return None
        decision: PolicyDecision | None = None
        refusal: RatekeeperError | None = None
        try:
            decision = await self._decide(policy, exchange, limit)
        except REFUSALS as error:
            refusal = error
        else:
            if decision is not None and not decision.allowed:
                refusal = RateLimitExceeded(decision)
        if decision is not None:
            exchange.note(decision, policy.keeper)
            for observe in self._observers:
                observe(exchange.native, decision)
        return refusal

    async def answer_async(self, exchange: Exchange, refusal: RatekeeperError) -> Any:
        """Return the `Response` to a refusal, or what `rejection` has made, which is the framework's own.

        A refused request costs nothing: what earlier limits have charged it is given back.
        """
        await self.give_back_async(exchange)
        if isinstance(refusal, RateLimitExceeded):
            decision = PolicyDecision(refusal.decision.rules, refusal.decision.missing)
            if decision not in exchange.decisions:  # it is that of a limiter of the application's own
                exchange.decisions.append(decision)
            if self.rejection is not None:
                rejection = self.rejection
                own = await self._awaited(rejection(exchange.native, decision), rejection)
                if own is not None:
                    return own
        return response_to(refusal)

    async def _decide(
        self, policy: RequestPolicy[K], exchange: Exchange, limit: RateLimit | None
    ) -> PolicyDecision | None:
        """Return the decision about a request, None if it is exempt. Raises what else refuses it."""
        if self._exempt is not None and await self._ask(self._exempt, exchange):
            return None
        attributes = exchange.read(policy.reader)
        attributes.update(policy.constants)
        for name, ask in policy.functions:
            put_attribute(attributes, name, await self._ask(ask, exchange))
        if limit is not None and not limit.named:
            self._owners.claim(limit, attributes.get("endpoint"))
        cost = await self._ask(policy.cost, exchange) if callable(policy.cost) else policy.cost
        if policy.waiting_rules:
            return await self._decide_waiting(policy, exchange, attributes, cost * exchange.cost)
        checked: PolicyDecision = await self._call(policy.keeper.try_acquire, attributes, cost * exchange.cost)
        return checked

    async def _decide_waiting(
        self, policy: RequestPolicy[K], exchange: Exchange, attributes: dict[str, str], cost: int
    ) -> PolicyDecision:
        """Decide a request that may have to wait. Hold it until its turn, unless too many wait already."""
        keeper = policy.keeper
        decision = await self._decided(self._call(keeper.acquire, attributes, cost, 0))
        refusing = [rule.name for rule in decision.enforced if not rule.decision.allowed]
        if not refusing or not policy.waiting_rules.issuperset(refusing):
            return decision
        client, waiting = exchange.read(policy.client_reader).get("client") or exchange.peer, self._room()
        if not waiting.enter(client):
            return decision
        try:
            turn = self._call(keeper.acquire, attributes, cost, exchange.time_left())
            return await self._decided(self._until_hung_up(exchange, turn))
        finally:
            waiting.leave(client)

    def _room(self) -> WaitingRequests:
        """Return where a request of this thread or task may wait."""
        return self._waiting

    @staticmethod
    async def _decided(turn: Coroutine[Any, Any, PolicyDecision]) -> PolicyDecision:
        """Return a turn's decision, whatever it is."""
        try:
            return await turn
        except RateLimitExceeded as refused:
            return PolicyDecision(refused.decision.rules, refused.decision.missing)

    async def answered_async(self, exchange: Exchange, status: int) -> None:
        """Record that the response has begun. Give charges back for the application's own 429 after a refusal."""
        if exchange.error is not None and status == HTTPStatus.TOO_MANY_REQUESTS:
            await self.give_back_async(exchange)
        exchange.begun = True

    async def give_back_async(self, exchange: Exchange) -> None:
        """Give back what a request was charged that is refused after all, unless its answer has begun."""
        made = [] if exchange.begun else exchange.decisions
        for place, decision in enumerate(made):
            if decision.allowed and decision.rules:
                with suppress(StoreUnavailable):  # it stays charged; the client must have its answer
                    await self._call(exchange.keeper.refund, decision)
                    made[place] = decision.given_back()

    async def ready(self) -> None:
        """Return if requests can be decided. Raises `StoreUnavailable` if the store does not answer."""
        if self.in_use is not None:
            await self._call(self.in_use.keeper.ready)

    async def _ask(self, ask: Ask, exchange: Exchange) -> Any:
        return await self._awaited(ask(exchange.native), ask)

    async def _awaited(self, value: Any, ask: Callable[..., Any]) -> Any:
        """Return the value of a function of the user's, which may have to be awaited."""
        raise NotImplementedError

    async def _until_hung_up(self, exchange: Exchange, turn: Coroutine[Any, Any, T]) -> T:
        """Return what a turn comes to. Raises `ClientDisconnected` if the client goes before that."""
        return await turn

    def _call(self, function: Callable[..., Any], *args: Any) -> Coroutine[Any, Any, Any]:
        raise NotImplementedError


class RequestLimiter(_Charging[Keeper]):
    """Limits for frameworks that call. Waiting for a turn blocks the request's thread."""

    def charge(self, exchange: Exchange, limit: RateLimit | None = None) -> RatekeeperError | None:
        """As `charge_async`."""
        return run_sync(self.charge_async(exchange, limit))

    def answer(self, exchange: Exchange, refusal: RatekeeperError) -> Any:
        """As `answer_async`."""
        return run_sync(self.answer_async(exchange, refusal))

    def answered(self, exchange: Exchange, status: int) -> None:
        """As `answered_async`."""
        run_sync(self.answered_async(exchange, status))

    def close(self) -> None:
        """Watch the policy's file no more, and close the store, if it was opened here."""
        closing = self._closing()
        if closing:
            closing()

    async def _awaited(self, value: Any, ask: Callable[..., Any]) -> Any:
        if isawaitable(value):
            if hasattr(value, "close"):
                value.close()
            raise TypeError(f"{ask!r} is async: this framework does not await it")
        return value

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def _open(self, choice: StoreSpec) -> Store:
        return choice.open()

    def _keeper(self, policy: Policy) -> Keeper:
        return Keeper(policy, self.store)  # type: ignore[arg-type]  # it says itself if a store must be awaited

    def _most_waiting(self) -> int:
        return WAITING_THREADS


class AsyncRequestLimiter(_Charging[AsyncKeeper]):
    """Limits for frameworks that await. Waiting for a turn lets the event loop go on."""

    def charge(self, exchange: Exchange, limit: RateLimit | None = None) -> RatekeeperError | None:
        """As `charge_async`, for an endpoint that is not async, in whatever thread the framework runs it."""
        return self._on_loop(exchange, self.charge_async(exchange, limit))

    def answer(self, exchange: Exchange, refusal: RatekeeperError) -> Any:
        """As `answer_async`, in whatever thread."""
        return self._on_loop(exchange, self.answer_async(exchange, refusal))

    def answered(self, exchange: Exchange, status: int) -> None:
        """As `answered_async`, in whatever thread."""
        self._on_loop(exchange, self.answered_async(exchange, status))

    async def close(self) -> None:
        """As `RequestLimiter.close`."""
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
        raise RuntimeError("a limit on a function that is not async, called on the event loop, would block the loop")

    async def _for_thread(self, work: Coroutine[Any, Any, T]) -> T:
        _FOR_THREAD.set(True)  # seen by this task alone: each task has its own context
        return await work

    def _room(self) -> WaitingRequests:
        return self._waiting_threads if _FOR_THREAD.get() else self._waiting

    async def _awaited(self, value: Any, ask: Callable[..., Any]) -> Any:
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
                gone.exception()  # a server's own: the client has gone
            gone.cancel()

    def _open(self, choice: StoreSpec) -> Store | AsyncStore:
        return choice.open_async()

    def _keeper(self, policy: Policy) -> AsyncKeeper:
        return AsyncKeeper(policy, self.store)

    def _most_waiting(self) -> int:
        return places_by_descriptors()

"""RequestLimiter and AsyncRequestLimiter: `Charging`, called or awaited. They know no framework."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from inspect import isawaitable
from typing import Any, TypeVar

from ratekeeper.coroutines import run_sync
from ratekeeper.errors import ClientDisconnected, RatekeeperError
from ratekeeper.http.charging import REFUSALS, AwaitedCharge, Charging, refusal_in
from ratekeeper.http.exchange import Exchange
from ratekeeper.http.held import HELD_THREADS, HeldRequests, most_by_descriptors
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.policy.keeper import Keeper
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.spec import StoreSpec

__all__ = ["REFUSALS", "AsyncRequestLimiter", "AwaitedCharge", "RequestLimiter", "refusal_in"]

T = TypeVar("T")

_FOR_THREAD: ContextVar[bool] = ContextVar("ratekeeper_for_thread", default=False)
"""Whether a thread waits for the result of this task."""


class RequestLimiter(Charging[Keeper]):
    """Charges requests in frameworks that call. A request that waits for its turn blocks its thread."""

    _awaits = False

    def charge(self, exchange: Exchange, limit: rate_limit | None = None) -> RatekeeperError | None:
        """Charge a request: `charge_async`, called."""
        charged = self.charge_now(exchange) if limit is None else self.charge_async(exchange, limit)
        return charged if charged is None or isinstance(charged, RatekeeperError) else run_sync(charged)

    def charge_replaced(self, exchange: Exchange) -> RatekeeperError | None:
        """Charge a request by rules that nothing has replaced: `charge_replaced_async`, called."""
        return run_sync(self.charge_replaced_async(exchange))

    def answer(self, exchange: Exchange, refusal: RatekeeperError) -> Any:
        """Return the response to a refusal: `answer_async`, called."""
        return run_sync(self.answer_async(exchange, refusal))

    def answered(self, exchange: Exchange, status: int) -> None:
        """Record that the response has begun: `answered_async`, called, unless it has nothing to do."""
        if not exchange.watched:
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

    def run(self, exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine, which never suspends here."""
        return run_sync(work)

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def _open(self, spec: StoreSpec) -> Store:
        return spec.open()

    def _keeper(self, policy: Policy) -> Keeper:
        return Keeper(policy, self.store, limits=self._lookups)  # type: ignore[arg-type]  # it raises if the store must be awaited

    def _most_held(self) -> int:
        return HELD_THREADS


class AsyncRequestLimiter(Charging[AsyncKeeper]):
    """Charges requests in frameworks that await. A request that waits for its turn blocks nothing."""

    _awaits = True

    def charge(self, exchange: Exchange, limit: rate_limit | None = None) -> RatekeeperError | None:
        """Charge a request from the thread of an endpoint that is not async."""
        return self.run(exchange, self.charge_async(exchange, limit))

    def answer(self, exchange: Exchange, refusal: RatekeeperError) -> Any:
        """Return the response to a refusal, called from a thread."""
        return self.run(exchange, self.answer_async(exchange, refusal))

    def answered(self, exchange: Exchange, status: int) -> None:
        """Record that the response has begun, called from a thread."""
        self.run(exchange, self.answered_async(exchange, status))

    async def close(self) -> None:
        """Stop watching the policy's file. Close the store if it was opened here."""
        closing = self._closing()
        closed = closing() if closing else None
        if isawaitable(closed):
            await closed

    def run(self, exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine that runs on the request's loop. Called from a thread."""
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

    def call(self, function: Callable[..., Any], *args: Any) -> Coroutine[Any, Any, Any]:
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
        return AsyncKeeper(policy, self.store, limits=self._lookups)

    def _most_held(self) -> int:
        return most_by_descriptors()

"""Limits and AsyncLimits: what every framework's middleware is made of. They know no framework.

A framework's adapter makes an `Exchange` of each request and charges it. If that raises, or an endpoint's own limit
does (`exchange.error`), it sends the `refusal` in place of the application's response. To whatever is sent it adds
`exchange.limit_headers()`.
"""

from __future__ import annotations

import asyncio
from inspect import isawaitable
from typing import Any

from ratekeeper.errors import RatekeeperError, RateLimitExceeded
from ratekeeper.http.attributes import put_attribute
from ratekeeper.http.exchange import Exchange, refusal_of, response_to
from ratekeeper.http.limits_base import LimitsBase
from ratekeeper.http.options import Ask, Options
from ratekeeper.policy.keeper import AsyncKeeper, Keeper
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.choice import StoreChoice

__all__ = ["AsyncLimits", "Limits", "Options"]


class Limits(LimitsBase[Keeper]):
    """Limits for frameworks that call. Waiting for a turn blocks the request's thread."""

    def charge(self, exchange: Exchange) -> None:
        """Charge a request that is within the limits, and wait for its turn.

        Raises `RateLimitExceeded`, or `StoreUnavailable` or `CostError` if it cannot be told, and notes the error in
        `exchange.error`, so that an adapter tells it from the application's own.
        """
        ready = self._ready
        if ready is None or not self.enabled:
            return
        try:
            if self._exempt is not None and _called(self._exempt, exchange):
                return
            attributes = ready.reader.read(exchange.request)
            attributes.update(self._constants)
            for name, ask in ready.asks:
                put_attribute(attributes, name, _called(ask, exchange))
            cost = _called(self._cost, exchange) if callable(self._cost) else self._cost
            if ready.may_wait:
                decision = ready.keeper.acquire(attributes, cost, exchange.patience())
            else:
                decision = ready.keeper.check(attributes, cost)
            if not decision.allowed:
                raise RateLimitExceeded(decision)
        except RatekeeperError as error:
            self._note_error(exchange, error)
            raise
        self._note(exchange, decision)

    async def charge_async(self, exchange: Exchange) -> None:
        """As `charge`: an async function in a framework that calls has an event loop, and a thread, of its own."""
        self.charge(exchange)

    def refusal(self, exchange: Exchange, error: RatekeeperError) -> Any:
        """Return a `Response`, or what `rejection` has made, which is the framework's own."""
        decision = refusal_of(error)
        if self.rejection is not None and decision is not None:
            own = self.rejection(exchange.native, decision)
            if own is not None:
                return own
        return response_to(error)

    def close(self) -> None:
        """Watch the policy's file no more, and close the store, if it was opened here."""
        closing = self._closing()
        if closing:
            closing()

    def _open(self, choice: StoreChoice) -> Store:
        return choice.open()

    def _keeper(self, policy: Policy) -> Keeper:
        return Keeper(policy, self.store)  # type: ignore[arg-type]  # it says itself if a store must be awaited


class AsyncLimits(LimitsBase[AsyncKeeper]):
    """Limits for frameworks that await. Waiting for a turn lets the event loop go on."""

    async def charge_async(self, exchange: Exchange) -> None:
        """As `Limits.charge`."""
        ready = self._ready
        if ready is None or not self.enabled:
            return
        try:
            if self._exempt is not None and await _awaited(self._exempt, exchange):
                return
            attributes = ready.reader.read(exchange.request)
            attributes.update(self._constants)
            for name, ask in ready.asks:
                put_attribute(attributes, name, await _awaited(ask, exchange))
            cost = await _awaited(self._cost, exchange) if callable(self._cost) else self._cost
            if ready.may_wait:
                decision = await ready.keeper.acquire(attributes, cost, exchange.patience())
            else:
                decision = await ready.keeper.check(attributes, cost)
            if not decision.allowed:
                raise RateLimitExceeded(decision)
        except RatekeeperError as error:
            self._note_error(exchange, error)
            raise
        self._note(exchange, decision)

    async def close(self) -> None:
        """As `Limits.close`."""
        closing = self._closing()
        closed = closing() if closing else None
        if isawaitable(closed):
            await closed

    def charge(self, exchange: Exchange) -> None:
        """As `charge_async`, for an endpoint that is not async, in whatever thread the framework runs it."""
        assert exchange.loop is not None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self.charge_async(exchange), exchange.loop).result()
        raise RuntimeError("a limit on a function that is not async, called on the event loop, would block the loop")

    async def refusal(self, exchange: Exchange, error: RatekeeperError) -> Any:
        """As `Limits.refusal`."""
        decision = refusal_of(error)
        if self.rejection is not None and decision is not None:
            own = self.rejection(exchange.native, decision)
            own = await own if isawaitable(own) else own
            if own is not None:
                return own
        return response_to(error)

    def _open(self, choice: StoreChoice) -> Store | AsyncStore:
        return choice.open_async()

    def _keeper(self, policy: Policy) -> AsyncKeeper:
        return AsyncKeeper(policy, self.store)


def _called(ask: Ask, exchange: Exchange) -> Any:
    value = ask(exchange.native)
    if isawaitable(value):
        if hasattr(value, "close"):
            value.close()
        raise TypeError(f"{ask!r} is async: this framework does not await it")
    return value


async def _awaited(ask: Ask, exchange: Exchange) -> Any:
    value = ask(exchange.native)
    return await value if isawaitable(value) else value

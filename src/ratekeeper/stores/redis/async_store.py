"""AsyncRedisStore: RedisStore for asyncio. Only the sending is here; what is sent, in `plans`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from ratekeeper.decision import Charge, Decision
from ratekeeper.errors import StoreUnavailable
from ratekeeper.stores.redis.batches import Batches
from ratekeeper.stores.redis.connections import ask_async
from ratekeeper.stores.redis.plans import Plan
from ratekeeper.stores.redis.redirects import MOST, SINGLE, Hop
from ratekeeper.stores.redis.script import Ask, Reply
from ratekeeper.stores.redis.shared import OnServer
from ratekeeper.waiting.async_wait_queue import AsyncWaitQueue

T = TypeVar("T")


class AsyncRedisStore(OnServer):
    """`RedisStore` for asyncio: the same arguments; a client handed in is one of `redis.asyncio`.

    What tasks ask for in the same turn of the event loop travels in one script call. A task that is cancelled while it
    waits for a decision may have been charged or not. For one event loop at a time: close it in each, best by `async
    with`. The next has new connections; a client handed in is to have none left.
    """

    _asynchronous = True

    def _begin(self) -> None:
        self._batches = Batches(self._call, self._link.clustered, self._link.renew)
        self.wait_queue = AsyncWaitQueue(self, self.clock)

    async def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        """As `RedisStore.decide`."""
        charges = self._fallback.checked(charges)
        try:
            question = self._plans.question(charges, commit)
            if isinstance(question, list):
                return question
            if question.slots:
                return await self._run(self._plans.over_slots(question))
            return self._plans.answer(question, await self._batches.ask(question.ask()))
        except StoreUnavailable as error:
            return self._fallback.instead(error, charges, commit)

    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        """As `RedisStore.refund`."""
        await self._run(self._fallback.refund(charges, at_ticks))

    async def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        """As `RedisStore.rewind`."""
        return await self._run(self._fallback.rewind(scope, key, expected_ticks, tat_ticks))

    async def reset(self, scope: str, key: str | bytes) -> None:
        """As `RedisStore.reset`."""
        await self._run(self._fallback.reset(scope, key))

    async def close(self) -> None:
        """Give back what those who gave up waiting had, and close the connections. A client handed in is left open."""
        self._batches.running()
        await self.wait_queue.settle()
        for client in self._link.opened():
            await client.aclose()

    async def __aenter__(self) -> AsyncRedisStore:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _run(self, plan: Plan[T]) -> T:
        try:
            asks = next(plan)
            while True:
                try:
                    replies = await asyncio.gather(*map(self._batches.ask, asks))
                except GeneratorExit:  # the event loop is gone
                    raise
                except BaseException as error:
                    asks = plan.throw(error)
                else:
                    asks = plan.send(replies)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _call(self, asks: list[Ask]) -> list[Reply]:
        """Call the script once, for requests whose buckets are all in one slot."""
        arguments = self._arguments(asks)
        if not self._link.clustered:
            return await self._call_at(SINGLE, asks, arguments)
        hop: Hop | None = Hop.to(await self._node(arguments))
        for hops in range(MOST, 0, -1):
            assert hop is not None
            try:
                return await self._call_at(hop, asks, arguments)
            except StoreUnavailable as error:
                hop = self._redirects.after(error)
                if hop is None or hops == 1:
                    raise
        raise AssertionError("unreachable")

    async def _call_at(self, hop: Hop, asks: list[Ask], arguments: list[bytes]) -> list[Reply]:
        attempt = self._attempts.to(hop.name)
        try:
            with attempt as sent:
                try:
                    text = await ask_async(self._link, self._faults, hop, arguments, b"EVALSHA", self._script.sha)
                except self._faults.no_script:
                    self._scripts_sent += 1
                    text = await ask_async(self._link, self._faults, hop, arguments, b"EVAL", self._script.text)
                return self._read(text, asks, sent)
        finally:
            if attempt.opened:
                self._link.drop_idle(hop.node)

    async def _node(self, arguments: list[bytes]) -> Any:
        """As `RedisStore._node`."""
        with self._attempts.to():
            client = self._link.client()
            if self._redirects.stale:
                self._redirects.stale = False
                client._initialize = True  # all that is public closes the connections that others wait on
            await client.initialize()
        return self._attempts.named(client.get_node_from_key, arguments[1])

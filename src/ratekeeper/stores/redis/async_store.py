"""AsyncRedisStore: RedisStore for asyncio. Only the sending is here; what is sent, in `plans`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge, Decision, OnError
from ratekeeper.limits import Limit
from ratekeeper.stores.async_line import AsyncLine
from ratekeeper.stores.base import AsyncChargeGate, AsyncGate, AwaitedWait
from ratekeeper.stores.redis.attempts import name_of
from ratekeeper.stores.redis.batches import Batches
from ratekeeper.stores.redis.plans import Plan
from ratekeeper.stores.redis.script import Ask, Reply
from ratekeeper.stores.redis.shared import RedisStats, Shared

T = TypeVar("T")


class AsyncRedisStore:
    """`RedisStore` for asyncio: the same arguments; a client handed in is one of `redis.asyncio`.

    What tasks ask for in the same turn of the event loop travels in one script call. A task that is cancelled while it
    waits for a decision may have been charged or not. For one event loop.
    """

    def __init__(
        self,
        where: Any,
        *,
        prefix: str = "ratekeeper:",
        secret: str | bytes | None = None,
        timeout: float = 0.05,
        remember_denials: bool = True,
        clock: Clock | None = None,
        on_error: OnError = "raise",
        expected_nodes: int = 1,
        retry: float = 0.5,
    ) -> None:
        self._shared = Shared(
            where, asynchronous=True, prefix=prefix, secret=secret, timeout=timeout,
            remember_denials=remember_denials, clock=clock,
            on_error=on_error, expected_nodes=expected_nodes, retry=retry,
        )  # fmt: skip
        self._plans = self._shared.fallback
        self._attempts = self._shared.attempts
        self._link = self._shared.link
        self._script = self._shared.script
        self._faults = self._shared.faults
        self._batches = Batches(self._call, self._link.clustered)
        self.clock: Clock = self._shared.clock
        self.line = AsyncLine(self, self.clock)

    async def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        """As `RedisStore.decide`."""
        return await self._run(self._plans.decide(charges, commit))

    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        """As `RedisStore.refund`."""
        await self._run(self._plans.refund(charges, at_ticks))

    async def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        """As `RedisStore.rewind`."""
        return await self._run(self._plans.rewind(scope, key, expected_ticks, tat_ticks))

    async def reset(self, scope: str, key: str | bytes) -> None:
        """As `RedisStore.reset`."""
        await self._run(self._plans.reset(scope, key))

    def bind(self, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: AwaitedWait) -> AsyncGate:
        """As `RedisStore.bind`."""
        return AsyncChargeGate(self, scopes, limits, wait)

    def stats(self) -> RedisStats:
        """As `RedisStore.stats`."""
        return self._shared.stats()

    async def close(self) -> None:
        """Give back what those who gave up waiting had, and close the connections. A client handed in is left open."""
        await self.line.settle()
        client = self._link.opened()
        if client is not None:
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
                    coming = [self._batches.ask(ask) for ask in asks]
                    replies = [await reply for reply in coming]
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
        arguments = self._shared.arguments(asks)
        node = await self._node(arguments) if self._link.clustered else None
        with self._attempts.to(name_of(node)):
            sent = self._shared.local()
            try:
                text = await self._execute("EVALSHA", self._script.sha, arguments, node)
            except self._faults.no_script:
                self._shared.script_was_missing()
                text = await self._execute("EVAL", self._script.text, arguments, node)
            return self._shared.read(text, asks, sent)

    async def _node(self, arguments: list[bytes | int]) -> Any:
        """As `RedisStore._node`."""
        with self._attempts.to():
            client = self._link.client()
            await client.initialize()
        return self._attempts.named(client.get_node_from_key, arguments[1])

    async def _execute(self, verb: str, script: str, arguments: list[bytes | int], node: Any) -> Any:
        """As `RedisStore._execute`."""
        client = self._link.client()
        if self._link.clustered:
            return await client.execute_command(verb, script, *arguments, target_nodes=node)
        pool = client.connection_pool
        connection = await pool.get_connection(*self._link.pool_wants)
        try:
            await connection.send_command(verb, script, *arguments)
            return await connection.read_response()
        finally:
            await pool.release(connection)

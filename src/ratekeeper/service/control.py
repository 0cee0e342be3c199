"""The line between the parent and a worker: an order, then its answer, one after another. Knows no server.

Orders and answers are pickles, each after its length, over a socket pair that only these two hold. So its end tells
each of them that the other one has died, however it died.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
from dataclasses import dataclass, field, replace

from ratekeeper.policy.model import Policy
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.envoy.model import EnvoyConfig
from ratekeeper.service.make_core import MakeCore, OpenStore
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.operator_options import OperatorOptions
from ratekeeper.service.policy_news import PolicyNews
from ratekeeper.service.tls import TlsFiles

SERVE = "serve"
"""The order to accept connections."""


@dataclass(frozen=True, slots=True)
class Start:
    """The first order: what to make the core of.

    Later orders are `SERVE`, and each newer `Policy`, `EnvoyConfig` or `PolicyNews`.
    """

    make: MakeCore
    open_store: OpenStore
    policy: Policy
    bounds: Bounds
    grace: float
    envoy: EnvoyConfig | None = None
    tls: TlsFiles | None = None
    operator: OperatorOptions = field(default_factory=OperatorOptions)
    news: PolicyNews | None = None

    def changed_to(self, new: Policy | EnvoyConfig) -> Start:
        """Return the same with another policy, or with other limits for Envoy."""
        return replace(self, policy=new) if isinstance(new, Policy) else replace(self, envoy=new)

    def has(self, change: Policy | EnvoyConfig) -> bool:
        """Return whether this very policy, or these very limits for Envoy, are in it."""
        return change is self.policy or change is self.envoy

    def make_core(self, metrics: Metrics) -> Core:
        """Return the core of a process."""
        core = self.make(self.policy, self.open_store, metrics)
        core.envoy = self.envoy
        core.operate(self.operator)
        if self.news is not None:
            core.news = self.news
        return core


class Control:
    """One end of the line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Control:
        """Take one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    async def send(self, message: object) -> None:
        data = pickle.dumps(message)
        self._writer.write(len(data).to_bytes(4, "big") + data)
        await self._writer.drain()

    async def receive(self) -> object:
        """Return the next message. Raise `EOFError` or `OSError` if the other end is gone."""
        size = int.from_bytes(await self._reader.readexactly(4), "big")
        message: object = pickle.loads(await self._reader.readexactly(size))
        return message

    async def ask(self, order: object) -> str | None:
        """Give an order; return None when it is done, or why it cannot be. Raise as `receive` does."""
        await self.send(order)
        answer = await self.receive()
        return None if answer is None else str(answer)

    def close(self) -> None:
        self._writer.close()

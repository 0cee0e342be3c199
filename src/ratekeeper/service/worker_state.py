"""The state of a worker as its parent knows it: what it has, what it lacks, and the changes that are on trial."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

from ratekeeper.policy.model import Policy
from ratekeeper.service.control import SERVE, Control, Start
from ratekeeper.service.envoy.model import EnvoyConfig
from ratekeeper.service.policy_news import PolicyNews

Order: TypeAlias = Start | Policy | EnvoyConfig | PolicyNews


@dataclass(eq=False, slots=True)
class Trial:
    """A change that the workers are asked to take, and why the last worker to refuse it did so."""

    change: Policy | EnvoyConfig
    refusal: str | None = None


@dataclass(eq=False, slots=True)
class Worker:
    """A process, the line to it, the policy, Envoy's limits and news that it has, and since when it serves."""

    process: asyncio.subprocess.Process
    control: Control
    policy: Policy | None = None
    envoy: EnvoyConfig | None = None
    news: PolicyNews | None = None
    serves_since: float | None = None
    failure: str | None = None

    def obeyed(self, order: Order) -> None:
        """Note that it has carried out an order."""
        if isinstance(order, Start):
            self.policy, self.envoy, self.news = order.policy, order.envoy, order.news
        elif isinstance(order, Policy):
            self.policy = order
        elif isinstance(order, PolicyNews):
            self.news = order
        else:
            self.envoy = order

    def refused(self, change: Order | str) -> None:
        """Note that it has refused a change. It may use a part of it, so it needs the policy in use again."""
        if isinstance(change, Policy):
            self.policy = None
        else:
            self.envoy = None

    def next_order(self, start: Start) -> Order | str:
        """Return what it lacks of `start`, or `SERVE` if it has all."""
        if self.policy is not start.policy:
            return start.policy
        if start.envoy is not None and self.envoy is not start.envoy:
            return start.envoy
        if start.news is not None and self.news is not start.news:
            return start.news
        return SERVE

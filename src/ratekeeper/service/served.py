"""The seam between the server and the application that it serves. All that the one knows of the other is here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from ratekeeper.frameworks.asgi import Scope, Send
from ratekeeper.frameworks.asgi_inbox import Receive
from ratekeeper.http.header_styles import DEFAULT, HeaderStyles
from ratekeeper.policy.model import Policy
from ratekeeper.service.app import Service
from ratekeeper.stores.base import AsyncStore, Store

OpenStore: TypeAlias = Callable[[], Store | AsyncStore]


class Served(Protocol):
    """An ASGI application of one policy, which can be replaced."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""

    def replace(self, policy: Policy) -> None:
        """Decide by another policy from the next request on. Raise `PolicyError`, and change nothing, if it may not."""

    async def close(self) -> None:
        """Close the store. No request comes after this."""


MakeService: TypeAlias = Callable[[Policy, OpenStore], Served]


def make_service(policy: Policy, open_store: OpenStore, headers: HeaderStyles = DEFAULT) -> Served:
    """Make the application of a process. `open_store` should lead every worker to the same buckets."""
    return Service(policy, open_store(), headers=headers)

"""The seam between the server and the application that it serves. All that the one knows of the other is here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias

from ratekeeper.errors import PolicyError
from ratekeeper.http.attributes import ALWAYS_KNOWN
from ratekeeper.policy.keeper import AsyncKeeper
from ratekeeper.policy.model import Policy
from ratekeeper.service.app import Service
from ratekeeper.stores.base import AsyncStore, Store

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
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


def make_service(policy: Policy, open_store: OpenStore) -> Served:
    """Make the application of a process. `open_store` should lead every worker to the same buckets."""
    return _Served(policy, open_store())


class _Served:
    """The service with a keeper of its own."""

    def __init__(self, policy: Policy, store: Store | AsyncStore) -> None:
        self._keeper = AsyncKeeper(policy, store)
        self._service = Service(self._keeper)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._service(scope, receive, send)

    def replace(self, policy: Policy) -> None:
        lacking = policy.lacking(ALWAYS_KNOWN)
        if lacking and not self._keeper.policy.lacking(ALWAYS_KNOWN):
            raise PolicyError(
                f"{policy.source}: nothing in a gateway's request tells {lacking[0]!r}: say in [attributes] which "
                "header does, or restart, if only programs ask, at /v1/check"
            )
        self._keeper.replace(policy)

    async def close(self) -> None:
        close = getattr(self._keeper.store, "close", None)
        closing = close() if close is not None else None
        if closing is not None:
            await closing

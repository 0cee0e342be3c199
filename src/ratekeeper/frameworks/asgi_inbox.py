"""Inbox: what a client sends under ASGI while its request waits for its turn. Knows no limit and no framework."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]

MOST_KEPT = 65_536
"""The bytes of a body that are kept while its request waits for its turn. The rest is read when it goes ahead."""

_GONE = {"http.disconnect", "websocket.disconnect"}


class Inbox:
    """Keeps for the application what a client sends while its request waits. So a hang-up is seen."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Message] = deque()
        self._coming: asyncio.Task[Message] | None = None

    async def hung_up(self) -> None:
        """Return when the client has hung up. Keep the messages before that, up to `MOST_KEPT` bytes."""
        kept = 0
        while kept < MOST_KEPT:
            if self._coming is None:
                self._coming = asyncio.ensure_future(self._receive())
            await asyncio.wait({self._coming})  # a cancelled wait does not lose the message
            message, self._coming = self._coming.result(), None
            self._kept.append(message)
            if message["type"] in _GONE:
                return
            kept += 1 + len(message.get("body") or message.get("bytes") or message.get("text") or b"")
        await asyncio.get_running_loop().create_future()  # a hang-up cannot be seen any more

    async def receive(self) -> Message:
        if self._kept:
            return self._kept.popleft()
        if self._coming is None:
            return await self._receive()
        coming, self._coming = self._coming, None
        return await coming

    def close(self) -> None:
        """Wait for no message any more. `receive` still works: the answer to a refusal may read the request too."""
        if self._coming is not None and not self._coming.done():
            self._coming.cancel()
            self._coming = None

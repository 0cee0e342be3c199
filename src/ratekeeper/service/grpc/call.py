"""Call: one call of a client, from its headers to its answer. Knows no connection and no method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias


class CallHead(NamedTuple):
    """The headers of a call, which most calls of a client have in common.

    method    what answers it
    encoding  how its messages may be compressed
    timeout   seconds that the client waits; None if it does not say
    """

    method: Method
    encoding: bytes | None
    timeout: float | None


class Call:
    """One call. A method can watch whether the client has given it up.

    head   its headers
    began  the time at which they came
    body   the bytes so far, if they come in several parts
    """

    body: bytes | bytearray = b""
    _gone = False
    _watched: asyncio.Future[None] | None = None

    def __init__(self, head: CallHead, began: float) -> None:
        self.head = head
        self.began = began

    def give_up(self) -> None:
        """Note that the client has given the call up."""
        self._gone = True
        if self._watched is not None and not self._watched.done():
            self._watched.set_result(None)

    async def given_up(self) -> None:
        """Return when the client gives the call up."""
        if not self._gone:
            self._watched = asyncio.get_running_loop().create_future()
            await self._watched

    async def given_up_within(self, seconds: float) -> bool:
        """Return whether the client gives the call up in this time. Return at once when it does."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.given_up(), seconds)
        return self._gone


Answer: TypeAlias = bytes | Coroutine[Any, Any, bytes] | AsyncIterator[bytes]
"""A message at once, a coroutine that returns it, or the messages of a stream; each with its prefix."""

Method: TypeAlias = Callable[[bytes, Call], Answer]
"""Answers a call by its body, a message with its prefix. Raises `CallError`."""

"""Session: what one connection of a Redis client has said about itself. Knows no wire."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias

Answer: TypeAlias = bytes | Coroutine[Any, Any, bytes]
"""An answer, or a coroutine of it if it must wait."""

Handler: TypeAlias = Callable[["Session", list[bytes]], Answer]
"""Answers a request. Raises `RatekeeperError`, whose text is the answer, or `SessionEnd`."""

MOST_LISTED = 1_048_576
"""The bytes of long answers, such as to COMMAND, to the requests that come in one piece."""


class SessionEnd(Exception):
    """The connection ends after this answer."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer)
        self.answer = answer


class Session:
    """The state of one connection.

    handlers    the commands that the client may use now; `locked` until it has authenticated
    resp3       the version of the protocol
    name        as CLIENT SETNAME has it
    listed      bytes of long answers to the piece that is being answered
    """

    __slots__ = ("_full", "_locked", "handlers", "id", "listed", "name", "resp3")

    def __init__(self, number: int, full: Mapping[bytes, Handler], locked: Mapping[bytes, Handler] | None) -> None:
        self.id = number
        self._full = full
        self._locked = locked
        self.reset()

    def reset(self) -> None:
        """Be as a new connection is."""
        self.handlers = self._full if self._locked is None else self._locked
        self.resp3 = False
        self.name = b""
        self.listed = 0

    def authenticate(self) -> None:
        """Let the client use all commands."""
        self.handlers = self._full

    @property
    def authenticated(self) -> bool:
        return self.handlers is self._full

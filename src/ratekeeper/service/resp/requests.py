"""Requests of a Redis client, read from bytes with bounds. Knows no command and no connection.

`RequestReader` defines what is read: it looks at each header before it keeps anything, takes bytes in any pieces, and
does work linear in their number. But a step of Python for each argument costs more than a decision. So the C core reads
all whole requests in their usual form with which a piece begins. It leaves the rest of the piece to the definition.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ratekeeper import core

MOST_ARGUMENTS = 99
"""The arguments of one request."""

MOST_BYTES = 131_072
"""The bytes of one request's arguments together."""

STRANGERS_ARGUMENTS, STRANGERS_BYTES = 10, 16_384
"""The same for a client that has not authenticated, as in Redis."""

_LONGEST_HEADER = 32
_STAR = ord("*")
_DOLLAR = ord("$")
_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,17}").fullmatch


def _unread(_piece: bytes) -> tuple[list[list[bytes]], int]:
    """Leave a piece to the definition."""
    return [], 0


read_requests: Callable[[bytes], tuple[list[list[bytes]], int]] = core.read_requests or _unread
"""Returns the requests with which a piece begins, and how many bytes they take. `RequestReader` reads the rest."""


class ProtocolError(Exception):
    """The bytes are not a request, or one over a bound. Its text is what Redis says, and what would be right."""


class RequestReader:
    """Reads requests from bytes that come in any pieces."""

    def __init__(self) -> None:
        self.trusted = True  # the client has authenticated, if it must
        self._bytes = bytearray()
        self._at = 0  # up to here they are read
        self._searched = 0  # up to here no line ends
        self._arguments: list[bytes] = []
        self._missing = 0  # arguments of the request that are still to come
        self._length = -1  # of the argument whose header was read
        self._size = 0  # of the arguments so far

    @property
    def idle(self) -> bool:
        """Whether nothing is left: no part of a request, and no request that was not taken."""
        return not (self._bytes or self._missing)

    def feed(self, data: bytes) -> None:
        """Take bytes. The caller bounds how many it feeds before it takes the requests."""
        self._bytes += data

    def take(self) -> list[bytes] | None:
        """Return the next request: its command and arguments. None if it is not here to its end. Raise `ProtocolError`.

        An empty request is skipped, as Redis does.
        """
        while True:
            request = self._argument() if self._missing else self._begin()
            if request is not None:
                return request or None

    def _begin(self) -> list[bytes] | None:
        """Read a request's first line. Return the request if it is one line, and [] if more bytes are needed."""
        if self._at == len(self._bytes):
            return self._need_more()
        if self._bytes[self._at] != _STAR:
            return self._inline()
        line = self._header("too big mbulk count string")
        if line is None:
            return self._need_more()
        count = _number(line)
        if count is None or count > MOST_ARGUMENTS:
            raise ProtocolError(f"invalid multibulk length: a request has at most {MOST_ARGUMENTS} arguments")
        if count > STRANGERS_ARGUMENTS and not self.trusted:
            raise ProtocolError("unauthenticated multibulk length")
        self._arguments, self._missing, self._size = [], max(0, count), 0
        return None

    def _argument(self) -> list[bytes] | None:
        """Read one argument. Return the request if it was the last, and [] if more bytes are needed."""
        if self._length < 0 and not self._argument_header():
            return self._need_more()
        end = self._at + self._length
        if len(self._bytes) < end + 2:
            return self._need_more()
        self._arguments.append(bytes(self._bytes[self._at : end]))
        self._at = self._searched = end + 2
        self._length = -1
        self._missing -= 1
        return None if self._missing else self._arguments

    def _argument_header(self) -> bool:
        if self._at == len(self._bytes):
            return False
        if self._bytes[self._at] != _DOLLAR:
            raise ProtocolError(f"expected '$', got '{_shown(self._bytes[self._at])}'")
        line = self._header("too big bulk count string")
        if line is None:
            return False
        length = _number(line)
        if length is None or length < 0 or self._size + length > MOST_BYTES:
            raise ProtocolError(f"invalid bulk length: the arguments of a request have at most {MOST_BYTES} bytes")
        if self._size + length > STRANGERS_BYTES and not self.trusted:
            raise ProtocolError("unauthenticated bulk length")
        self._length = length
        self._size += length
        return True

    def _header(self, too_long: str) -> bytes | None:
        """Return a header's line without its first byte; None if it has not come to its end."""
        end = self._bytes.find(b"\r\n", self._at, self._at + _LONGEST_HEADER)
        if end < 0:
            if len(self._bytes) - self._at >= _LONGEST_HEADER:
                raise ProtocolError(too_long)
            return None
        line = bytes(self._bytes[self._at + 1 : end])
        self._at = self._searched = end + 2
        return line

    def _inline(self) -> list[bytes] | None:
        """Read a request that a person types: words in one line."""
        end = self._bytes.find(b"\n", max(self._at, self._searched))
        if (len(self._bytes) if end < 0 else end) - self._at > (MOST_BYTES if self.trusted else STRANGERS_BYTES):
            raise ProtocolError("too big inline request")
        if end < 0:
            self._searched = len(self._bytes)
            return self._need_more()
        words = bytes(self._bytes[self._at : end]).split()
        self._at = self._searched = end + 1
        if len(words) > MOST_ARGUMENTS:
            raise ProtocolError(f"too big inline request: it has at most {MOST_ARGUMENTS} words")
        return words or None

    def _need_more(self) -> list[bytes]:
        """Forget what was read, so that only unread bytes take memory."""
        del self._bytes[: self._at]
        self._searched -= self._at
        self._at = 0
        return []


def _number(line: bytes) -> int | None:
    return int(line) if _NUMBER(line) else None


def _shown(byte: int) -> str:
    return chr(byte) if 0x20 < byte < 0x7F else f"\\x{byte:02x}"

"""gRPC's status codes, and the headers of a call: its deadline, its encoding, its messages. Knows no connection."""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from urllib.parse import quote

OK = 0
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600, b"M": 60, b"S": 1, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PREFIX = struct.Struct(">BI")
"""The bytes before a message: whether it is compressed, and its length."""


class CallError(Exception):
    """A call that ends with a status other than OK. Its text is for people."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def status_lines(status: int, text: str = "") -> list[tuple[bytes, bytes]]:
    """Return the lines of a status. The text is percent-encoded, as it may have any letters.

    >>> status_lines(3, "100% wrong")
    [(b'grpc-status', b'3'), (b'grpc-message', b'100%25 wrong')]
    """
    lines = [(b"grpc-status", b"%d" % status)]
    if text:
        lines.append((b"grpc-message", quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()))
    return lines


@lru_cache(maxsize=256)
def timeout_of(value: bytes | None) -> float | None:
    """Return the seconds of a `grpc-timeout`; None without one. Raise `CallError` if it is malformed.

    >>> timeout_of(b"20m")
    0.02
    """
    if value is None:
        return None
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise CallError(INVALID_ARGUMENT, "grpc-timeout must be up to 8 digits and a unit, such as 20m")
    return int(match[1]) * _UNITS[match[2]]


def message_of(body: bytes, encoding: bytes | None) -> bytes:
    """Return the only message of a call. Raise `CallError` if the body is not one message without compression.

    >>> message_of(b"\\x00\\x00\\x00\\x00\\x02hi", None)
    b'hi'
    """
    if len(body) < _PREFIX.size:
        raise CallError(INVALID_ARGUMENT if body else UNIMPLEMENTED, "the call has no whole message")
    is_compressed, length = _PREFIX.unpack_from(body)
    if is_compressed:
        if is_compressed == 1 and encoding not in (None, b"identity"):
            raise CallError(UNIMPLEMENTED, "messages are not compressed here: grpc-accept-encoding is identity")
        raise CallError(INVALID_ARGUMENT, "a message is marked as compressed, but no grpc-encoding says how")
    message = body[_PREFIX.size :]
    if len(message) > length:
        raise CallError(UNIMPLEMENTED, "the call has more than one message")
    if len(message) < length:
        raise CallError(INVALID_ARGUMENT, "the message is truncated")
    return message


def framed(message: bytes) -> bytes:
    """Return a message with its prefix: not compressed, and its length.

    >>> framed(b"hi")
    b'\\x00\\x00\\x00\\x00\\x02hi'
    """
    return _PREFIX.pack(0, len(message)) + message

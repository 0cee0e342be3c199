"""The wire format of protobuf, read and written by hand. Knows no message.

Its reader is strict. All bytes must be fields; a length must not exceed what is there; a varint has at most ten bytes.
Groups, which proto3 does not have, are an error.
"""

from __future__ import annotations

from typing import TypeAlias

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""The wire types. With a field's number, a wire type is a tag: `number << 3 | type`."""

_MOST_VARINT = 10
_TOO_LARGE = 2**32  # a field has a number of up to 29 bits

Value: TypeAlias = int | bytes
"""An int for a varint, and bytes for the other types."""


class WireFormatError(ValueError):
    """Bytes that are not the message that they should be. Its text says why."""


def fields(data: bytes) -> list[tuple[int, Value]]:
    """Return the fields of a message, in order: each tag and its value. Raise `WireFormatError`.

    >>> fields(b"\\x0a\\x04shop\\x18\\x03")
    [(10, b'shop'), (24, 3)]
    """
    found: list[tuple[int, Value]] = []
    place, end = 0, len(data)
    try:
        while place < end:
            tag = data[place]
            place += 1
            if tag > 127:
                tag, place = _varint(data, place - 1)
            if tag & 7 == BYTES:
                length = data[place]
                place += 1
                if length > 127:
                    length, place = _varint(data, place - 1)
                value: Value = data[place : place + length]
                place += length
            else:
                value, place = _other(data, place, tag & 7)
            if not 8 <= tag < _TOO_LARGE:
                raise WireFormatError("a field's number is out of range")
            found.append((tag, value))
    except IndexError:
        place = end + 1
    if place > end:
        raise WireFormatError("the message is truncated")
    return found


def _other(data: bytes, place: int, kind: int) -> tuple[Value, int]:
    """Return the value of a field that has no length, and the place after it."""
    if kind == VARINT:
        return _varint(data, place)
    if kind in (FIXED64, FIXED32):
        end = place + (8 if kind == FIXED64 else 4)
        return data[place:end], end
    raise WireFormatError(f"a field has the wire type {kind}, which is not in use")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a number of up to 64 bits, and the place after it."""
    value = shift = 0
    for last in range(place, place + _MOST_VARINT):
        byte = data[last]
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 2**64 - 1, last + 1
        shift += 7
    raise WireFormatError("a number is longer than ten bytes")


def varint(number: int) -> bytes:
    """Return a number of up to 64 bits as a varint.

    >>> varint(300)
    b'\\xac\\x02'
    """
    if number < 128:
        return _SMALL[number]
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


_SMALL = [bytes([number]) for number in range(128)]


def field(number: int, value: bytes) -> bytes:
    """Return a field of bytes, a string or a message, with its tag.

    >>> field(1, b"shop")
    b'\\n\\x04shop'
    """
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def number_field(number: int, value: int) -> bytes:
    """Return a field of a number, with its tag; nothing for 0, which is the default.

    >>> number_field(3, 2), number_field(3, 0)
    (b'\\x18\\x02', b'')
    """
    return varint(number << 3 | VARINT) + varint(value) if value else b""

"""The messages of Envoy's rate limit service and of gRPC's health service, read and written by hand.

Unknown fields are skipped. A known field of another type is an error, as it would be lost otherwise. Knows no
connection and no limit.

    RateLimitRequest   domain 1, descriptors 2, hits_addend 3
    Descriptor         entries 1 {key 1, value 2}, limit 2 {requests_per_unit 1, unit 2}, hits_addend 3 {value 1},
                       is_negative_hits 4
    RateLimitResponse  overall_code 1, statuses 2, response_headers_to_add 3 {key 1, value 2}, raw_body 5,
                       dynamic_metadata 6
    DescriptorStatus   code 1, current_limit 2, limit_remaining 3, duration_until_reset 4 {seconds 1}
    RateLimit          requests_per_unit 1, unit 2, name 3
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from ratekeeper import core
from ratekeeper.http.header_lines import decoded
from ratekeeper.service.grpc.protobuf import (
    FIXED64,
    Value,
    WireFormatError,
    field,
    fields,
    number_field,
    varint,
)
from ratekeeper.service.grpc.status import framed

OK, OVER_LIMIT = 1, 2
"""The codes of an answer. The code 0 is UNKNOWN: Envoy would let the request pass."""

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
"""The health of a service."""

MOST_DESCRIPTORS = 100
MOST_ENTRIES = 100
MOST_HITS = 1_000_000_000
"""The largest `hits_addend` of a descriptor, as Envoy's definition of the message has it."""

UNLIMITED = 2**32 - 1
"""The `limit_remaining` of a descriptor that is unlimited."""

Entry: TypeAlias = tuple[str, str]


class Override(NamedTuple):
    """A limit that a request brings along: `unit` is a number of `RateLimitUnit`."""

    requests_per_unit: int
    unit: int


class Descriptor(NamedTuple):
    """One descriptor: its entries, its own limit, and its own hits. None is what the request says, or the service."""

    entries: tuple[Entry, ...]
    limit: Override | None = None
    hits: int | None = None


class RateLimitRequest(NamedTuple):
    """A question about one request: `hits` are the tokens that it takes, at least 1."""

    domain: str
    descriptors: tuple[Descriptor, ...]
    hits: int = 1


class Status(NamedTuple):
    """The answer about one descriptor.

    limit          the `RateLimit` in protobuf's form (see `rate_limit`), empty if none applies
    reset_seconds  until the bucket is full again
    """

    code: int = OK
    limit: bytes = b""
    remaining: int = 0
    reset_seconds: int = 0


def read_request(data: bytes) -> RateLimitRequest:
    """Return the request in a message. Raise `WireFormatError`, which says what would be right."""
    domain, hits = "", 0
    descriptors: list[Descriptor] = []
    for tag, value in fields(data):
        if tag == 0x12:
            if len(descriptors) == MOST_DESCRIPTORS:
                raise WireFormatError(f"a request has at most {MOST_DESCRIPTORS} descriptors")
            descriptors.append(_descriptor(value))
        elif tag == 0x0A:
            domain = _text(value, "domain")
        elif tag == 0x18:
            hits = _uint32(value)
        else:
            _skip(tag, 3, "the request")
    if not domain:
        raise WireFormatError("the domain is empty")
    if not descriptors:
        raise WireFormatError("the request has no descriptors")
    return RateLimitRequest(domain, tuple(descriptors), hits or 1)


def _descriptor(data: Value) -> Descriptor:
    entries: list[Entry] = []
    limit = hits = None
    gives_back: Value = 0
    for tag, value in fields(_bytes(data)):
        if tag == 0x0A:
            if len(entries) == MOST_ENTRIES:
                raise WireFormatError(f"a descriptor has at most {MOST_ENTRIES} entries")
            entries.append(_entry(value))
        elif tag == 0x12:  # parts of one message add up
            limit = _bytes(value) if limit is None else limit + _bytes(value)
        elif tag == 0x1A:
            hits = _bytes(value) if hits is None else hits + _bytes(value)
        elif tag == 0x20:
            gives_back = value
        else:
            _skip(tag, 4, "a descriptor")
    if not entries:
        raise WireFormatError("a descriptor has no entries")
    if gives_back:  # it would be charged, which is the opposite
        raise WireFormatError("a descriptor's is_negative_hits cannot be honoured: no tokens are given back here")
    if limit is None and hits is None:
        return Descriptor(tuple(entries))
    return Descriptor(
        tuple(entries), None if limit is None else _override(limit), None if hits is None else _hits(hits)
    )


def _entry(data: Value) -> Entry:
    name = text = ""
    for tag, value in fields(_bytes(data)):
        if tag == 0x0A:
            name = _text(value, "an entry's key")
        elif tag == 0x12:
            text = decoded(_bytes(value))  # a client's header, perhaps: at an error Envoy would let the request pass
        else:
            _skip(tag, 2, "an entry")
    if not name:
        raise WireFormatError("an entry's key is empty")
    return name, text


def _override(data: bytes) -> Override:
    per_unit = unit = 0
    for tag, value in fields(data):
        if tag == 0x08:
            per_unit = _uint32(value)
        elif tag == 0x10:
            unit = _uint32(value)
        else:
            _skip(tag, 2, "a limit")
    return Override(per_unit, unit)


def _hits(data: bytes) -> int:
    hits = 0
    for tag, value in fields(data):
        if tag == 0x08 and isinstance(value, int):
            hits = value
        else:
            _skip(tag, 1, "hits_addend")
    if hits > MOST_HITS:
        raise WireFormatError(f"a descriptor's hits_addend is at most {MOST_HITS}")
    return hits


def _skip(tag: int, known: int, what: str) -> None:
    """Skip an unknown field. Raise for a known field, which has another type."""
    if tag >> 3 <= known:
        raise WireFormatError(f"field {tag >> 3} of {what} has the wrong wire type, {tag & 7}")


def _text(value: Value, what: str) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError:
        raise WireFormatError(f"{what} is not UTF-8") from None


def _bytes(value: Value) -> bytes:
    assert isinstance(value, bytes)  # the tag says so
    return value


def _uint32(value: Value) -> int:
    assert isinstance(value, int)  # the tag says so
    return value & 2**32 - 1  # as protobuf reads it


@lru_cache(maxsize=1024)
def rate_limit(requests_per_unit: int, unit: int, name: str) -> bytes:
    """Return a `RateLimit`, as the field `current_limit` of a status."""
    text = name.encode()
    parts = number_field(1, requests_per_unit) + number_field(2, unit) + (field(3, text) if text else b"")
    return field(2, parts)


def python_write_response(statuses: list[Status], headers: list[tuple[bytes, bytes]], end: bytes, /) -> bytes:
    """Return the answer, with its prefix: refused if one of its descriptors is. `end` has all other fields."""
    over = any(one.code == OVER_LIMIT for one in statuses)
    parts = [number_field(1, OVER_LIMIT if over else OK)]
    for code, limit, remaining, seconds in statuses:
        duration = field(4, number_field(1, seconds)) if seconds else b""
        parts.append(field(2, number_field(1, code) + limit + number_field(3, remaining) + duration))
    return framed(b"".join([*parts, headers_to_add(headers), end]))


write_response = core.write_envoy_answer or python_write_response


def headers_to_add(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the headers of an answer, as its fields."""
    return b"".join([field(3, field(1, name) + field(2, value)) for name, value in headers])


def raw_body(body: bytes) -> bytes:
    """Return the body of an answer, as its field."""
    return field(5, body) if body else b""


def dynamic_metadata(values: Mapping[str, Json]) -> bytes:
    """Return the metadata of an answer, as its field."""
    return field(6, write_struct(values)) if values else b""


Json: TypeAlias = "str | bool | int | float | Sequence[Json] | Mapping[str, Json]"


def write_struct(values: Mapping[str, Json]) -> bytes:
    """Return a mapping as a `google.protobuf.Struct`."""
    return b"".join([field(1, field(1, name.encode()) + field(2, _value(value))) for name, value in values.items()])


def _value(value: Json) -> bytes:
    if isinstance(value, str):
        return field(3, value.encode())
    if isinstance(value, bool):
        return varint(4 << 3) + varint(value)  # also False: a value has exactly one field
    if isinstance(value, int | float):
        return varint(2 << 3 | FIXED64) + struct.pack("<d", value)
    if isinstance(value, Mapping):
        return field(5, write_struct(value))
    return field(6, b"".join([field(1, _value(one)) for one in value]))


def read_health(data: bytes) -> str:
    """Return the name of the service that a `HealthCheckRequest` asks about; "" is the whole server."""
    service = ""
    for tag, value in fields(data):
        if tag == 0x0A:
            service = _text(value, "the service's name")
        else:
            _skip(tag, 1, "the request")
    return service


def write_health(status: int) -> bytes:
    """Return a `HealthCheckResponse`, with its prefix."""
    return framed(number_field(1, status))

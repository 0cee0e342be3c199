"""Our codec and real protobuf read each other's messages. Other bytes are an error, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import rls_messages as real
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import core
from ratekeeper.service.grpc import codec
from ratekeeper.service.grpc.codec import Descriptor, Override, RateLimitRequest, Status
from ratekeeper.service.grpc.protobuf import WireFormatError, field, fields, number_field, varint
from ratekeeper.service.grpc.status import message_of

_UINT32 = st.integers(0, 2**32 - 1)
_NAMES = st.text(min_size=1, max_size=40)
_DESCRIPTORS = st.builds(
    Descriptor,
    st.lists(st.tuples(_NAMES, st.text(max_size=200)), min_size=1, max_size=5).map(tuple),
    st.none() | st.builds(Override, _UINT32, st.integers(0, 7)),
    st.none() | st.integers(0, codec.MOST_HITS),
)
_REQUESTS = st.builds(
    RateLimitRequest, _NAMES, st.lists(_DESCRIPTORS, min_size=1, max_size=4).map(tuple), st.integers(1, 2**32 - 1)
)
_JSON: Any = st.recursive(
    st.text(max_size=20) | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def _real(request: RateLimitRequest) -> Any:
    made = real.RateLimitRequest(domain=request.domain, hits_addend=request.hits)
    for descriptor in request.descriptors:
        one = made.descriptors.add()
        for key, value in descriptor.entries:
            one.entries.add(key=key, value=value)
        if descriptor.limit is not None:
            one.limit.SetInParent()
            one.limit.requests_per_unit, one.limit.unit = descriptor.limit
        if descriptor.hits is not None:
            one.hits_addend.SetInParent()
            one.hits_addend.value = descriptor.hits
    return made


def _ours(message: Any) -> RateLimitRequest:
    """What `read_request` should make of a message that protobuf has read."""
    return RateLimitRequest(
        message.domain,
        tuple(
            Descriptor(
                tuple((entry.key, entry.value) for entry in one.entries),
                Override(one.limit.requests_per_unit, one.limit.unit) if one.HasField("limit") else None,
                one.hits_addend.value if one.HasField("hits_addend") else None,
            )
            for one in message.descriptors
        ),
        message.hits_addend or 1,
    )


@given(_REQUESTS)
def test_we_read_a_request_that_protobuf_wrote(request: RateLimitRequest) -> None:
    assert codec.read_request(_real(request).SerializeToString()) == request


@given(_REQUESTS, st.lists(st.tuples(st.integers(8, 2**29 - 1), st.binary(max_size=20)), max_size=3))
def test_fields_of_newer_versions_are_skipped(request: RateLimitRequest, newer: list[tuple[int, bytes]]) -> None:
    unknown = b"".join(field(number, value) + number_field(number, 2**64 - 1) for number, value in newer)
    assert codec.read_request(unknown + _real(request).SerializeToString() + unknown) == request


@given(_REQUESTS, _REQUESTS)
def test_messages_that_are_joined_are_read_as_protobuf_reads_them(
    first: RateLimitRequest, second: RateLimitRequest
) -> None:
    joined = _real(first).SerializeToString() + _real(second).SerializeToString()
    assert codec.read_request(joined) == _ours(real.RateLimitRequest.FromString(joined))


def test_parts_of_a_limit_and_of_hits_add_up_and_the_last_number_counts() -> None:
    limit = field(2, number_field(1, 5)) + field(2, number_field(2, 1)) + field(2, number_field(1, 7))
    data = field(1, b"d") + field(2, field(1, field(1, b"k")) + limit + field(3, b"\x08\x05") + field(3, b"\x08\x00"))
    read = codec.read_request(data)
    assert read.descriptors == (Descriptor((("k", ""),), Override(7, 1), 0),)
    assert read == _ours(real.RateLimitRequest.FromString(data))


@given(_REQUESTS, st.data())
def test_hostile_bytes_are_an_error_or_a_message_that_protobuf_reads_alike(
    request: RateLimitRequest, data: st.DataObject
) -> None:
    bytes_ = bytearray(_real(request).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(bytes_) - 1))
        bytes_[place] = data.draw(st.integers(0, 255))
    cut = bytes(bytes_[: data.draw(st.integers(0, len(bytes_)))])
    try:
        read = codec.read_request(cut)
    except WireFormatError:
        return
    try:
        told = real.RateLimitRequest.FromString(cut)
    except DecodeError:  # an entry's value that is not UTF-8 is read here: at an error Envoy would let its request pass
        assert any(not value.isascii() for one in read.descriptors for _, value in one.entries)
    else:
        assert read == _ours(told)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    for read in (codec.read_request, codec.read_health, fields):
        with suppress(WireFormatError):
            read(data)


@pytest.mark.parametrize(("data", "error"), [
    (b"\x0a", "truncated"),  # no length
    (b"\x0a\x05shop", "truncated"),  # truncated
    (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "longer than ten bytes"),  # a length of eleven bytes
    (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fshop", "truncated"),  # a length of 2**63
    (b"\x08\x01", "field 1 of the request has the wrong wire type, 0"),  # the domain as a number
    (b"\x12\x02\x08\x01", "field 1 of a descriptor has the wrong wire type, 0"),  # an entry as a number
    (b"\x1a\x01\x01", "field 3 of the request has the wrong wire type, 2"),  # hits_addend as bytes
    (b"\x00\x01", "number is out of range"),  # field 0
    (b"\x1b\x1c", "wire type 3, which is not in use"),  # a group
    (b"\x0a\x02\xff\xfe\x12\x05\x0a\x03\x0a\x01k", "domain is not UTF-8"),  # a domain that is not UTF-8
    (b"", "domain is empty"),
    (b"\x0a\x01d", "no descriptors"),  # no descriptors
    (b"\x0a\x01d\x12\x00", "a descriptor has no entries"),  # a descriptor without entries
    (b"\x0a\x01d\x12\x05\x0a\x03\x12\x01v", "key is empty"),  # an entry without a key
    (b"\x12\x05\x0a\x03\x0a\x01k", "domain is empty"),  # no domain
    (b"\x0a\x01d\x12\x07\x0a\x03\x0a\x01k\x20\x01", "is_negative_hits cannot be honoured"),  # hits to give back
    (b"\x0a\x01d\x12\x07\x0a\x03\x0a\x01k\x22\x00", "field 4 of a descriptor has the wrong wire type, 2"),
])  # fmt: skip
def test_what_is_not_a_request_is_an_error(data: bytes, error: str) -> None:
    with pytest.raises(WireFormatError, match=error):
        codec.read_request(data)


@pytest.mark.parametrize("tag", [15 << 3 | 5, 15 << 3 | 1])
def test_a_truncated_fixed_number_is_an_error_as_in_protobuf(tag: int) -> None:
    data = bytes([tag, 0, 0, 0])
    with pytest.raises(WireFormatError, match="truncated"):
        codec.read_request(data)
    with pytest.raises(DecodeError):
        real.RateLimitRequest.FromString(data)


def test_what_a_client_can_ask_at_once_is_bounded() -> None:
    entry = field(1, field(1, b"k"))
    with pytest.raises(WireFormatError, match="at most 100 descriptors"):
        codec.read_request(field(1, b"d") + 101 * field(2, entry))
    with pytest.raises(WireFormatError, match="at most 100 entries"):
        codec.read_request(field(1, b"d") + field(2, 101 * entry))
    with pytest.raises(WireFormatError, match="at most 1000000000"):
        codec.read_request(field(1, b"d") + field(2, entry + field(3, b"\x08" + varint(10**9 + 1))))


_STATUSES = st.builds(
    Status,
    st.sampled_from([codec.OK, codec.OVER_LIMIT]),
    st.just(b"") | st.builds(codec.rate_limit, _UINT32, st.integers(0, 7), st.text(max_size=20)),
    _UINT32,
    st.integers(0, 2**40),
)
_HEADERS = st.tuples(st.text(max_size=200), st.text(max_size=200)).map(
    lambda pair: (pair[0].encode(), pair[1].encode())
)


@given(
    st.lists(_STATUSES, max_size=4),
    st.lists(_HEADERS, max_size=4),
    st.binary(max_size=300),
    st.dictionaries(st.text(max_size=5), _JSON, max_size=3),
)
def test_protobuf_reads_our_answer(
    statuses: list[Status], headers: list[tuple[bytes, bytes]], body: bytes, metadata: dict[str, Any]
) -> None:
    end = codec.raw_body(body) + codec.dynamic_metadata(metadata)
    written = codec.write_response(statuses, headers, end)
    assert written == codec.python_write_response(statuses, headers, end)
    read = real.RateLimitResponse.FromString(message_of(written, None))
    assert read.overall_code == max([codec.OK, *(status.code for status in statuses)])
    assert len(read.statuses) == len(statuses)
    for one, status in zip(read.statuses, statuses, strict=True):
        assert (one.code, one.limit_remaining) == (status.code, status.remaining)
        assert one.duration_until_reset.seconds == status.reset_seconds
        limit = one.current_limit.SerializeToString()
        assert one.HasField("current_limit") == (status.limit != b"")
        assert field(2, limit) == status.limit or not status.limit
    assert [(one.key.encode(), one.value.encode()) for one in read.response_headers_to_add] == headers
    assert read.raw_body == body
    expected = real.Struct()
    expected.update(metadata)
    assert read.dynamic_metadata == expected


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=200), *2 * [st.integers(0, 2**64 - 1)])))
def test_an_answer_with_numbers_of_all_lengths_is_the_same_in_c_and_in_python(statuses: list[Any]) -> None:
    made = [Status(*status) for status in statuses]
    assert codec.write_response(made, [], b"") == codec.python_write_response(made, [], b"")


@pytest.mark.skipif(core.write_envoy_answer is None, reason="the C core is not in use")
@pytest.mark.parametrize("arguments", [
    (), ([], []), ((), [], b""), ([], (), b""), ([], [], "end"), ([1], [], b""), ([(1, b"", 0)], [], b""),
    ([(1, "limit", 0, 0)], [], b""), ([(0, b"", 0, 0)], [], b""), ([(3, b"", 0, 0)], [], b""),
    ([(2**70, b"", 0, 0)], [], b""), ([(1, b"", -1, 0)], [], b""), ([(1, b"", 0, 2**64)], [], b""),
    ([(1, b"", 0.5, 0)], [], b""), ([], [1], b""), ([], [(b"name",)], b""), ([], [(b"name", "value")], b""),
])  # fmt: skip
def test_what_is_not_an_answer_is_an_error_in_c(arguments: Any) -> None:
    assert core.write_envoy_answer is not None
    with pytest.raises((TypeError, ValueError, OverflowError)):
        core.write_envoy_answer(*arguments)


@given(st.text(max_size=50), st.sampled_from([codec.SERVING, codec.NOT_SERVING]))
def test_health_is_read_and_written_as_by_protobuf(service: str, status: int) -> None:
    assert codec.read_health(real.HealthCheckRequest(service=service).SerializeToString()) == service
    assert real.HealthCheckResponse.FromString(message_of(codec.write_health(status), None)).status == status

"""Envoy's messages as real protobuf, from descriptors that are built here: the oracle of our codec."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2, wrappers_pb2
from google.protobuf.duration_pb2 import Duration

_PACKAGE = "ratekeeper_test"
_TYPES = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "enum": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
}
_MESSAGES = {
    "RateLimitRequest": "string domain=1; *Descriptor descriptors=2; uint32 hits_addend=3",
    "Descriptor": "*Entry entries=1; Override limit=2; .google.protobuf.UInt64Value hits_addend=3",
    "Entry": "string key=1; string value=2",
    "Override": "uint32 requests_per_unit=1; enum unit=2",
    "RateLimitResponse": "enum overall_code=1; *Status statuses=2; *HeaderValue response_headers_to_add=3; "
    "*HeaderValue request_headers_to_add=4; bytes raw_body=5; .google.protobuf.Struct dynamic_metadata=6",
    "Status": "enum code=1; RateLimit current_limit=2; uint32 limit_remaining=3; "
    ".google.protobuf.Duration duration_until_reset=4",
    "RateLimit": "uint32 requests_per_unit=1; enum unit=2; string name=3",
    "HeaderValue": "string key=1; string value=2",
    "HealthCheckRequest": "string service=1",
    "HealthCheckResponse": "enum status=1",
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    needed = [module.DESCRIPTOR.name for module in (wrappers_pb2, struct_pb2)] + [Duration.DESCRIPTOR.file.name]
    file = descriptor_pb2.FileDescriptorProto(
        name="ratekeeper_test.proto", package=_PACKAGE, syntax="proto3", dependency=needed
    )
    for name, text in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for line in text.split("; "):
            kind, rest = line.split(" ")
            own, number = rest.split("=")
            repeated = kind.startswith("*")
            kind = kind.removeprefix("*")
            field = message.field.add(name=own, number=int(number), label=3 if repeated else 1)
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = kind if kind.startswith(".") else f".{_PACKAGE}.{kind}"
    return file


_pool = descriptor_pool.Default()
_pool.Add(_file())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


RateLimitRequest = _class("RateLimitRequest")
RateLimitResponse = _class("RateLimitResponse")
HealthCheckRequest = _class("HealthCheckRequest")
HealthCheckResponse = _class("HealthCheckResponse")
Struct = struct_pb2.Struct


def rls_request(domain: str, *descriptors: dict[str, str] | list[tuple[str, str]], hits: int = 0) -> Any:
    """Return a request with descriptors of such entries."""
    request = RateLimitRequest(domain=domain, hits_addend=hits)
    for entries in descriptors:
        one = request.descriptors.add()
        for key, value in entries.items() if isinstance(entries, dict) else entries:
            one.entries.add(key=key, value=value)
    return request

"""Questions that are wrong in themselves are counted as failed, each once, by every protocol."""

from __future__ import annotations

from typing import Any

import pytest
import rls_messages as real
from grpc_in_memory import MemoryClient
from resp_wires import Client, request
from wire_client import WireClient

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.envoy.model import EnvoyConfig
from ratekeeper.service.http.wire import HttpWire
from ratekeeper.service.metrics.cells import RESULTS, Protocol, cell_of

POLICY = """
[attributes]
user = "header:x-user"
[[rules]]
name = "each"
match = { path = "/*" }
key = ["user"]
limit = "9/day"
"""
LACKING = 'rules = [{name = "each", key = ["plan"], limit = "9/day"}]'


def counted(core: Core, protocol: Protocol) -> list[int]:
    return [core.metrics.slot.cells[cell_of("ratekeeper_requests", protocol, result)] for result in RESULTS]


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        (POLICY, b"GET /check HTTP/1.1\r\n\r\n"),
        (POLICY, b"GET /check HTTP/1.1\r\nX-Forwarded-Uri: /a\r\nX-Forwarded-Uri: /b\r\n\r\n"),
        (POLICY, b"GET /check HTTP/1.1\r\nX-Forwarded-Uri: /a\r\nX-User: a\r\nX-User: b\r\n\r\n"),
        (POLICY, b"POST /v1/check HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"),
        (LACKING, b"GET /check HTTP/1.1\r\n\r\n"),
    ],
)
def test_by_http(policy: str, asked: bytes) -> None:
    core = Core(Policy.parse(policy), MemoryStore(100))
    WireClient(lambda channel: HttpWire(core, channel, Bounds())).send(asked)
    assert counted(core, "http") == [0, 0, 1]


@pytest.mark.parametrize("asked", [("CL.THROTTLE", "a", 1, 0, 1), ("RK.CHECK", "path", "/api/a", "COST", "x")])
def test_by_resp(asked: tuple[Any, ...]) -> None:
    client = Client()
    client.wire.receive(request(*asked))
    assert counted(client.core, "resp") == [0, 0, 1]


def test_by_grpc() -> None:
    core = Core(Policy.parse(POLICY), MemoryStore(100))
    client = MemoryClient(core)
    assert client.call(b"nonsense").status == 3
    twice = real.rls_request("d", [("user", "a"), ("user", "b")])
    assert client.call(twice.SerializeToString()).status == 3
    core.envoy = EnvoyConfig({}, "limits")
    unknown_unit = real.rls_request("d", {"user": "a"})
    unknown_unit.descriptors[0].limit.unit = 99
    assert client.call(unknown_unit.SerializeToString()).status == 3
    assert counted(core, "grpc") == [0, 0, 3]

"""The same questions over each of the service's protocols, as bytes that a client sends."""

from __future__ import annotations

from collections.abc import Callable

import ngh2
import rls_messages as real
from grpc_in_memory import SHOULD_RATE_LIMIT
from resp_wires import request

from ratekeeper import Policy
from ratekeeper.service.grpc.status import framed

POLICY = Policy.parse('[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1000000/day"\n')
EACH = 3
BODY = b'{"attributes": {"user": "a"}}'


def http_questions() -> bytes:
    return b"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY) * EACH


def grpc_questions() -> bytes:
    engine = ngh2.Connection(ngh2.Role.CLIENT)
    engine.initiate_connection({})
    message = framed(real.rls_request("d", {"user": "a"}).SerializeToString())
    for _ in range(EACH):
        stream = engine.send_request(
            [(b":method", b"POST"), (b":scheme", b"http"), (b":path", SHOULD_RATE_LIMIT), (b":authority", b"test"),
             (b"te", b"trailers"), (b"content-type", b"application/grpc")]
        )  # fmt: skip
        engine.send_data(stream, message, end_stream=True)
    return engine.data_to_send()


def resp_questions() -> bytes:
    return request("RK.CHECK", "user", "a") * EACH


PROTOCOLS: dict[str, tuple[Callable[[], bytes], bytes]] = {
    "http": (http_questions, b"HTTP/1.1 200"),
    "grpc": (grpc_questions, b"\tratelimit\x12"),
    "resp": (resp_questions, b"allowed"),
}
"""Of each protocol, what sends EACH questions, and a part of the answer to each."""

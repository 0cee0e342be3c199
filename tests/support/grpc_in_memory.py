"""A gRPC wire in memory: its channel keeps the bytes, and a client on libnghttp2 reads them. Time is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

import ngh2

from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.status import framed
from ratekeeper.service.grpc.wire import GrpcWire

SHOULD_RATE_LIMIT = b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CHECK = b"/grpc.health.v1.Health/Check"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


class MemoryChannel:
    """A channel whose other end is the test. The answers that must wait are its `running`."""

    peer = None
    full = False

    def __init__(self) -> None:
        self.time = 0.0
        self.writes: list[bytes] = []
        self.running: list[asyncio.Task[None]] = []
        self.closed = self.aborted = False

    def now(self) -> float:
        return self.time

    def write(self, data: bytes, /) -> None:
        if not (self.closed or self.aborted):
            self.writes.append(data)

    def run(self, answering: Coroutine[Any, Any, None]) -> None:
        self.running.append(asyncio.get_running_loop().create_task(answering))

    def pause(self) -> None:
        raise AssertionError("nothing pauses here")

    def resume(self) -> None:
        raise AssertionError("nothing pauses here")

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Answer(NamedTuple):
    """The answer to a call."""

    http: int
    status: int | None
    text: str
    messages: bytes
    headers: dict[str, str]


class MemoryClient:
    """A client on one connection to a wire."""

    def __init__(self, core: Core, settings: dict[ngh2.Setting, int] | None = None, **bounds: Any) -> None:
        self.channel = MemoryChannel()
        self.wire = GrpcWire(core, self.channel, Bounds(**bounds))
        self.engine = ngh2.Connection(ngh2.Role.CLIENT)
        self.engine.initiate_connection(settings or {})
        self.answers: dict[int, Answer] = {}
        self.resets: dict[int, int] = {}
        self.farewell: int | None = None
        self._heads: dict[int, dict[str, str]] = {}
        self._bodies: dict[int, bytes] = {}
        self.exchange()

    def start(self, path: bytes, *headers: tuple[bytes, bytes], kind: bytes = b"application/grpc") -> int:
        """Begin a call; its headers leave with the next `exchange`."""
        return self.engine.send_request(
            [
                (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"test"),
                (b"te", b"trailers"), (b"content-type", kind), *headers,
            ]
        )  # fmt: skip

    def begin(self, message: bytes, path: bytes = SHOULD_RATE_LIMIT, *headers: tuple[bytes, bytes]) -> int:
        """Begin a call with its only message."""
        stream = self.start(path, *headers)
        self.engine.send_data(stream, framed(message), end_stream=True)
        return stream

    def exchange(self) -> None:
        """Send what is to be sent, and read what has come, until nothing comes."""
        while data := self.engine.data_to_send():
            self.wire.receive(data)
            self.read()

    def read(self) -> None:
        """Read what has come."""
        written, self.channel.writes[:] = b"".join(self.channel.writes), []
        if written:
            self.engine.receive_data(written)
            for event in self.engine.events():
                self._take(event)

    def call(self, message: bytes, path: bytes = SHOULD_RATE_LIMIT, *headers: tuple[bytes, bytes]) -> Answer:
        """Call, and return the answer, which must come at once."""
        stream = self.begin(message, path, *headers)
        self.exchange()
        return self.answers[stream]

    def _take(self, event: ngh2.Event) -> None:
        match event:
            case ngh2.ResponseReceived(stream, headers, ended):
                self._heads[stream] = _texts(headers)
                self._bodies[stream] = b""
                if ended:
                    self._answered(stream, {})
            case ngh2.DataReceived(stream, data, _):
                self._bodies[stream] += data
            case ngh2.TrailersReceived(stream, headers):
                self._answered(stream, _texts(headers))
            case ngh2.StreamReset(stream, code):
                self.resets[stream] = code
            case ngh2.GoAwayReceived(_, code, _):
                self.farewell = code

    def _answered(self, stream: int, trailers: dict[str, str]) -> None:
        headers = {**self._heads[stream], **trailers}
        status = int(headers["grpc-status"]) if "grpc-status" in headers else None
        text, body = headers.get("grpc-message", ""), self._bodies[stream]
        self.answers[stream] = Answer(int(headers[":status"]), status, text, body, headers)


def _texts(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame of HTTP/2, right or wrong."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload

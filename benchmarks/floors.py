"""The least that a server in Python costs for each protocol: uvloop, the protocol's parser, and one fixed answer.

Beside these rows, a benchmark shows which part of a request's time is the service's own. The rest is that of the
kernel's sockets, of uvloop and of the parser, and differs between machines. Knows nothing of ratekeeper.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

from benchmarks.serving import Served, served

HTTP_FLOOR = "uvloop and httptools alone, a fixed 200"
GRPC_FLOOR = "uvloop and ngh2 alone, a fixed answer"
RESP_FLOOR = "uvloop alone, a fixed answer"

_HTTP_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_RESP_ANSWER = b"+PONG\r\n"
_GRPC_ANSWER = b"\0\0\0\0\2\x08\1"
"""A response that admits, and has no more fields."""


class _Fixed(asyncio.Protocol):
    """Writes one answer to any bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(_RESP_ANSWER)


class _FixedHttp(_Fixed):
    """Parses requests, keeps the lines of their heads, and writes one answer to each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        import httptools  # noqa: PLC0415  only this server needs it

        super().connection_made(transport)
        self._feed = httptools.HttpRequestParser(self).feed_data
        self._lines: list[tuple[bytes, bytes]] = []

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def on_url(self, url: bytes) -> None:
        self._target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines.append((name, value))

    def on_message_complete(self) -> None:
        self._lines.clear()
        self.transport.write(_HTTP_ANSWER)


class _FixedGrpc(_Fixed):
    """Answers each call with one message, and all calls of a piece by one write."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        import ngh2  # noqa: PLC0415  only this server needs it

        super().connection_made(transport)
        self._data: Any = ngh2.DataReceived
        self._engine: Any = ngh2.Connection(ngh2.Role.SERVER)  # its events have many types
        self._engine.initiate_connection({})
        self.transport.write(self._engine.data_to_send())

    def data_received(self, data: bytes) -> None:
        engine = self._engine
        engine.receive_data(data)
        for event in engine.events():
            if type(event) is self._data and event.end_stream:
                engine.send_response(event.stream_id, [(b":status", b"200"), (b"content-type", b"application/grpc")])
                engine.send_data(event.stream_id, _GRPC_ANSWER)
                engine.send_trailers(event.stream_id, [(b"grpc-status", b"0")])
        self.transport.write(engine.data_to_send())


_PROTOCOLS: dict[str, Callable[[], asyncio.Protocol]] = {
    HTTP_FLOOR: _FixedHttp,
    GRPC_FLOOR: _FixedGrpc,
    RESP_FLOOR: _Fixed,
}


def serve_fixed(name: str, path: str | None = None) -> None:
    """Serve the fixed answer of this name on a free port, and on a unix socket, until killed; print the address."""
    import uvloop  # noqa: PLC0415  only this process needs it

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(_PROTOCOLS[name], "127.0.0.1", 0)]
        if path is not None:
            servers.append(await loop.create_unix_server(_PROTOCOLS[name], path))
        print(f"127.0.0.1:{servers[0].sockets[0].getsockname()[1]}", flush=True)
        await asyncio.gather(*[one.serve_forever() for one in servers])  # one that nobody refers to closes

    uvloop.run(serve())


def floor(stack: ExitStack, name: str, path: str | None = None) -> Served:
    """Start the server with the fixed answer of this name, in its own process, maybe on a unix socket too."""
    code = f"from benchmarks.floors import serve_fixed; serve_fixed({name!r}, {path!r})"
    return stack.enter_context(served(sys.executable, "-c", code))

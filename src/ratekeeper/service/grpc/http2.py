"""HTTP/2 of a server on libnghttp2, by `ngh2`: bytes in, calls of its owner's methods; answers in, bytes out.

The only file that knows `ngh2`. Knows no socket, no time and no gRPC. libnghttp2 bounds the streams of a client, header
blocks, their continuations, resets, settings and pings. A client that exceeds a bound, or breaks the protocol, loses
its connection. Received data opens the window again at once, so the owner must bound the data that it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import ngh2
from ngh2 import DataReceived, RequestReceived, StreamClosed

from ratekeeper.service.bounds import Bounds

Lines: TypeAlias = Sequence[tuple[bytes, bytes]]

_GOAWAY = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff"


class Owner(Protocol):
    """Takes the events of streams."""

    def begin(self, stream: int, lines: Lines, ended: bool) -> None:
        """Take the headers of a request. If it has `ended`, it has no body."""

    def take(self, stream: int, data: bytes, ended: bool) -> None:
        """Take bytes of a request's body, the last if it has `ended`."""

    def end(self, stream: int) -> None:
        """Take the end of a request whose body ended before: with trailers."""

    def gone(self, stream: int) -> None:
        """Note that the client has given a stream up, or that the connection is lost to it."""


class Http2:
    """One connection. The methods make frames, and `flush` returns them."""

    def __init__(self, owner: Owner, bounds: Bounds) -> None:
        self._owner = owner
        self._engine = ngh2.Connection(ngh2.Role.SERVER, _configuration(bounds))
        self._engine.initiate_connection(
            {
                ngh2.Setting.MAX_CONCURRENT_STREAMS: bounds.calls,
                ngh2.Setting.MAX_HEADER_LIST_SIZE: bounds.head_bytes,
                ngh2.Setting.NO_RFC7540_PRIORITIES: 1,
            }
        )
        self._refused: list[int] = []
        self.begun = False
        """Whether the client has sent its preface and settings."""
        self.over = False
        """Whether nothing more can be read or written."""

    def receive(self, data: bytes) -> None:
        """Take bytes of the client. The connection is `over` if they break the protocol or exceed a bound."""
        try:
            self._engine.receive_data(data)
        except ngh2.NGH2Error:
            self.over = True
        owner = self._owner
        event: Any  # its class tells its attributes; `isinstance` would cost more
        for event in self._engine.events():
            kind = type(event)
            if kind is RequestReceived:
                owner.begin(event.stream_id, event.headers, event.end_stream)
            elif kind is DataReceived:
                owner.take(event.stream_id, event.data, event.end_stream)
            elif kind is StreamClosed:
                if event.error_code:
                    owner.gone(event.stream_id)
            else:
                self._handle(event)

    def _handle(self, event: ngh2.Event) -> None:
        if isinstance(event, ngh2.TrailersReceived):
            self._owner.end(event.stream_id)
        elif isinstance(event, ngh2.SettingsReceived):
            self.begun = True
        elif isinstance(event, ngh2.ConnectionClosed):
            self.over = True

    def answer(self, stream: int, headers: Lines, body: bytes, trailers: Lines) -> None:
        """Answer a request."""
        engine = self._engine
        try:
            engine.send_response(stream, headers)
            engine.send_data(stream, body)
            engine.send_trailers(stream, trailers)
        except ngh2.NGH2Error:  # the client has given it up
            pass

    def begin_stream(self, stream: int, headers: Lines) -> None:
        """Begin an answer of several messages."""
        with suppress(ngh2.NGH2Error):
            self._engine.send_response(stream, headers)

    def send(self, stream: int, body: bytes) -> None:
        """Send a message of an answer that was begun."""
        with suppress(ngh2.NGH2Error):
            self._engine.send_data(stream, body)

    def end_stream(self, stream: int, trailers: Lines) -> None:
        """End an answer that was begun."""
        with suppress(ngh2.NGH2Error):
            self._engine.send_trailers(stream, trailers)

    def refuse(self, stream: int, headers: Lines) -> None:
        """Answer a request without a body. The client need not send the rest of it."""
        with suppress(ngh2.NGH2Error):
            self._engine.send_response(stream, headers, end_stream=True)
            self._refused.append(stream)

    def flush(self) -> bytes:
        """Return the bytes to send."""
        try:
            data = self._engine.data_to_send()
            if self._refused:  # a reset that is queued beside its answer would replace it
                for stream in self._refused:
                    with suppress(ngh2.NGH2Error):  # it has ended
                        self._engine.reset_stream(stream, ngh2.ErrorCode.NO_ERROR)
                self._refused.clear()
                data += self._engine.data_to_send()
        except ngh2.NGH2Error:
            self.over = True
            return b""
        return data

    @property
    def starved(self) -> bool:
        """Whether answers wait for the client to open its window."""
        return self._engine.queued_body_size() > 0

    def announce_end(self) -> None:
        """Tell the client to send its next requests elsewhere. Requests on their way are still answered."""
        with suppress(ngh2.NGH2Error):
            self._engine.send_shutdown_notice()

    def end(self, calm: bool = False) -> bytes:
        """Return the last bytes to send: no request after those that were read is answered. It is `over` then.

        With `calm`, the client has asked for too much.
        """
        code = ngh2.ErrorCode.ENHANCE_YOUR_CALM if calm else ngh2.ErrorCode.NO_ERROR
        try:
            self._engine.send_goaway(code)
            data = self.flush()
        except ngh2.NGH2Error:
            data = b""
        if not data:  # the engine makes no frame after an error
            data = _GOAWAY + int(code or ngh2.ErrorCode.PROTOCOL_ERROR).to_bytes(4)
        self.over = True
        return data


def _configuration(bounds: Bounds) -> ngh2.Configuration:
    return ngh2.Configuration(
        stream_reset_rate_limit=(bounds.resets, bounds.resets),
        max_inbound_header_list_size=bounds.head_bytes,
        max_inbound_header_count=bounds.head_lines,
    )

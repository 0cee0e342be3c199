"""GrpcWire: gRPC over HTTP/2 as a wire. It answers calls of the rate limit service and of the health service.

A call that is answered at once is written within `receive`, and all answers to one `receive` by one `write`. A call
may also be answered by a stream of messages, which lasts until its client or the server ends it. A client's
share is bounded: calls at a time, the bytes of a message and of all half-sent ones, and the time for each. Knows no
message and no limit.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.call import Call, CallHead, Method
from ratekeeper.service.grpc.health import HealthService
from ratekeeper.service.grpc.http2 import Http2, Lines
from ratekeeper.service.grpc.rate_limits import RateLimitService
from ratekeeper.service.grpc.status import (
    DEADLINE_EXCEEDED,
    INTERNAL,
    INVALID_ARGUMENT,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    CallError,
    status_lines,
    timeout_of,
)
from ratekeeper.service.wire import NEVER, Channel

_TYPE = (b"content-type", b"application/grpc")
_HEADERS = [(b":status", b"200"), _TYPE]
_TRAILERS = status_lines(OK)
_NOT_GRPC = status_lines(INVALID_ARGUMENT, "a call of gRPC is a POST of application/grpc")
_ENCODINGS = (b"grpc-accept-encoding", b"identity")

_log = logging.getLogger("ratekeeper")


class GrpcWire:
    """One connection. See `Wire`."""

    def __init__(self, core: Core, channel: Channel, bounds: Bounds) -> None:
        self._channel = channel
        self._bounds = bounds
        self._stopping = False
        health = HealthService(core, lambda: self._stopping)
        self._methods: Mapping[bytes, Method] = {**core.shared(RateLimitService).methods, **health.methods}
        self._http2 = Http2(self, bounds)
        self._lines: Lines = ()  # the headers of the last call, and what they say
        self._head: CallHead | None = None
        self._reading: dict[int, Call] = {}  # the calls that have not been read to their end, the oldest first
        self._read_bytes = 0
        self._waiting: dict[int, Call] = {}  # the calls that have no answer yet, also those that were given up
        self._most_waiting = 2 * bounds.calls  # more than there can be streams: they were given up
        self._streaming: dict[int, Call] = {}  # the calls that are answered by several messages
        self._end_at = channel.now() + bounds.head_time
        self._starved_since = NEVER
        self._now = 0.0
        self._flush()

    # The wire

    @property
    def unanswered(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._streaming)

    @property
    def deadline(self) -> float:
        oldest = next(iter(self._reading.values()), None)
        due = NEVER if oldest is None else oldest.began + self._bounds.body_time
        if not self._reading and not self._waiting:
            due = self._end_at
        return min(due, self._starved_since + self._bounds.write_time)

    def receive(self, data: bytes) -> None:
        if self._http2.over:
            return
        self._now = self._channel.now()
        begun = self._http2.begun
        self._http2.receive(data)
        if begun < self._http2.begun:
            self._end_at = self._now + self._bounds.call_idle_time
        self._flush()

    def expire(self) -> None:
        now = self._channel.now()
        late = [stream for stream, call in self._reading.items() if call.began + self._bounds.body_time <= now]
        if now >= self._starved_since + self._bounds.write_time:
            self._http2.over = True
            self._channel.abort()
        elif late:
            for stream in late:
                self._drop(stream)
                self._refuse(stream, CallError(DEADLINE_EXCEEDED, "the call was not sent to its end in time"))
            self._flush()
        elif now >= self.deadline:
            self._close()

    def finish(self) -> None:
        self._stopping = True
        self._end_at = self._channel.now() + self._bounds.last_time
        self._http2.announce_end()
        for call in self._streaming.values():
            call.give_up()
        self._flush()

    def cut_off(self) -> None:
        for stream in [*self._waiting]:
            self._waiting.pop(stream).give_up()
            self._refuse(stream, CallError(UNAVAILABLE, "the service stops: ask again"))
        self._close()

    def lost(self) -> None:
        self._http2.over = True
        self._reading.clear()
        self._waiting.clear()
        self._streaming.clear()

    # The streams

    def begin(self, stream: int, lines: Lines, ended: bool) -> None:
        """As `Owner.begin`. Most calls of a gateway have the same headers as the call before."""
        head = self._head if lines == self._lines else self._read_head(stream, lines)
        if head is None:
            return  # it was refused
        if len(self._waiting) >= self._most_waiting:
            self._refuse(stream, CallError(RESOURCE_EXHAUSTED, "too many calls wait for their answers"))
            return
        call = Call(head, self._now)
        if ended:
            self._complete(stream, call, b"")
        else:
            self._reading[stream] = call

    def _read_head(self, stream: int, lines: Lines) -> CallHead | None:
        """Return what the headers say, the last line of each name. Refuse those that are not of a call: return None."""
        headers = dict(lines)
        kind = headers.get(b"content-type", b"")
        if kind != b"application/grpc" and not kind.startswith((b"application/grpc+proto", b"application/grpc;")):
            self._http2.refuse(stream, [(b":status", b"415"), (b"accept", _TYPE[1]), *_NOT_GRPC])
            return None
        if headers.get(b":method") != b"POST":
            self._http2.refuse(stream, [(b":status", b"405"), (b"allow", b"POST"), *_NOT_GRPC])
            return None
        try:
            method = self._methods.get(headers.get(b":path", b""))
            if method is None:
                raise CallError(UNIMPLEMENTED, f"unknown method: use {_named(self._methods)}")
            head = CallHead(method, headers.get(b"grpc-encoding"), timeout_of(headers.get(b"grpc-timeout")))
        except CallError as error:
            self._refuse(stream, error)
            return None
        self._lines, self._head = lines, head
        return head

    def take(self, stream: int, data: bytes, ended: bool) -> None:
        """As `Owner.take`."""
        call = self._reading.get(stream)
        if call is None:
            return  # it was refused
        if ended and not call.body:
            del self._reading[stream]
            self._complete(stream, call, data)
            return
        if not call.body:
            call.body = bytearray()
        call.body += data
        self._read_bytes += len(data)
        if self._read_bytes > self._bounds.unread_bytes:
            self._drop(stream)
            self._refuse(stream, CallError(RESOURCE_EXHAUSTED, "too many bytes of half-sent messages"))
        elif len(call.body) > self._bounds.message_bytes:
            self._drop(stream)
            self._refuse(stream, self._too_long())
        elif ended:
            self.end(stream)

    def end(self, stream: int) -> None:
        """As `Owner.end`."""
        call = self._drop(stream)
        if call is not None:
            self._complete(stream, call, bytes(call.body))

    def gone(self, stream: int) -> None:
        """As `Owner.gone`."""
        self._drop(stream)
        answered_later = self._waiting.get(stream) or self._streaming.get(stream)
        if answered_later is not None:
            answered_later.give_up()

    def _drop(self, stream: int) -> Call | None:
        """Forget a call that is being read, and return it."""
        call = self._reading.pop(stream, None)
        if call is not None:
            self._read_bytes -= len(call.body)
        return call

    # The answers

    def _complete(self, stream: int, call: Call, body: bytes) -> None:
        """Answer a call that was read to its end, or begin to."""
        self._end_at = self._now + self._bounds.call_idle_time if not self._stopping else self._end_at
        try:
            if len(body) > self._bounds.message_bytes:
                raise self._too_long()
            answer = call.head.method(body, call)
        except Exception as error:
            self._refuse(stream, _as_call_error(error))
            return
        if isinstance(answer, bytes):
            self._http2.answer(stream, _HEADERS, answer, _TRAILERS)
            return
        call.body = b""
        if isinstance(answer, AsyncIterator):
            self._streaming[stream] = call
            self._http2.begin_stream(stream, _HEADERS)
            self._channel.run(self._stream(stream, answer))
        else:
            self._waiting[stream] = call
            self._channel.run(self._answer_later(stream, answer))

    async def _answer_later(self, stream: int, answering: Coroutine[Any, Any, bytes]) -> None:
        try:
            answer = await answering
        except Exception as error:
            if self._waiting.pop(stream, None) is not None:
                self._refuse(stream, _as_call_error(error))
        else:
            if self._waiting.pop(stream, None) is not None:
                self._http2.answer(stream, _HEADERS, answer, _TRAILERS)
        self._flush()

    async def _stream(self, stream: int, messages: AsyncIterator[bytes]) -> None:
        trailers = _TRAILERS
        try:
            async for message in messages:
                self._http2.send(stream, message)
                self._flush()
        except Exception as error:
            trailers = _status_of(_as_call_error(error))
        if self._streaming.pop(stream, None) is not None:
            self._http2.end_stream(stream, trailers)
            self._flush()

    def _too_long(self) -> CallError:
        return CallError(RESOURCE_EXHAUSTED, f"a message has at most {self._bounds.message_bytes} bytes")

    def _refuse(self, stream: int, error: CallError) -> None:
        encodings = [_ENCODINGS] if error.status == UNIMPLEMENTED else []
        self._http2.refuse(stream, [*_HEADERS, *_status_of(error), *encodings])

    def _flush(self) -> None:
        """Send what is to be sent. Close the connection if it is over."""
        if data := self._http2.flush():
            self._channel.write(data)
        if self._http2.over:
            self._close()
        elif not self._http2.starved:
            self._starved_since = NEVER
        elif self._starved_since == NEVER:
            self._starved_since = self._channel.now()

    def _close(self) -> None:
        """Tell the client that no more is answered, and close."""
        self._channel.write(self._http2.end())
        self._channel.close()


def _status_of(error: CallError) -> list[tuple[bytes, bytes]]:
    return status_lines(error.status, str(error))


def _as_call_error(error: Exception) -> CallError:
    """Return the end of one call. A mistake here must not end the other calls of a gateway's connection."""
    if isinstance(error, CallError):
        return error
    _log.error("a call failed", exc_info=error)
    return CallError(INTERNAL, "the service failed: its log says why")


def _named(methods: Mapping[bytes, Method]) -> str:
    return " or ".join(path.decode() for path in methods)

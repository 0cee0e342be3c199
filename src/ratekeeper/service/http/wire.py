"""HttpWire: one connection that speaks HTTP/1.1: the order of its answers, and its deadlines. Knows no socket.

Input is parsed in short pieces, and none is parsed while an answer waits for its turn. So one connection keeps few
requests, whatever it sends. A client that exceeds a bound gets one answer, behind the answers that are due, and nothing
more of it is read.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from ratekeeper.coroutines import begin
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.answer import CLOSE, CONTINUE, Answer, BeginStream, Writer, plain
from ratekeeper.service.http.exchange import GatewayExchange
from ratekeeper.service.http.parser import FAILED, HEAD, IDLE, Lines, RefusedError, RequestParser
from ratekeeper.service.http.route import MOST_BODY, Answering
from ratekeeper.service.http.routes import route_of
from ratekeeper.service.wire import NEVER, Channel

STOPPING = plain(503, "the service stops: ask again", b"retry-after: 1\r\n")

_writer = Writer()
_log = logging.getLogger("ratekeeper")


class HttpWire:
    """One connection. Its methods are those of `Wire`."""

    def __init__(self, core: Core, channel: Channel, bounds: Bounds) -> None:
        self._core, self._channel, self._bounds = core, channel, bounds
        self._parser = RequestParser(bounds, self._take, self._most_body)
        self._now = channel.now()
        self.deadline = self._now + bounds.head_time
        self._body_end = 0.0  # the time at which all of a body must have come; 0 while none is under way
        self._due: deque[GatewayExchange] = deque()  # requests without an answer; the first one is being answered
        self._rest = bytearray()  # input that is not parsed yet, as an answer waits
        self._refusal: Answer | None = None  # the last answer, behind those that are due
        self._begin_stream: BeginStream | None = None  # of the last answer, whose head is written first
        self._end_stream: Callable[[], None] | None = None
        self._out: list[bytes] = []
        self._ended = False  # nothing more is parsed
        self._closing = False  # the last answer is written
        self._finishing = False  # the server stops
        self._paused = False

    @property
    def unanswered(self) -> int:
        return len(self._due)

    @property
    def idle(self) -> bool:
        return not self._due and self._end_stream is None

    # Orders of the connection

    def receive(self, data: bytes) -> None:
        if self._ended:
            return
        if self._due:
            self._rest += data
            if len(self._rest) > self._bounds.head_bytes and not self._paused:
                self._paused = True
                self._channel.pause()
            return
        self._now = self._channel.now()
        self._parse(data)
        self._flush()

    def expire(self) -> None:
        if not self._due:
            self._close()

    def finish(self) -> None:
        self._finishing = True
        if self._end_stream is not None:
            self._close()
        elif not self._due:
            self.deadline = min(self.deadline, self._channel.now() + self._bounds.last_time)

    def cut_off(self) -> None:
        if self._due:
            self._due.clear()
            self._put(STOPPING, CLOSE)
        self._closing = True
        self._flush()

    def lost(self) -> None:
        self._ended = self._closing = True
        self._stop_stream()
        self._due.clear()
        self._rest.clear()
        self._parser.close()

    # From bytes to answers

    def _parse(self, data: bytes) -> None:
        parser, size = self._parser, self._parser.most_piece
        head = parser.read_usual_head(data)
        if head is not None:
            if not self._answer_now(head):
                self._answer(GatewayExchange(self._core.limiter, self._channel.peer, b"GET", head.target, head))
            return
        for start in range(0, len(data), size):
            try:
                parser.feed(data[start : start + size])
            except RefusedError as refused:
                self._ended, self._refusal = True, refused.answer
                return
            if parser.ended or self._ended:
                self._ended = True
                return
            if self._due:
                self._rest += data[start + size :]
                return

    def _take(self, verb: bytes, target: bytes, head: Lines, body: bytes, connection: bytes) -> None:
        """Take a request of the parser."""
        request = GatewayExchange(self._core.limiter, self._channel.peer, verb, target, head, body, connection)
        self._body_end = 0.0
        if self._due:
            self._due.append(request)
        elif not self._closing:
            self._answer(request)

    def _most_body(self, target: bytes, head: Lines) -> int:
        """Return the bytes of the longest body that is kept for a request."""
        most_body = route_of(target).most_body
        if most_body is None:
            return MOST_BODY
        return most_body(self._core, GatewayExchange(self._core.limiter, self._channel.peer, b"", target, head))

    def _answer_now(self, head: Any) -> bool:
        """Answer a usual request without an exchange, and return True, if its route can."""
        answer_now = route_of(head.target).answer_now
        if answer_now is None:
            return False
        try:
            answer = answer_now(self._core, head, self._channel.peer)
        except Exception:
            _log.exception("a request failed")
            answer = FAILED
        if answer is None:
            return False
        self._put(answer)
        return True

    def _answer(self, request: GatewayExchange) -> bool:
        """Answer a request, and return True; or begin to, and return False."""
        if self._core.policy.at_once is None:  # nothing is begun before its task: a task may be cancelled unbegun
            self._due.appendleft(request)
            self._channel.run(self._answer_later(request))
            return False
        try:
            answer = route_of(request.target).answer(self._core, request)
            if not isinstance(answer, Answer):
                answer = begin(answer)
        except Exception:  # the connection, and its other requests, go on
            _log.exception("a request failed")
            answer = FAILED
        if isinstance(answer, Answer):
            self._put(answer, request.connection, request.verb != b"HEAD")
            return True
        self._due.appendleft(request)
        rest = begin(self._answer_later(request, answer))
        assert rest is not None, "the answer has suspended already"
        self._channel.run(rest)
        return False

    async def _answer_later(self, request: GatewayExchange, answering: Answering | None = None) -> None:
        try:
            answer = answering or route_of(request.target).answer(self._core, request)
            if not isinstance(answer, Answer):
                answer = await answer
        except Exception:
            _log.exception("a request failed")
            answer = FAILED
        if not self._due:  # it was cut off
            return
        self._now = self._channel.now()
        request = self._due.popleft()
        self._put(answer, request.connection, request.verb != b"HEAD")
        self._go_on()
        self._flush()

    def _go_on(self) -> None:
        """Answer what was read while an answer waited, until another one must wait."""
        while self._due and self._answer(self._due.popleft()):
            pass
        self._parser.went_on = True
        if self._due or self._closing:
            return
        rest = bytes(self._rest)
        self._rest.clear()
        if not self._ended:
            self._parse(rest)
        if self._paused and not self._due:
            self._paused = False
            self._channel.resume()

    def _put(self, answer: Answer, connection: bytes = b"", with_body: bool = True) -> None:
        """Put an answer behind those that are not written yet. One that closes the connection is the last."""
        if answer.begin_stream is not None or (self._finishing and not self._due):
            connection = CLOSE
        self._out.append(_writer.written(answer, self._now, connection, with_body))
        if connection is CLOSE:
            self._ended = self._closing = True
            self._due.clear()
            if with_body and not self._finishing:
                self._begin_stream = answer.begin_stream

    def _flush(self) -> None:
        """Write the answers, and set the deadline for the client's next bytes."""
        if self._refusal is not None and not self._due and not self._closing:
            self._put(self._refusal, CLOSE)
        if self._out:
            self._channel.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
            self._out.clear()
        if self._begin_stream is not None:
            self._stream()
        elif self._closing:
            self._close()
        elif self._due:
            self.deadline = NEVER
        elif (parser := self._parser).went_on:
            parser.went_on = False
            if parser.phase == IDLE:
                self.deadline = self._now + self._bounds.idle_time
            elif parser.phase == HEAD:
                self.deadline = self._now + self._bounds.head_time
            else:
                self._go_on_with_body()

    def _go_on_with_body(self) -> None:
        """Set the deadline for the next bytes of a body. A client that waits for a 100 gets it."""
        now, bounds = self._now, self._bounds
        if not self._body_end:
            self._body_end = now + bounds.body_time
            if self._parser.expects_continue():
                self._channel.write(CONTINUE)
        self.deadline = min(now + bounds.pause, self._body_end)

    def _stream(self) -> None:
        """Begin the rest of the last answer's body. Bytes that the client sends meanwhile are dropped."""
        assert self._begin_stream is not None
        self.deadline = NEVER
        self._rest.clear()
        if self._paused:
            self._paused = False
            self._channel.resume()
        self._end_stream, self._begin_stream = self._begin_stream(self._send_part), None

    def _send_part(self, data: bytes) -> None:
        """Send a part of a body that goes on, unless the client is slow: it gets a later one. No bytes end it."""
        if not data:
            self._close()
        elif not self._channel.full:
            self._channel.write(data)

    def _stop_stream(self) -> None:
        if self._end_stream is not None:
            self._end_stream()
            self._end_stream = None

    def _close(self) -> None:
        self._ended = self._closing = True
        self._stop_stream()
        self.deadline = NEVER
        self._channel.close()

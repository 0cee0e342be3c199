"""HTTP/1.1 by uvicorn's protocol on httptools, with bounds on the bytes, requests and time that a client can take.

uvicorn keeps the whole header block of a client, queues all pipelined requests, and waits for the rest for ever.
Here every piece is counted before it is kept, and each connection has one deadline, which its server looks at. A client
that exceeds a bound gets one answer, and nothing more of it is read. This module knows no application.
"""

from __future__ import annotations

from asyncio import BaseTransport, Transport
from math import inf
from typing import cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ratekeeper.service.bounds import Bounds

_BAD_REQUEST = "400 Bad Request", "this is not an HTTP/1.1 request"
_STOPPING = "503 Service Unavailable", "the service stops: ask again"


class _BoundError(Exception):
    """The client exceeded a bound. Its message is the status line of the answer."""


class BoundedHttp(HttpToolsProtocol):
    """One connection. `expire` is called now and then with the loop's time, `end` and `cut_off` as the server stops."""

    def __init__(self, config: Config, state: ServerState, bounds: Bounds) -> None:
        super().__init__(config, state, {})
        self._bounds = bounds
        self._exceeded: tuple[str, str] | None = None  # the answer to a client that exceeded a bound
        self._active: RequestResponseCycle | None = None  # the request that is being answered; `cycle` is the newest
        self._input_ended = False  # nothing more is read
        self._output_ended = False  # nothing more is written
        self._ending = False  # the next answer is the last
        self._in_head = self._in_body = False
        self._messages = 0
        self._lines = self._head_bytes = self._unfinished_bytes = 0
        self._body_end = self._deadline = self._abort_at = inf

    # The connection

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast("Transport", transport))
        self._deadline = self.loop.time() + self._bounds.head_time

    def connection_lost(self, exc: Exception | None) -> None:
        self._disconnect()
        self.pipeline.clear()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_at = self.loop.time() + self._bounds.write_time

    def resume_writing(self) -> None:
        super().resume_writing()
        self._abort_at = inf

    def data_received(self, data: bytes) -> None:
        if self._input_ended:
            return
        messages = self._messages
        try:
            self.parser.feed_data(data)  # pyright: ignore[reportOptionalMemberAccess]  # None only before a connection
        except httptools.HttpParserUpgrade:
            self._end_after_answers()  # it is answered as any other request
        except httptools.HttpParserError:
            self._refuse(self._exceeded or _BAD_REQUEST)
        else:
            if self._in_head and messages == self._messages:
                self._unfinished_bytes += len(data)
                if self._unfinished_bytes > self._bounds.head_bytes:
                    self._refuse(self._head_too_long())

    # Events of the parser

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self._bounds.pipelined - 1:
            self._exceed(*_BAD_REQUEST)
        super().on_message_begin()
        self._messages += 1
        self._in_head = True
        self._lines = self._head_bytes = self._unfinished_bytes = 0
        self._deadline = self.loop.time() + self._bounds.head_time

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > self._bounds.target_bytes:
            self._exceed("414 URI Too Long", f"the path and query are longer than {self._bounds.target_bytes} bytes")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._lines > self._bounds.head_lines or self._head_bytes > self._bounds.head_bytes:
            self._exceed(*self._head_too_long())
        if self._in_head:  # trailers, behind the body, are not headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()
        self._in_body = True
        now = self.loop.time()
        self._body_end = now + self._bounds.body_time
        self._deadline = min(now + self._bounds.pause, self._body_end)
        if self._ending:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if not self.cycle.response_complete:
            self._deadline = min(self.loop.time() + self._bounds.pause, self._body_end)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        idle = self.cycle.response_complete
        self._deadline = self.loop.time() + self._bounds.idle_time if idle else inf
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request. It replaces uvicorn's method, which has a timer of another kind."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        now, bounds = self.loop.time(), self._bounds
        if self._in_head:
            self._deadline = now + bounds.head_time
        elif self._in_body:
            rest = now + bounds.pause
            self._deadline = min(self._deadline, rest) if self.cycle.response_complete else rest
        elif not self.pipeline:
            self._deadline = now + bounds.idle_time
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    # Orders of the server

    def expire(self, now: float) -> None:
        """End the connection if its deadline has passed."""
        if self.transport.is_closing() and self._abort_at == inf:
            self._abort_at = now + self._bounds.write_time
        if now >= self._abort_at:
            self.transport.abort()
        elif now >= self._deadline and not self.flow.read_paused:
            if self._output_ended or self._in_body:
                self.transport.close()
            else:
                self._end_after_answers()

    def end(self) -> None:
        """Close after the answers that are due, or soon if none is."""
        self._ending = True
        if self._unanswered():
            self.cycle.keep_alive = False
        else:
            self._deadline = min(self._deadline, self.loop.time() + self._bounds.last_time)

    def cut_off(self) -> bool:
        """Close now; return whether a client waited for an answer. It gets a 503, and the application learns of it."""
        waited = self._unanswered()
        if waited and self._active is not None and not self._active.response_started:
            self._write_refusal(*_STOPPING)
        self.pipeline.clear()
        self._disconnect()
        self.transport.close()
        return waited

    # The end

    def _unanswered(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _head_too_long(self) -> tuple[str, str]:
        bounds = self._bounds
        detail = f"the headers are longer than {bounds.head_bytes} bytes or more than {bounds.head_lines} lines"
        return "431 Request Header Fields Too Large", detail

    def _exceed(self, status: str, detail: str) -> None:
        self._exceeded = status, detail
        raise _BoundError(status)

    def _refuse(self, answer: tuple[str, str]) -> None:
        """Read no more. Answer the request that was not read to its end, if no answer to another one comes before."""
        if not self._in_body and self._unanswered():
            self._end_after_answers()
        elif self._in_body and (self.cycle is not self._active or self.cycle.response_started):
            self.transport.close()
        else:
            self._write_refusal(*answer)
            self._disconnect()
            # The client still sends. To close now would reset the connection, and the client would lose the answer.
            self.transport.write_eof()
            self._input_ended = self._output_ended = True
            self._deadline = self.loop.time() + self._bounds.last_time

    def _write_refusal(self, status: str, detail: str) -> None:
        body = f"{detail}\n".encode("ascii")
        again = "retry-after: 1\r\n" if status.startswith("503") else ""
        head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n{again}"
        self.transport.write(head.encode("ascii") + b"connection: close\r\n\r\n" + body)

    def _end_after_answers(self) -> None:
        """Read no more, and close with the answer to the last request that was read."""
        self._input_ended, self._deadline = True, inf
        if self._unanswered():
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _disconnect(self) -> None:
        """Tell the application that the client has gone."""
        if self._active is not None and not self._active.response_complete:
            self._active.disconnected = True
            self._active.message_event.set()

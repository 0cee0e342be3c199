"""Connection: drives one wire on one transport of asyncio. Knows no protocol and no listening socket.

It is the wire's `Channel`. It pauses reading while the client leaves answers unread, and aborts if that lasts. It ends
in stages, so that the client gets the last answer. Its server calls `expire` now and then: that is its only timer.

A client that has ended its side may still read, or may be gone: TCP does not tell. So it gets the answers that come
soon, and is then taken to be gone, so that what it waited for is free.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from math import inf
from typing import Any, cast

from ratekeeper.service.bounds import Bounds
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.wire import MakeWire

_PORTION = 16_384
"""Bytes that a wire is given at once."""

_log = logging.getLogger("ratekeeper")


class Connections:
    """The open connections of a server, their bounds, their counts, and the loop."""

    def __init__(self, bounds: Bounds, metrics: Metrics) -> None:
        self.bounds = bounds
        self.metrics = metrics
        self.loop = asyncio.get_running_loop()
        self.open: set[Connection] = set()


class Connection(asyncio.Protocol):
    """One connection. `kind` names its protocol."""

    peer: str | None = None
    _transport: asyncio.Transport

    def __init__(self, kind: str, make_wire: MakeWire, connections: Connections) -> None:
        self.kind = kind
        self._make_wire = make_wire
        self._connections = connections
        self._bounds = connections.bounds
        self._loop = connections.loop
        self.now = self._loop.time
        # The transport's own method, a call less for each answer; after the end, a function that drops the bytes.
        self.write: Callable[[bytes], None] = _drop
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._wire_full = self.full = False  # `full`: the client leaves bytes unread
        self._heard = True  # since the look before
        self._silent_since = inf  # as a look at a crowded server found
        self._unheard = b""
        self._abort_at = inf
        self._ended_by_client = False
        self._gone_at = inf  # the client, which has ended its side, is taken to be gone

    # Events of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.write = self._transport.write
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else None
        self.wire = self._make_wire(self)
        self._connections.open.add(self)
        self._connections.metrics.protocols[self.kind].opened()

    def data_received(self, data: bytes) -> None:
        """Hand bytes to the wire, a portion at a time, and only while the client reads the answers.

        Short questions may have long answers. So the answers to one read of many questions could fill the memory.
        """
        self._heard = True
        self._unheard = self._unheard + data if self._unheard else data
        while (data := self._unheard) and not (self._closing or self.full):
            self._unheard = data[_PORTION:]
            try:
                self.wire.receive(data[:_PORTION])
            except Exception:
                _log.exception("a mistake in the %s protocol", self.kind)
                self.abort()

    def eof_received(self) -> bool:
        """Return whether the connection stays open after the client's last byte, for answers that are due."""
        if self._closing or not (self.wire.unanswered and self._transport.can_write_eof()):  # TLS has no half
            return False
        if not self._ended_by_client:
            self._ended_by_client = True
            self._gone_at = self.now() + self._bounds.ended_time
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.open.discard(self)
        self._connections.metrics.protocols[self.kind].closed()
        self._end()
        for task in self._tasks:
            task.cancel()
        self.wire.lost()

    def pause_writing(self) -> None:
        self.full = True
        self._abort_at = min(self._abort_at, self.now() + self._bounds.write_time)
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.full = False
        self._abort_at = self.now() + self._bounds.last_time if self._closing else inf
        self.data_received(b"")
        self._read_again()

    # The channel

    def run(self, answering: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(answering)
        self._tasks.add(task)
        task.add_done_callback(self._ran)

    def pause(self) -> None:
        self._wire_full = True
        self._transport.pause_reading()

    def resume(self) -> None:
        self._wire_full = False
        self._read_again()

    def close(self) -> None:
        if self._closing:
            return
        self._end()
        if self._ended_by_client or not self._transport.can_write_eof():
            self._transport.close()
            return
        with suppress(OSError):  # the client is gone
            self._transport.write_eof()
        self._abort_at = self.now() + (self._bounds.write_time if self.full else self._bounds.last_time)
        self._wire_full = False
        self._read_again()

    def abort(self) -> None:
        self._end()
        self._transport.abort()

    # Orders of the server

    def expire(self, now: float, crowded: bool) -> None:
        """Obey the deadlines that have passed. If others wait for a place, an idle client gives up its own."""
        if self._abort_at == inf and self._transport.is_closing():
            self._abort_at = now + self._bounds.write_time
        if now >= min(self._abort_at, self._gone_at):
            self._transport.abort()
        elif now >= self.wire.deadline and not self._closing and not self.full:
            self.wire.expire()
        elif crowded:
            if self._heard or not self.wire.idle:
                self._heard, self._silent_since = False, now
            elif now >= self._silent_since + self._bounds.idle_time:
                self._silent_since = inf  # to end it twice would begin its last moment anew
                self.finish()

    def finish(self) -> None:
        """Close after the answers that are due, as the server stops."""
        if not self._closing:
            self.wire.finish()

    def cut_off(self) -> bool:
        """Close now, and return whether a client waited for an answer."""
        waited = not self._closing and self.wire.unanswered > 0
        if not self._closing:
            self.wire.cut_off()
        for task in self._tasks:
            task.cancel()
        return waited

    def _end(self) -> None:
        """Take and write no more."""
        if not self._closing:
            self._closing = True
            self.write = _drop

    def _read_again(self) -> None:
        if not (self._wire_full or self.full or self._transport.is_closing()):
            self._transport.resume_reading()

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a mistake in the %s protocol", self.kind, exc_info=error)
            self.abort()
        elif self._ended_by_client:
            self._gone_at = self.now() + self._bounds.ended_time
            if not self.wire.unanswered:
                self.close()


def _drop(data: bytes) -> None:
    """Drop bytes that come after the end."""

"""A client of one wire, without a socket: it sends bytes, lets time pass, and reads the wire's answers."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from collecting_channel import CollectingChannel

from ratekeeper.service.wire import MakeWire


class WireClient(CollectingChannel):
    """A client, and the wire's end of its connection. Its time begins at 0."""

    def __init__(self, make_wire: MakeWire, peer: str | None = "192.0.2.1") -> None:
        super().__init__()
        self.peer = peer
        self.sent = b""
        self.wire = make_wire(self)

    def write(self, data: bytes) -> None:
        super().write(data)
        self.sent += data

    def send(self, *pieces: bytes) -> bytes:
        """Send pieces, each unless the connection is closed. Return what was written meanwhile."""
        before = len(self.sent)
        for piece in pieces:
            if not self.closed:
                self.wire.receive(piece)
        return self.sent[before:]

    async def answered(self) -> None:
        """Wait until no answer is under way."""
        await self.settle()

    async def hang_up(self) -> None:
        self.lose(self.wire)
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def wait(self, seconds: float) -> bool:
        """Let time pass, and return whether the connection has ended by that."""
        self.time += seconds
        if not self.closed and self.time >= self.wire.deadline:
            self.wire.expire()
        return self.closed


class HttpAnswer(NamedTuple):
    """An answer of HTTP/1.1."""

    status: int
    headers: dict[str, str]
    body: bytes


def answers_in(data: bytes, *, to_head: bool = False) -> list[HttpAnswer]:
    """Return the answers in a connection's bytes. Each must be whole."""
    answers = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        start, *lines = head.decode("ascii").split("\r\n")
        version, status, _phrase = start.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines), f"a header is repeated in {lines}"
        length = 0 if to_head or status == "100" else int(headers["content-length"])
        assert len(data) >= length
        answers.append(HttpAnswer(int(status), headers, data[:length]))
        data = data[length:]
    return answers

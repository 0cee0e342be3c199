"""A client of /v1/status/events on a real socket, which reads its events one by one."""

from __future__ import annotations

import json
import socket
from typing import Any

from servers import PATIENCE

ASK = b"GET /v1/status/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class EventStream:
    """One open page. `status` is the number of the answer's status line."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=PATIENCE)
        self._socket.sendall(ASK)
        self._data = b""
        head = self._until(b"\r\n\r\n")
        assert head is not None, "no answer"
        self.status = int(head.split(b" ")[1])

    def next(self, kind: str = "status") -> Any:
        """Return the data of the next event of a kind; None at the end."""
        while (block := self._until(b"\n\n")) is not None:
            name, _, data = block.partition(b"\ndata: ")
            if name == f"event: {kind}".encode():
                return json.loads(data)
        return None

    def close(self) -> None:
        self._socket.close()

    def _until(self, end: bytes) -> bytes | None:
        while end not in self._data:
            try:
                piece = self._socket.recv(65_536)
            except ConnectionError:
                return None
            if not piece:
                return None
            self._data += piece
        found, _, self._data = self._data.partition(end)
        return found

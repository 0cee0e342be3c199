"""A client that sends a request as it is told, byte for byte, over a connection that it keeps."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from http.client import HTTPException, HTTPResponse
from typing import NamedTuple
from urllib.parse import urlsplit

from servers import PATIENCE

Header = tuple[bytes, bytes]


class Answer(NamedTuple):
    """A response. The status is 0 if the server has hung up without one."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """Sends to one server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 0))
        self._socket: socket.socket | None = None

    def connect(self) -> socket.socket:
        """Return another connection."""
        return socket.create_connection(self._address, PATIENCE)

    def send(self, target: str | bytes, *headers: Header, method: bytes = b"GET", body: bytes = b"") -> Answer:
        request = written(target, headers, method, body)
        kept = self._socket
        answer = self._once(request, method) if kept else None
        return answer or self._once(request, method) or Answer(0, {}, b"")

    def statuses(self, *targets: str) -> list[int]:
        return [self.send(target).status for target in targets]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _once(self, request: bytes, method: bytes) -> Answer | None:
        """Return the answer, None if the connection is no more."""
        if self._socket is None:
            self._socket = self.connect()
        with HTTPResponse(self._socket, method=method.decode("latin-1")) as response:
            try:
                self._socket.sendall(request)
                response.begin()
                body = response.read()
            except (OSError, HTTPException):
                self.close()
                return None
        if response.will_close:
            self.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def written(target: str | bytes, headers: Iterable[Header] = (), method: bytes = b"GET", body: bytes = b"") -> bytes:
    """Return a request as bytes."""
    raw = target.encode() if isinstance(target, str) else target
    lines = [(b"Host", b"test"), *headers]
    if body or method not in (b"GET", b"HEAD"):
        lines.append((b"Content-Length", b"%d" % len(body)))
    head = b"".join(b"%s: %s\r\n" % line for line in lines)
    return b"%s %s HTTP/1.1\r\n%s\r\n%s" % (method, raw, head, body)

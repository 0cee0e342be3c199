"""A TCP proxy before a real server that fails as networks do: it delays, cuts, half-closes, and loses replies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from redis_servers import wait_for

Manner = Literal["pass", "hang", "cut", "half-close", "lose replies"]


class Proxy:
    """Passes bytes on, in the manner that it is set to. Counts the connections asked for, and what hangs in it."""

    def __init__(self, to: int) -> None:
        self.to = to  # whoever comes from now on is led there
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.manner: Manner = "pass"
        self.delay = 0.0
        self.passing = 0  # replies that still pass, whatever the manner
        self.connections = 0
        self._taken: list[int] = []  # the ports of those who asked for them
        self.held = 0  # pieces that came to hang: they are lost when their connection is dropped
        self._released = threading.Event()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def asked_for(self) -> int:
        """Return how many connections have been asked for, when all of them are taken: the last is its own."""
        with socket.create_connection(("127.0.0.1", self.port)) as own:
            wait_for(lambda: own.getsockname()[1] in self._taken)
        self.connections -= 1
        return self.connections

    def close(self) -> None:
        """Refuse whoever comes, and drop those that are here."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Close all connections."""
        self._released.set()
        open_now, self._open = self._open, []
        for one in open_now:
            _shut(one)
        self._released = threading.Event()

    def _accept(self) -> None:
        while True:
            try:
                client, (_, port) = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._taken.append(port)
            server = socket.create_connection(("127.0.0.1", self.to))
            self._open += [client, server]
            for source, target, back in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass_on, args=(source, target, back), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, back: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                manner = self.manner
                if back and self.passing:
                    self.passing -= 1
                    manner = "pass"
                self._released.wait(self.delay if back else 0)
                if manner == "hang":
                    self.held += 1
                    self._released.wait()
                    break
                if manner == "half-close" and not back:
                    source.shutdown(socket.SHUT_WR)  # nothing comes back, and the server is asked all the same
                if manner == "cut" or (manner == "lose replies" and back):
                    break
                target.sendall(data)
        _shut(source)
        _shut(target)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def proxy(to: int) -> Iterator[Proxy]:
    running = Proxy(to)
    try:
        yield running
    finally:
        running.close()

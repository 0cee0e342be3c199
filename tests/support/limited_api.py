"""A real HTTP server that answers like an API with its own limits, as a test says, and remembers its requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from servers import PATIENCE


class Answer(NamedTuple):
    """An answer that the server gives once."""

    status: int
    headers: Mapping[str, str]


def too_many(wait: float) -> Answer:
    return Answer(429, {"Retry-After": str(wait)})


@dataclass
class Got:
    """A request as it came."""

    path: str
    body: bytes
    at: float = field(default_factory=time.monotonic)


class LimitedAPI(ThreadingHTTPServer):
    """Gives its `answers` in order, and then 200. A path `/parts` has two parts; `go_on` lets the second follow."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.got: list[Got] = []
        self.go_on = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def other_url(self) -> str:
        """The same server by another host's name."""
        return f"http://localhost:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: LimitedAPI
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/parts":
            self._in_parts()
            return
        body = self._body()
        with self.server.lock:
            self.server.got.append(Got(self.path, body))
            answer = self.server.answers.pop(0) if self.server.answers else Answer(200, {})
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        text = b"asked too much" if answer.status == 429 else b"here you are"
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self) -> None:
        self.do_GET()

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _in_parts(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"first")
        self.wfile.flush()
        if self.server.go_on.wait(PATIENCE):
            self.wfile.write(b"later")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def limited_api(*answers: Answer) -> Iterator[LimitedAPI]:
    with LimitedAPI(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

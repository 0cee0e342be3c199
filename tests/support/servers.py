"""Real servers for tests: each is started, polled until it answers, and stopped by the process that was started."""

from __future__ import annotations

import importlib.util
import itertools
import re
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import httpx
from needs import need, need_program

PATIENCE = 30.0
"""Seconds until a server that does not answer is given up; a test never sleeps this long if all is well."""


_BLOCK = 300
_BLOCKS = range(20_000, 32_000, _BLOCK)
"""The first ports of the blocks that runs of the tests share. They end below the ports that the system gives to those
that ask for any: Linux begins at 32,768."""


@cache
def _own_ports() -> tuple[socket.socket, Iterator[int]]:
    """Return the ports of a block, in a cycle. Its first port is taken while this process lives, so no other has it."""
    for first in _BLOCKS:
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", first)), itertools.cycle(range(first + 1, first + _BLOCK))
    raise AssertionError("other runs of the tests have all blocks of ports")


def free_port() -> int:
    """Return a port that is free, and stays so: neither the system nor another run of the tests gives it to anybody."""
    for port in itertools.islice(_own_ports()[1], _BLOCK):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("there are no ports")


def wait_until_answers(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended: {process.stderr.read() if process.stderr else ''}"
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"{url} did not answer in {PATIENCE} s")


@contextmanager
def program(*command: str | Path, quiet: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A program that runs meanwhile. One that writes much must be `quiet`: nobody reads it, and it would block."""
    output = subprocess.DEVNULL if quiet else subprocess.PIPE
    process = subprocess.Popen([str(word) for word in command], stdout=output, stderr=output, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


_HELD = "from ratekeeper.testing import frozen; from ratekeeper.cli.main import main; frozen()(main)()"


@contextmanager
def ratekeeper_service(
    policy: Path, announced: list[str] | None = None, *options: str, held: bool = False
) -> Iterator[str]:
    """`ratekeeper serve` on a free port of this machine; yields its URL. `announced` gets what it prints first.

    The time of its buckets may be `held`: so no token comes back while the test, or this machine, stands still.
    """
    need("httptools", _installed("httptools"))
    command = ("-c", _HELD) if held else ("-m", "ratekeeper.cli.main")
    with program(sys.executable, *command, "serve", policy, "--port", "0", *options) as process:
        assert process.stdout is not None
        lines = []
        killer = threading.Timer(PATIENCE, process.kill)  # then its output ends
        killer.start()
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Stop with"):
                break
        killer.cancel()
        if announced is not None:
            announced.extend(lines)
        url = re.search(r"http://[^\s/]+", "".join(lines))
        assert url is not None, process.communicate()
        yield url[0]


@contextmanager
def caddy(caddyfile: str, folder: Path) -> Iterator[str]:
    """A real Caddy with the site example.com on a free port; yields its URL."""
    binary = need_program("caddy")
    url = f"http://127.0.0.1:{free_port()}"
    config = folder / "Caddyfile"
    config.write_text(
        "{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n}\n" + caddyfile.replace("example.com", url)
    )
    with program(binary, "run", "--config", config, "--adapter", "caddyfile", quiet=True) as process:
        wait_until_answers(url, process)
        yield url


@contextmanager
def nginx(binary: str, locations: str, folder: Path) -> Iterator[str]:
    """A real nginx with these locations on a free port; yields its URL."""
    port = free_port()
    paths = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log stderr;\n"
        f"events {{}} http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port};\n{locations}\n}} }}\n"
    )
    with program(binary, "-c", config, "-p", folder, "-e", "stderr", quiet=True) as process:
        wait_until_answers(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"


class Seen(NamedTuple):
    """A request as it reached the backend: its method and target as they came, and its header lines."""

    method: str
    target: str
    headers: list[tuple[str, str]]


class Backend(ThreadingHTTPServer):
    """A small application behind the gateway, which remembers what it was asked."""

    request_queue_size = 128  # a gateway under load connects many times at once

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _BackendHandler)
        self.seen: list[Seen] = []

    @property
    def asked(self) -> list[str]:
        """The targets of all requests."""
        return [request.target for request in self.seen]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _BackendHandler(BaseHTTPRequestHandler):
    server: Backend
    protocol_version = "HTTP/1.1"

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # whatever the method is
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        target = self.requestline.split(" ")[1]  # `path` has lost slashes at its beginning
        self.server.seen.append(Seen(self.command, target, self.headers.items()))
        if self.headers["Upgrade"] == "websocket":
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "websocket")
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_header("Sec-WebSocket-Accept", b64encode(sha1(key.encode()).digest()).decode())
            self.end_headers()
            self.close_connection = True
            return
        body = b"the backend's own answer"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def backend() -> Iterator[Backend]:
    with Backend() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None

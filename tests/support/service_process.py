"""`ratekeeper serve` as a process: its signals, children, log, memory and descriptors. Linux only."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from needs import need
from servers import PATIENCE

_MARK = "RATEKEEPER_TEST_MARK"


def poll(claim: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a claim is true."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


class Running:
    """A service, and all processes that it started, also those whose parent is gone: they share a mark."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, mark: str) -> None:
        self.process = process
        self._folder = folder
        self._mark = f"{_MARK}={mark}".encode()

    @property
    def said(self) -> str:
        return (self._folder / "stdout").read_text()

    @property
    def log(self) -> str:
        return (self._folder / "stderr").read_text()

    @property
    def url(self) -> str:
        [url, *_] = re.findall(r"http://[^\s/]+", self.said)
        return str(url)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def pids(self) -> set[int]:
        found = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self._mark in path.read_bytes() and _state(path.parent) != "Z":
                    found.add(int(path.parent.name))
        return found

    def workers(self) -> set[int]:
        """The processes that answer: the only one, or the children."""
        return self.pids() - {self.process.pid} or {self.process.pid}

    def kill(self, *workers: int) -> None:
        """Kill some workers, and wait until as many others serve in their places."""
        count = len(self.workers())
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        poll(lambda: not self.workers() & {*workers} and len(self.workers()) == count)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def memory(self) -> int:
        """Bytes in RAM, of all processes together."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.workers()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.workers())

    def status(self) -> Any:
        """The service's own status, over a new connection, which any worker may take."""
        return httpx.get(f"{self.url}/v1/status", timeout=PATIENCE).raise_for_status().json()

    def check(self, user: str = "a", path: str = "/x") -> httpx.Response:
        headers = {"X-User": user, "X-Forwarded-Uri": path}
        return httpx.get(f"{self.url}/check", headers=headers, timeout=PATIENCE)

    def quota(self) -> str:
        found = re.search(r"q=(\d+)", self.check().headers["ratelimit-policy"])
        assert found is not None
        return found[1]


def _state(process: Path) -> str:
    return process.joinpath("stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def running(policy: Path, *options: str, env: Mapping[str, str] | None = None, before: str = "") -> Iterator[Running]:
    """A service on a free port, in its own session. In the end none of its processes may be left.

    A folder in place of a policy is that of the service's own files: it has no policy.
    """
    need("Linux", sys.platform == "linux")
    mark = secrets.token_hex(8)
    folder = (policy if policy.is_dir() else policy.parent) / f"service-{mark}"
    folder.mkdir()
    serve = [sys.executable, "-m", "ratekeeper.cli.main", "serve", "--port", "0", *options]
    serve += [] if policy.is_dir() else [str(policy)]
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            ["bash", "-c", f'{before}exec "$@"', "bash", *serve],
            stdout=stdout, stderr=stderr, start_new_session=True, env={**os.environ, **(env or {}), _MARK: mark},
        )  # fmt: skip
    service = Running(process, folder, mark)
    try:
        poll(lambda: "Stop with" in service.said or process.poll() is not None)
        assert process.poll() is None, service.log
        yield service
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        poll(lambda: not service.pids())
    finally:
        for pid in service.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


class RawClient:
    """A client that sends any bytes. It is closed when no test holds it any more."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=PATIENCE)

    def __del__(self) -> None:
        self._socket.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> bool:
        """Send; return whether the other side took it, rather than cut the connection."""
        try:
            self._socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def send_now(self, data: bytes, patience: float = 1.0) -> bool:
        """Send; return whether the other side took all of it in a while."""
        self._socket.settimeout(patience)
        try:
            return self.send(data)
        except TimeoutError:
            return False
        finally:
            self._socket.settimeout(PATIENCE)

    def answer(self) -> bytes:
        """Return one answer: its head, and its body by its length. Empty if there is none."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.receive()
            if not piece:
                return data
            data += piece
        length = re.search(rb"content-length: (\d+)", data)
        end = data.index(b"\r\n\r\n") + 4 + int(length[1] if length else 0)
        while len(data) < end and (piece := self.receive()):
            data += piece
        return data

    def answers(self) -> bytes:
        """Return what comes until the other side closes, or resets."""
        data = b""
        while piece := self.receive():
            data += piece
        return data

    def receive(self) -> bytes:
        """Return what comes next, or nothing when the other side has closed, or reset."""
        try:
            return self._socket.recv(65_536)
        except ConnectionError:
            return b""

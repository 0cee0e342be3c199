"""Servers to be measured: each is its own process, and its processor time is what the kernel counts for it."""

from __future__ import annotations

import random
import re
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

from benchmarks.results import say_round


class Served(NamedTuple):
    """A server: its process, and the port of 127.0.0.1 that it listens on."""

    pid: int
    port: int

    def cpu_seconds(self) -> float:
        """Return the processor time of its threads and of its workers so far, with that in the kernel."""
        own = Path(f"/proc/{self.pid}/task")
        workers = [pid for path in own.glob("*/children") for pid in path.read_text().split()]
        tasks = [task for pid in (self.pid, *workers) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def served(*command: str, mark: str = "") -> Iterator[Served]:
    """Run a program that prints its address, after `mark` if it prints several. Stop it at the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    address = rf"{re.escape(mark)}.*127\.0\.0\.1:(\d+)"
    try:
        found = next((match for line in process.stdout if (match := re.search(address, line))), None)
        if found is None:
            raise RuntimeError(f"{' '.join(command)} printed no address")
        yield Served(process.pid, int(found[1]))
    finally:
        process.terminate()
        process.communicate()


def ratekeeper_serve(policy: Path, *options: str) -> list[str]:
    """Return the command of a service on a free port."""
    program = [sys.executable, "-m", "ratekeeper.cli.main", "serve", str(policy)]
    return [*program, "--port", "0", "--no-reload", *options]


class Case(ABC):
    """A question to a server, and the server's processor time for it in each round, in us."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.times: list[float] = []

    @abstractmethod
    def run(self) -> None:
        """Ask the question many times, and append to `times`."""

    def forget(self) -> None:
        """Forget the times of the rounds so far."""
        self.times.clear()

    @property
    def best(self) -> float:
        return min(self.times)

    @property
    def median(self) -> float:
        return median(self.times)


C = TypeVar("C", bound=Case)


def measured(name: str, rounds: int, cases: Callable[[ExitStack, Path], Iterable[C]]) -> dict[str, C]:
    """Run all cases in each round, in random order, after one round to warm up. Return them by name."""
    with ExitStack() as stack:
        asked = list(cases(stack, Path(stack.enter_context(TemporaryDirectory()))))
        progress = say_round(name)
        for turn in range(1 + rounds):
            for case in random.sample(asked, len(asked)):
                case.run()
                if not turn:
                    case.forget()  # it has warmed up, and used limits up
            progress(turn, rounds)
    return {case.name: case for case in asked}


class HttpConnections:
    """Connections that stay open, each with one question under way at a time."""

    def __init__(self, port: int, count: int, question: bytes) -> None:
        self._question = question
        self._sockets = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(count)]

    def ask(self, times: int) -> bytes:
        """Ask the question so many times on each connection. Return the last answer."""
        answer = b""
        for _ in range(times):
            for one in self._sockets:
                one.sendall(self._question)
            for one in self._sockets:
                answer = _answer(one)
        return answer

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def _answer(one: socket.socket) -> bytes:
    answer = one.recv(65_536)
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: *(\d+)", head)
    if found is None or len(body) != int(found[1]):
        raise RuntimeError(f"this is not one whole answer: {answer!r}")
    return answer

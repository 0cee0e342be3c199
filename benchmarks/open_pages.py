"""`python -m benchmarks.open_pages`: questions to a service whose page is open 50 times, beside one whose page is off.

Each server is its own process. Rounds last longer than a second, so that each has the work of every second: a look at
all counts, one status, and its way to each page. All pages are at the process that decides: of several workers, each
has only a part of them. A thread of the client reads the pages.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep

from benchmarks import results
from benchmarks.results import Table, ratio, table_of, target
from benchmarks.service import CONNECTIONS, ONE, PLENTY, get, with_limits
from benchmarks.serving import Case, HttpConnections, Served, measured, ratekeeper_serve, served

PAGES, SECONDS, ROUNDS = 50, 1.25, 15
MOST_TIMES, MOST_MS = 1.05, 10

OFF, OPEN = "--no-page", f"{PAGES} pages are open"
SERVERS: dict[str, list[str]] = {OFF: ["--no-page"], "no page is open": [], OPEN: []}
IDLE = ", no questions"
ASK = b"GET /v1/status/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class AskedCase(Case):
    """Questions to a server for some seconds: its processor time for each, in us."""

    def __init__(self, name: str, server: Served) -> None:
        super().__init__(name)
        self._server = server

    def run(self) -> None:
        connections = HttpConnections(self._server.port, CONNECTIONS, get(b"/check"))
        connections.ask(1)  # they are accepted
        asked, spent, began = 0, self._server.cpu_seconds(), perf_counter()
        while perf_counter() - began < SECONDS:
            answer = connections.ask(1)
            asked += CONNECTIONS
        self.times.append((self._server.cpu_seconds() - spent) / asked * 1e6)
        connections.close()
        assert answer.startswith(b"HTTP/1.1 200 "), answer


class IdleCase(AskedCase):
    """A server without questions: its processor time each second, in ms."""

    def run(self) -> None:
        spent, began = self._server.cpu_seconds(), perf_counter()
        sleep(SECONDS)
        self.times.append((self._server.cpu_seconds() - spent) / (perf_counter() - began) * 1e3)


@contextmanager
def pages_open(port: int, count: int) -> Iterator[None]:
    """Open pages, and read all that they are sent."""
    closing = threading.Event()
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(count):
            page = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            page.sendall(ASK)
            if b" 200 " not in page.recv(20):
                raise RuntimeError("the service opens no more pages")
            selector.register(page, selectors.EVENT_READ, page)

        def read() -> None:
            while not closing.is_set():
                for key, _ in selector.select(0.2):
                    key.data.recv(1 << 20)

        reading = threading.Thread(target=read)
        reading.start()
        try:
            yield
        finally:
            closing.set()
            reading.join()


def cases(stack: ExitStack, folder: Path) -> Iterator[AskedCase]:
    """Start the servers; yields the questions to them, and their rest."""
    policy = folder / "policy.toml"
    policy.write_text(with_limits(ONE, *PLENTY))
    for name, options in SERVERS.items():
        # A recording has its own benchmark.
        server = stack.enter_context(served(*ratekeeper_serve(policy, "--recording", "0", *options)))
        if name == OPEN:
            stack.enter_context(pages_open(server.port, PAGES))
        yield AskedCase(name, server)
        yield IdleCase(name + IDLE, server)


def measure(quick: bool) -> list[Table]:
    by_name = measured("open pages", 3 if quick else ROUNDS, cases)
    asked, idle = [by_name[name] for name in SERVERS], [by_name[name + IDLE] for name in SERVERS]
    off, opened, resting = by_name[OFF], by_name[OPEN], by_name[OPEN + IDLE]
    promises = [
        target(f"{OPEN}, x {OFF}: at most {MOST_TIMES}", ratio(opened, off), most=MOST_TIMES),
        target(f"{OPEN}{IDLE}, ms: at most {MOST_MS}", (resting.best, resting.median), most=MOST_MS),
    ]
    title = f"/check with open pages, one limit, {CONNECTIONS} connections"
    return [
        table_of(title, "us of the server's processor", asked, {f"x {OFF}": off}),
        table_of("Open pages of an idle service", "ms of the server's processor each second", idle),
        Table("Targets of open pages", "measured", promises),
    ]


if __name__ == "__main__":
    results.main("open_pages", measure, ("httptools", "uvloop"))

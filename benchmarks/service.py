"""`python -m benchmarks.service`: the processor time of the service for a question over HTTP, beside a bare uvicorn.

Each server is its own process. The client is this process: connections that stay open, each with one question under
way. So the load is bounded, and a server's time is what the kernel counts for its process. Rounds of all questions are
interleaved. uvicorn, on uvloop and httptools, answers each request with a bare 200 and nothing else. uvloop and
httptools alone are the least that any server on them can take.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.floors import HTTP_FLOOR, floor
from benchmarks.policy import EXAMPLE
from benchmarks.results import Table, ratio, table_of, target
from benchmarks.serving import Case, HttpConnections, Served, measured, ratekeeper_serve, served

CONNECTIONS, EACH, ROUNDS = 64, 20, 40
LIST = 20
MOST_US, MOST_TIMES_ONE_LIMIT = 20.0, 1.3
MOST_TIMES_ONE_WORKER = 2 / 1.7
"""Two workers, each with its own core, then answer 1.7 x as many questions as one."""

BARE = "uvicorn, a bare 200"
ADMITTED, REFUSED = "/check, one limit", "/check, one limit, refused"
TWO = "/check, one limit, two workers"
EXAMPLE_ADMITTED, EXAMPLE_REFUSED = "/check, examples/policy.toml", "/check, examples/policy.toml, refused"
JSON, JSON_LIST = "/v1/check, one limit", f"/v1/check, one limit, a list of {LIST}"
HEALTH = "/healthz"

ONE = '[[rules]]\nname = "each address"\nkey = ["client"]\nlimit = "1/minute"\n'
PLENTY, NONE = (100_000_000, "100000000/hour"), (1, "1/day")
HEADERS = (
    b"Host: 127.0.0.1:8080\r\nUser-Agent: curl/8.14\r\nAccept: */*\r\nX-Forwarded-For: 192.0.2.7\r\n"
    b"X-Forwarded-Host: shop.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Method: GET\r\n"
    b"X-Forwarded-Uri: /api/search\r\nX-Api-Key: k-alice\r\n\r\n"
)
QUESTION = b'{"attributes": {"client": "192.0.2.7"}}'


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer with a bare 200, as an ASGI application."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def serve_bare() -> None:
    """Serve `bare` until stopped, in its own process, and print the address."""
    import uvicorn  # noqa: PLC0415  only this server needs it

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            print(f"127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}", flush=True)

    options: dict[str, Any] = {"loop": "uvloop", "http": "httptools", "lifespan": "off", "access_log": False}
    Server(uvicorn.Config(bare, port=0, log_level="error", **options)).run()


def get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b" % (path, HEADERS)


def post(body: bytes) -> bytes:
    head = b"POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def with_limits(policy: str, capacity: int, rate: str) -> str:
    """Return a policy's text with these limits: such that are never used up, or that soon are."""
    policy = re.sub(r"(?m)^capacity = \d+", f"capacity = {capacity}", policy)
    return re.sub(r"(?m)^(limit|refill_rate) = [^#\n]+", rf'\1 = "{rate}"', policy)


class HttpCase(Case):
    """A question to a server, and the server's time for it in each round, in us."""

    def __init__(self, name: str, server: Served, question: bytes, status: int) -> None:
        super().__init__(name)
        self._server = server
        self._question = question
        self._status = b"HTTP/1.1 %d" % status

    def run(self) -> None:
        connections = HttpConnections(self._server.port, CONNECTIONS, self._question)
        connections.ask(1)  # they are accepted
        before = self._server.cpu_seconds()
        answer = connections.ask(EACH)
        self.times.append((self._server.cpu_seconds() - before) / (CONNECTIONS * EACH) * 1e6)
        connections.close()
        assert answer.startswith(self._status), answer


def cases(stack: ExitStack, folder: Path) -> Iterator[HttpCase]:
    """Start the servers; yields the questions to them."""

    def service(name: str, policy: str, *options: str) -> Served:
        path = folder / f"{name}.toml"
        path.write_text(policy)
        return stack.enter_context(served(*ratekeeper_serve(path, *options)))

    yield HttpCase(HTTP_FLOOR, floor(stack, HTTP_FLOOR), get(b"/check"), 200)
    code = "from benchmarks.service import serve_bare; serve_bare()"
    yield HttpCase(BARE, stack.enter_context(served(sys.executable, "-c", code)), get(b"/"), 200)
    plenty = service("plenty", with_limits(ONE, *PLENTY))
    yield HttpCase(ADMITTED, plenty, get(b"/check"), 200)
    two = service("two", with_limits(ONE, *PLENTY), "--workers", "2")
    yield HttpCase(TWO, two, get(b"/check"), 200)
    yield HttpCase(REFUSED, service("none", with_limits(ONE, *NONE)), get(b"/check"), 429)
    example = EXAMPLE.read_text()
    yield HttpCase(EXAMPLE_ADMITTED, service("example-plenty", with_limits(example, *PLENTY)), get(b"/check"), 200)
    yield HttpCase(EXAMPLE_REFUSED, service("example-none", with_limits(example, *NONE)), get(b"/check"), 429)
    yield HttpCase(JSON, plenty, post(QUESTION), 200)
    yield HttpCase(JSON_LIST, plenty, post(b"[%b]" % b",".join([QUESTION] * LIST)), 200)
    yield HttpCase(HEALTH, plenty, get(b"/healthz"), 200)


def measure(quick: bool) -> list[Table]:
    rounds = 5 if quick else ROUNDS
    by_name = measured("service", rounds, cases)
    promises = [
        target(f"{case.name}, us: at most {MOST_US:g}", (case.best, case.median), most=MOST_US)
        for case in (by_name[ADMITTED], by_name[REFUSED])
    ]
    for name, one in ((EXAMPLE_ADMITTED, ADMITTED), (EXAMPLE_REFUSED, REFUSED)):
        times = ratio(by_name[name], by_name[one])
        promises.append(target(f"{name}, x {one}: at most {MOST_TIMES_ONE_LIMIT}", times, most=MOST_TIMES_ONE_LIMIT))
    times = ratio(by_name[TWO], by_name[ADMITTED])
    most = MOST_TIMES_ONE_WORKER
    promises.append(target(f"{TWO}, x {ADMITTED}: at most {most:.2f}", times, most=most))
    title = f"A question over HTTP, {CONNECTIONS} connections"
    return [
        table_of(
            title,
            "us of the server's processor",
            list(by_name.values()),
            {f"x {one}": by_name[one] for one in (HTTP_FLOOR, BARE)},
        ),
        Table("Targets of the service over HTTP", "measured", promises),
    ]


if __name__ == "__main__":
    results.main("service", measure, ("httptools", "uvloop", "uvicorn"))

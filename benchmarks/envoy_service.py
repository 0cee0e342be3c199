"""`python -m benchmarks.envoy_service`: the processor time of the service for Envoy's question, beside grpcio.

Each server is its own process. The load is h2load's: few connections, many calls at a time, a fixed number of them. A
server's time is what the kernel counts for its process. grpcio answers each call with the bytes that it got, from its
threads, and does nothing else. uvloop and ngh2 alone are the least that any server on them can take.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import results
from benchmarks.floors import GRPC_FLOOR, floor
from benchmarks.results import Table, ratio, table_of, target
from benchmarks.serving import Case, Served, measured, ratekeeper_serve, served

CONNECTIONS, STREAMS, CALLS, ROUNDS = 4, 32, 2_000, 100
MOST_US = 15.0

ECHO = "grpcio, an echo"
POLICY, REFUSED = "a policy of one limit", "a policy of one limit, refused"
CONFIG, CONFIG_REFUSED = "a file of envoyproxy/ratelimit", "a file of envoyproxy/ratelimit, refused"

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
MESSAGE = b"\x0a\x04shop\x12\x1b\x0a\x19\x0a\x0eremote_address\x12\x07192.0.2"
"""A question about one descriptor: the domain "shop", and the entry "remote_address"."""

ONE = '[[rules]]\nname = "each client"\nkey = ["client"]\nlimit = "{limit}"\n'
FILE = "domain: shop\ndescriptors: [{{key: remote_address, rate_limit: {limit}}}]\n"


def serve_echo() -> None:
    """Serve grpcio's echo on a free port, until killed."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  only this process needs it

    import grpc  # noqa: PLC0415

    class Echo(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Echo()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


class EnvoyCase(Case):
    """A question to a server, and the server's time for it in each round, in us."""

    def __init__(self, name: str, server: Served, body: Path) -> None:
        super().__init__(name)
        self._server = server
        self._body = body

    def run(self) -> None:
        before = self._server.cpu_seconds()
        done = subprocess.run(
            ["h2load", "-n", str(CALLS), "-c", str(CONNECTIONS), "-m", str(STREAMS), "-d", str(self._body),
             "-H", "content-type: application/grpc", "-H", "te: trailers",
             f"http://127.0.0.1:{self._server.port}{METHOD}"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        self.times.append((self._server.cpu_seconds() - before) / CALLS * 1e6)
        assert f"{CALLS} succeeded" in done.stdout, done.stdout


def cases(stack: ExitStack, folder: Path) -> Iterator[EnvoyCase]:
    """Start the servers; yield the questions to them."""
    body = folder / "question"
    body.write_bytes(b"\0" + len(MESSAGE).to_bytes(4) + MESSAGE)

    def service(name: str, limit: str, *options: str) -> EnvoyCase:
        path = folder / f"{name.replace(' ', '-').replace('/', '-')}.toml"
        path.write_text(ONE.format(limit=limit))
        command = ratekeeper_serve(path, "--grpc", "127.0.0.1:0", *options)
        return EnvoyCase(name, stack.enter_context(served(*command, mark="gRPC at ")), body)

    yield EnvoyCase(GRPC_FLOOR, floor(stack, GRPC_FLOOR), body)
    code = "from benchmarks.envoy_service import serve_echo; serve_echo()"
    yield EnvoyCase(ECHO, stack.enter_context(served(sys.executable, "-c", code)), body)
    yield service(POLICY, "1000000/s")
    yield service(REFUSED, "1/day")
    for name, limit in (
        (CONFIG, "{unit: second, requests_per_unit: 1000000}"),
        (CONFIG_REFUSED, "{unit: day, requests_per_unit: 1}"),
    ):
        limits = folder / name.replace("/", "-")
        limits.mkdir()
        (limits / "shop.yaml").write_text(FILE.format(limit=limit))
        yield service(name, "1000000/s", "--envoy-config", str(limits))


def measure(quick: bool) -> list[Table]:
    if shutil.which("h2load") is None:
        sys.exit("h2load is not installed: it is in Debian's nghttp2-client")
    rounds = 3 if quick else ROUNDS
    by_name = measured("envoy_service", rounds, cases)
    promises = [
        target(f"{name}, us: at most {MOST_US:g}", (by_name[name].best, by_name[name].median), most=MOST_US)
        for name in (POLICY, REFUSED, CONFIG, CONFIG_REFUSED)
    ]
    promises.append(target(f"{ECHO}, x {POLICY}: at least 10", ratio(by_name[ECHO], by_name[POLICY]), least=10))
    title = f"Envoy's question, {CONNECTIONS} connections, {STREAMS} calls at a time on each"
    return [
        table_of(
            title,
            "us of the server's processor",
            list(by_name.values()),
            {f"x {one}": by_name[one] for one in (GRPC_FLOOR, POLICY)},
        ),
        Table("Targets of the service for Envoy", "measured", promises),
    ]


if __name__ == "__main__":
    results.main("envoy_service", measure, ("ngh2", "uvloop", "grpcio"))

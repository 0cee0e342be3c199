"""Real gateways in front of a backend, each with its configuration of examples/gateways, but for ports and timeouts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from needs import need_program
from servers import PATIENCE, Backend, backend, caddy, free_port, nginx, program, ratekeeper_service, wait_until_answers

CONFIGURATIONS = Path(__file__).parents[2] / "examples" / "gateways"
WEBSOCKET = """proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
    proxy_pass http"""
"""The directives that nginx needs to pass a handshake on to the backend. They have nothing to do with ratekeeper."""


_TIMEOUTS = [
    ("dial_timeout ", "200ms", "20s"),
    ("response_header_timeout ", "1s", "20s"),
    ("proxy_connect_timeout ", "200ms", "20s"),
    ("proxy_read_timeout ", "1s", "20s"),
    ("local seconds = when_down == ", '"open" and 1 or 5', '"open" and 20 or 20'),
]
"""Where the examples give the service up, with their times, and with those of the tests."""


class Addresses(NamedTuple):
    """Where the service and the backend are: HOST:PORT each."""

    service: str
    backend: str
    spare: str

    def put_into(self, text: str) -> str:
        places = {"8080": self.service, "9000": self.backend, "8079": self.spare}
        return re.sub(r"127\.0\.0\.1:(8080|9000|8079)", lambda found: places[found[1]], text)

    def in_file(self, name: str) -> str:
        """Return an example's text, with these addresses. A gateway waits for the service, also if that stalls."""
        text = self.put_into((CONFIGURATIONS / name).read_text())
        for place, short, long in _TIMEOUTS:
            text = text.replace(place + short, place + long)
        return text


@contextmanager
def behind_caddy(addresses: Addresses, folder: Path, fail_open: bool = False) -> Iterator[str]:
    with caddy(addresses.in_file("caddy/" + ("fail-open." * fail_open) + "Caddyfile"), folder) as url:
        yield url


@contextmanager
def behind_nginx(addresses: Addresses, folder: Path, fail_open: bool = False) -> Iterator[str]:
    binary = need_program("nginx")
    locations = addresses.in_file("nginx/" + ("fail-open" if fail_open else "ratekeeper") + ".conf")
    with nginx(binary, locations.replace("proxy_pass http", WEBSOCKET, 1), folder) as url:
        yield url


@contextmanager
def behind_traefik(addresses: Addresses, folder: Path, fail_open: bool = False) -> Iterator[str]:
    assert not fail_open, "it cannot"
    binary = need_program("traefik")
    config = folder / "traefik.yml"
    config.write_text(addresses.in_file("traefik/dynamic.yaml"))
    address = f"127.0.0.1:{free_port()}"
    options = (f"--entrypoints.web.address={address}", f"--providers.file.filename={config}", "--log.level=ERROR")
    offline = ("--global.checknewversion=false", "--global.sendanonymoususage=false")
    with program(binary, *options, *offline, quiet=True) as process:
        url = f"http://{address}"
        wait_until_answers(url, process)
        deadline = time.monotonic() + PATIENCE
        while httpx.get(url).status_code == 404:  # it listens before it has read its routes
            assert time.monotonic() < deadline, "Traefik has not read its routes"
            time.sleep(0.02)
        yield url


@contextmanager
def behind_haproxy(addresses: Addresses, folder: Path, fail_open: bool = False) -> Iterator[str]:
    binary = need_program("haproxy")
    script, config = folder / "ratekeeper.lua", folder / "haproxy.cfg"
    script.write_text(addresses.in_file("haproxy/ratekeeper.lua"))
    address = f"127.0.0.1:{free_port()}"
    text = addresses.in_file("haproxy/" + ("fail-open" if fail_open else "haproxy") + ".cfg")
    text = text.replace("127.0.0.1:80\n", f"{address}\n")
    config.write_text(text.replace("/etc/haproxy/ratekeeper.lua", str(script)))
    with program(binary, "-db", "-f", config, quiet=True) as process:
        wait_until_answers(f"http://{address}", process)
        yield f"http://{address}"


GATEWAYS = {"caddy": behind_caddy, "nginx": behind_nginx, "traefik": behind_traefik, "haproxy": behind_haproxy}
FAIL_OPEN = ("caddy", "nginx", "haproxy")
"""The gateways that can let requests pass while the service does not answer."""
COPIES_HEADERS = FAIL_OPEN
"""The gateways that can add the service's headers to the backend's response."""


class Site(NamedTuple):
    """A gateway, the backend that it protects, and the service that it asks."""

    gateway: str
    url: str
    client: httpx.Client
    backend: Backend
    service: str

    def ask(self, path: str, *headers: tuple[str, str], method: str = "GET") -> httpx.Response:
        return self.client.request(method, path, headers=list(headers))

    def reached(self, word: str) -> int:
        """Return how many requests reached the backend, of those whose target has a word in it."""
        return sum(word in target for target in self.backend.asked)


@contextmanager
def site_behind(gateway: str, service: str, folder: Path, fail_open: bool = False) -> Iterator[Site]:
    """Start a backend, and a gateway that protects it by asking a service, which may be down."""
    with backend() as behind:
        addresses = Addresses(service.removeprefix("http://"), behind.address, f"127.0.0.1:{free_port()}")
        with GATEWAYS[gateway](addresses, folder, fail_open) as url, httpx.Client(base_url=url) as client:
            behind.seen.clear()
            yield Site(gateway, url, client, behind, service)


@contextmanager
def limited_site(gateway: str, policy: str, folder: Path, fail_open: bool = False) -> Iterator[Site]:
    """Start the service with a policy's text, and a backend behind a gateway that asks it."""
    file = folder / "policy.toml"
    file.write_text(policy)
    with ratekeeper_service(file) as service, site_behind(gateway, service, folder, fail_open) as site:
        yield site

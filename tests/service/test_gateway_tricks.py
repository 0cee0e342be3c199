"""Real gateways with our configurations: hosts, and requests that would wait, get nothing past a limit."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from gateways import FAIL_OPEN, GATEWAYS, Addresses, limited_site, site_behind
from needs import need
from oracles import structured
from servers import ratekeeper_service

from ratekeeper.service.http.answer import Answer
from ratekeeper.service.http.parser import FAILED
from ratekeeper.service.http.wire import STOPPING

pytestmark = pytest.mark.slow

LOGIN = """
[[rules]]
name = "login"
match = { path = "/login" }
limit = "1/day"
"""
QUEUE = """
[[rules]]
name = "queue"
match = { path = "/queue" }
limit = "1/hour burst 1"
max_wait = 7200

[[rules]]
name = "banned"
match = { path = "/banned" }
deny = true
"""
HOSTS = """
[attributes]
host = "header:%s"

[[rules]]
name = "hosts"
key = ["host"]
limit = "1/day"
"""


@contextmanager
def answering(text: bytes) -> Iterator[str]:
    """A server that answers each request by the same bytes."""

    def serve() -> None:
        with suppress(OSError):  # it was shut
            while True:
                connection, _ = server.accept()
                with connection, suppress(ConnectionError):  # a gateway may have given it up
                    connection.recv(65_536)
                    connection.sendall(text)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("host", ["a?", "a#", "a?b"])
def test_no_host_of_http2_hides_the_path(host: str, tmp_path: Path) -> None:
    need("h2", find_spec("h2") is not None)
    with limited_site("haproxy", LOGIN, tmp_path) as site:  # it tells "http://a?/login"
        assert site.ask("/login").status_code == 200
        with httpx.Client(base_url=site.url, http1=False, http2=True) as client:
            assert client.get("/login").status_code == 429
            assert client.get("/login", headers={"Host": host}).status_code == 400
        assert site.reached("/login") == 1


@pytest.mark.parametrize("gateway", FAIL_OPEN)
def test_a_request_that_would_wait_for_its_turn_opens_no_gateway(gateway: str, tmp_path: Path) -> None:
    with limited_site(gateway, QUEUE, tmp_path, fail_open=True) as site:
        assert [site.ask("/queue").status_code for _ in range(2)] == [200, 429]
        assert site.ask("/banned").status_code in (403, 429), "Caddy has not taken the service for dead"
        assert site.reached("/queue") == 1


@pytest.mark.parametrize("gateway", FAIL_OPEN)
@pytest.mark.parametrize("answer", [FAILED, STOPPING])
def test_a_gateway_that_fails_open_obeys_a_service_that_fails_or_stops(
    gateway: str, answer: Answer, tmp_path: Path
) -> None:
    lines = b"HTTP/1.1 %d No\r\nConnection: close\r\nContent-Length: %d\r\n" % (answer.status, len(answer.body))
    text = lines + answer.lines + b"\r\n" + answer.body
    with answering(text) as service, site_behind(gateway, service, tmp_path, fail_open=True) as site:
        assert site.ask("/a").status_code // 100 == 5
        assert not site.backend.seen


def test_haproxy_keeps_the_applications_own_headers_about_limits(tmp_path: Path) -> None:
    own = b'HTTP/1.1 200 OK\r\nRateLimit: "own";r=5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n'
    policy = tmp_path / "policy.toml"
    policy.write_text(LOGIN)
    with ratekeeper_service(policy) as service, answering(own) as shop:
        addresses = Addresses(service.removeprefix("http://"), shop, "")
        with GATEWAYS["haproxy"](addresses, tmp_path) as url:
            told = httpx.get(f"{url}/login").headers["ratelimit"]
    assert [name for name, _ in structured(told)] == ["own", "login"]


@pytest.mark.parametrize(
    ("gateway", "header"), [("nginx", "host"), ("haproxy", "host"), ("traefik", "x-forwarded-host")]
)
def test_each_host_of_the_clients_has_its_own_bucket(gateway: str, header: str, tmp_path: Path) -> None:
    with limited_site(gateway, HOSTS % header, tmp_path) as site:  # Caddy's example serves one host
        statuses = [site.ask("/", ("Host", f"{host}.example")).status_code for host in "aabb"]
        assert statuses == [200, 429, 200, 429]

"""Real gateways with our configurations: hosts, and requests that would wait, get nothing past a limit."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from gateways import FAIL_OPEN, limited_site
from needs import need

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
limit = "1/minute burst 1"
max_wait = 100

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


@pytest.mark.parametrize(
    ("gateway", "header"), [("nginx", "host"), ("haproxy", "host"), ("traefik", "x-forwarded-host")]
)
def test_each_host_of_the_clients_has_its_own_bucket(gateway: str, header: str, tmp_path: Path) -> None:
    with limited_site(gateway, HOSTS % header, tmp_path) as site:  # Caddy's example serves one host
        statuses = [site.ask("/", ("Host", f"{host}.example")).status_code for host in "aabb"]
        assert statuses == [200, 429, 200, 429]

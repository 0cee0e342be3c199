"""End to end: a client, a real Caddy with `forward_auth`, our service behind it, and a backend to protect."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from conftest import need_program
from oracles import structured
from servers import Backend, backend, caddy, nginx, ratekeeper_service

DOCS = Path(__file__).parents[1] / "docs"

POLICY = """
[attributes]
api_key = "header:x-api-key"

[tiers]
by = "api_key"
default = "free"
pro = ["k-pro"]

[[rules]]
name = "free"
match = { tier = "free", path = "/api/*" }
key = ["api_key"]
capacity = 2
refill_rate = "1/2s"

[[rules]]
name = "pro"
match = { tier = "pro", path = "/api/*" }
key = ["api_key"]
capacity = 5
refill_rate = "1/minute"

[[rules]]
name = "address"
match = { path = "/login" }
key = ["client"]
limit = "1/hour burst 3"
"""

CADDYFILE = """
    @limited path /api/* /login //* /x/*
    forward_auth @limited {service} {{
        uri /check
    }}
    reverse_proxy {backend}
"""


class Site(NamedTuple):
    client: httpx.Client
    backend: Backend
    service: str


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    with backend() as behind, ratekeeper_service(policy) as service:
        caddyfile = CADDYFILE.format(service=service.removeprefix("http://"), backend=behind.address)
        with caddy(caddyfile, tmp_path) as url, httpx.Client(base_url=url) as client:
            behind.asked.clear()
            yield Site(client, behind, service)


def ask(site: Site, path: str, key: str | None = None, **headers: str) -> httpx.Response:
    return site.client.get(path, headers={**({"X-Api-Key": key} if key else {}), **headers})


def test_two_tiers_are_limited_apart_and_a_refused_request_never_reaches_the_backend(site: Site) -> None:
    assert [ask(site, "/api/a", "k-free").status_code for _ in range(3)] == [200, 200, 429]
    assert [ask(site, "/api/a", "k-pro").status_code for _ in range(6)] == [200] * 5 + [429]
    assert ask(site, "/api/a", "k-other").status_code == 200
    assert len(site.backend.asked) == 2 + 5 + 1


def test_a_429_arrives_with_headers_that_the_oracle_reads_and_a_problem_body(site: Site) -> None:
    for _ in range(5):
        assert ask(site, "/api/a?x=1", "k-pro").text == "the backend's own answer"
    refused = ask(site, "/api/a?x=1", "k-pro")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    [(name, parameters)] = structured(refused.headers["ratelimit-policy"])
    assert (name, parameters["q"], parameters["w"]) == ("pro", 5, 300)
    [(name, parameters)] = structured(refused.headers["ratelimit"])
    assert (name, parameters["r"]) == ("pro", 0)
    assert 1 <= parameters["t"] <= 60
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["cache-control"] == "no-store"
    problem = refused.json()
    assert problem["violated-policies"] == ["pro"]
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"


def test_after_retry_after_the_request_passes(site: Site) -> None:
    for _ in range(2):
        ask(site, "/api/a", "k-free")
    refused = ask(site, "/api/a", "k-free")
    assert refused.status_code == 429
    time.sleep(int(refused.headers["retry-after"]))  # what a client does: here the wait is what is tested
    assert ask(site, "/api/a", "k-free").status_code == 200


def test_what_the_client_says_of_itself_makes_no_difference(site: Site) -> None:
    """Forged forwarding headers: Caddy drops or overwrites them, and the service reads only what Caddy saw."""
    statuses = [
        ask(
            site,
            "/login",
            **{
                "X-Forwarded-For": f"192.0.2.{n}",
                "X-Forwarded-Uri": "/free",
                "X-Forwarded-Method": "OPTIONS",
                "X-Original-URI": "/free",
            },
        ).status_code
        for n in range(5)
    ]
    assert statuses == [200, 200, 200, 429, 429]


def test_another_spelling_of_a_path_is_the_same_path(site: Site) -> None:
    paths = ["/api/a", "/%61pi/a", "//api/a", "/x/../api/a"]
    statuses = [httpx.get(f"{site.service}/check", headers={"X-Forwarded-Uri": path}).status_code for path in paths]
    assert statuses == [200, 200, 429, 429]


def test_a_path_that_no_rule_matches_is_not_limited_and_carries_no_headers(site: Site) -> None:
    for _ in range(10):
        answer = ask(site, "/static/logo.png")
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers


def test_nginx_refuses_by_403_and_its_client_gets_a_429(tmp_path: Path) -> None:
    """The configuration of docs/gateways.md, run by a real nginx."""
    binary = need_program("nginx")
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    [locations] = re.findall(r"```nginx\n(.*?)```", (DOCS / "gateways.md").read_text(), re.DOTALL)
    with backend() as behind, ratekeeper_service(policy) as service:
        locations = locations.replace("http://127.0.0.1:8080", service).replace("127.0.0.1:9000", behind.address)
        with nginx(binary, locations, tmp_path) as url, httpx.Client(base_url=url) as client:
            behind.asked.clear()
            forged = {"X-Api-Key": "k-free", "X-Forwarded-Uri": "/free", "X-Forwarded-Method": "OPTIONS"}
            answers = [client.get("/api/a?x=1", headers=forged) for _ in range(3)]
            addresses = [client.get("/login", headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.status_code for answer in addresses] == [200, 200, 200, 429]
    assert behind.asked == ["/api/a?x=1"] * 2 + ["/login"] * 3
    assert 1 <= int(answers[2].headers["retry-after"]) <= 2
    [(name, parameters)] = structured(answers[2].headers["ratelimit"])
    assert (name, parameters["r"]) == ("free", 0)

"""End to end: a client, a real gateway with a configuration of examples/gateways, our service, a backend to protect."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from gateways import COPIES_HEADERS, FAIL_OPEN, GATEWAYS, Site, limited_site, site_behind
from oracles import structured
from servers import PATIENCE, free_port
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.slow

POLICY = """
exempt = [{ path = "/healthz" }]

[attributes]
api_key = "header:x-api-key"
account = "header:x-account"

[tiers]
by = "api_key"
default = "free"
pro = ["k-pro"]

[[rules]]
name = "free"
match = { tier = "free", path = "/api/*" }
key = ["api_key"]
capacity = 2
refill_rate = "1/day"

[[rules]]
name = "quick"
match = { path = "/quick/*" }
key = ["api_key"]
limit = "2/s"

[[rules]]
name = "pro"
match = { tier = "pro", path = "/api/*" }
key = ["api_key"]
capacity = 5
refill_rate = "1/day"

[[rules]]
name = "account"
match = { path = "/accounts/*" }
key = ["account"]
limit = "2/hour"
missing = "reject"

[[rules]]
name = "paths"
match = { path = "/paths/*", method = "GET" }
key = ["path"]
limit = "2/hour"

[[rules]]
name = "address"
match = { path = "/login" }
key = ["client"]
limit = "3/hour"

[[rules]]
name = "preflights"
match = { path = "/preflight" }
limit = "2/hour"
"""
AWAY = """
[store]
url = "redis://127.0.0.1:1/0"

[[rules]]
name = "all"
limit = "5/hour"
"""


@pytest.fixture(scope="module", params=GATEWAYS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return one site for all tests of a gateway: each takes a rule or keys that no other does."""
    with limited_site(request.param, POLICY, tmp_path_factory.mktemp(request.param)) as site:
        yield site


def fresh() -> str:
    """Return a name that no other test has."""
    return uuid4().hex


def account(name: str) -> tuple[str, str]:
    return "X-Account", name


def test_two_tiers_are_limited_apart_and_a_refused_request_never_reaches_the_backend(site: Site) -> None:
    path = f"/api/{fresh()}"
    for key, admitted in (("k-pro", 5), (fresh(), 2), (fresh(), 2)):
        before = site.reached(path)
        statuses = [site.ask(path, ("X-Api-Key", key)).status_code for _ in range(admitted + 1)]
        assert statuses == [200] * admitted + [429]
        assert site.reached(path) - before == admitted


def test_a_429_arrives_with_headers_that_the_oracle_reads_and_a_problem_body(site: Site) -> None:
    path, name = f"/accounts/{fresh()}?x=1", fresh()
    for _ in range(2):
        assert site.ask(path, account(name)).text == "the backend's own answer"
    refused = site.ask(path, account(name))
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 1800
    [(rule, parameters)] = structured(refused.headers["ratelimit-policy"])
    assert (rule, parameters["q"], parameters["w"]) == ("account", 2, 3600)
    [(rule, parameters)] = structured(refused.headers["ratelimit"])
    assert (rule, parameters["r"]) == ("account", 0)
    if site.gateway != "nginx":  # which drops the body
        assert refused.headers["content-type"] == "application/problem+json"
        problem = refused.json()
        assert problem["violated-policies"] == ["account"]
        assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert site.backend.asked[-1] == path, "the query reaches the backend"


def test_an_allowed_response_has_the_headers_about_limits_where_the_gateway_can_copy_them(site: Site) -> None:
    path, name = f"/accounts/{fresh()}", fresh()
    allowed = site.ask(path, account(name))
    assert (allowed.status_code, allowed.text) == (200, "the backend's own answer")
    if site.gateway in COPIES_HEADERS:
        assert structured(allowed.headers["ratelimit"])[0][1]["r"] == 1
        assert structured(allowed.headers["ratelimit-policy"])[0][1]["q"] == 2
    unlimited = site.ask("/static/logo.png")
    assert not {"ratelimit", "ratelimit-policy", "retry-after"} & unlimited.headers.keys()


def test_after_retry_after_the_request_passes(site: Site) -> None:
    key = ("X-Api-Key", fresh())
    answers = [site.ask("/quick/a", key) for _ in range(3)]
    while answers[-1].status_code == 200:  # on a slow machine the bucket refills meanwhile
        answers.append(site.ask("/quick/a", key))
    time.sleep(int(answers[-1].headers["retry-after"]))  # what a client does: here the wait is what is tested
    assert site.ask("/quick/a", key).status_code == 200


@pytest.mark.parametrize("query", ["?deny_status=404", "?deny_status=200", "?/check/404", "?/healthz", "?#/../healthz"])
def test_the_clients_own_query_changes_no_answer(site: Site, query: str) -> None:
    path, name = f"/accounts/{fresh()}", fresh()
    assert [site.ask(path + query, account(name)).status_code for _ in range(3)] == [200, 200, 429]
    assert site.ask(path, account(name)).status_code == 429
    assert site.reached(path) == 2


FORGED = {
    "path": [("X-Forwarded-Uri", "/healthz")],
    "method": [("X-Forwarded-Method", "OPTIONS")],
    "path, repeated": [("X-Forwarded-Uri", "/healthz"), ("X-Forwarded-Uri", "/free")],
    "method, repeated": [("X-Forwarded-Method", "OPTIONS"), ("X-Forwarded-Method", "PUT")],
    "other names": [("X-Original-URI", "/healthz"), ("X-Original-Method", "PUT"), ("X-Forwarded-Path", "/healthz")],
    "dropped by the hop": [("Connection", "X-Forwarded-Uri, X-Forwarded-Method, X-Forwarded-For")],
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_forwarding_headers_of_the_client_change_no_answer_and_no_bucket(
    site: Site, forged: list[tuple[str, str]]
) -> None:
    path = f"/paths/{fresh()}"
    assert [site.ask(path, *forged).status_code for _ in range(3)] == [200, 200, 429]
    assert site.ask(path).status_code == 429
    assert site.reached(path) == 2


def test_a_header_that_only_looks_like_a_forwarding_header_gets_nothing_past(site: Site) -> None:
    path = f"/paths/{fresh()}"
    assert [site.ask(path).status_code for _ in range(2)] == [200, 200]
    for name, value in (("X_Forwarded_Uri", "/healthz"), ("X_Forwarded_Method", "PUT")):
        assert site.ask(path, (name, value)).status_code in (400, 429)
    assert site.reached(path) == 2


def test_a_forged_address_buys_no_fresh_bucket(site: Site) -> None:
    assert [site.ask("/login").status_code for _ in range(3)] == [200] * 3
    for n, name in enumerate(("X-Forwarded-For", "Forwarded", "X-Real-Ip", "X_Forwarded_For")):
        for repeated in (1, 2):
            forged = [(name, f"192.0.2.{n}")] * repeated
            assert site.ask("/login", *forged, ("Connection", name)).status_code in (400, 429)
            assert site.ask("/login", *forged).status_code in (400, 429)
    assert site.reached("/login") == 3


def test_a_repeated_header_that_a_rule_reads_is_refused(site: Site) -> None:
    path, name = f"/accounts/{fresh()}", fresh()
    refused = site.ask(path, account(name), account(fresh()))
    assert refused.status_code == 400
    if site.gateway != "nginx":
        assert "'x-account' is repeated" in refused.json()["detail"]
    assert site.ask(path).status_code == (429 if site.gateway == "nginx" else 403), "a missing one is rejected"
    assert site.reached(path) == 0


def test_preflights_count(site: Site) -> None:
    headers = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "PUT")]
    statuses = [site.ask("/preflight", *headers, method="OPTIONS").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_a_path_that_no_rule_matches_is_not_limited(site: Site) -> None:
    assert {site.ask("/static/logo.png").status_code for _ in range(10)} == {200}


def test_a_websocket_handshake_counts_as_a_request(site: Site) -> None:
    path, name = f"/accounts/{fresh()}", fresh()
    url, headers = site.url.replace("http", "ws") + path, [account(name)]
    for _ in range(2):
        with connect(url, additional_headers=headers, open_timeout=PATIENCE, close_timeout=PATIENCE):
            pass
    with pytest.raises(InvalidStatus) as refused:
        connect(url, additional_headers=headers, open_timeout=PATIENCE)
    assert refused.value.response.status_code == 429
    assert site.ask(path, account(name)).status_code == 429
    assert site.reached(path) == 2


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_nothing_passes_while_the_service_is_down(gateway: str, tmp_path: Path) -> None:
    with site_behind(gateway, f"127.0.0.1:{free_port()}", tmp_path) as site:
        assert site.ask("/a").status_code // 100 == 5  # HAProxy takes three seconds to give up
        assert not site.backend.seen


@pytest.mark.parametrize("gateway", FAIL_OPEN)
def test_a_gateway_that_fails_open_limits_while_the_service_answers_and_lets_pass_while_it_does_not(
    gateway: str, tmp_path: Path
) -> None:
    (tmp_path / "up").mkdir()
    with limited_site(gateway, POLICY, tmp_path / "up", fail_open=True) as site:
        assert [site.ask("/paths/a").status_code for _ in range(3)] == [200, 200, 429]
        if gateway in COPIES_HEADERS:
            assert "ratelimit" in site.ask("/accounts/b", account(fresh())).headers
    (tmp_path / "down").mkdir()
    with site_behind(gateway, f"127.0.0.1:{free_port()}", tmp_path / "down", fail_open=True) as site:
        passed = site.ask("/a")
        assert (passed.status_code, passed.text) == (200, "the backend's own answer")
        assert "ratelimit" not in passed.headers
        assert site.reached("/a") == 1


@pytest.mark.parametrize("gateway", FAIL_OPEN)
def test_a_gateway_that_fails_open_still_obeys_the_service_whose_store_is_away(gateway: str, tmp_path: Path) -> None:
    with limited_site(gateway, AWAY, tmp_path, fail_open=True) as site:
        assert site.ask("/a").status_code == 503, "what happens then is the policy's own on_error"
        assert not site.backend.seen


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_store_that_is_away_is_a_503_and_nothing_passes(gateway: str, tmp_path: Path) -> None:
    with limited_site(gateway, AWAY, tmp_path) as site:
        assert [site.ask("/a").status_code for _ in range(3)] == [503] * 3
        assert httpx.get(f"{site.service}/readyz").status_code == 503
        assert httpx.get(f"{site.service}/healthz").status_code == 200
        assert not site.backend.seen


def test_no_number_of_header_lines_passes_or_ends_a_gateway_that_fails_open(tmp_path: Path) -> None:
    rule = '[[rules]]\nname = "r"\nmatch = { path = "/a" }\nkey = ["client"]\nlimit = "1/hour"'
    with limited_site("haproxy", rule, tmp_path, fail_open=True) as site:
        assert site.ask("/a").status_code == 200
        statuses = {site.ask("/a", *[(f"X-{n}", "a") for n in range(lines)]).status_code for lines in range(80, 105)}
        assert statuses == {429, 431, 400}
        assert site.ask("/a").status_code == 429

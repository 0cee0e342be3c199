"""Limits in WSGI, Flask and Django: what clients get, and what the application does not notice, is the same in all."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from http.client import HTTPConnection
from typing import Any

import http_sf
import httpx
import pytest
from oracles import structured
from servers import free_port
from site_parts import PIECES, of_user
from web_sites import SITES, memory, own_rejection

from ratekeeper import Policy, PolicyDecision

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/minute"')
USERS = Policy.parse('[[rules]]\nname = "users"\nkey = ["user"]\nlimit = "2/minute"')
OF_USER = {"user": of_user}
ALICE, BOB = {"x-user": "alice"}, {"x-user": "bob"}


class Framework:
    """One of the frameworks: a site of it, limited by these options, and what is its own in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def site(self, **options: Any) -> AbstractContextManager[httpx.Client]:
        return SITES[self.name](**{"store": memory(), **options})


@pytest.fixture(params=SITES)
def framework(request: pytest.FixtureRequest) -> Framework:
    return Framework(request.param)


def statuses(client: httpx.Client, *paths: str, **headers: str) -> list[int]:
    return [client.get(path, headers=headers).status_code for path in paths]


def test_over_the_limit_a_client_gets_429_with_a_problem_and_when_to_come_back(framework: Framework) -> None:
    with framework.site(policy=EACH) as client:
        *allowed, refused = [client.get("/items/1") for _ in range(4)]
    assert [(one.status_code, one.text) for one in allowed] == [(200, "1")] * 3
    states = [http_sf.parse(one.headers["ratelimit"].encode(), tltype="list") for one in (*allowed, refused)]
    assert states == [[("each", {"r": left, "t": 20})] for left in (2, 1, 0, 0)]
    policy = http_sf.parse(refused.headers["ratelimit-policy"].encode(), tltype="list")
    assert policy == [("each", {"q": 3, "w": 60})]
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "20"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["violated-policies"] == ["each"]


def test_what_is_not_there_counts_too(framework: Framework) -> None:
    with framework.site(policy=EACH) as client:
        assert statuses(client, *["/none"] * 4) == [404, 404, 404, 429]


def test_one_user_does_not_use_up_what_is_anothers(framework: Framework) -> None:
    with framework.site(policy=USERS, attributes=OF_USER) as client:
        answers = [client.get("/items/1", headers=user).status_code for user in (ALICE, ALICE, ALICE, BOB)]
    assert answers == [200, 200, 429, 200]


def test_an_endpoints_own_limit_counts_besides_the_policys(framework: Framework) -> None:
    with framework.site(policy=EACH) as client:
        first, refused, other = (client.get("/send", headers=user) for user in (ALICE, ALICE, BOB))
    assert (first.status_code, refused.status_code, other.status_code) == (200, 429, 200)
    assert first.headers["ratelimit"] == '"each";r=2;t=20, "1/hour";r=0;t=3600'
    assert refused.headers["retry-after"] == "3600"
    assert refused.json()["violated-policies"] == ["1/hour"]


def test_a_stream_is_byte_for_byte_what_it_was(framework: Framework) -> None:
    with framework.site(policy=EACH) as client:
        limited = client.get("/stream")
    with framework.site(enabled=False) as client:
        free = client.get("/stream")
    assert limited.content == free.content == b"".join(PIECES)
    assert limited.headers["ratelimit"] == '"each";r=2;t=20'
    assert "ratelimit" not in free.headers


def test_errors_of_the_application_are_its_own(framework: Framework) -> None:
    with framework.site(policy=EACH) as client:
        assert statuses(client, "/boom") == [500]


def test_a_limiter_of_the_applications_own_that_refuses_in_a_view_is_a_429_with_its_headers(
    framework: Framework,
) -> None:
    with framework.site(policy=EACH) as client:
        refused = client.get("/own")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "3600"
    states = dict(structured(refused.headers["ratelimit"]))
    assert states["each"]["r"] == 3, "a refused request costs nothing"
    assert states["token_bucket of 1 at 1/hour"]["r"] == 0
    assert refused.json()["violated-policies"] == ["token_bucket of 1 at 1/hour"]


def test_a_function_says_what_a_request_costs(framework: Framework) -> None:
    with framework.site(policy=EACH, cost=lambda request: 3 if of_user(request) == "alice" else 1) as client:
        assert statuses(client, "/items/1", **BOB) == [200]
        assert statuses(client, "/items/1", **ALICE) == [429]
        assert statuses(client, "/items/1", **BOB) == [200]


def test_a_function_says_in_which_tier_a_user_is(framework: Framework) -> None:
    policy = Policy.parse(
        '[tiers]\nby = "user"\ndefault = "free"\npro = ["alice"]\n'
        '[[rules]]\nname = "free"\nmatch.tier = "free"\nkey = ["user"]\nlimit = "1/minute"'
    )
    with framework.site(policy=policy, attributes=OF_USER) as client:
        assert statuses(client, *["/items/1"] * 2, **ALICE) == [200, 200]
        assert statuses(client, *["/items/1"] * 2, **BOB) == [200, 429]


def test_who_is_exempt_is_not_limited(framework: Framework) -> None:
    with framework.site(policy=EACH, exempt=lambda request: of_user(request) == "alice") as client:
        assert statuses(client, *["/items/1"] * 5, "/send", "/send", **ALICE) == [200] * 7


def test_an_application_may_answer_refusals_itself(framework: Framework) -> None:
    refusals: list[PolicyDecision] = []

    def rejection(_: Any, decision: PolicyDecision) -> Any:
        refusals.append(decision)
        return own_rejection(framework.name)

    with framework.site(rejection=rejection) as client:
        _, refused = (client.get("/send", headers=ALICE) for _ in range(2))
    assert (refused.status_code, refused.text) == (418, "own")
    assert refused.headers["retry-after"] == "3600"
    assert [one.allowed for one in refusals] == [False]


def test_switched_off_it_limits_nothing_and_says_nothing(framework: Framework) -> None:
    with framework.site(policy=EACH, enabled=False) as client:
        answers = [client.get("/send", headers=ALICE) for _ in range(4)]
    assert {one.status_code for one in answers} == {200}
    assert not any("ratelimit" in one.headers for one in answers)


def test_an_observer_is_told_every_decision_of_policy_and_endpoint(framework: Framework) -> None:
    seen: list[tuple[str | None, bool]] = []
    with framework.site(policy=EACH, on_decision=lambda r, one: seen.append((of_user(r), one.allowed))) as client:
        assert statuses(client, "/send", "/send", **ALICE) == [200, 429]
    assert seen == [("alice", True), ("alice", True), ("alice", True), ("alice", False)]


def test_forged_addresses_are_one_client(framework: Framework) -> None:
    policy = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "5000/hour"')
    with framework.site(policy=policy) as client:
        for number in range(200):
            connection = HTTPConnection(client.base_url.host, client.base_url.port)  # several times as fast as httpx
            with closing(connection):
                connection.request("GET", "/none", headers={"X-Forwarded-For": f"198.51.100.{number}"})
                connection.getresponse().read()
        last = client.get("/items/1")
    assert ";r=4799;" in last.headers["ratelimit"]


def test_behind_a_trusted_proxy_a_client_is_who_the_proxy_saw(framework: Framework) -> None:
    with framework.site(policy=EACH, trusted_proxies=1) as client:
        seen = ["6.6.6.6, 192.0.2.7", "7.7.7.7, 192.0.2.7", "192.0.2.7", "192.0.2.7", "192.0.2.8"]
        answers = [client.get("/items/1", headers={"x-forwarded-for": one}).status_code for one in seen]
    assert answers == [200, 200, 200, 429, 200]


def test_a_path_is_decoded_once(framework: Framework) -> None:
    policy = Policy.parse('[[rules]]\nname = "a"\nmatch.path = "/items/a?"\nlimit = "1/hour"')
    with framework.site(policy=policy) as client:
        spelt = [client.get(path) for path in ("/items/%61%3F", "/x/../items/a%3F", "/items/%2561%3F")]
    assert [";r=0;" in one.headers.get("ratelimit", "") for one in spelt] == [True, True, False]


def test_a_store_that_does_not_answer_is_503_and_no_free_pass(framework: Framework) -> None:
    with framework.site(policy=EACH, store=f"redis://127.0.0.1:{free_port()}") as client:
        refused = client.get("/items/1")
    assert refused.status_code == 503
    assert refused.json()["title"].startswith("Request cannot be satisfied")

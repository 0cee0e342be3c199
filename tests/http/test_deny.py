"""Responses to requests that a rule denies, or whose limit is nothing: what a client is told, and what it is not."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import grpc
import httpx
import pytest
from asgi_apps import limited
from django.test import override_settings
from django.urls import path
from django_site import Api
from exchanges import Asked
from oracles import structured
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from web_sites import django_wsgi_site, flask_app, memory, serving

from ratekeeper import Decision, Deny, Keeper, Limit, MemoryStore, Policy, PolicyDecision, RuleDecision, TokenBucket
from ratekeeper.decision import NEVER
from ratekeeper.frameworks.flask import RateLimits
from ratekeeper.frameworks.grpc_call import LimitedContext
from ratekeeper.frameworks.starlette import RateLimitMiddleware, rate_limit
from ratekeeper.http.headers import legacy_headers, rate_limit_headers
from ratekeeper.http.responses import QUOTA_EXCEEDED, problem

RULES = """
[[rules]]
name = "each"
key = ["client"]
limit = "9/hour"
[[rules]]
name = "closed"
match = { path = "/closed*" }
deny = true
[[rules]]
name = "nothing yet"
match = { path = "/later" }
limit = "0/day"
"""
POLICY = Policy.parse(RULES)


def ask(app: Any, *paths: str) -> list[httpx.Response]:
    async def go() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(go())


def test_a_denied_request_is_forbidden_and_is_told_of_no_quota() -> None:
    denied, again = ask(limited(POLICY, headers=("ietf", "x-epoch", "retry-after-date")), "/closed/a", "/closed/b")
    assert denied.status_code == again.status_code == 403
    assert denied.json() == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "detail": "Rule 'closed' denies this request: waiting will not help.",
    }
    assert denied.headers["content-type"] == "application/problem+json"
    assert denied.headers["cache-control"] == "no-store"
    assert not [name for name in denied.headers if "ratelimit" in name or name == "retry-after"]


def test_a_limit_of_nothing_is_a_quota_that_no_wait_will_fill() -> None:
    [refused] = ask(limited(POLICY, headers=("ietf", "x-epoch", "retry-after-date")), "/later")
    assert (refused.status_code, refused.json()["type"]) == (429, QUOTA_EXCEEDED)
    assert refused.json()["detail"] == "'nothing yet' refuses every request: waiting will not help."
    assert structured(refused.headers["ratelimit-policy"]) == [("nothing yet", {"q": 0})]
    assert structured(refused.headers["ratelimit"]) == [("nothing yet", {"r": 0})]
    assert (refused.headers["x-ratelimit-limit"], refused.headers["x-ratelimit-remaining"]) == ("0", "0")
    assert "retry-after" not in refused.headers
    assert "x-ratelimit-reset" not in refused.headers


def test_neither_costs_the_client_what_it_has_left() -> None:
    answers = ask(limited(POLICY), *["/closed", "/later"] * 20, "/open")
    assert answers[-1].headers["ratelimit"] == '"each";r=8;t=400'


def one(name: str, limit: Limit, *, refused: bool, shadow: bool = False) -> RuleDecision:
    never = NEVER if refused else 0
    return RuleDecision(name, Decision(not refused, limit, "secret", 1, 0, never, never, 0), shadow)


def test_items_of_other_rules_keep_their_own_numbers_beside_a_denial() -> None:
    """As after two limits in turn, of which the second denies."""
    first, nothing, second = (
        one("a 100%", TokenBucket(7, 1), refused=False), one("n", TokenBucket(0, 0), refused=True),
        one("b", TokenBucket(9, 3), refused=False),
    )  # fmt: skip
    ban = one("ban", Deny(), refused=True)
    expected = [("a 100%", {"r": 7, "t": 1}), ("n", {"r": 0}), ("b", {"r": 9, "t": 1})]
    for rules in ((ban, first, nothing, second), (first, nothing, ban, ban, second), (first, nothing, second, ban)):
        decision = PolicyDecision(rules)
        headers = dict(rate_limit_headers(decision))
        assert structured(headers["RateLimit"]) == expected
        assert [name for name, _ in structured(headers["RateLimit-Policy"])] == ["a 100%", "n", "b"]
        assert problem(decision).status == 403
    assert rate_limit_headers(PolicyDecision((ban, ban))) == []
    assert legacy_headers(PolicyDecision((ban,)), "delta", 0.0) == []
    shadow = one("ban", Deny(), refused=True, shadow=True)
    assert len(rate_limit_headers(PolicyDecision((shadow, first)))) == 2
    with pytest.raises(ValueError, match="allowed"):
        problem(PolicyDecision((shadow, first)))


def test_a_gateways_own_status_replaces_the_403_and_bodies_are_kept() -> None:
    keeper = Keeper(POLICY, MemoryStore())
    decisions = [keeper.try_acquire({"path": path}) for path in ("/closed", "/closed/x")]
    assert problem(decisions[0]).body is problem(decisions[1]).body
    teapot = problem(decisions[0], HTTPStatus.IM_A_TEAPOT)
    assert (teapot.status, json.loads(teapot.body)["title"]) == (418, "I'm a Teapot")
    assert problem(decisions[0]).status == 403
    nothing = keeper.try_acquire({"path": "/later"})
    assert problem(nothing).body is problem(keeper.try_acquire({"path": "/later"})).body


def test_an_endpoint_may_deny_and_gives_back_what_the_policy_charged() -> None:
    async def serve(request: Request) -> PlainTextResponse:
        return PlainTextResponse("served")

    routes = [
        Route("/gone", rate_limit(Deny(), name="gone")(serve)), Route("/none", rate_limit("0/s", name="none")(serve)),
        Route("/tried", rate_limit(Deny(), name="tried", shadow=True)(serve)), Route("/open", serve),
    ]  # fmt: skip
    app = Starlette(routes=routes)
    app.add_middleware(RateLimitMiddleware, policy=POLICY, store=memory())
    *refused, tried, served = ask(app, "/gone", "/none", "/gone", "/tried", "/open")
    assert [answer.status_code for answer in refused] == [403, 429, 403]
    assert refused[0].json()["detail"] == "Rule 'gone' denies this request: waiting will not help."
    assert refused[1].headers["ratelimit"] == '"each";r=9;t=400, "none";r=0'
    assert (tried.status_code, tried.headers["ratelimit"]) == (200, '"each";r=8;t=400')
    assert served.headers["ratelimit"] == '"each";r=7;t=400'


def test_flask_hands_a_denial_to_the_applications_handler_of_a_403() -> None:
    app = flask_app()
    app.register_error_handler(403, lambda error: (f"own page: {error.description}", 403))
    RateLimits(app, Policy.parse('[[rules]]\nname = "ban"\ndeny = true'), store=memory())
    with serving(app) as client:
        answer = client.get("/items/1")
    assert (answer.status_code, answer.text) == (403, "own page: rule 'ban': every request is denied")


@pytest.mark.parametrize("middleware", [[], ["ratekeeper.frameworks.django.RateLimitMiddleware"]])
def test_django_rest_framework_itself_answers_a_denial(middleware: list[str]) -> None:
    class Closed(Api):
        throttle_limits = Deny()

    urls = (path("gone", Closed.as_view()), path("open", Api.as_view()))
    with (
        override_settings(ROOT_URLCONF=urls, MIDDLEWARE=middleware),
        django_wsgi_site(policy=POLICY, store=memory()) as client,
    ):
        denied, served = client.get("/gone"), client.get("/open")
    assert (denied.status_code, denied.json()) == (
        403,
        {"detail": "Rule 'deny' denies this request: waiting will not help."},
    )
    assert served.headers.get("ratelimit", '"each";r=8;t=400') == '"each";r=8;t=400'


def test_grpc_is_told_that_permission_is_denied() -> None:
    answer = problem(Keeper(POLICY, MemoryStore()).try_acquire({"path": "/closed"}))
    context = LimitedContext(None, Asked("POST", "/closed"))  # type: ignore[arg-type]
    code, detail, trailing = context.refusal(answer)
    assert (code, trailing) == (grpc.StatusCode.PERMISSION_DENIED, ())
    assert detail == "Rule 'closed' denies this request: waiting will not help."

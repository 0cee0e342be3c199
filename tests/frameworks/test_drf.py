"""Limits in Django REST framework: a throttle that knows users by their tokens, with the middleware and without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.test import override_settings
from django.urls import path
from django_site import Api, ByToken
from rest_framework.decorators import action
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.viewsets import ViewSet
from web_sites import django_asgi_site, django_wsgi_site, memory

from ratekeeper import Policy, PolicyError
from ratekeeper.frameworks.django import RateLimitMiddleware
from ratekeeper.frameworks.drf import RateLimitThrottle, exempt, rate_limit

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "2/minute"')
ALICE, BOB = {"x-token": "alice"}, {"x-token": "bob"}


@pytest.fixture(params=["with the middleware", "under ASGI", "without"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    site = django_asgi_site if request.param == "under ASGI" else django_wsgi_site
    middleware = [] if request.param == "without" else ["ratekeeper.frameworks.django.RateLimitMiddleware"]
    with override_settings(MIDDLEWARE=middleware), site(policy=EACH, store=memory()) as client:
        yield client


def statuses(client: httpx.Client, *paths: str, **headers: str) -> list[int]:
    return [client.get(path, headers=headers).status_code for path in paths]


@pytest.fixture
def unlimited_site() -> Iterator[httpx.Client]:
    with override_settings(MIDDLEWARE=[]), django_wsgi_site(store=memory()) as client:
        yield client


def test_a_throttle_without_limits_of_its_own_decides_by_the_policy_and_once(client: httpx.Client) -> None:
    assert statuses(client, *["/api/api"] * 3) == [200, 200, 429]


def test_the_framework_itself_answers_and_says_when_to_come_back(unlimited_site: httpx.Client) -> None:
    *_, refused = [unlimited_site.get("/api/search") for _ in range(3)]
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1800"
    assert refused.json() == {"detail": "Request was throttled. Expected available in 1800 seconds."}


def test_a_users_bucket_is_that_of_the_token_and_an_address_has_another(unlimited_site: httpx.Client) -> None:
    for headers in (ALICE, BOB, {}):
        assert statuses(unlimited_site, *["/api/search"] * 3, **headers) == [200, 200, 429]


def test_views_share_buckets_by_the_class_of_the_throttle_or_by_scope(unlimited_site: httpx.Client) -> None:
    assert statuses(unlimited_site, "/api/report", "/api/report/again", "/api/report") == [200, 200, 429]
    assert statuses(unlimited_site, "/api/export", "/api/import", "/api/export") == [200, 200, 429]
    assert statuses(unlimited_site, "/api/search") == [200]


@pytest.mark.parametrize("site", [django_wsgi_site, django_asgi_site])
def test_with_the_middleware_all_responses_tell_the_throttles_limits(site: Any) -> None:
    with site(store=memory()) as client:
        *_, refused = answers = [client.get("/api/report", headers=ALICE) for _ in range(3)]
    assert [one.headers["ratelimit"] for one in answers] == [f'"Hourly";r={left};t=1800' for left in (1, 0, 0)]
    assert refused.headers.get_list("retry-after") == ["1800"]


class Decorated(Api):
    throttle_classes = ()  # type: ignore[assignment]

    @rate_limit("2/hour", key=lambda request: request.user.pk)
    def get(self, request: Any) -> Response:
        return Response("ok")


def test_the_decorator_limits_a_views_method_by_the_user_of_the_token() -> None:
    urls = (path("decorated", Decorated.as_view()),)
    with override_settings(ROOT_URLCONF=urls), django_wsgi_site(store=memory()) as client:
        for headers in (ALICE, BOB):
            assert statuses(client, *["/decorated"] * 3, **headers) == [200, 200, 429]


class ByKnownToken(ByToken):
    def authenticate(self, request: Any) -> Any:
        if request.headers.get("x-token") == "wrong":
            raise AuthenticationFailed
        return super().authenticate(request)


class Replacing(Api):
    authentication_classes = (ByKnownToken,)
    throttle_limits = "4/hour"
    throttle_replaces = ("each",)

    @exempt
    def post(self, request: Any) -> Response:
        return Response("ok")


class Unthrottled(Replacing):
    throttle_classes = ()  # type: ignore[assignment]


class Misspelt(Replacing):
    throttle_replaces = ("eech",)


class Actions(ViewSet):  # type: ignore[misc]  # it has no types
    authentication_classes = (ByKnownToken,)
    throttle_classes = (RateLimitThrottle,)
    throttle_limits: Any = ()
    throttle_replaces: Any = ()

    def list(self, request: Any) -> Response:
        return Response("ok")

    @action(detail=False, throttle_limits="4/hour", throttle_replaces=["each"])  # type: ignore[untyped-decorator]
    def search(self, request: Any) -> Response:
        return Response("ok")


router = SimpleRouter()
router.register("actions", Actions, basename="actions")
BESIDE = Policy.parse("""
[[rules]]
name = "each"
key = ["client"]
limit = "2/minute"
[[rules]]
name = "all"
limit = "11/hour"
""")
REPLACING = tuple(path(view.__name__.lower(), view.as_view()) for view in (Api, Replacing, Unthrottled))


@pytest.fixture(params=[django_wsgi_site, django_asgi_site])
def replacing_site(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    middleware = ["ratekeeper.frameworks.django.RateLimitMiddleware"]
    urls = (*REPLACING, *router.urls)
    with (
        override_settings(MIDDLEWARE=middleware, ROOT_URLCONF=urls),
        request.param(policy=BESIDE, store=memory()) as client,
    ):
        yield client


def test_a_throttle_takes_the_place_of_a_rule_for_each_user_and_the_other_rules_count(
    replacing_site: httpx.Client,
) -> None:
    assert statuses(replacing_site, *["/replacing"] * 5, **ALICE) == [200] * 4 + [429]
    assert statuses(replacing_site, *["/replacing"] * 5, **BOB) == [200] * 4 + [429]
    assert statuses(replacing_site, *["/api"] * 3) == [200, 200, 429], "a refused request costs no rule"
    told = replacing_site.get("/replacing").headers["ratelimit"]
    assert told == '"all";r=0;t=328, "4/hour";r=3;t=900'
    assert statuses(replacing_site, "/replacing", **{"x-token": "carol"}) == [429], "11 in all"


def test_a_view_that_answers_before_its_throttle_is_limited_by_the_rule(replacing_site: httpx.Client) -> None:
    assert statuses(replacing_site, *["/replacing"] * 4, **{"x-token": "wrong"}) == [403, 403, 429, 429]
    assert statuses(replacing_site, "/unthrottled", "/api", **ALICE) == [429, 429]
    assert statuses(replacing_site, "/replacing", **ALICE) == [200]


def test_an_action_of_a_view_set_replaces_a_rule_by_itself(replacing_site: httpx.Client) -> None:
    assert statuses(replacing_site, *["/actions/"] * 3) == [200, 200, 429]
    assert statuses(replacing_site, *["/actions/search/"] * 5) == [200] * 4 + [429]


def test_no_rule_limits_an_exempt_method_of_a_view_whose_throttle_replaces_one(replacing_site: httpx.Client) -> None:
    answers = [replacing_site.post("/replacing", headers={"x-token": "wrong"}).status_code for _ in range(12)]
    assert answers == [403] * 12


def test_without_the_middleware_a_throttles_limits_count_alone() -> None:
    with (
        override_settings(MIDDLEWARE=[], ROOT_URLCONF=REPLACING),
        django_wsgi_site(policy=EACH, store=memory()) as client,
    ):
        assert statuses(client, *["/replacing"] * 5, **ALICE) == [200] * 4 + [429]


def test_a_rule_that_no_policy_has_is_an_error_when_the_application_starts() -> None:
    urls = (path("misspelt", Misspelt.as_view()),)
    message = r"throttle_replaces of test_drf\.Misspelt replaces the rule 'eech'.*'each'"
    with override_settings(ROOT_URLCONF=urls, RATEKEEPER={"policy": EACH}), pytest.raises(PolicyError, match=message):
        RateLimitMiddleware(lambda _: None)
    with override_settings(ROOT_URLCONF=REPLACING, RATEKEEPER={"policy": EACH}):
        limiter = RateLimitMiddleware(lambda _: None)._limiter
        with pytest.raises(PolicyError, match="replaces the rule 'each', which the policy does not have"):
            limiter.replace(Policy.parse('[[rules]]\nname = "other"\nlimit = "1/hour"'))

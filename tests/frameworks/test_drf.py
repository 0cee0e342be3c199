"""Limits in Django REST framework: a throttle that knows users by their tokens, with the middleware and without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.test import override_settings
from django.urls import path
from django_site import Api
from rest_framework.response import Response
from web_sites import django_asgi_site, django_wsgi_site, memory

from ratekeeper import Policy
from ratekeeper.frameworks.drf import rate_limit

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

"""Limits in Django: views of every kind, the settings, and users' own tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import Client, override_settings
from site_parts import of_user
from web_sites import django_asgi_site, django_wsgi_site, memory

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.testing import frozen

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/minute"')
SITES = pytest.mark.parametrize("site", [django_wsgi_site, django_asgi_site])
SEEN: list[bool] = []


def observed(request: Any, decision: Any) -> None:
    """Named by its dotted path in a test."""
    SEEN.append(decision.allowed)


def statuses(client: httpx.Client | Client, *paths: str) -> list[int]:
    return [client.get(path).status_code for path in paths]


@SITES
@pytest.mark.parametrize("path", ["/send", "/send/async", "/send/class", "/send/async-class"])
def test_a_limit_is_put_on_functions_and_classes_sync_and_async_whatever_serves_them(site: Any, path: str) -> None:
    with site(store=memory()) as client:
        assert statuses(client, path, path) == [200, 429]


@SITES
def test_a_views_template_is_its_route(site: Any) -> None:
    policy = Policy.parse('[[rules]]\nname = "items"\nmatch.endpoint = "GET /items/<int:item>"\nlimit = "2/minute"')
    with site(policy=policy, store=memory()) as client:
        assert statuses(client, "/items/1", "/items/2", "/items/3", "/stream", "/none") == [200, 200, 429, 200, 404]


def test_under_asgi_functions_may_be_async() -> None:
    async def user(request: Any) -> str | None:
        return of_user(request)

    async def cost(request: Any) -> int:
        return 2 if of_user(request) == "a" else 1

    async def exempt(request: Any) -> bool:
        return of_user(request) == "c"

    async def rejection(request: Any, decision: Any) -> HttpResponse:
        return HttpResponse(status=418)

    policy = Policy.parse('[[rules]]\nname = "users"\nkey = ["user"]\nlimit = "2/minute"')
    options = {"attributes": {"user": user}, "cost": cost, "exempt": exempt, "rejection": rejection}
    with django_asgi_site(policy=policy, store=memory(), **options) as client:
        answers = [client.get("/items/1", headers={"x-user": name}).status_code for name in "aabbbccc"]
    assert answers == [200, 418, 200, 200, 418, 200, 200, 200]


def test_a_request_waits_for_its_turn_where_its_rule_lets_it() -> None:
    policy = Policy.parse('[[rules]]\nname = "queue"\nalgorithm = "leaky_bucket"\ncapacity = 5\nleak_rate = "1000/s"')
    for site in (django_wsgi_site, django_asgi_site):
        with site(policy=policy) as client:
            assert statuses(client, *["/items/1"] * 5) == [200] * 5


def test_settings_name_files_and_functions_by_their_paths(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[[rules]]\nname = "users"\nkey = ["user"]\nlimit = "1/day"')
    options = {"policy": file, "attributes": {"user": "site_parts.of_user"}, "on_decision": ["test_django.observed"]}
    SEEN.clear()
    with django_wsgi_site(**options) as client:
        assert statuses(client, "/items/1", "/items/1") == [200, 429]
    assert SEEN == [True, False]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"polcy": "policy.toml"}, "the setting RATEKEEPER has an unknown key 'polcy': did you mean 'policy'?"),
        ("policy.toml", 'must be a dict, such as {"policy": BASE_DIR / "policy.toml"}, not str'),
        ({"attributes": {"user": "site_parts.of_usr"}}, 'RATEKEEPER, attributes.user: Module "site_parts" does not'),
        ({"exempt": "nowhere"}, "RATEKEEPER, exempt: nowhere doesn't look like a module path"),
    ],
)
def test_a_mistake_in_the_settings_is_an_error_when_django_starts(setting: Any, complaint: str) -> None:
    with override_settings(RATEKEEPER=setting), pytest.raises(ImproperlyConfigured) as raised:
        get_wsgi_application()
    assert complaint in str(raised.value)


def test_users_tests_override_the_settings_also_between_two_requests_of_one_client() -> None:
    store = MemoryStore(clock=ManualClock())
    client = Client()
    with override_settings(RATEKEEPER={"policy": EACH, "store": store}):
        assert statuses(client, *["/items/1"] * 4) == [200, 200, 200, 429]
        with override_settings(RATEKEEPER={"policy": EACH, "store": store, "enabled": False}):
            assert statuses(client, "/items/1") == [200]
        assert statuses(client, "/items/1") == [429]


def test_each_client_of_users_tests_begins_with_full_buckets() -> None:
    with frozen(), override_settings(RATEKEEPER={"policy": EACH}):
        for _ in range(2):
            assert statuses(Client(), *["/items/1"] * 4) == [200, 200, 200, 429]

"""Limits that are in a database, behind real servers: a changed plan, a slow database, and one that is gone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import django_site  # noqa: F401  it sets Django up
import flask
import httpx
import pytest
from asgi_servers import serving as serving_asgi
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from fastapi import FastAPI
from plan_databases import PlanDatabase, PostgresPlans, SQLitePlans
from servers import PATIENCE, ratekeeper_service
from service_process import poll
from web_sites import serving

from ratekeeper import LookupFunction, ManualClock, MemoryStore, Policy, PolicyError
from ratekeeper.frameworks import flask as own_flask
from ratekeeper.frameworks import starlette
from ratekeeper.http.limiter import AsyncRequestLimiter, RequestLimiter

POLICY = """
[attributes]
user = "header:x-user"
[[rules]]
name = "each user"
key = ["user"]
limit = "app:plan"
default = "10000/minute"
"""
Site: TypeAlias = Callable[..., AbstractContextManager[httpx.Client]]


@contextmanager
def fastapi_site(**options: Any) -> Iterator[httpx.Client]:
    app = FastAPI()
    app.add_middleware(starlette.RateLimitMiddleware, **options)

    @app.get("/")
    async def page() -> str:
        return "ok"

    with serving_asgi(app) as url, httpx.Client(base_url=url) as client:
        yield client


@contextmanager
def awaiting_site(**options: Any) -> Iterator[httpx.Client]:
    """As `fastapi_site`, with an async look-up."""
    given = options["limits"]["plan"]

    async def plan_of(attributes: Mapping[str, str]) -> Any:
        return await asyncio.to_thread(given.function, attributes)

    options["limits"] = {"plan": LookupFunction(plan_of, timeout=given.timeout)}
    with fastapi_site(**options) as client:
        yield client


@contextmanager
def flask_site(**options: Any) -> Iterator[httpx.Client]:
    app = flask.Flask(__name__)
    app.add_url_rule("/", view_func=lambda: "ok")
    own_flask.RateLimits(app, **options)
    with serving(app) as client:
        yield client


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


@contextmanager
def django_wsgi(**options: Any) -> Iterator[httpx.Client]:
    own = {"ROOT_URLCONF": (path("", page),), "MIDDLEWARE": ["ratekeeper.frameworks.django.RateLimitMiddleware"]}
    with override_settings(RATEKEEPER=options, **own), serving(get_wsgi_application()) as client:
        yield client


@contextmanager
def django_asgi(**options: Any) -> Iterator[httpx.Client]:
    own = {"ROOT_URLCONF": (path("", page),), "MIDDLEWARE": ["ratekeeper.frameworks.django.RateLimitMiddleware"]}
    with (
        override_settings(RATEKEEPER=options, **own),
        serving_asgi(get_asgi_application(), lifespan="off") as url,
        httpx.Client(base_url=url) as client,
    ):
        yield client


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def plans(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PlanDatabase]:
    if request.param == "sqlite":
        yield SQLitePlans(tmp_path)
        return
    with closing(PostgresPlans()) as database:
        yield database


SITES = pytest.mark.parametrize("site", [fastapi_site, awaiting_site, flask_site, django_wsgi, django_asgi])


def quota(client: httpx.Client, user: str) -> int:
    """The capacity of a user's limit, as the response tells it."""
    answer = client.get("/", headers={"x-user": user})
    assert answer.status_code == 200, answer.text
    return int(answer.headers["RateLimit-Policy"].split("q=")[1].split(";")[0])


def until_quota(client: httpx.Client, user: str, right: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while quota(client, user) != right:
        assert time.monotonic() < deadline


@SITES
def test_a_changed_plan_counts_and_a_slow_or_stopped_database_costs_known_users_nothing(
    site: Site, plans: PlanDatabase
) -> None:
    clock = ManualClock(1000)
    options = {
        "policy": Policy.parse(POLICY),
        "store": MemoryStore(1000, clock=clock),
        "limits": {"plan": LookupFunction(plans.plan_of, timeout=PATIENCE)},
    }
    plans.put("alice", "50000/minute")
    with site(**options) as client:
        assert (quota(client, "alice"), quota(client, "bob")) == (50_000, 10_000)
        plans.put("alice", "60000/minute")
        assert quota(client, "alice") == 50_000
        clock.advance(60)
        until_quota(client, "alice", 60_000)
        asked = len(plans.asked)
        clock.advance(60)
        with plans.locked():
            for _ in range(20):  # each would wait for the lock if it waited for the database
                assert quota(client, "alice") == 60_000
        deadline = time.monotonic() + PATIENCE
        while len(plans.asked) == asked:
            assert time.monotonic() < deadline
        plans.stop()
        for _ in range(3):
            clock.advance(60)
            assert quota(client, "alice") == 60_000
        assert quota(client, "carol") == 10_000  # nothing is known of her, so the default counts


@SITES
def test_a_new_user_waits_a_stated_time_for_a_slow_database(site: Site, tmp_path: Path) -> None:
    plans = SQLitePlans(tmp_path)
    plans.put("alice", "50000/minute")
    options = {
        "policy": Policy.parse(POLICY),
        "store": MemoryStore(1000, clock=ManualClock(1000)),
        "limits": {"plan": LookupFunction(plans.plan_of, timeout=0.05)},
    }
    with site(**options) as client:
        with plans.locked():
            assert quota(client, "alice") == 10_000
        until_quota(client, "alice", 50_000)  # the late answer


@SITES
def test_deny_is_a_503_with_a_retry_after(site: Site, tmp_path: Path) -> None:
    plans = SQLitePlans(tmp_path)
    plans.stop()
    options = {
        "policy": Policy.parse(POLICY + 'on_lookup_error = "deny"'),
        "store": MemoryStore(1000, clock=ManualClock(1000)),
        "limits": {"plan": LookupFunction(plans.plan_of, timeout=PATIENCE)},
    }
    with site(**options) as client:
        answer = client.get("/", headers={"x-user": "alice"})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert "sqlite" not in answer.text
        assert "alice" not in answer.text


async def async_plan(attributes: Mapping[str, str]) -> str:
    return "5/s"


def test_mistakes_are_found_when_the_application_starts() -> None:
    policy = Policy.parse(POLICY)
    for make in (RequestLimiter, AsyncRequestLimiter):
        with pytest.raises(PolicyError, match="nothing gives the limit 'app:plan'"):
            make(policy)
        with pytest.raises(PolicyError, match="limits= is for the rules of a policy"):
            make(limits={"plan": lambda _: None})
        with pytest.raises(TypeError, match="limits must be a mapping"):
            make(policy, limits=async_plan)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'plan' is async, which a Keeper cannot await"):
        RequestLimiter(policy, limits={"plan": async_plan})


def test_what_look_ups_do_can_be_read_and_survives_a_changed_policy() -> None:
    limiter = RequestLimiter(Policy.parse(POLICY), limits={"plan": lambda _: "5/s"})
    assert limiter.in_use is not None
    limiter.in_use.keeper.try_acquire({"user": "alice"})
    limiter.replace(Policy.parse(POLICY + '[[rules]]\nname = "all"\nlimit = "9/s"'))
    limiter.in_use.keeper.try_acquire({"user": "alice"})
    assert limiter.lookups["plan"] == (1, 1, 0, 0, 1, 0)


SHOP = """
import sqlite3
def plan_of(attributes):
    with sqlite3.connect({file!r}) as connection:
        row = connection.execute("SELECT plan FROM plans WHERE name = ?", (attributes["user"],)).fetchone()
    return row and row[0]
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_service_takes_a_function_by_its_name(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SQLitePlans(tmp_path).put("alice", "50000/minute")
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "shop_plans.py").write_text(SHOP.format(file=str(tmp_path / "plans.sqlite")))
    monkeypatch.chdir(tmp_path)
    options = ("--limits", "plan=shop_plans:plan_of", "--workers", workers)
    with ratekeeper_service(tmp_path / "policy.toml", None, *options) as url, httpx.Client() as client:
        headers = {"x-user": "alice", "x-forwarded-uri": "/", "x-forwarded-method": "GET"}

        def told() -> str:
            return client.get(f"{url}/check", headers=headers).headers["RateLimit-Policy"]

        poll(lambda: told() == '"each user";q=50000;w=60')  # a look-up that takes more than a second is told later


def test_an_endpoint_without_some_rules_shares_the_known_limits() -> None:
    asked: list[str] = []

    def plan_of(attributes: Mapping[str, str]) -> str:
        asked.append(attributes["user"])
        return "5/s"

    policy = Policy.parse(POLICY + '[[rules]]\nname = "all"\nlimit = "9/s"\n')
    limiter = RequestLimiter(policy, limits={"plan": plan_of})
    assert limiter.in_use is not None
    for names in ({"each user", "all"}, {"each user"}, {"all"}):
        reduced = limiter.policy_of_rules(frozenset(names))
        assert reduced is not None
        assert {rule.name for rule in reduced.keeper.try_acquire({"user": "alice"}).rules} == names
    assert asked == ["alice"]


def test_the_example_with_a_django_model_runs() -> None:
    example = Path(__file__).parents[2] / "examples" / "frameworks" / "django_plans.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "alice: token_bucket of 500 at 500/minute",
        "bob: token_bucket of 10 at 10/minute",
    ]

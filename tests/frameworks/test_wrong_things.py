"""Things that a newcomer gives to a framework's limits by mistake: the error says how it is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import django_site  # noqa: F401  it sets Django up
import fastapi
import flask
import pytest
import quart
from aiohttp import web
from asgi_apps import application
from django.core.exceptions import ImproperlyConfigured
from django.test import Client as DjangoClient
from django.test import override_settings
from starlette_apps import EACH, ask
from werkzeug.test import Client

from ratekeeper import ManualClock, MemoryStore, Policy, PolicyError
from ratekeeper.frameworks import aiohttp, asgi, starlette, wsgi
from ratekeeper.frameworks.flask import RateLimits
from ratekeeper.http.endpoints import exempt
from ratekeeper.http.rate_limit import rate_limit

NONE = Policy.parse('[[rules]]\nname = "none"\nlimit = "0/s"')

PARTS = [
    fastapi.APIRouter(), fastapi.FastAPI(), flask.Blueprint("b", __name__), flask.Flask("f"), web.RouteTableDef(),
    web.Application(), property(lambda self: 1), "5/minute", None,
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS, ids=repr)
@pytest.mark.parametrize("mark", [exempt, rate_limit("5/minute")._limited], ids=["exempt", "rate_limit"])
def test_a_mark_on_a_part_of_an_application_is_an_error_as_it_would_do_nothing(mark: Any, part: Any) -> None:
    with pytest.raises(TypeError, match=r"is for functions and methods, not for .*: put it on each endpoint"):
        mark(part)


@pytest.mark.parametrize("given", ["policy.toml", EACH], ids=["a file", "a policy"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (asgi.RateLimitMiddleware, "the application comes first"),
        (starlette.RateLimitMiddleware, "the application comes first"),
        (wsgi.RateLimitMiddleware, "the application comes first"),
        (RateLimits, r"write RateLimits\(app, 'policy.toml'\), or RateLimits\(policy='policy.toml'\)"),
        (aiohttp.setup, "setup is for a web.Application"),
    ],
)
def test_a_policy_in_the_place_of_the_application_is_an_error_at_once(
    make: Callable[[Any], Any], words: str, given: Any
) -> None:
    with pytest.raises(TypeError, match=words):
        make(given)


def test_a_blueprint_is_no_application() -> None:
    with pytest.raises(TypeError, match="a rule's match limits the paths of a blueprint"):
        RateLimits(flask.Blueprint("b", __name__), EACH)  # type: ignore[arg-type]


def ask_asgi(app: Any = application, **options: Any) -> object:
    return ask(asgi.RateLimitMiddleware(app, NONE, **options))


def ask_wsgi(app: Any = None, **options: Any) -> object:
    return Client(wsgi.RateLimitMiddleware(app or flask.Flask("f"), NONE, **options)).get("/")


def ask_django(**options: Any) -> object:
    with override_settings(RATEKEEPER={"policy": NONE, **options}):
        return DjangoClient().get("/")


@pytest.mark.parametrize("answer", [{"error": "slow down"}, ("slow down", 429), "slow down"])
@pytest.mark.parametrize(
    ("get", "right"),
    [(ask_asgi, "an ASGI application, such as a response of"), (ask_wsgi, "a WSGI app"), (ask_django, "an HttpResp")],
)
def test_a_rejection_that_cannot_be_sent_is_an_error_that_says_what_can(get: Any, right: str, answer: Any) -> None:
    with pytest.raises(TypeError, match=f"rejection must return {right}"):
        get(rejection=lambda *_: answer)


@pytest.mark.parametrize("inside", ["app", "method"])
@pytest.mark.parametrize("kind", [flask.Flask, quart.Quart])
def test_a_limit_above_the_frameworks_decorator_is_found_around_an_application_and_around_its_method(
    kind: Any, inside: str
) -> None:
    app = kind("f")

    rate_limit("1/minute")(app.get("/")(lambda: ""))
    method = app.wsgi_app if kind is flask.Flask else app.asgi_app
    get = ask_wsgi if kind is flask.Flask else ask_asgi
    with pytest.raises(PolicyError, match="limits nothing: it stands above"):
        get(app if inside == "app" else method)


@pytest.mark.parametrize("name", ["RATE_KEEPER", "RATEKEPER", "RATEKEEPER_POLICY"])
def test_a_mistyped_setting_of_django_is_an_error_as_nothing_would_be_limited(name: str) -> None:
    with override_settings(**{name: {"policy": NONE}}), pytest.raises(ImproperlyConfigured, match=f"{name}, which"):
        DjangoClient().get("/")


@pytest.mark.parametrize("cost", [None, "5", 1.5])
def test_a_cost_function_without_a_whole_number_is_an_error_that_says_so(cost: Any) -> None:
    app = asgi.RateLimitMiddleware(application, EACH, cost=lambda scope: cost, store=MemoryStore(clock=ManualClock()))
    with pytest.raises(TypeError, match="cost must be a whole number of tokens"):
        ask(app)

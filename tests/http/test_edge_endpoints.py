"""Limits on endpoints: a limit that cannot count right is an error at the start, and each class has its own bucket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import flask
import pytest
import quart
from aiohttp import web
from asgi_servers import serving, startup_failure
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from edge_sites import memory
from edge_wsgi_sites import site_of
from fastapi import FastAPI
from flask.views import MethodView
from raw_client import RawClient
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from ratekeeper import Limiter, Policy, PolicyError
from ratekeeper.frameworks import aiohttp as own_aiohttp
from ratekeeper.frameworks import asgi, starlette
from ratekeeper.frameworks import flask as own_flask
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.policy.decision import PolicyDecision

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "2/hour"')
once = rate_limit("1/hour")


# Views that are classes


def django_statuses(urls: list[Any], *targets: str, **settings: Any) -> list[int]:
    settings.setdefault("MIDDLEWARE", ["ratekeeper.frameworks.django.RateLimitMiddleware"])
    with (
        override_settings(ROOT_URLCONF=tuple(urls), RATEKEEPER={"store": memory()}, **settings),
        site_of(get_wsgi_application(), []) as site,
    ):
        return site.client.statuses(*targets)


class Answers(View):  # type: ignore[misc]
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("")


class One(Answers):
    pass


class Two(Answers):
    pass


@method_decorator(rate_limit("1/hour"), name="dispatch")
class Limited(View):  # type: ignore[misc]
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("")


def test_two_class_views_of_django_have_a_bucket_each_and_one_class_has_one() -> None:
    urls = [path("one", once(One.as_view())), path("two", once(Two.as_view())), path("again", once(One.as_view()))]
    assert django_statuses(urls, "/one", "/two", "/again", "/two") == [200, 200, 429, 429]
    urls.append(path("other", rate_limit("1/hour")(One.as_view())))
    with pytest.raises(PolicyError, match=r"two limits '1/hour' of '.*One' would charge the same buckets"):
        django_statuses(urls, "/one")


def test_a_method_decorator_of_django_limits_a_class_wherever_it_is_routed() -> None:
    urls = [path("one", Limited.as_view()), path("two", Limited.as_view())]
    assert django_statuses(urls, "/one", "/two") == [200, 429]


class FlaskOne(MethodView):
    decorators = [once]  # noqa: RUF012  Flask's own way

    def get(self) -> str:
        return ""


class FlaskTwo(FlaskOne):
    pass


def test_two_class_views_of_flask_have_a_bucket_each() -> None:
    app = flask.Flask(__name__)
    app.add_url_rule("/one", view_func=FlaskOne.as_view("one"))
    app.add_url_rule("/two", view_func=FlaskTwo.as_view("two"))
    own_flask.RateLimits(app, store=memory())
    with site_of(app, []) as site:
        assert site.client.statuses("/one", "/two", "/one", "/two") == [200, 200, 429, 429]


def test_a_limit_that_is_made_in_a_view_is_refused_with_the_mend() -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        try:
            rate_limit("1/hour")(endpoint)
        except TypeError as error:
            return PlainTextResponse(str(error))
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(starlette.RateLimitMiddleware, store=memory())
    with serving(app) as url, closing(RawClient(url)) as client:
        assert b"anew in each request: decorate it outside, or say name=" in client.send("/").body


# Errors at the start


def start_starlette(endpoint: Callable[..., Any]) -> str | None:
    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(starlette.RateLimitMiddleware, store=memory())
    return startup_failure(app)


def start_fastapi(endpoint: Callable[..., Any]) -> str | None:
    app = FastAPI()
    app.get("/")(endpoint)
    app.add_middleware(starlette.RateLimitMiddleware, store=memory())
    return startup_failure(app)


def start_quart(endpoint: Callable[..., Any]) -> str | None:
    app: Any = quart.Quart("tests")
    app.get("/")(endpoint)
    return startup_failure(asgi.RateLimitMiddleware(app, store=memory()))


def start_aiohttp(endpoint: Callable[..., Any]) -> str | None:
    async def start() -> None:
        app = web.Application()
        app.router.add_get("/", endpoint)
        own_aiohttp.setup(app, store=memory())
        runner = web.AppRunner(app)
        try:
            await runner.setup()
        finally:
            await runner.cleanup()

    return failure(lambda: asyncio.run(start()))


def start_flask(endpoint: Callable[..., Any]) -> str | None:
    app = flask.Flask(__name__)
    app.get("/")(endpoint)
    own_flask.RateLimits(app, store=memory())
    return failure(lambda: app.test_client().get("/"))


def start_django(endpoint: Callable[..., Any]) -> str | None:
    return failure(lambda: django_statuses([path("", endpoint)]))


def failure(start: Callable[[], object]) -> str | None:
    try:
        start()
    except PolicyError as error:
        return str(error)
    return None


STARTS = [start_starlette, start_fastapi, start_quart, start_aiohttp, start_flask, start_django]


@pytest.mark.parametrize("start", STARTS)
def test_a_decorator_above_the_routes_own_is_found_at_the_start(start: Callable[..., str | None]) -> None:
    async def endpoint() -> None: ...

    once(endpoint)  # what the framework is given is the function below it
    assert "limits nothing: it stands above the decorator" in (start(endpoint) or "")


@pytest.mark.parametrize("start", STARTS)
def test_a_decorator_under_the_routes_own_is_right(start: Callable[..., str | None]) -> None:
    async def endpoint() -> None: ...

    assert start(once(endpoint)) is None or start is start_flask


@pytest.mark.parametrize("start", STARTS)
def test_a_key_that_no_request_has_is_an_error_at_the_start(start: Callable[..., str | None]) -> None:
    async def endpoint() -> None: ...

    assert "nothing gives the attribute 'usr'" in (start(rate_limit("1/hour", key="usr")(endpoint)) or "")


def test_on_a_server_without_lifespan_an_error_of_the_start_is_found_at_the_first_request() -> None:
    async def endpoint() -> None: ...

    app: Any = quart.Quart("tests")
    app.get("/")(rate_limit("1/hour", key="usr")(endpoint))
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}

    async def unused(*_: Any) -> Any:
        raise AssertionError("nothing is read or sent")

    with pytest.raises(PolicyError, match="nothing gives the attribute 'usr'"):
        asyncio.run(asgi.RateLimitMiddleware(app, store=memory())(scope, unused, unused))


# Middlewares before the limits, and after


def test_wrong_guesses_are_counted_where_the_limits_stand_outside_of_who_signs_in_and_cors_outside_of_both() -> None:
    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: Any) -> Any:
            if conn.headers.get("authorization") != "Bearer right":
                raise AuthenticationError("wrong")
            return AuthCredentials(), SimpleUser("alice")

    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse(""))])
    app.add_middleware(AuthenticationMiddleware, backend=Backend())
    app.add_middleware(starlette.RateLimitMiddleware, EACH, store=memory())
    app.add_middleware(CORSMiddleware, allow_origins=["https://web.test"], allow_methods=["GET"])
    origin = (b"Origin", b"https://web.test")
    with serving(app, proxy_headers=False) as url, closing(RawClient(url)) as client:
        asked = (origin, (b"Access-Control-Request-Method", b"GET"))
        assert [client.send("/", *asked, method=b"OPTIONS").status for _ in range(5)] == [200] * 5, (
            "no preflight counts"
        )
        answers = [client.send("/", origin, (b"Authorization", b"Bearer guess-%d" % guess)) for guess in range(5)]
        assert [answer.status for answer in answers] == [400, 400, 429, 429, 429]
        assert all("access-control-allow-origin" in answer.headers for answer in answers), "a page can read a 429"


def refuse_all(get_response: Any) -> Any:
    return lambda request: HttpResponse(status=401)


def test_wrong_guesses_are_counted_in_django_where_the_limits_stand_before_who_refuses_them() -> None:
    with (
        override_settings(
            RATEKEEPER={"policy": EACH, "store": memory()},
            MIDDLEWARE=["ratekeeper.frameworks.django.RateLimitMiddleware", f"{__name__}.refuse_all"],
        ),
        site_of(get_wsgi_application(), []) as site,
    ):
        assert site.client.statuses(*["/items/1"] * 4) == [401, 401, 429, 429]


def test_a_rejection_can_tell_of_a_wait_that_has_no_end() -> None:
    def rejection(request: Request, decision: PolicyDecision) -> JSONResponse:
        return JSONResponse({"retry": decision.retry_after_seconds}, 429)

    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse(""))])
    app.add_middleware(
        starlette.RateLimitMiddleware, EACH, store=memory(), rejection=rejection,
        cost=lambda request: int(request.headers["x-cost"]),
    )  # fmt: skip
    with serving(app) as url, closing(RawClient(url)) as client:
        told = [json.loads(client.send("/", (b"X-Cost", cost)).body or b"{}") for cost in (b"3", b"2", b"1")]
    assert told == [{"retry": None}, {}, {"retry": 1800}]


def test_a_function_of_the_options_that_a_limiter_of_its_own_refuses_is_a_429() -> None:
    limiter = Limiter("1/hour")

    def user(request: Request) -> str:
        limiter.acquire("database", timeout=0)
        return "alice"

    policy = Policy.parse('[attributes]\nuser = "app"\n[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "9/hour"')
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse(""))])
    app.add_middleware(starlette.RateLimitMiddleware, policy, store=memory(), attributes={"user": user})
    with serving(app) as url, closing(RawClient(url)) as client:
        assert client.statuses("/", "/") == [200, 429]


def test_a_path_below_the_root_path_of_fastapi_is_the_route_without_it() -> None:
    app = FastAPI()
    app.root_path = "/api"  # its argument is deprecated
    app.get("/login")(lambda: "")
    policy = Policy.parse('[[rules]]\nname = "r"\nmatch = { path = "/login" }\nkey = ["path"]\nlimit = "1/hour"')
    app.add_middleware(starlette.RateLimitMiddleware, policy, store=memory())
    with serving(app) as url, closing(RawClient(url)) as client:
        assert client.statuses("/login", "/api/login", "/api//login", "/x/../api/login") == [200, 429, 429, 429]

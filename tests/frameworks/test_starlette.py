"""Limits in Starlette and FastAPI: routes, mounted applications, dependencies, decorators, what stands between."""

from __future__ import annotations

import inspect
import runpy
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_servers import serving
from fastapi import APIRouter, Depends, FastAPI
from oracles import structured
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette_apps import BY_ENDPOINT, EACH, application, ask, limited, statuses

from ratekeeper import Policy, PolicyError
from ratekeeper.frameworks import fastapi
from ratekeeper.frameworks.starlette import RateLimitMiddleware, rate_limit
from ratekeeper.http.exchange import current
from ratekeeper.testing import frozen

# Routes


def test_an_endpoints_own_limit_counts_for_its_route_whatever_the_path() -> None:
    assert statuses(application(), "/search/a", "/search/b", "/search/c", "/items/1") == [200, 200, 429, 200]


def test_a_policy_can_limit_by_endpoint_of_which_head_is_get_and_what_no_route_takes_is_none() -> None:
    async def say(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.method)

    app = limited(
        Starlette(routes=[Route("/x/{n:int}", say), Route("/x/{n:int}", say, methods=["POST"])]), policy=BY_ENDPOINT
    )
    asked = ["/x/1", "HEAD /x/2", "POST /x/3", "POST /x/4", "OPTIONS /x/1", "OPTIONS /x/1", "/none", "/none", "/x/a"]
    assert statuses(app, *asked) == [200, 429, 200, 429, 405, 405, 404, 404, 404]


def test_mounted_applications_with_the_same_routes_do_not_share_an_endpoints_limit() -> None:
    def small() -> FastAPI:
        app = FastAPI()

        @app.get("/items/{n}", dependencies=[Depends(rate_limit("1/minute"))])
        async def items(n: int) -> int:
            return n

        return app

    app = limited(FastAPI())
    app.mount("/a", small())
    app.mount("/b", small())
    assert statuses(app, "/a/items/1", "/a/items/2", "/b/items/1", "/b/items/2") == [200, 429, 200, 429]


@pytest.mark.parametrize("root_path", ["", "/behind/a/proxy"])
def test_a_policy_sees_the_routes_of_mounted_applications_and_of_routers(root_path: str) -> None:
    told: list[str | None] = []

    class Told:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)
            if scope["type"] == "http":
                told.append(current().route())

    outer, inner = APIRouter(prefix="/outer"), APIRouter(prefix="/inner")
    inner.add_api_route("/{n}", lambda n: n)
    outer.include_router(inner)
    sub = FastAPI()
    sub.include_router(inner)
    app = FastAPI(middleware=[Middleware(RateLimitMiddleware), Middleware(Told)])
    app.include_router(outer)
    app.mount("/sub", sub)
    assert statuses(app, "/outer/inner/1", "/sub/inner/2", root_path=root_path) == [200, 200]
    assert told == ["/outer/inner/{n}", "/sub/inner/{n}"]


# Where a limit may stand


def test_a_decorator_needs_no_argument_of_the_endpoint_and_limits_a_function_that_is_not_async() -> None:
    app = application()
    assert statuses(app, "/send/a", "/send/b", **{"x-user": "alice"}) == [200, 429]
    assert statuses(app, "/send/a", **{"x-user": "bob"}) == [200]


def test_one_object_is_a_decorator_and_a_dependency_each_with_its_own_buckets() -> None:
    limit = rate_limit("1/minute", key=lambda request: int(request.headers["x-user"]))
    app: FastAPI = limited(FastAPI())

    @app.get("/decorated")
    @limit
    async def decorated(text: str = "") -> str:
        return text

    @app.get("/in-a-thread")
    @limit
    def in_a_thread() -> None:
        """Answer in a thread."""

    app.add_api_route("/in-a-list", lambda: "", dependencies=[Depends(limit)])

    @app.get("/argument")
    async def argument(limited: None = Depends(limit)) -> None:
        """Answer after the dependency."""

    for path in ("/decorated", "/in-a-thread", "/in-a-list", "/argument"):
        assert statuses(app, path, path, **{"x-user": "7"}) == [200, 429], path
    assert statuses(app, "/in-a-list", **{"x-user": "8"}) == [200]


def test_fastapi_awaits_a_dependency_on_the_event_loop_and_not_in_a_thread() -> None:
    waits = rate_limit("1/hour burst 1", max_wait=0)
    assert inspect.iscoroutinefunction(waits.__call__)
    assert not inspect.signature(waits).parameters
    app: FastAPI = limited(FastAPI())

    async def on_loop(limited: None = Depends(waits)) -> bool:
        return True

    def threads() -> set[int]:
        return {thread.ident or 0 for thread in threading.enumerate() if "AnyIO" in thread.name}

    app.add_api_route("/", on_loop)
    before = threads()
    assert statuses(app, "/", "/") == [200, 429]
    assert threads() <= before, "a thread has run the dependency"


def test_the_module_fastapi_has_the_names_of_starlettes() -> None:
    assert fastapi.RateLimitMiddleware is RateLimitMiddleware
    assert issubclass(fastapi.rate_limit, rate_limit)


def test_a_routers_limit_counts_for_each_of_its_endpoints_on_its_own() -> None:
    router = APIRouter(prefix="/r", dependencies=[Depends(rate_limit("1/minute"))])
    router.add_api_route("/a", lambda: "a")
    router.add_api_route("/b", lambda: "b")
    app = limited(FastAPI())
    app.include_router(router)
    assert statuses(app, "/r/a", "/r/a", "/r/b", "/r/b") == [200, 429, 200, 429]


def test_two_limits_of_one_endpoint_that_would_share_buckets_are_an_error() -> None:
    app = limited(FastAPI())
    both = [Depends(rate_limit("5/minute")), Depends(rate_limit("5/minute", key=lambda request: "x"))]
    app.add_api_route("/same", lambda: "", dependencies=both)
    named = [Depends(rate_limit("5/minute")), Depends(rate_limit("5/minute", name="other"))]
    app.add_api_route("/named", lambda: "", dependencies=named)
    assert statuses(app, "/same", "/named") == [500, 200]


def test_limits_of_one_name_share_buckets_and_each_of_several_is_told_by_its_text() -> None:
    app = limited(FastAPI())
    for path in ("/a", "/b"):
        app.add_api_route(path, lambda: "", dependencies=[Depends(rate_limit("2/minute", "9/hour", name="both"))])
    app.add_api_route("/own", lambda: "", dependencies=[Depends(rate_limit("2/minute", "9/hour"))])
    app.add_api_route("/one", lambda: "", dependencies=[Depends(rate_limit("2/minute", name="one"))])
    with serving(app) as url:
        answers = [httpx.get(url + path) for path in ("/a", "/b", "/a", "/b", "/own", "/one")]
    assert [one.status_code for one in answers] == [200, 200, 429, 429, 200, 200]
    assert [list(dict(structured(one.headers["ratelimit"]))) for one in answers[3:]] == [
        ["both: 2/minute", "both: 9/hour"], ["2/minute", "9/hour"], ["one"],
    ]  # fmt: skip
    assert answers[3].json()["violated-policies"] == ["both: 2/minute"]


def test_an_endpoints_limit_with_the_name_of_a_rule_is_an_error() -> None:
    app = limited(FastAPI(), policy=EACH)
    app.add_api_route("/", lambda: "", dependencies=[Depends(rate_limit("5/minute", name="each"))])
    with pytest.raises(PolicyError, match="both named 'each'"):
        ask(app)


def test_an_endpoints_limit_knows_attributes_clients_and_exemptions_as_the_policy_does() -> None:
    policy = Policy.parse(
        'exempt = [{ user = "boss" }]\n'
        '[attributes]\nuser = "header:x-user"\nclient = { from = "client_ip", trusted_proxies = 1 }\n'
        '[[rules]]\nname = "all"\nlimit = "1000/s"\n'
    )
    app = limited(FastAPI(), policy=policy)
    app.add_api_route("/client", lambda: "", dependencies=[Depends(rate_limit("1/minute"))])
    app.add_api_route("/user", lambda: "", dependencies=[Depends(rate_limit("1/minute", key="user"))])
    with serving(app, proxy_headers=False) as url:

        def ask_as(path: str, name: str, value: str) -> int:
            return httpx.get(url + path, headers={name: value}).status_code

        for path, name, values in (
            ("/client", "x-forwarded-for", ("192.0.2.1", "192.0.2.2", "192.0.2.1")),
            ("/user", "x-user", ("alice", "bob", "alice")),
        ):
            assert [ask_as(path, name, value) for value in values] == [200, 200, 429]
        assert [ask_as("/user", "x-user", "boss") for _ in range(3)] == [200] * 3


@frozen()
def test_the_example_serves_and_limits() -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "frameworks" / "fastapi_app.py"))
    asked = [*["/search?text=a"] * 6, "/items/1", *["POST /reports"] * 3]
    assert statuses(example["app"], *asked, **{"x-api-key": "k-1"}) == [200] * 5 + [429] + [200] * 3 + [429]


def test_a_method_of_a_class_and_an_object_that_is_awaited_can_be_limited_and_a_class_or_generator_cannot() -> None:
    class Page(HTTPEndpoint):
        @rate_limit("1/minute")
        async def get(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse("get")

        @rate_limit("1/minute")
        def post(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse("post")

    class Awaited:
        async def __call__(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse("object")

    app = limited(Starlette(routes=[Route("/page", Page), Route("/object", rate_limit("1/minute")(Awaited()))]))
    asked = ["/page", "/page", "POST /page", "POST /page", "/object", "/object"]
    assert statuses(app, *asked) == [200, 429, 200, 429, 200, 429]
    with pytest.raises(TypeError, match="functions and methods"):
        rate_limit("1/minute")(Page)

    async def generator() -> Any:
        yield 1

    with pytest.raises(TypeError, match="functions and methods"):
        rate_limit("1/minute")(generator)


def test_a_dependency_can_be_overridden_in_tests_and_asks_nothing_of_the_client() -> None:
    limit = rate_limit("1/minute")
    app = limited(FastAPI())
    app.add_api_route("/", lambda: "", dependencies=[Depends(limit)])
    assert "parameters" not in app.openapi()["paths"]["/"]["get"]
    app.dependency_overrides[limit] = lambda: None
    assert statuses(app, "/", "/", "/") == [200, 200, 200]

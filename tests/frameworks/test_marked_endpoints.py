"""Endpoints that the policy does not limit, or that have a limit in the place of its rules, in each framework."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from asgi_servers import serving, startup_failure
from django.http import HttpResponse
from django.utils.decorators import method_decorator
from django.views import View
from edge_sites import memory
from fastapi import APIRouter, Depends, FastAPI
from flask.views import MethodView
from marked_sites import SITES, MakeSite
from raw_client import RawClient
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette_apps import limited, statuses
from web_sites import serving as serving_wsgi

from ratekeeper import Policy, PolicyError
from ratekeeper.frameworks import asgi, wsgi
from ratekeeper.frameworks import flask as own_flask
from ratekeeper.frameworks.fastapi import exempt, rate_limit
from ratekeeper.frameworks.starlette import RateLimitMiddleware

POLICY = Policy.parse("""
[[rules]]
name = "each"
key = ["client"]
limit = "3/hour"
[[rules]]
name = "all"
limit = "6/hour"
""")


def as_it_is(function: Any) -> Any:
    return function


@pytest.fixture(params=SITES)
def site_of(request: pytest.FixtureRequest) -> MakeSite:
    return SITES[request.param]


def test_no_rule_limits_an_exempt_endpoint_and_all_limit_the_others(site_of: MakeSite) -> None:
    with site_of({"free": exempt, "page": as_it_is}, policy=POLICY, store=memory()) as client:
        answers = [client.send("/free") for _ in range(8)]
        assert client.statuses(*["/page"] * 4, "/free") == [200, 200, 200, 429, 200]
    assert {answer.status for answer in answers} == {200}
    assert not any("RateLimit" in name for answer in answers for name in answer.headers)


def test_an_exempt_endpoints_own_limit_still_counts(site_of: MakeSite) -> None:
    def both(function: Any) -> Any:
        return exempt(rate_limit("4/hour")(function))

    with site_of({"own": both}, policy=POLICY, store=memory()) as client:
        assert client.statuses(*["/own"] * 5) == [200] * 4 + [429]


def test_a_limit_takes_the_place_of_a_rule_and_the_other_rules_still_count(site_of: MakeSite) -> None:
    own = rate_limit("5/hour", replaces=["each"])
    with site_of({"own": own, "page": as_it_is}, policy=POLICY, store=memory()) as client:
        answers = [client.send("/own") for _ in range(6)]
        assert [answer.status for answer in answers] == [200] * 5 + [429]
        assert client.statuses("/page", "/page") == [200, 429], "only 6 in all, of which a refused request costs none"
    told = {name.lower(): value for name, value in answers[0].headers.items()}["ratelimit"]
    assert [part.partition(";")[0] for part in told.split(", ")] == ['"all"', '"5/hour"']


def test_no_other_spelling_of_a_path_or_method_reaches_an_exemption(site_of: MakeSite) -> None:
    policy = Policy.parse('[[rules]]\nname = "each"\nlimit = "1/hour"')
    spellings = [
        "/free/",
        "//free",
        "/./free",
        "/x/../free",
        "/free;v=1",
        "/FREE",
        "/free%2f",
        "/free%00",
        "/free?/page",
    ]
    for spelling in spellings:
        with site_of({"free": exempt, "page": as_it_is}, policy=policy, store=memory()) as client:
            assert client.statuses("/page") == [200]
            status = client.send(spelling).status
            assert status == 429 or client.send(spelling).body == client.send("/free").body, spelling
    for method in (b"OPTIONS", b"DELETE", b"BREW", b"FREE", b"__CLASS__"):
        with site_of({"free": exempt, "page": as_it_is}, policy=policy, store=memory()) as client:
            answers = [client.send("/free", method=method).status for _ in range(2)]
            assert answers[0] in (400, 405, 501) or answers[1] in (200, 429), method


@pytest.mark.parametrize("name", ["Starlette", "FastAPI", "aiohttp", "Flask"])
def test_an_options_request_that_the_endpoint_does_not_answer_is_limited(name: str) -> None:
    policy = Policy.parse('[[rules]]\nname = "each"\nlimit = "1/hour"')
    with SITES[name]({"free": exempt}, policy=policy, store=memory()) as client:
        assert [client.send("/free", method=b"OPTIONS").status for _ in range(2)][1] == 429


def test_an_unknown_rule_is_an_error_when_the_application_starts() -> None:
    app = limited(FastAPI(), policy=POLICY)
    app.get("/")(rate_limit("1/hour", replaces=["eech"])(lambda: ""))
    failure = startup_failure(app)
    assert failure is not None
    assert "replaces the rule 'eech', which the policy does not have: did you mean 'each'?" in failure
    without = limited(FastAPI())
    without.get("/")(rate_limit("1/hour", replaces=["each"])(lambda: ""))
    assert "the middleware has no policy" in str(startup_failure(without))


@pytest.mark.parametrize("given", ["each", [""], [1]])
def test_replaced_rules_are_a_list_of_names(given: Any) -> None:
    with pytest.raises(TypeError, match=r"replaces must be a list of names, such as \['each address'\]"):
        rate_limit("1/hour", replaces=given)


def test_what_cannot_be_marked_is_an_error() -> None:
    with pytest.raises(TypeError, match="mark its methods"):
        exempt(HTTPEndpoint)
    with pytest.raises(TypeError, match="cannot be marked: write a function"):
        exempt(len)


def test_where_nothing_tells_the_endpoint_before_a_replacing_limit_is_an_error_and_not_two_limits() -> None:
    @rate_limit("1/hour", replaces=["each"])
    def run(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "0")])
        return []

    app = wsgi.RateLimitMiddleware(run, POLICY, store=memory())
    with pytest.raises(PolicyError, match="this middleware does not know the endpoint before"):
        app({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": "192.0.2.1"}, lambda *_: None)
    assert not hasattr(asgi, "exempt")
    assert not hasattr(wsgi, "exempt")


def test_a_limit_inside_an_endpoint_that_nobody_could_know_before_is_an_error() -> None:
    @rate_limit("1/hour", replaces=["each"])
    def helper() -> None:
        """Help."""

    app = limited(FastAPI(), policy=POLICY)
    app.add_api_route("/", lambda: helper() or "")
    assert statuses(app, "/") == [500]


# Methods


def test_a_limit_of_some_methods_lets_the_others_pass(site_of: MakeSite) -> None:
    with site_of({"own": rate_limit("1/hour", methods=["post"])}, store=memory()) as client:
        assert client.statuses(*["/own"] * 3) == [200] * 3
        assert [client.send("/own", method=b"POST").status for _ in range(2)] == [200, 429]
        assert client.statuses("/own") == [200]


def test_head_is_get_and_no_spelling_of_a_method_evades_its_limit(site_of: MakeSite) -> None:
    with site_of({"own": rate_limit("1/hour", methods=("GET",))}, store=memory()) as client:
        answers = [client.send("/own", method=method).status for method in (b"GET", b"GET", b"get", b"Get")]
        assert answers[:2] == [200, 429]
        assert not {200, 500}.intersection(answers[2:])
    with site_of({"own": rate_limit("1/hour", methods=("HEAD",))}, store=memory()) as client:
        assert client.statuses("/own", "/own") == [200, 429]


def test_a_limit_takes_the_place_of_a_rule_for_its_methods_alone(site_of: MakeSite) -> None:
    own = rate_limit("5/hour", replaces=["each"], methods=["POST"])
    with site_of({"own": own}, policy=Policy(POLICY.rules[:1]), store=memory()) as client:
        assert client.statuses(*["/own"] * 4) == [200] * 3 + [429]
        assert [client.send("/own", method=b"POST").status for _ in range(6)] == [200] * 5 + [429]


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (["PSOT"], ValueError, "methods has 'PSOT', which is not a registered method, such as 'POST'"),
        (["OTHER"], ValueError, "methods has 'OTHER'"),
        ([], ValueError, "would limit nothing: leave methods out"),
        ("POST", TypeError, r"methods must be a list of names, such as \['POST'\], not 'POST'"),
        ([1], TypeError, "methods must be a list of names"),
        (1, TypeError, "methods must be a list of names"),
    ],
)
def test_a_method_that_no_request_has_is_an_error(given: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        rate_limit("1/hour", methods=given)


# CORS preflights

ORIGIN, METHOD = (b"Origin", b"https://example.com"), (b"Access-Control-Request-Method", b"POST")


def options_statuses(client: RawClient, *headers: tuple[bytes, bytes], method: bytes = b"OPTIONS") -> set[int]:
    return {client.send("/page", *headers, method=method).status for _ in range(5)}


@pytest.mark.parametrize("name", SITES)
def test_preflights_are_exempt_by_option_and_nothing_that_only_looks_like_one(name: str) -> None:
    make = SITES[name]
    options: Any = {"policy": Policy(POLICY.rules[:1]), "store": memory(), "exempt_preflights": True}
    with make({"page": as_it_is}, **options) as client:
        assert 429 not in options_statuses(client, ORIGIN, METHOD)
        assert 429 not in options_statuses(client, (b"Origin", b"null"), METHOD)
        assert 429 in options_statuses(client, ORIGIN, METHOD, method=b"POST")
    for headers in ([ORIGIN], [METHOD], [], [ORIGIN, (METHOD[0], b"")], [ORIGIN, (METHOD[0], b"PO ST")]):
        options["store"] = memory()
        with make({"page": as_it_is}, **options) as client:
            assert 429 in options_statuses(client, *headers), headers
    options["store"], options["exempt_preflights"] = memory(), False
    with make({"page": as_it_is}, **options) as client:
        assert 429 in options_statuses(client, ORIGIN, METHOD)


def test_an_endpoints_own_limit_counts_a_preflight_that_it_answers_itself() -> None:
    own = rate_limit("1/hour", replaces=["each"])
    app = Starlette(routes=[Route("/page", own(_answer("")), methods=["OPTIONS"])])
    app = limited(app, policy=POLICY, exempt_preflights=True)
    with serving(app) as url, closing(RawClient(url)) as client:
        answers = [client.send("/page", ORIGIN, METHOD, method=b"OPTIONS").status for _ in range(2)]
    assert answers == [200, 429]


@pytest.mark.parametrize("middleware", [asgi.RateLimitMiddleware, RateLimitMiddleware])
def test_a_preflight_of_which_a_middleware_makes_another_request_is_limited(middleware: Any) -> None:
    page = Starlette(routes=[Route("/page", _answer("posted"), methods=["POST"])])

    async def override(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["method"] = "POST"
        await page(scope, receive, send)

    override.router = page.router  # type: ignore[attr-defined]
    around = middleware(override, Policy(POLICY.rules[:1]), store=memory(), exempt_preflights=True)
    with serving(around) as url, closing(RawClient(url)) as client:
        answers = [client.send("/page", ORIGIN, METHOD, method=b"OPTIONS").status for _ in range(4)]
    assert answers == [200, 200, 200, 429]


# Starlette and FastAPI


def test_a_dependency_takes_the_place_of_a_rule_for_all_routes_of_its_router_unless_a_test_overrides_it() -> None:
    own = rate_limit("1/hour", replaces=["each"])
    router = APIRouter(prefix="/r", dependencies=[Depends(own)])
    router.add_api_route("/a/{n}", lambda n: n)
    router.add_api_route("/b", lambda: "")
    app: FastAPI = limited(FastAPI(), policy=POLICY)
    app.include_router(router)
    assert statuses(app, "/r/a/1", "/r/a/2", "/r/b", "/r/b") == [200, 429, 200, 429]
    app.dependency_overrides[own] = lambda: None
    assert statuses(app, *["/r/a/1"] * 4) == [200] * 3 + [429]


def test_the_methods_of_a_class_have_marks_each() -> None:
    class Page(HTTPEndpoint):
        @exempt
        async def get(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse("")

        async def post(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse("")

    app = limited(Starlette(routes=[Mount("/m", routes=[Route("/page", Page)])]), policy=POLICY)
    asked = ["/m/page"] * 4 + ["HEAD /m/page"] + ["POST /m/page"] * 4
    assert statuses(app, *asked) == [200] * 5 + [200] * 3 + [429]


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("how", ["path", "method", "method of a class"])
def test_a_middleware_inside_that_sends_the_request_elsewhere_does_not_make_it_exempt(how: str, copies: bool) -> None:
    class Elsewhere:
        """Does as X-Original-URL, or X-HTTP-Method-Override, tells it."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            for name, value in scope.get("headers", ()):
                if name == b"x-instead":
                    scope = dict(scope) if copies else scope
                    scope[how.partition(" ")[0]] = value.decode()
            await self.app(scope, receive, send)

    class Page(HTTPEndpoint):
        @exempt
        async def get(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse("free")

        async def post(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse("posted")

    posted = Route("/free", _answer("posted"), methods=["POST"])
    frees = [Route("/free", Page)] if how == "method of a class" else [Route("/free", exempt(_answer("free"))), posted]
    app = Starlette(routes=[*frees, Route("/page", _answer("page"))])
    app.add_middleware(Elsewhere)
    app = limited(app, policy=POLICY)
    instead = (b"x-instead", b"/page" if how == "path" else b"POST")
    with serving(app) as url, closing(RawClient(url)) as client:
        answers = [client.send("/free", instead) for _ in range(4)]
        assert [answer.status for answer in answers] == [200] * 3 + [429]
        assert client.statuses("/free", "/page") == [200, 429]
    assert b"quota" in answers[-1].body


def test_a_limit_in_the_place_of_a_rule_refuses_before_the_application_runs() -> None:
    seen = []

    class Inside:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])
            await self.app(scope, receive, send)

    own = rate_limit("1/hour", replaces=["each"])
    app = Starlette(routes=[Route("/own", own(_answer("own")))], middleware=[Middleware(Inside)])
    assert statuses(limited(app, policy=POLICY), "/own", "/own") == [200, 429]
    assert seen.count("http") == 1


@pytest.mark.parametrize("others", [[], [Middleware(CORSMiddleware)]], ids=["alone", "around another"])
def test_a_middleware_in_a_mount_knows_the_endpoints_of_the_mounted_application(others: list[Middleware]) -> None:
    own = rate_limit("2/hour", replaces=["each"])
    sub = Starlette(
        routes=[Route("/free", exempt(_answer(""))), Route("/own", own(_answer(""))), Route("/page", _answer(""))]
    )
    limits = Middleware(RateLimitMiddleware, policy=Policy(POLICY.rules[:1]), store=memory())
    around = [Route("/page", exempt(_answer("")))]  # which a path without the mount's prefix would name
    app = Starlette(routes=[*around, Mount("/sub", app=sub, middleware=[limits, *others])])
    asked = [*["/sub/free"] * 5, *["/sub/own"] * 3, *["/sub/page"] * 4]
    assert statuses(app, *asked) == [200] * 5 + [200, 200, 429] + [200] * 3 + [429]


def _answer(text: str) -> Any:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(text)

    return answer


# Flask


def test_a_class_of_flask_has_marks_on_its_methods_and_in_its_decorators() -> None:
    import flask  # noqa: PLC0415

    class Free(MethodView):
        decorators = [exempt]  # noqa: RUF012  Flask's own way

        def get(self) -> str:
            return ""

    class Half(MethodView):
        @rate_limit("4/hour", replaces=["each"])
        def get(self) -> str:
            return ""

        def post(self) -> str:
            return ""

    app = flask.Flask(__name__)
    app.add_url_rule("/free", view_func=Free.as_view("free"))
    app.add_url_rule("/half", view_func=Half.as_view("half"))
    own_flask.RateLimits(app, Policy(POLICY.rules[:1]), store=memory())
    with serving_wsgi(app) as client:
        assert [client.get("/free").status_code for _ in range(5)] == [200] * 5
        assert [client.get("/half").status_code for _ in range(5)] == [200] * 4 + [429]
        assert [client.post("/half").status_code for _ in range(4)] == [200] * 3 + [429]


# Changes of the policy, and Django


def test_a_change_of_the_policy_counts_and_one_without_a_replaced_rule_is_not_taken() -> None:
    app = Starlette(routes=[Route("/", rate_limit("1/hour", replaces=["each"])(_answer("")))])
    around: Any = RateLimitMiddleware(app, POLICY, store=memory())
    limiter = around.limiter
    assert statuses(around, "/", "/") == [200, 429]
    with pytest.raises(PolicyError, match="replaces the rule 'each', which the policy does not have"):
        limiter.replace(Policy(POLICY.rules[1:]))
    limiter.replace(Policy((POLICY.rules[0], *Policy.parse('rules = [{name = "new", limit = "1/hour"}]').rules)))
    assert statuses(around, "/", "/") == [429, 429]
    assert set(limiter.policy_of_rules(frozenset({"new"})).keeper.policy.rules) == {
        limiter.in_use.keeper.policy.rules[1]
    }


def test_djangos_method_decorator_hides_a_replacing_limit_which_is_an_error() -> None:
    with pytest.raises(TypeError, match="put rate_limit on the method"):
        method_decorator(rate_limit("1/hour", replaces=["each"]), name="dispatch")(View)


def test_djangos_method_decorator_marks_a_class() -> None:
    @method_decorator(exempt, name="dispatch")
    class Free(View):  # type: ignore[misc]
        def get(self, request: Any) -> HttpResponse:
            return HttpResponse("")

    with SITES["Django"]({"free": lambda _: Free.as_view()}, policy=POLICY, store=memory()) as client:
        assert client.statuses(*["/free"] * 8) == [200] * 8

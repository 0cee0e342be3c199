"""The limits of the request under way, as an endpoint sees them: decisions, verbs, and a refusal that is left to it."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from contextlib import closing
from typing import Any

import grpc
import httpx
import pytest
from aiohttp import web
from asgi_servers import serving
from edge_asgi_sites import serving_aiohttp
from edge_sites import memory
from fastapi import FastAPI, Request
from marked_sites import SITES, WRONG_PASSWORD, MakeSite
from raw_client import RawClient
from starlette_apps import limited
from test_grpc import SERVERS, Server
from web_sites import serving as serving_wsgi

from ratekeeper import Deny, Policy
from ratekeeper.frameworks import aiohttp as own_aiohttp
from ratekeeper.frameworks import wsgi
from ratekeeper.frameworks.asgi import RateLimitMiddleware
from ratekeeper.frameworks.starlette import rate_limit
from ratekeeper.http.exchange import Exchange, current
from ratekeeper.http.request_limits import ASYNC_LIMITS, LIMITS

POLICY = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "9/hour"')


@pytest.fixture(params=SITES)
def site_of(request: pytest.FixtureRequest) -> MakeSite:
    return SITES[request.param]


def ask(client: RawClient, verb: str) -> str:
    answer = client.send("/own", (b"X-Verb", verb.encode()))
    assert answer.status == 200
    return answer.body.decode().strip('"')


def test_an_endpoint_sees_the_decisions_and_has_a_keepers_verbs(site_of: MakeSite) -> None:
    with site_of({"own": rate_limit("5/hour")}, policy=POLICY, store=memory()) as client:
        assert ask(client, "decisions") == "[each=8] [5/hour=4]"
        assert ask(client, "decision") == "each=7 5/hour=3"
        assert ask(client, "usage") == "each=3 5/hour=3"
        assert ask(client, "peek") == "each=5 5/hour=1", "without charging for it"
        assert ask(client, "refund") == "None"
        assert ask(client, "usage") == "each=5 5/hour=5"
        assert client.send("/own").status == 429
        assert client.send("/own").status == 429


def test_reset_makes_the_buckets_of_the_request_full_again(site_of: MakeSite) -> None:
    with site_of({"own": rate_limit("2/hour")}, policy=POLICY, store=memory()) as client:
        for _ in range(3):
            assert ask(client, "decision") == "each=8 2/hour=1"
            ask(client, "reset")


def test_an_endpoint_may_grant_and_block_by_the_name_of_a_rule(site_of: MakeSite) -> None:
    with site_of({"own": rate_limit("5/hour", name="few")}, policy=POLICY, store=memory()) as client:
        assert ask(client, "decision") == "each=8 few=4"
        assert [ask(client, verb) for verb in ("grant 2 few", "decision")] == ["None", "each=6 few=4"]
        assert client.send("/own", (b"X-Verb", b"grant 1 fewer")).status == 500


def test_a_peek_that_is_not_awaited_is_no_yes() -> None:
    app: FastAPI = limited(FastAPI(), policy=POLICY)

    @app.get("/")
    async def look(request: Request) -> bool:
        forgotten = request.state.ratekeeper.peek()
        with pytest.raises(TypeError, match="peek has no answer before it is awaited"):
            bool(forgotten)
        forgotten.close()
        return bool(await request.state.ratekeeper.peek())

    with serving(app) as url:
        assert httpx.get(url).json() is True


def test_a_block_by_an_endpoint_refuses_and_an_unknown_rule_is_an_error() -> None:
    app: FastAPI = limited(FastAPI(), policy=POLICY)

    @app.get("/")
    async def block(request: Request) -> str:
        limits = request.state.ratekeeper
        with pytest.raises(ValueError, match="no limit of this request is named 'eech': did you mean 'each'"):
            await limits.unblock("eech")
        await limits.block(time.time() + 3600, "each")
        return ""

    with serving(app) as url, closing(RawClient(url)) as client:
        assert client.statuses("/", "/") == [200, 429]


def test_a_refund_gives_the_charge_back_and_the_headers_say_so(site_of: MakeSite) -> None:
    with site_of({"own": rate_limit("2/hour")}, policy=POLICY, store=memory()) as client:
        answers = [client.send("/own", (b"X-Verb", b"refund")) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4
    headers = {name.lower(): value for name, value in answers[-1].headers.items()}
    assert headers["ratelimit"] == '"each";r=9;t=400, "2/hour";r=2;t=1800'


@pytest.mark.parametrize("replaces", [(), ["each"]])
def test_a_refusal_may_be_left_to_the_endpoint_and_the_headers_are_sent(site_of: MakeSite, replaces: Any) -> None:
    own = rate_limit("2/hour", enforce=False, replaces=replaces)
    with site_of({"own": own}, policy=POLICY, store=memory()) as client:
        answers = [client.send("/own", (b"X-Verb", b"decision")) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 202], "the endpoint itself says 202"
        refused = client.send("/own")
    headers = {name.lower(): value for name, value in refused.headers.items()}
    assert (refused.status, headers["retry-after"]) == (429, "1800")
    assert '"2/hour";r=0;t=1800' in headers["ratelimit"]
    assert b"quota" not in refused.body, "it is the endpoint's own answer"
    if not replaces:
        assert '"each";r=6;' in headers["ratelimit"], "its own 429 costs nothing, as another refusal"


def test_a_refusal_that_is_left_to_the_endpoint_gives_no_wrong_password_back(site_of: MakeSite) -> None:
    """Its 403 answers something else. So the policy's rule counts each guess, also after the endpoint's limit."""
    own = rate_limit("2/hour", enforce=False)
    with site_of({"own": own}, policy=POLICY, store=memory()) as client:
        answers = [client.send("/own", (b"X-Verb", WRONG_PASSWORD.encode())).status for _ in range(12)]
    assert answers == [403] * 9 + [429] * 3


def test_a_denial_that_is_left_to_the_endpoint_costs_nothing_with_its_403(site_of: MakeSite) -> None:
    own = rate_limit(Deny(), enforce=False)
    with site_of({"own": own}, policy=POLICY, store=memory()) as client:
        answers = [client.send("/own", (b"X-Verb", WRONG_PASSWORD.encode())).status for _ in range(12)]
    assert answers == [403] * 12


@pytest.mark.parametrize("name", ["ASGI", "WSGI", "aiohttp"])
def test_an_answer_of_ones_own_to_a_refusal_has_one_retry_after(name: str) -> None:
    own = rate_limit("1/hour", name="own", enforce=False)

    @own
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 429, "headers": [(b"Retry-After", b"7")]})
        await send({"type": "http.response.body", "body": b""})

    @own
    def called_page(environ: Any, start_response: Any) -> list[bytes]:
        start_response("429 Too Many Requests", [("retry-after", "7"), ("Content-Length", "0")])
        return []

    @own
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7"})

    served: Any
    if name == "ASGI":
        served = serving(RateLimitMiddleware(page, store=memory()))
    elif name == "WSGI":
        served = serving_wsgi(wsgi.RateLimitMiddleware(called_page, store=memory()))
    else:
        app = web.Application()
        app.router.add_get("/", handler)
        own_aiohttp.setup(app, store=memory())
        served = serving_aiohttp(app)
    with served as server:
        url = server if isinstance(server, str) else str(server.base_url)
        told = [httpx.get(url).headers.get_list("retry-after") for _ in range(2)]
    assert told == [["7"], ["3600"]]


def test_an_endpoint_that_is_not_async_may_use_the_verbs_from_its_thread() -> None:
    import anyio.from_thread  # noqa: PLC0415

    app: FastAPI = limited(FastAPI(), policy=POLICY)

    @app.get("/")
    def read(request: Request) -> int:
        usage: Any = anyio.from_thread.run(request.state.ratekeeper.usage)
        return int(usage[0].used)

    with serving(app) as url, closing(RawClient(url)) as client:
        assert [client.send("/").body for _ in range(2)] == [b"1", b"2"]


def test_outside_a_request_the_verbs_are_an_error_that_says_so() -> None:
    with pytest.raises(RuntimeError, match="no request is under way"):
        LIMITS.usage()
    with pytest.raises(RuntimeError, match="no request is under way"):
        asyncio.run(ASYNC_LIMITS.usage())
    with pytest.raises(RuntimeError, match="no request is under way"):
        _ = LIMITS.decisions


def test_without_a_policy_and_a_limit_everything_is_allowed(site_of: MakeSite) -> None:
    with site_of({"own": lambda function: function}, store=memory()) as client:
        assert (ask(client, "usage"), ask(client, "decisions"), ask(client, "peek")) == ("", "", "")


def test_no_request_is_kept_in_a_cycle() -> None:
    seen: list[weakref.ref[Exchange]] = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        seen.append(weakref.ref(current()))
        assert scope["state"]["ratekeeper"].decision.allowed

    async def nothing(*_: Any) -> Any:
        """Receive or send."""

    around = RateLimitMiddleware(answer, POLICY, store=memory())
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}
    gc.disable()
    try:
        asyncio.run(around(scope, nothing, nothing))
        assert [kept() for kept in seen] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("enforce", [0, None, "no"])
def test_enforce_is_true_or_false(enforce: Any) -> None:
    with pytest.raises(TypeError, match="enforce must be True or False"):
        rate_limit("1/hour", enforce=enforce)


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_in_grpc_the_context_has_them(server: Server) -> None:
    answers = server.ask(server.interceptor(), "told", "told")
    assert [answer.code for answer in answers] == [grpc.StatusCode.OK] * 2
    assert [answer.messages for answer in answers] == [[b"1"], [b"2"]]

"""Limits in Starlette and FastAPI: beside other middleware, errors, streams, stores and event loops."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import websockets.sync.client
from asgi_servers import serving
from async_memory import AsyncMemoryStore
from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette_apps import BY_ENDPOINT, EACH, application, ask, limited, statuses
from websockets.exceptions import InvalidStatus

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.frameworks.starlette import RateLimitMiddleware, rate_limit

# Code that stands in between


def nothing(request: Request, call_next: Any) -> Any:
    return call_next(request)


@pytest.mark.parametrize("limits_first", [True, False])
def test_a_middleware_of_starlettes_base_class_may_stand_on_either_side(limits_first: bool) -> None:
    pair = [
        Middleware(RateLimitMiddleware, EACH, store=MemoryStore(clock=ManualClock())),
        Middleware(BaseHTTPMiddleware, dispatch=nothing),
    ]
    app = FastAPI(middleware=pair if limits_first else pair[::-1])
    app.add_api_route("/", lambda: "", dependencies=[Depends(rate_limit("2/minute"))])
    with serving(app) as url:
        first, second, third = (httpx.get(url) for _ in range(3))
    assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
    assert first.headers["ratelimit"] == '"each";r=2;t=20, "2/minute";r=1;t=30'
    assert third.json()["violated-policies"] == ["2/minute"]


@pytest.mark.parametrize("between", [[], [Middleware(BaseHTTPMiddleware, dispatch=nothing)]], ids=["bare", "base"])
def test_a_limit_in_a_mounted_application_refuses_with_429_not_500(between: list[Middleware]) -> None:
    sub = FastAPI(middleware=between)
    sub.add_api_route("/x", lambda: "", dependencies=[Depends(rate_limit("1/minute"))])
    app = limited(FastAPI(middleware=between))
    app.mount("/sub", sub)
    with serving(app) as url:
        fine, refused = httpx.get(f"{url}/sub/x"), httpx.get(f"{url}/sub/x")
    assert (fine.status_code, refused.status_code) == (200, 429)
    assert refused.headers["retry-after"] == "60"


def test_each_application_with_limits_of_its_own_decides_and_tells_its_part() -> None:
    sub = limited(FastAPI(), policy=Policy.parse('[[rules]]\nname = "inner"\nlimit = "1/minute"'))
    sub.add_api_route("/x", lambda: "")
    app = limited(FastAPI(), policy=EACH)
    app.mount("/sub", sub)
    with serving(app) as url:
        fine, refused = httpx.get(f"{url}/sub/x"), httpx.get(f"{url}/sub/x")
    assert (fine.status_code, refused.status_code) == (200, 429)
    assert sorted(part[:7] for part in fine.headers["ratelimit"].split(", ")) == ['"each";', '"inner"']
    assert refused.headers.get_list("retry-after") == ["60"]


def test_the_answer_to_a_refusal_may_be_a_stream_after_a_request_has_waited() -> None:
    async def chunks() -> Any:
        for chunk in ("calm", " ", "down"):
            await asyncio.sleep(0)
            yield chunk

    async def older(scope: Any, receive: Any, send: Any) -> None:
        """As a server without version 2.4 of ASGI: there a stream of Starlette looks for a hang-up."""
        await app({**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}}, receive, send)

    waits = Policy.parse('[[rules]]\nname = "waits"\nlimit = "1/second"\nmax_wait = 60')
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, waits, rejection=lambda *_: StreamingResponse(chunks(), 429))
    app.add_api_route("/", lambda: "", dependencies=[Depends(rate_limit("1/hour"))])
    with serving(older) as url, httpx.Client() as client:
        _, refused = client.get(url), client.get(url)
    assert (refused.status_code, refused.text) == (429, "calm down")


def test_the_middleware_may_stand_around_the_whole_application() -> None:
    app = FastAPI()
    app.add_api_route("/x/{n}", lambda n: n)
    around = RateLimitMiddleware(app, BY_ENDPOINT, store=MemoryStore(clock=ManualClock()))
    assert statuses(around, "/x/1", "/x/2", "/none") == [200, 429, 404]


def test_a_root_path_is_no_second_spelling_of_a_path_for_a_middleware_around_the_whole_application() -> None:
    app = FastAPI()
    app.root_path = "/api"  # as the argument, of which newer versions warn
    app.add_api_route("/login", lambda: "")
    policy = Policy.parse('[[rules]]\nname = "login"\nmatch = {path = "/login"}\nlimit = "1/minute"')
    around = RateLimitMiddleware(app, policy, store=MemoryStore(clock=ManualClock()))
    assert statuses(around, "/api/login", "/api/login", "/login") == [200, 429, 429]


def test_an_http_exception_keeps_its_answer_and_gets_the_headers() -> None:
    async def gone(request: Request) -> None:
        raise HTTPException(410, "gone")

    with serving(limited(Starlette(routes=[Route("/", gone)]), policy=EACH)) as url:
        answer = httpx.get(url)
    assert (answer.status_code, answer.text, answer.headers["ratelimit"]) == (410, "gone", '"each";r=2;t=20')


def test_an_exception_handler_of_the_applications_may_answer_a_refusal_itself() -> None:
    from ratekeeper import RateLimitExceeded  # noqa: PLC0415

    async def own(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("own", 420)

    app = limited(FastAPI(exception_handlers={RateLimitExceeded: own}))
    app.add_api_route("/", lambda: "", dependencies=[Depends(rate_limit("1/minute"))])
    assert statuses(app, "/", "/") == [200, 420]


def test_an_applications_own_limiter_that_refuses_is_answered_as_a_limit_of_ours() -> None:
    from ratekeeper import Limiter  # noqa: PLC0415

    limiter = Limiter("1/hour")
    app = limited(FastAPI(), policy=EACH, rejection=lambda request, decision: PlainTextResponse("no", 420))
    app.add_api_route("/", lambda: limiter.acquire("k", timeout=0) and "")
    assert statuses(app, "/", "/") == [200, 420]


def test_streams_and_background_tasks_run_to_their_end() -> None:
    done: list[str] = []

    async def stream(request: Request) -> StreamingResponse:
        async def parts() -> Any:
            for part in ("a", "b"):
                yield part
                await asyncio.sleep(0)
            done.append("stream")

        return StreamingResponse(parts(), background=BackgroundTask(done.append, "background"))

    with serving(limited(Starlette(routes=[Route("/", stream)]), policy=EACH)) as url:
        assert httpx.get(url).text == "ab"
    assert done == ["stream", "background"]


def test_a_request_that_is_cancelled_in_the_application_leaves_the_next_one_alone() -> None:
    app = limited(FastAPI(), policy=EACH)

    async def stays() -> None:
        began.set()
        await asyncio.Event().wait()

    async def cancel() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            task = asyncio.create_task(client.get("/stays"))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.get("/")).headers["ratelimit"] == '"each";r=1;t=20'

    began = asyncio.Event()
    app.add_api_route("/stays", stays)
    app.add_api_route("/", lambda: "")
    asyncio.run(cancel())


# The user's functions, stores, loops


def test_functions_are_given_starlettes_request_and_what_they_raise_is_not_hidden() -> None:
    def user(request: Request) -> str:
        return request.headers["x-user"]

    policy = Policy.parse('[attributes]\nuser = "app"\n[[rules]]\nname = "u"\nkey = ["user"]\nlimit = "1/minute"')
    app = limited(FastAPI(), policy=policy, attributes={"user": user})
    app.add_api_route("/", lambda: "")
    assert statuses(app, "/", "/", **{"x-user": "a"}) == [200, 429]
    with pytest.raises(KeyError, match="x-user"):
        ask(app)


def test_a_rejection_is_a_response_of_starlettes_for_endpoints_limits_and_websockets_too() -> None:
    app = application(rejection=lambda request, decision: PlainTextResponse("no", 420))

    @app.websocket("/ws")
    async def ws(socket: WebSocket, limit: None = Depends(rate_limit("1/minute"))) -> None:
        await socket.accept()
        await socket.close()

    assert statuses(app, "/search/a", "/search/b", "/search/c") == [200, 200, 420]
    with serving(app) as http:
        url = f"{http.replace('http', 'ws')}/ws"
        with websockets.sync.client.connect(url):
            pass
        with pytest.raises(InvalidStatus) as refused, websockets.sync.client.connect(url):
            pass
        assert refused.value.response.status_code == 420


def test_a_store_that_is_awaited_decides_for_the_thread_of_an_endpoint_too() -> None:
    app = application(policy=EACH, store=AsyncMemoryStore(MemoryStore(clock=ManualClock())))
    assert statuses(app, "/send/a", "/send/b", **{"x-user": "alice"}) == [200, 429]


def test_one_application_serves_several_event_loops() -> None:
    app = application(policy=EACH)
    assert [ask(app, "/items/1") for _ in range(4)] == [200, 200, 200, 429]


def test_without_the_middleware_a_limit_says_so_rather_than_limit_nothing() -> None:
    app = FastAPI()
    app.add_api_route("/", lambda: "", dependencies=[Depends(rate_limit("1/minute"))])
    with pytest.raises(RuntimeError, match="add ratekeeper's middleware"):
        ask(app)

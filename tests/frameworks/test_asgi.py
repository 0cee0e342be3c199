"""Limits in any ASGI application, behind a real uvicorn: what clients get, what it does not notice."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client
from asgi_apps import CHUNKS, EACH, USERS, application, asked, limited, statuses
from asgi_servers import serving
from oracles import structured
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ratekeeper import IMPLEMENTATION, SharedMemoryStore
from ratekeeper.frameworks.asgi import RateLimitMiddleware, rate_limit
from ratekeeper.testing import frozen

# The client's side


def test_over_the_limit_a_client_gets_429_with_a_problem_and_when_to_come_back() -> None:
    with serving(limited()) as url:
        *allowed, refused = [httpx.get(url) for _ in range(4)]
    assert [one.status_code for one in allowed] == [200, 200, 200]
    assert [structured(one.headers["ratelimit"]) for one in allowed] == [
        [("each", {"r": left, "t": 20})] for left in (2, 1, 0)
    ]
    assert {one.headers["ratelimit-policy"] for one in [*allowed, refused]} == {'"each";q=3;w=60'}
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "20"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["violated-policies"] == ["each"]


def test_what_limits_one_key_leaves_the_others_alone() -> None:
    with serving(limited(USERS, attributes={"user": asked})) as url:
        assert statuses(url, "a", "a", "a", "b", "b", "b") == [200, 200, 429, 200, 200, 429]


@pytest.mark.parametrize("reset", ["delta", "epoch"])
def test_legacy_headers_come_in_both_styles_of_reset(reset: Any) -> None:
    import time  # noqa: PLC0415

    with serving(limited(headers=("ietf", f"x-{reset}"))) as url:
        before, answer = time.time(), httpx.get(url)
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("3", "2")
    ends = int(answer.headers["x-ratelimit-reset"])
    assert ends == 20 if reset == "delta" else before + 20 <= ends <= time.time() + 21


def test_a_head_request_is_refused_without_a_body() -> None:
    with serving(limited()) as url, httpx.Client() as client:
        answers = [client.head(url) for _ in range(4)]
        assert client.get(url).status_code == 429, "the connection is still good"
    assert [(one.status_code, one.content) for one in answers] == [(200, b"")] * 3 + [(429, b"")]


# The application notices nothing


def test_a_streamed_body_and_doubled_headers_are_the_same_with_limits_and_without() -> None:
    with serving(application) as bare, serving(limited()) as ours:
        without, with_limits = httpx.get(bare), httpx.get(ours)
    assert with_limits.content == without.content == b"".join(CHUNKS)
    assert with_limits.headers.get_list("x-own") == without.headers.get_list("x-own") == ["1", "2"]


def test_a_websocket_is_the_same_with_limits_and_without() -> None:
    for app in (application, limited()):
        with serving(app) as url, websockets.sync.client.connect(url.replace("http", "ws")) as socket:
            for sent in ("text", b"\x00bytes", "x" * 70_000):
                socket.send(sent)
                assert socket.recv() == sent


def test_an_error_of_the_applications_passes_through_as_it_is() -> None:
    with serving(limited(), http="h11") as url:
        answer = httpx.get(f"{url}/fails")
        assert (answer.status_code, answer.content) == (500, b"Internal Server Error")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{url}/fails-later")


def test_a_decoded_path_is_not_decoded_again_if_a_server_gives_no_raw_one() -> None:
    policy = '[[rules]]\nname = "a"\nmatch = { path = "/?41" }\nlimit = "1/minute"'

    async def without_raw(scope: Any, receive: Any, send: Any) -> None:
        await app({name: value for name, value in scope.items() if name != "raw_path"}, receive, send)

    app = limited(policy)
    with serving(without_raw, lifespan="off") as url:
        assert [httpx.get(url + path).status_code for path in ("/A", "/A", "/%2541", "/%2541")] == [200, 200, 200, 429]


# Endpoints' own limits, where the framework tells no routes


async def charged(limit: rate_limit, scope: Any, receive: Any, send: Any) -> None:
    await limit()
    await application(scope, receive, send)


def with_limit(limit: rate_limit, **options: Any) -> RateLimitMiddleware:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await application(scope, receive, send)
        elif scope["type"] == "websocket" and scope["path"] == "/late":
            await receive()
            await send({"type": "websocket.accept"})
            await limit()
            await receive()
        else:
            await charged(limit, scope, receive, send)

    return limited(None, app, **options)


def test_where_nothing_tells_endpoints_apart_a_limit_without_a_name_is_an_error() -> None:
    with serving(with_limit(rate_limit("1/minute"))) as url:
        assert httpx.get(url).status_code == 500
    with serving(with_limit(rate_limit("1/minute", name="all"))) as url:
        assert [httpx.get(url).status_code for _ in range(2)] == [200, 429]


def test_a_websocket_is_refused_with_429_before_it_is_accepted_and_closed_with_1013_after() -> None:
    with serving(with_limit(rate_limit("1/minute", name="sockets"))) as http:
        url = http.replace("http", "ws")
        with websockets.sync.client.connect(url) as socket:
            socket.send("hello")
            assert socket.recv() == "hello"
        with pytest.raises(InvalidStatus) as refused, websockets.sync.client.connect(url):
            pass
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["retry-after"] == "60"
        with websockets.sync.client.connect(f"{url}/late") as late, pytest.raises(ConnectionClosed) as closed:
            late.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013


# The store


@frozen()
def test_a_store_that_the_middleware_opened_is_closed_with_the_application_and_opened_again_with_it(
    tmp_path: Path,
) -> None:
    if IMPLEMENTATION != "c":
        pytest.skip("a shared table needs the C core")
    app = RateLimitMiddleware(application, EACH, store=f"shared:{tmp_path / 'table'}")
    for begin in (0, 3):
        with serving(app) as url:
            assert [httpx.get(url).status_code for _ in range(4)] == [200] * (3 - begin) + [429] * (1 + begin)
        store = app.limiter.store
        assert isinstance(store, SharedMemoryStore)
        with pytest.raises(ValueError, match="closed"):
            store.stats()


def test_a_store_that_was_handed_in_stays_open(tmp_path: Path) -> None:
    if IMPLEMENTATION != "c":
        pytest.skip("a shared table needs the C core")
    with SharedMemoryStore(tmp_path / "table") as store:
        with serving(limited(store=store)) as url:
            assert httpx.get(url).status_code == 200
        assert store.stats()


def test_a_request_leaves_nothing_behind_in_its_context() -> None:
    from ratekeeper.http.exchange import CURRENT  # noqa: PLC0415

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(limited()), base_url="http://test") as client:
            for _ in range(4):
                await client.get("/")
                assert CURRENT.get() is None

    asyncio.run(ask())
    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

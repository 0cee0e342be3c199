"""Limits in aiohttp applications: what a client gets over a real connection, and what the application does not see."""

from __future__ import annotations

import asyncio
import runpy
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from needs import need
from oracles import structured
from servers import free_port

from ratekeeper import IMPLEMENTATION, ManualClock, MemoryStore, Policy, SharedMemoryStore
from ratekeeper.frameworks.aiohttp import rate_limit, setup
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.policy.decision import PolicyDecision

EACH = Policy.parse(
    '[attributes]\nuser = "header:x-user"\n[[rules]]\nname = "each"\nkey = ["user"]\nlimit = "3/minute"'
)
BYTES = [bytes([n]) * n for n in range(1, 200, 37)]


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"X-Own": "1"})
    await response.prepare(request)
    for chunk in BYTES:
        await response.write(chunk)
    return response


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await (socket.send_str(message.data) if message.type is web.WSMsgType.TEXT else socket.send_bytes(message.data))
    return socket


async def forbidden(request: web.Request) -> web.Response:
    raise web.HTTPForbidden(text="not for you")


async def broken(request: web.Request) -> web.Response:
    raise LookupError("the application's own")


@rate_limit("1/hour", key=lambda request: request.headers["x-user"])
async def rare(request: web.Request) -> web.Response:
    return web.Response(text="rare")


class Items(web.View):
    @rate_limit("2/hour")
    async def get(self) -> web.Response:
        return web.Response(text=self.request.match_info["item"])

    async def post(self) -> web.Response:
        return web.Response(text="posted")


def application(policy: Policy | Path | None = EACH, *, limited: bool = True, **options: Any) -> web.Application:
    app = web.Application()
    handlers = {"/": hello, "/stream": stream, "/echo": echo, "/forbidden": forbidden, "/broken": broken, "/rare": rare}
    app.add_routes([web.get(path, handler) for path, handler in handlers.items()])
    app.add_routes([web.view("/items/{item}", Items)])
    if limited:
        setup(app, policy, **{"store": MemoryStore(clock=ManualClock()), **options})
    return app


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[aiohttp.ClientSession]:
    """A real server on a free port, and a client of it."""
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
            yield client
    finally:
        await runner.cleanup()


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body


def ask(app: web.Application, *paths: str, user: str = "alice", method: str = "GET") -> list[Answer]:
    """Ask one after the other."""
    return asyncio.run(asking(app, *paths, user=user, method=method))


async def asking(app: web.Application, *paths: str, user: str = "alice", method: str = "GET") -> list[Answer]:
    answers = []
    async with serving(app) as client:
        for path in paths:
            async with client.request(method, path, headers={"X-User": user}) as response:
                answers.append(Answer(response, await response.read()))
    return answers


def statuses(app: web.Application, *paths: str, **options: str) -> list[int]:
    return [answer.status for answer in ask(app, *paths, **options)]


def states(answer: Answer) -> dict[str, dict[str, int]]:
    return dict(structured(answer.headers["RateLimit"]))


def test_over_the_limit_a_client_gets_429_with_a_problem_and_when_to_come_back() -> None:
    *allowed, refused = ask(application(), *["/"] * 4)
    assert [one.status for one in allowed] == [200, 200, 200]
    assert [states(one) for one in [*allowed, refused]] == [{"each": {"r": left, "t": 20}} for left in (2, 1, 0, 0)]
    assert refused.status == 429
    assert refused.headers["Retry-After"] == "20"
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert b"quota-exceeded" in refused.body


def test_another_key_is_not_affected() -> None:
    store = MemoryStore(clock=ManualClock())
    assert statuses(application(store=store), *["/"] * 4) == [200, 200, 200, 429]
    assert statuses(application(store=store), "/", user="bob") == [200]


def test_a_policy_knows_the_route_and_counts_what_has_none() -> None:
    policy = Policy.parse('[[rules]]\nname = "r"\nkey = ["endpoint"]\nmissing = "shared"\nlimit = "2/minute"')
    app = application(policy)
    paths = ["/items/1", "/items/2", "/items/3", "/none", "/nowhere", "/no"]
    assert statuses(app, *paths, method="POST") == [200, 200, 429, 404, 404, 429]


def test_a_handlers_own_limit_counts_for_its_route_and_its_method() -> None:
    app = application(None)
    assert statuses(app, "/items/1", "/items/2", "/items/3") == [200, 200, 429]
    assert statuses(application(None), *["/items/1"] * 3, method="POST") == [200, 200, 200]


def test_a_handlers_limit_and_the_policys_are_both_in_the_headers() -> None:
    first, refused = ask(application(), "/rare", "/rare")
    assert states(first) == {"each": {"r": 2, "t": 20}, "1/hour": {"r": 0, "t": 3600}}
    assert (refused.status, refused.headers["Retry-After"]) == (429, "3600")


def test_an_errors_response_tells_the_limits_too() -> None:
    answers = ask(application(), "/forbidden", "/nowhere", "/broken")
    assert [one.status for one in answers] == [403, 404, 500]
    assert answers[0].body == b"not for you"
    assert [states(one)["each"]["r"] for one in answers] == [2, 1, 0]


async def raw_bytes(client: aiohttp.ClientSession, path: str) -> tuple[set[bytes], bytes]:
    """Return a response as it is on the wire: its header lines, and its body with the framing of its chunks."""
    base = client._base_url
    assert base is not None
    reader, writer = await asyncio.open_connection(base.host, base.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nX-User: alice\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return {line for line in head.split(b"\r\n") if not line.startswith(b"Date:")}, body


def test_a_stream_is_the_same_byte_for_byte_but_for_our_headers() -> None:
    async def asking(limited: bool) -> tuple[set[bytes], bytes]:
        async with serving(application(limited=limited)) as client:
            return await raw_bytes(client, "/stream")

    with_us, without_us = asyncio.run(asking(True)), asyncio.run(asking(False))
    assert with_us[1] == without_us[1]
    added = with_us[0] - without_us[0]
    assert {line.partition(b":")[0] for line in added} == {b"RateLimit", b"RateLimit-Policy"}
    assert without_us[0] < with_us[0]


def test_a_websocket_is_the_same_and_only_its_handshake_counts() -> None:
    async def talk(client: aiohttp.ClientSession) -> list[Any]:
        async with client.ws_connect("/echo", headers={"X-User": "alice"}) as socket:
            await socket.send_str("text")
            for chunk in BYTES:
                await socket.send_bytes(chunk)
            return [(await socket.receive()).data for _ in range(1 + len(BYTES))]

    async def talking() -> None:
        async with serving(application(limited=False)) as client:
            without_us = await talk(client)
        async with serving(application()) as client:
            assert [await talk(client) for _ in range(3)] == [without_us] * 3
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await talk(client)
            assert refused.value.status == 429

    asyncio.run(talking())


def test_a_refusal_after_the_response_has_begun_is_no_second_response() -> None:
    async def late(request: web.Request) -> web.StreamResponse:
        response = await stream(request)
        await rare(request)
        await rare(request)
        return response

    app = application()
    app.router.add_get("/late", late)
    with pytest.raises(aiohttp.ClientPayloadError):
        ask(app, "/late")


def test_a_client_cannot_choose_its_address() -> None:
    @web.middleware
    async def believe(request: web.Request, handler: Callable[[web.Request], Any]) -> Any:
        return await handler(request.clone(remote=request.query["as"]))

    app = application(limited=False)
    app.middlewares.append(believe)
    policy = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "1/minute"')
    setup(app, policy, store=MemoryStore(clock=ManualClock()))
    assert statuses(app, "/?as=192.0.2.1", "/?as=192.0.2.2") == [200, 429]


def test_functions_of_the_request_may_be_async() -> None:
    def later(function: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        async def asked(request: web.Request) -> Any:
            await asyncio.sleep(0)
            return function(request)

        return asked

    policy = Policy.parse(
        '[[rules]]\nname = "pro"\nmatch = { plan = "pro" }\nkey = ["user"]\nlimit = "4/minute"\n'
        '[[rules]]\nname = "free"\nmatch = { plan = "free" }\nkey = ["user"]\nlimit = "1/minute"'
    )
    store = MemoryStore(clock=ManualClock())
    options: dict[str, Any] = {
        "attributes": {
            "user": later(lambda request: request.headers["x-user"]),
            "plan": later(lambda request: "pro" if request.headers["x-user"] == "alice" else "free"),
        },
        "cost": later(lambda request: int(request.query.get("n", 1))),
        "exempt": later(lambda request: request.path == "/forbidden"),
    }
    assert statuses(application(policy, store=store, **options), "/?n=3", "/?n=2", "/", "/") == [200, 429, 200, 429]
    assert statuses(application(policy, store=store, **options), "/", "/", "/forbidden", user="bob") == [200, 429, 403]


def test_a_rejection_of_ones_own_replaces_the_response_and_keeps_the_headers() -> None:
    async def rejection(request: web.Request, decision: PolicyDecision) -> web.Response:
        return web.json_response({"path": request.path, "wait": decision.retry_after}, status=420)

    refused = ask(application(rejection=rejection), *["/"] * 4)[-1]
    assert (refused.status, refused.body) == (420, b'{"path": "/", "wait": 20.0}')
    assert refused.headers["Retry-After"] == "20"


def test_switched_off_nothing_is_limited_or_added() -> None:
    answers = ask(application(enabled=False), "/rare", "/rare", "/", "/")
    assert {one.status for one in answers} == {200}
    assert not any("RateLimit" in one.headers for one in answers)


def test_who_observes_gets_the_request_and_every_decision() -> None:
    seen: list[tuple[str, bool]] = []
    ask(application(on_decision=lambda request, one: seen.append((request.path, one.allowed))), *["/"] * 4, "/rare")
    assert seen == [("/", True)] * 3 + [("/", False), ("/rare", False)]


def test_a_store_that_does_not_answer_is_503() -> None:
    port = free_port()
    (answer,) = ask(application(store=f"redis://127.0.0.1:{port}"), "/")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert str(port).encode() not in answer.body


def test_applications_in_each_other_each_have_their_limits() -> None:
    app = application(limited=False)
    inner = application(Policy.parse('[[rules]]\nname = "inner"\nlimit = "9/minute"'))
    app.add_subapp("/inner", inner)
    setup(app, EACH, store=MemoryStore(clock=ManualClock()))
    (answer,) = ask(app, "/inner/items/1")
    headers = ", ".join(answer.headers.getall("RateLimit"))
    assert all(name in headers for name in ('"each"', '"inner"', '"2/hour"'))


def test_what_was_opened_for_an_application_is_closed_at_its_end_and_opened_again_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("the C core", IMPLEMENTATION == "c")
    file = tmp_path / "policy.toml"
    file.write_text('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/hour"')
    closed: list[object] = []
    close = SharedMemoryStore.close

    def noting(store: SharedMemoryStore) -> None:
        closed.append(store)
        close(store)

    monkeypatch.setattr(SharedMemoryStore, "close", noting)
    before = {*threading.enumerate()}  # of which some may end meanwhile
    app = application(file, store=f"shared:{tmp_path / 'table'}")
    assert {*threading.enumerate()} - before, "the policy's file is watched"

    async def run_twice() -> None:
        for time, passed in ((1, 3), (2, 0)):  # on one loop, as aiohttp wants it
            answers = await asking(app, *["/"] * 4)
            assert [one.status for one in answers] == [200] * passed + [429] * (4 - passed)
            assert len(closed) == time
            assert {*threading.enumerate()} <= before

    asyncio.run(run_twice())


def test_a_store_that_was_handed_in_stays_open(tmp_path: Path) -> None:
    need("the C core", IMPLEMENTATION == "c")
    with SharedMemoryStore(tmp_path / "table") as store:
        ask(application(store=store), "/")
        assert store.stats()


def test_a_request_leaves_nothing_behind_in_its_context() -> None:
    seen: list[Exchange | None] = []

    @web.middleware
    async def look(request: web.Request, handler: Callable[[web.Request], Any]) -> Any:
        try:
            return await handler(request)
        finally:
            seen.append(CURRENT.get())

    app = application(limited=False)
    app.middlewares.append(look)
    setup(app, EACH, store=MemoryStore(clock=ManualClock()))
    ask(app, "/", "/broken", "/rare", "/")
    assert seen == [None] * 4


def test_the_example_serves_and_limits() -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "frameworks" / "aiohttp_app.py"))
    answers = ask(example["application"](), "/items/1", "/export", "/export", "/export")
    assert [one.status for one in answers] == [200, 200, 200, 429]
    assert answers[1].body == b"line 0\nline 1\nline 2\n"

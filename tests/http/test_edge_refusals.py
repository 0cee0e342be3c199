"""Refusals: only a refusal that is the answer costs nothing, and waiting requests lose nothing."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import django_site  # noqa: F401  it sets Django up
import httpx
import pytest
from asgi_apps import limited
from django.test import override_settings
from exchanges import Asked
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ratekeeper import ManualClock, MemoryStore, Policy, PolicyError, RateLimitExceeded
from ratekeeper.frameworks.drf import RateLimitThrottle
from ratekeeper.frameworks.starlette import RateLimitMiddleware, rate_limit
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.http.limiter import RequestLimiter
from ratekeeper.policy.sources import PathSource, readings_of

THREE = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/hour"')


def ask(app: Any, count: int, method: str = "GET", **options: Any) -> list[httpx.Response]:
    async def go() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [await client.request(method, "/", **options) for _ in range(count)]

    return asyncio.run(go())


def starlette(endpoint: Any, policy: Policy | None = None, **options: Any) -> Starlette:
    app = Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])])
    app.add_middleware(RateLimitMiddleware, policy=policy, **{"store": MemoryStore(clock=ManualClock()), **options})
    return app


def test_a_refusal_that_the_application_catches_makes_no_request_free() -> None:
    once = rate_limit("1/hour", endpoint="resolver")

    async def serve(request: Request) -> PlainTextResponse:
        try:
            await once()
        except RateLimitExceeded:
            return PlainTextResponse("from the cache")
        return PlainTextResponse("fresh")

    assert [answer.status_code for answer in ask(starlette(serve, THREE), 5)] == [200, 200, 200, 429, 429]


def test_a_429_of_the_applications_own_after_a_refusal_costs_nothing() -> None:
    once = rate_limit("1/hour", endpoint="resolver")

    async def serve(request: Request) -> PlainTextResponse:
        try:
            await once()
        except RateLimitExceeded:
            return PlainTextResponse("slow down", 429)
        return PlainTextResponse("fresh")

    answers = ask(starlette(serve, THREE), 10)
    assert [answer.text for answer in answers] == ["fresh"] + ["slow down"] * 9


def test_messages_of_a_websocket_are_charged_and_not_given_back_when_one_is_refused() -> None:
    each = rate_limit("5/minute", endpoint="messages")
    done: list[int] = []

    async def chat(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        for number in range(60):
            try:
                await each()
            except RateLimitExceeded:
                continue
            done.append(number)
        await send({"type": "websocket.close"})

    async def talk() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            pass

        scope = {"type": "websocket", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}
        await limited(None, chat)(scope, receive, send)

    asyncio.run(talk())
    assert done == [0, 1, 2, 3, 4]


def test_a_body_that_comes_while_an_endpoints_limit_waits_is_not_lost() -> None:
    @rate_limit("20/second burst 1", max_wait=5)
    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    answers = ask(starlette(echo, store=MemoryStore()), 3, "POST", content=b"hello")
    assert [(answer.status_code, answer.content) for answer in answers] == [(200, b"hello")] * 3


def test_a_limit_that_cannot_be_used_is_an_error_each_time_and_at_a_reload() -> None:
    limits, own = RequestLimiter(routes=False), rate_limit("2/minute", key="usr", endpoint="e")
    for _ in range(3):
        with pytest.raises(PolicyError, match="nothing gives the attribute 'usr'"):
            limits.policy_of(own)
    rule = '[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/hour"'
    limits = RequestLimiter(Policy.parse(f'[attributes]\nusr = "header:x-user"\n{rule}'), routes=False)
    limits.policy_of(own)
    for _ in range(2):
        with pytest.raises(PolicyError, match="nothing gives the attribute 'usr'"):
            limits.replace(Policy.parse(rule))
        with pytest.raises(PolicyError, match="both named '2/minute'"):
            limits.replace(Policy.parse(rule.replace("each", "2/minute")))
        limits.replace(Policy.parse(f'[attributes]\nusr = "header:x-user"\n{rule}'))
    assert limits.policy_of(own).keeper.policy.attributes


def test_a_prefix_is_taken_from_each_reading_in_the_paths_spelling() -> None:
    request = Asked("GET", "/API/graphql/../x")
    request.prefix = "/Api"
    for source, expected in ((PathSource(), "/API/graphql/../x"), (PathSource(ignore_case=True), "/graphql/../x")):
        path = AttributeReader({"path": source}).read(request)["path"]
        assert expected in readings_of(path)
    assert path == "/x"


def test_limits_of_one_name_must_be_one_limit() -> None:
    limits = RequestLimiter(routes=False)
    kept = [rate_limit("5/minute", name="x"), rate_limit("5/minute", name="x")]
    for limit in kept:
        limits.policy_of(limit)
    with pytest.raises(PolicyError, match="two limits are named 'x'"):
        limits.policy_of(rate_limit("100/minute", name="x"))


def test_limits_that_are_made_for_one_request_each_leave_nothing_behind() -> None:
    """A name that a client chooses must not fill the memory."""
    limits = RequestLimiter(routes=False)
    for client in range(300):
        limits.policy_of(rate_limit("5/minute", name=f"client {client}"))
    gc.collect()
    assert len(limits._owners._named) < 150


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": None}, "key must be an attribute, such as 'client'"),
        ({"key": ()}, "key must be an attribute, such as 'client'"),
        ({"key": 5}, "key must be an attribute, such as 'client'"),
        ({"cost": -1}, "cost must be 0 or more tokens, not -1"),
        ({"cost": 1.5}, "cost must be a whole number of tokens, not 1.5"),
        ({"cost": 0}, "a cost of 0 would limit nothing"),
        ({"name": 5}, "name must be a string, not 5"),
    ],
)
def test_a_limit_that_means_nothing_is_an_error_when_it_is_made(options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        rate_limit("5/minute", **options)


class Burst(RateLimitThrottle):
    limits = "1/hour"


class Sustained(RateLimitThrottle):
    limits = "2/day"


class Both(APIView):  # type: ignore[misc]  # it has no types of its own
    authentication_classes = ()
    throttle_classes: Any = (Burst, Sustained)

    def get(self, request: Any) -> Response:
        return Response("ok")


class Second(Both):
    throttle_classes = (Sustained,)


def test_throttles_of_one_request_are_all_or_nothing(tmp_path: Path) -> None:
    def status(view: Any) -> int:
        response = view(APIRequestFactory().get("/"))
        assert isinstance(response.status_code, int)
        return response.status_code

    with override_settings(RATEKEEPER={"store": MemoryStore(clock=ManualClock())}):
        both, second = Both.as_view(), Second.as_view()
        assert [status(both) for _ in range(15)] == [200] + [429] * 14
        assert [status(second) for _ in range(3)] == [200, 429, 429], "only the first request has cost anything"

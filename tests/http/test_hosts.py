"""The host of a request has one spelling: applications ignore its case, its port, and a dot at its end."""

from __future__ import annotations

import asyncio

import flask
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Route, Router

from ratekeeper import Policy
from ratekeeper.frameworks.flask import RateLimits
from ratekeeper.frameworks.starlette import RateLimitMiddleware
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.policy.keeper import Keeper
from ratekeeper.policy.sources import HeaderSource, readings_of
from ratekeeper.service.http.exchange import GatewayExchange

HOSTS = ["api.example.com", "API.example.com", "api.example.com:80", "Api.Example.com:443", "aPi.example.com"]
ATTRIBUTES = '[attributes]\nhost = "header:host"\n'
ONE_HOST = 'match = { host = "API.example.com" }\nkey = ["client"]'
EACH_HOST = 'key = ["client", "host"]'


def policy(what: str) -> Policy:
    return Policy.parse(f'{ATTRIBUTES}[[rules]]\nname = "r"\nlimit = "1/hour"\n{what}')


@pytest.mark.parametrize("what", [ONE_HOST, EACH_HOST])
def test_no_spelling_of_a_host_leaves_a_rule_or_buys_a_bucket_in_starlette(what: str) -> None:
    async def serve(request: Request) -> PlainTextResponse:
        return PlainTextResponse("api")

    app = Starlette(routes=[Host("api.example.com", Router([Route("/", serve)]))])
    app.add_middleware(RateLimitMiddleware, policy=policy(what))

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [(await client.get("/", headers={"host": host})).status_code for host in HOSTS]

    assert asyncio.run(ask()) == [200, 429, 429, 429, 429]


@pytest.mark.parametrize("what", [ONE_HOST, EACH_HOST])
def test_no_spelling_of_a_host_leaves_a_rule_or_buys_a_bucket_in_flask(what: str) -> None:
    app = flask.Flask("hosts", host_matching=True, static_host="static.example.com")
    app.add_url_rule("/", view_func=lambda: "api", host="api.example.com")
    RateLimits(app, policy(what))
    client = app.test_client()
    assert [client.get("/", headers={"host": host}).status_code for host in HOSTS] == [200, 429, 429, 429, 429]


@pytest.mark.parametrize(
    ("value", "readings"),
    [
        ("Example.com", ("example.com",)),
        ("example.com.", ("example.com",)),
        ("Example.com.:80", ("example.com", "example.com.:80")),
        ("[2001:DB8::1]", ("[2001:db8::1]",)),
        ("[::1]:8080", ("[::1]", "[::1]:8080")),
        (":80", (":80",)),
        ("[::1", ("[::1",)),
    ],
)
def test_a_gateways_and_a_programs_host_have_the_same_readings(value: str, readings: tuple[str, ...]) -> None:
    for name in ("host", "X-Forwarded-Host"):
        reader = AttributeReader({"host": HeaderSource(name)}, wanted={"host"})
        request = GatewayExchange(None, None, b"GET", b"/", [(name.encode(), value.encode())])  # type: ignore[arg-type]
        request.is_usual(reader)
        assert readings_of(request.read(reader)["host"]) == readings
        assert readings_of(reader.read(request)["host"]) == readings
        assert readings_of(reader.respell({"host": value})["host"]) == readings


def test_an_exempt_port_is_that_port_alone_and_a_glob_ignores_case() -> None:
    text = 'exempt = [{ host = ["a.test", "A.test:81"] }]\n' + ATTRIBUTES
    keeper = Keeper(Policy.parse(text + '[[rules]]\nname = "r"\nmatch = { host = "*.Test*" }\nlimit = "1/hour"'))
    reader = AttributeReader(keeper.policy.attributes)

    def rules(host: str) -> int:
        return len(keeper.try_acquire(reader.respell({"host": host})).rules)

    assert [rules(host) for host in ("A.test", "a.TEST:81", "a.test:82", "b.test:81")] == [0, 0, 1, 1]

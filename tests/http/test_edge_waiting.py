"""Requests that wait for their turn: bounded in all and for each client; one whose client hangs up leaves no trace."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from http.client import HTTPResponse
from typing import Any

import django_site  # noqa: F401  it sets Django up
import pytest
import quart
from aiohttp import web
from asgi_servers import serving
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from edge_asgi_sites import serving_aiohttp
from edge_sites import MakeSite
from edge_table import ASYNC, CALLED
from raw_client import RawClient, written
from redis_servers import wait_for
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.frameworks import aiohttp as own_aiohttp
from ratekeeper.frameworks import asgi, starlette
from ratekeeper.http import workers
from ratekeeper.policy.sources import HeaderSource

QUEUE = Policy.parse(
    '[[rules]]\nname = "queue"\nalgorithm = "leaky_bucket"\ncapacity = 50\nleak_rate = "1/minute"\n'
    '[[exempt]]\npath = "/healthz"'
)


class HeldClock(ManualClock):
    """A manual clock that only the test moves, and that counts who waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    def wait(self, woken: threading.Event, until: int) -> None:
        self.waiting += 1
        while self.ticks() < until and not woken.is_set():
            woken.wait(0.001)
        self.waiting -= 1

    async def wait_async(self, woken: asyncio.Future[None], until: int) -> None:
        self.waiting += 1
        try:
            while self.ticks() < until and not woken.done():
                await asyncio.sleep(0.001)
        finally:
            self.waiting -= 1


def clients(*numbers: int) -> list[tuple[bytes, bytes]]:
    return [(b"X-Forwarded-For", b"192.0.2.%d" % number) for number in numbers]


@pytest.mark.parametrize("make", ASYNC.values(), ids=ASYNC)
def test_requests_that_wait_are_bounded_and_a_client_that_hangs_up_gives_its_place_back(make: MakeSite) -> None:
    clock = HeldClock()
    options = {"store": MemoryStore(clock=clock), "max_waiting": 3, "trusted_proxies": 1}
    with make(policy=QUEUE, **options) as site:
        assert site.client.send("/login", *clients(1)).status == 200
        waiting = []
        for who in clients(1, 2, 3):
            waiting.append(site.client.connect())
            waiting[-1].sendall(written("/login", [who]))
            wait_for(lambda: clock.waiting == len(waiting))
            assert site.client.send("/login", who).status == 429, "a client may have a tenth of the places, here one"
        assert site.client.send("/login", *clients(4)).status == 429, "there are no more than three"
        assert site.client.statuses("/healthz") == [200]
        for connection in waiting:
            connection.close()
        wait_for(lambda: clock.waiting == 0)
        late = site.client.connect()
        with closing(late):
            late.sendall(written("/login", clients(4)))
            wait_for(lambda: clock.waiting == 1)
            clock.advance(60)  # the first turn after the one that was had
            assert late.recv(12) == b"HTTP/1.1 200"
        assert len(site.ran("login")) == 2


@pytest.mark.parametrize("make", ASYNC.values(), ids=ASYNC)
def test_a_client_that_does_not_say_who_it_is_has_the_share_of_its_address(make: MakeSite) -> None:
    clock = HeldClock()
    policy = replace(QUEUE, attributes={"client": HeaderSource("x-client")})
    with make(policy=policy, store=MemoryStore(clock=clock), max_waiting=3) as site:
        assert site.client.send("/login").status == 200
        with closing(site.client.connect()) as waiting:
            waiting.sendall(written("/login"))
            wait_for(lambda: clock.waiting == 1)
            assert site.client.statuses("/login", "/login") == [429, 429]


@pytest.mark.parametrize("make", CALLED.values(), ids=CALLED)
@pytest.mark.parametrize(("given", "most"), [({}, 2), ({"max_waiting": 1}, 1)], ids=["usual", "one"])
def test_no_more_threads_wait_than_the_option_says_and_the_others_answer(
    make: MakeSite, given: dict[str, int], most: int
) -> None:
    clock = HeldClock()
    with make(policy=QUEUE, store=MemoryStore(clock=clock), trusted_proxies=1, **given) as site:
        assert site.client.send("/login", *clients(1)).status == 200
        held = []
        for who in clients(*range(1, most + 1)):
            held.append(site.client.connect())
            held[-1].sendall(written("/login", [who]))
            wait_for(lambda: clock.waiting == len(held))
        assert [site.client.send("/login", who).status for who in clients(7, 8, 9)] == [429] * 3
        assert site.client.statuses("/healthz") == [200]
        clock.advance(600)
        for connection in held:
            assert connection.recv(12)[8:] == b" 200"
            connection.close()


# A body that comes meanwhile


@contextmanager
def starlette_echo(**options: Any) -> Iterator[str]:
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    app = Starlette(routes=[Route("/", echo, methods=["POST"])])
    app.add_middleware(starlette.RateLimitMiddleware, **options)
    with serving(app) as url:
        yield url


@contextmanager
def quart_echo(**options: Any) -> Iterator[str]:
    app: Any = quart.Quart("tests")

    async def echo() -> Any:
        return await quart.request.get_data()

    app.post("/")(echo)
    app.asgi_app = asgi.RateLimitMiddleware(app.asgi_app, **options)
    with serving(app) as url:
        yield url


@contextmanager
def aiohttp_echo(**options: Any) -> Iterator[str]:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_post("/", echo)
    own_aiohttp.setup(app, **options)
    with serving_aiohttp(app) as url:
        yield url


async def django_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body)


@contextmanager
def django_echo(**options: Any) -> Iterator[str]:
    middleware = ["ratekeeper.frameworks.django.RateLimitMiddleware"]
    with (
        override_settings(RATEKEEPER=options, ROOT_URLCONF=(path("", django_view),), MIDDLEWARE=middleware),
        serving(get_asgi_application(), lifespan="off") as url,
    ):
        yield url


@pytest.mark.parametrize("echo", [starlette_echo, quart_echo, aiohttp_echo, django_echo])
@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_body_that_comes_while_its_request_waits_is_not_lost(
    echo: Callable[..., AbstractContextManager[str]], size: int
) -> None:
    clock, body = HeldClock(), bytes(range(256)) * (size // 256) + b"end"
    with echo(policy=QUEUE, store=MemoryStore(clock=clock)) as url, closing(RawClient(url)) as client:
        assert client.send("/", method=b"POST", body=body).body == body
        connection = client.connect()
        request = written("/", method=b"POST", body=body)
        sending = threading.Thread(target=connection.sendall, args=(request,))
        with closing(connection):
            sending.start()
            wait_for(lambda: clock.waiting == 1)
            clock.advance(60)
            with HTTPResponse(connection) as response:
                response.begin()
                assert response.read() == body
            sending.join()


# Several workers


WARNS = "each worker process has its own rate limits"
TELL = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
sys.argv = sys.argv[1:]
from ratekeeper import MemoryStore
from ratekeeper.http.workers import warn_if_limits_multiply
for _ in range(3):
    warn_if_limits_multiply(MemoryStore())
"""


@pytest.mark.parametrize(
    ("command", "environment", "warned"),
    [
        ("/bin/gunicorn -w 2 app:app", {}, True),
        ("/bin/gunicorn --workers=4 app:app", {}, True),
        ("/bin/uvicorn app:app --workers 2", {}, True),
        ("/bin/uvicorn app:app", {"WEB_CONCURRENCY": "2"}, True),
        ("/bin/gunicorn app:app", {"WEB_CONCURRENCY": "2"}, True),
        ("/bin/gunicorn -w 99999 app:app", {}, True),
        ("/bin/gunicorn -w 100000 app:app", {}, False),  # that is not a number of workers
        ("/bin/gunicorn -w 1 app:app", {}, False),
        ("/bin/uvicorn app:app --workers 1", {"WEB_CONCURRENCY": "1"}, False),
        ("/bin/uvicorn app:app", {}, False),
        ("/bin/python -m pytest", {"WEB_CONCURRENCY": "2"}, False),
    ],
)
def test_a_memory_store_under_several_workers_is_warned_of_once(
    command: str, environment: dict[str, str], warned: bool
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", TELL, *command.split()],
        env={"PYTHONPATH": ":".join(sys.path), **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.count(WARNS) == warned
    assert ("shared:NAME" in ran.stdout) == warned


def test_a_wsgi_server_that_says_it_has_several_processes_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "_warned", False)
    with caplog.at_level(logging.WARNING):
        workers.warn_if_limits_multiply(MemoryStore(), several=False)
        assert not caplog.records
        workers.warn_if_limits_multiply(MemoryStore(), several=True)
    assert WARNS in caplog.text

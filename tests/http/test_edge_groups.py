"""Refusals in the tasks of a TaskGroup, which come as a group of errors: they are answered as refusals."""

from __future__ import annotations

import asyncio
from typing import Any

import django_site  # noqa: F401  it sets Django up
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, override_settings
from django.urls import path
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.frameworks import aiohttp, starlette
from ratekeeper.http.rate_limit import rate_limit

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "9/hour"')
Answer = tuple[int, str | None]


@rate_limit("2/hour", name="step")
async def step(fails: bool) -> None:
    await asyncio.sleep(0)
    if fails:
        raise LookupError("the application's own")


async def steps(asked: str) -> str:
    async with asyncio.TaskGroup() as tasks, asyncio.TaskGroup() as others:
        others.create_task(step(False))
        tasks.create_task(step("fails" in asked))
    return "done"


def options() -> dict[str, Any]:
    return {"policy": EACH, "store": MemoryStore(clock=ManualClock())}


def of_starlette(*paths: str) -> list[Answer]:
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await steps(request.url.path))

    app = Starlette(routes=[Route("/{name}", page)])
    app.add_middleware(starlette.RateLimitMiddleware, **options())

    async def ask() -> list[Answer]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = [await client.get(path) for path in paths]
        return [(answer.status_code, answer.headers.get("Retry-After")) for answer in answers]

    return asyncio.run(ask())


def of_aiohttp(*paths: str) -> list[Answer]:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text=await steps(request.path))

    app = web.Application()
    app.router.add_get("/{name}", page)
    aiohttp.setup(app, **options())

    async def ask() -> list[Answer]:
        async with TestClient(TestServer(app)) as client:
            answers = [await client.get(path) for path in paths]
        return [(answer.status, answer.headers.get("Retry-After")) for answer in answers]

    return asyncio.run(ask())


async def page(request: HttpRequest, name: str) -> HttpResponse:
    return HttpResponse(await steps(name))


urlpatterns = [path("<name>", page)]


def of_django(*paths: str) -> list[Answer]:
    async def ask() -> list[Answer]:
        client = AsyncClient(raise_request_exception=False)
        answers = [await client.get(path) for path in paths]
        return [(answer.status_code, answer.headers.get("Retry-After")) for answer in answers]

    with override_settings(RATEKEEPER=options(), ROOT_URLCONF=__name__):
        return asyncio.run(ask())


@pytest.mark.parametrize("ask", [of_starlette, of_aiohttp, of_django])
def test_a_group_of_refusals_is_a_refusal(ask: Any) -> None:
    assert ask("/a", "/b", "/c") == [(200, None), (429, "1800"), (429, "1800")]


@pytest.mark.parametrize("ask", [of_starlette, of_aiohttp, of_django])
def test_a_group_with_an_error_of_the_application_stays_an_error(ask: Any) -> None:
    assert [status for status, _ in ask("/fails")] == [500]

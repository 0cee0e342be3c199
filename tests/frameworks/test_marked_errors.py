"""An endpoint that was not the one that was known before is charged also if it fails."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ratekeeper import Policy
from ratekeeper.frameworks.starlette import RateLimitMiddleware, exempt

POLICY = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "2/hour"')


@exempt
async def healthz(request: Request) -> PlainTextResponse:
    if "fail" in request.query_params:
        raise ValueError
    return PlainTextResponse("ok")


async def fail(request: Request) -> PlainTextResponse:
    raise ValueError


class ByHeader:
    """Changes the path by a header."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for name, value in scope["headers"]:
            if name == b"x-path":
                scope["path"] = value.decode()
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    ("target", "headers", "statuses"),
    [
        ("/healthz", {"x-path": "/fail"}, [500, 500, 429, 429]),
        ("/healthz?fail=1", {}, [500, 500, 500, 500]),
    ],
)
def test_a_failure_of_another_endpoint_than_the_exempt_one_counts(
    target: str, headers: dict[str, str], statuses: list[int]
) -> None:
    app = Starlette(routes=[Route("/healthz", healthz), Route("/fail", fail)])
    app.add_middleware(ByHeader)
    app.add_middleware(RateLimitMiddleware, policy=POLICY)

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [(await client.get(target, headers=headers)).status_code for _ in statuses]

    assert asyncio.run(ask()) == statuses

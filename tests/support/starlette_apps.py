"""Applications for the tests of Starlette and FastAPI, and asking them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from asgi_servers import serving
from fastapi import Depends, FastAPI

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.frameworks.starlette import RateLimitMiddleware, rate_limit

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/minute"')
BY_ENDPOINT = Policy.parse('[[rules]]\nname = "e"\nkey = ["endpoint"]\nlimit = "1/minute"\nmissing = "skip"')


def limited(app: Any, **options: Any) -> Any:
    options.setdefault("store", MemoryStore(clock=ManualClock()))
    app.add_middleware(RateLimitMiddleware, **options)
    return app


def statuses(app: Any, *asked: str, root_path: str = "", **headers: str) -> list[int]:
    """Ask a real server one after the other, such as "/path" or "POST /path"."""
    with serving(app, root_path=root_path) as url:
        pairs = [one.split(" ") if " " in one else ("GET", one) for one in asked]
        return [httpx.request(method, url + path, headers=headers).status_code for method, path in pairs]


def ask(app: Any, path: str = "/") -> int:
    """Ask in process, on a new event loop. Raises the application's errors."""

    async def get() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return (await client.get(path)).status_code

    return asyncio.run(get())


def application(**options: Any) -> FastAPI:
    app: FastAPI = limited(FastAPI(), **options)

    @app.get("/items/{item}")
    async def item(item: int) -> int:
        return item

    @app.get("/search/{query}", dependencies=[Depends(rate_limit("2/minute"))])
    async def search(query: str) -> str:
        return query

    @app.get("/send/{text}")
    @rate_limit("1/hour", key=lambda request: request.headers["x-user"])
    def send(text: str) -> str:
        return text

    return app

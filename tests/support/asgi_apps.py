"""An ASGI application for tests that does what applications do, and the middleware around it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.frameworks.asgi import RateLimitMiddleware

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/minute"')
USERS = '[attributes]\nuser = "app"\n[[rules]]\nname = "each user"\nkey = ["user"]\nlimit = "2/minute"\n'
CHUNKS = [b"one ", b"", b"\x00\xff" * 5_000, b"three"]


def header(scope: Any, name: bytes) -> str | None:
    return next((value.decode() for key, value in scope["headers"] if key == name), None)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Streams, echoes a websocket, fails before and after it has begun to answer."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", **{name: message.get(name) for name in ("text", "bytes")}})
    else:
        if scope["path"] == "/fails":
            raise RuntimeError("an error of the application's own")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1"), (b"x-own", b"2")]})
        if scope["path"] == "/fails-later":
            raise RuntimeError("an error of the application's own")
        for chunk in CHUNKS:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})


def limited(policy: Policy | str | None = EACH, app: Any = application, **options: Any) -> RateLimitMiddleware:
    options.setdefault("store", MemoryStore(clock=ManualClock()))
    return RateLimitMiddleware(app, Policy.parse(policy) if isinstance(policy, str) else policy, **options)


def statuses(url: str, *users: str) -> list[int]:
    return [httpx.get(url, headers={"x-user": user}).status_code for user in users]


def asked(scope: Any) -> str | None:
    return header(scope, b"x-user")


async def asked_later(scope: Any) -> str | None:
    await asyncio.sleep(0)
    return header(scope, b"x-user")

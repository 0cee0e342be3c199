"""A server may begin a request in the context of another one. Each is limited by itself, and keeps no other alive."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from typing import Any
from urllib.parse import urlsplit

import pytest
from asgi_apps import limited
from asgi_servers import serving

from ratekeeper.http.exchange import CURRENT, Exchange

MANY = 20


class Last:
    """An application that keeps no request, and knows how many are alive."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[Exchange]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = CURRENT.get()
        assert exchange is not None
        self.seen.append(weakref.ref(exchange))
        while (await receive()).get("more_body"):
            pass
        gc.collect()
        alive = b"%d" % sum(one() is not None for one in self.seen)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(alive))]})
        await send({"type": "http.response.body", "body": alive})


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_requests_on_one_connection_do_not_keep_each_other_alive(http: str) -> None:
    """uvicorn begins a pipelined request, and reads on after a long body, in the context of the request before."""
    pytest.importorskip(http)
    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 1_000_000
    with serving(limited(None, Last()), http=http, lifespan="off") as url:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port or 80)) as connection:
            for requests, answered in ((get * MANY, MANY), *[(post, 1)] * MANY):
                connection.sendall(requests)
                answers = b""
                while answers.count(b"HTTP/1.1 200") < answered or not answers[-1:].isdigit():
                    answers += connection.recv(65_536)
                assert int(answers.rpartition(b"\r\n\r\n")[2]) <= 3, "itself, and those just before it"


def test_a_refusal_of_another_request_in_the_same_context_gives_nothing_back() -> None:
    """As with HTTP/2, where a server may begin a stream while it runs the application for another one."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/guess":
            await asyncio.gather(*[asyncio.create_task(ask("/other")) for _ in range(3)])
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body"})

    app = limited(
        '[[rules]]\nname = "guesses"\nmatch = { path = "/guess" }\nlimit = "2/minute"\n'
        '[[rules]]\nname = "others"\nmatch = { path = "/other" }\nlimit = "1/minute"',
        answer,
    )

    async def ask(path: str) -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "http", "method": "GET", "path": path, "headers": [], "client": None}, receive, send)
        return int(sent[0]["status"])

    async def guesses() -> list[int]:
        return [await ask("/guess") for _ in range(4)]

    assert asyncio.run(guesses()) == [403, 403, 429, 429]

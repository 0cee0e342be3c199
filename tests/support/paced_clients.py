"""The clients of HTTP libraries behind one face, each with its rate limit, so that a claim is tested on all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import aiohttp
import httpx
import requests

from ratekeeper.clients.aiohttp import RateLimitClientMiddleware
from ratekeeper.clients.httpx import AsyncRateLimitTransport, RateLimitTransport
from ratekeeper.clients.pacer import Pace
from ratekeeper.clients.requests import RateLimitAdapter


class Reply(NamedTuple):
    status: int
    body: bytes


class Client(Protocol):
    def send(self, url: str, body: bytes | Iterable[bytes] | None = None) -> Reply: ...
    def together(self, urls: Sequence[str]) -> list[Reply]: ...
    def parts(self, url: str, go_on: Callable[[], None]) -> list[bytes]: ...
    def close(self) -> None: ...


class _Blocking:
    """The common part of clients that block a thread."""

    def send(self, url: str, body: bytes | Iterable[bytes] | None = None) -> Reply:
        raise NotImplementedError

    def together(self, urls: Sequence[str]) -> list[Reply]:
        with ThreadPoolExecutor(len(urls)) as pool:
            return list(pool.map(self.send, urls))


class Httpx(_Blocking):
    def __init__(self, *limits: Pace, **options: Any) -> None:
        self._client = httpx.Client(transport=RateLimitTransport(*limits, **options))

    def send(self, url: str, body: bytes | Iterable[bytes] | None = None) -> Reply:
        answer = self._client.request("GET" if body is None else "POST", url, content=body)
        return Reply(answer.status_code, answer.content)

    def parts(self, url: str, go_on: Callable[[], None]) -> list[bytes]:
        with self._client.stream("GET", url) as answer:
            return _read(answer.iter_raw(), go_on)

    def close(self) -> None:
        self._client.close()


class Requests(_Blocking):
    def __init__(self, *limits: Pace, **options: Any) -> None:
        self._session = requests.Session()
        self._session.mount("http://", RateLimitAdapter(*limits, **options))

    def send(self, url: str, body: bytes | Iterable[bytes] | None = None) -> Reply:
        answer = self._session.request("GET" if body is None else "POST", url, data=body)
        return Reply(answer.status_code, answer.content)

    def parts(self, url: str, go_on: Callable[[], None]) -> list[bytes]:
        with self._session.get(url, stream=True) as answer:
            return _read(answer.iter_content(5), go_on)

    def close(self) -> None:
        self._session.close()


class _Awaited:
    """The common part of clients that are awaited: their own event loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    async def _send(self, url: str, body: Any = None) -> Reply:
        raise NotImplementedError

    def send(self, url: str, body: bytes | Iterable[bytes] | None = None) -> Reply:
        return self._runner.run(self._send(url, body))

    def together(self, urls: Sequence[str]) -> list[Reply]:
        async def all_of_them() -> list[Reply]:
            return await asyncio.gather(*map(self._send, urls))

        return self._runner.run(all_of_them())

    def _close(self, last: Callable[[], Awaitable[None]]) -> None:
        async def finish() -> None:
            await last()

        self._runner.run(finish())
        self._runner.close()


class AsyncHttpx(_Awaited):
    def __init__(self, *limits: Pace, **options: Any) -> None:
        super().__init__()
        self._client = httpx.AsyncClient(transport=AsyncRateLimitTransport(*limits, **options))

    async def _send(self, url: str, body: Any = None) -> Reply:
        content = body if body is None or isinstance(body, bytes) else _later(body)
        answer = await self._client.request("GET" if body is None else "POST", url, content=content)
        return Reply(answer.status_code, answer.content)

    def parts(self, url: str, go_on: Callable[[], None]) -> list[bytes]:
        async def read() -> list[bytes]:
            async with self._client.stream("GET", url) as answer:
                return await _read_async(answer.aiter_raw(), go_on)

        return self._runner.run(read())

    def close(self) -> None:
        self._close(self._client.aclose)


class Aiohttp(_Awaited):
    def __init__(self, *limits: Pace, **options: Any) -> None:
        super().__init__()

        async def begin() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(middlewares=[RateLimitClientMiddleware(*limits, **options)])

        self._session = self._runner.run(begin())

    async def _send(self, url: str, body: Any = None) -> Reply:
        data = body if body is None or isinstance(body, bytes) else _later(body)
        async with self._session.request("GET" if body is None else "POST", url, data=data) as answer:
            return Reply(answer.status, await answer.read())

    def parts(self, url: str, go_on: Callable[[], None]) -> list[bytes]:
        async def read() -> list[bytes]:
            async with self._session.get(url) as answer:
                return await _read_async(answer.content.iter_any(), go_on)

        return self._runner.run(read())

    def close(self) -> None:
        self._close(self._session.close)


CLIENTS: dict[str, Callable[..., Client]] = {
    "httpx": Httpx,
    "httpx async": AsyncHttpx,
    "requests": Requests,
    "aiohttp": Aiohttp,
}


class Opener:
    """Opens clients of one kind, and closes all in the end."""

    def __init__(self, kind: str, closing: ExitStack) -> None:
        self._open = CLIENTS[kind]
        self._closing = closing

    def __call__(self, *limits: Pace, **options: Any) -> Client:
        client = self._open(*limits, **options)
        self._closing.callback(client.close)
        return client


def _read(parts: Iterator[bytes], go_on: Callable[[], None]) -> list[bytes]:
    first = next(parts)
    go_on()
    return [first, *parts]


async def _read_async(parts: Any, go_on: Callable[[], None]) -> list[bytes]:
    found = []
    async for part in parts:
        found.append(part)
        go_on()
    return found


async def _later(parts: Iterable[bytes]) -> Any:
    for part in parts:
        yield part

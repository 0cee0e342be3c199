"""Requests of paced clients that are cancelled, interrupted or fail: no place, answer or connection is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aiohttp
import httpx
import pytest
import requests
from async_memory import AsyncMemoryStore
from limited_api import Answer, LimitedAPI, limited_api, too_many
from servers import PATIENCE

from ratekeeper import AsyncLimiter, Decision, Limiter, ManualClock, MemoryStore, RedisStore, StoreError
from ratekeeper.clients.aiohttp import RateLimitClientMiddleware
from ratekeeper.clients.celery import rate_limit
from ratekeeper.clients.httpx import AsyncRateLimitTransport, RateLimitTransport
from ratekeeper.clients.pacer import Pace
from ratekeeper.clients.requests import RateLimitAdapter
from ratekeeper.decision import Charge

Get: TypeAlias = Callable[[str], Awaitable[int]]


@pytest.fixture
def api() -> Iterator[LimitedAPI]:
    with limited_api() as server:
        yield server


# ---- tasks that are cancelled ----


@asynccontextmanager
async def httpx_client(limit: Pace, answered: Callable[[], None], **options: Any) -> AsyncIterator[Get]:
    """A client of a single connection, which must be free for the next request to be sent."""

    class Telling(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            answered()
            return response

    sending = Telling(limits=httpx.Limits(max_connections=1))
    transport = AsyncRateLimitTransport(limit, transport=sending, **options)
    async with httpx.AsyncClient(transport=transport, timeout=PATIENCE) as client:

        async def get(url: str) -> int:
            return (await client.get(url)).status_code

        yield get


@asynccontextmanager
async def aiohttp_client(limit: Pace, answered: Callable[[], None], **options: Any) -> AsyncIterator[Get]:
    """As `httpx_client`."""

    async def telling(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        response = await handler(request)
        answered()
        return response

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1),
        timeout=aiohttp.ClientTimeout(PATIENCE),
        middlewares=[RateLimitClientMiddleware(limit, **options), telling],
    ) as session:

        async def get(url: str) -> int:
            async with session.get(url) as response:
                return response.status

        yield get


tasks = pytest.mark.parametrize("client", [httpx_client, aiohttp_client])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def cancelled(task: asyncio.Task[int]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@tasks
def test_a_task_cancelled_while_a_pause_is_charged_leaves_its_connection_to_the_next(
    client: Any, api: LimitedAPI
) -> None:
    async def go() -> None:
        api.answers = [too_many(30)]
        store = AsyncMemoryStore(MemoryStore(clock=ManualClock(start=1000)))
        hold = asyncio.Event()
        async with client(AsyncLimiter("100/s", store=store), lambda: store.holds.update(before=hold)) as get:
            task = asyncio.ensure_future(get(api.url))
            await until(lambda: "before" in store.holds and store.asking)
            await cancelled(task)
            hold.set()
            assert await get(api.url) == 200

    asyncio.run(go())


@tasks
def test_a_task_cancelled_while_it_waits_for_its_turn_gives_its_place_back(client: Any, api: LimitedAPI) -> None:
    async def go() -> None:
        store = MemoryStore()
        limiter, waiting = AsyncLimiter("1/hour burst 1", store=store), store.wait_queue
        async with client(limiter, lambda: None, key="key") as get:
            assert await get(api.url) == 200
            tasks = [asyncio.ensure_future(get(api.url)) for _ in range(3)]
            await until(lambda: len(waiting) == 3)
            for task in tasks:
                await cancelled(task)
            assert (await limiter.peek("key")).retry_after <= 3600
        assert len(api.got) == 1

    asyncio.run(go())


@tasks
def test_a_task_cancelled_while_its_request_is_under_way_leaves_its_connection_to_the_next(client: Any) -> None:
    async def go() -> None:
        asked, closed = asyncio.Event(), asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if asked.is_set():
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                asked.set()
                await reader.read()  # the first has no answer
                closed.set()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, client("100/s", lambda: None, retries=1) as get, asyncio.timeout(PATIENCE):
            task = asyncio.ensure_future(get(url))
            await asked.wait()
            await cancelled(task)
            await closed.wait()
            assert await get(url) == 200

    asyncio.run(go())


class Body(httpx.AsyncByteStream, httpx.SyncByteStream):
    """An answer's body that nobody reads. It notes that it is closed, which takes as long as `hold` says."""

    def __init__(self, hold: asyncio.Event | None = None) -> None:
        self.closed = 0
        self.hold = hold

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("the body is the caller's to read")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("the body is the caller's to read")
        yield b""

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1
        if self.hold:
            await self.hold.wait()


def test_a_task_cancelled_while_a_429_is_closed_sends_nothing_again() -> None:
    async def go() -> None:
        body, sent = Body(asyncio.Event()), []

        def answer(request: httpx.Request) -> httpx.Response:
            sent.append(request)
            return httpx.Response(429, stream=body)

        transport = AsyncRateLimitTransport("100/s", transport=httpx.MockTransport(answer), retries=3)
        task = asyncio.ensure_future(transport.handle_async_request(httpx.Request("GET", "http://a.example")))
        await until(lambda: body.closed)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (body.closed, len(sent)) == (1, 1)

    asyncio.run(go())


# ---- what fails, and what interrupts ----


@pytest.mark.parametrize("error", [StoreError("no access"), KeyboardInterrupt()])
def test_an_answer_is_closed_if_its_pause_cannot_be_charged(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        raise error

    body, store = Body(), MemoryStore()
    monkeypatch.setattr(store, "decide", fail)  # which the limiter's own gate does not ask
    answers = httpx.MockTransport(lambda request: httpx.Response(429, headers={"Retry-After": "3"}, stream=body))
    request = httpx.Request("GET", "http://a.example")
    with pytest.raises(type(error), match=f"^{error}$"):
        RateLimitTransport(Limiter("100/s", store=store), transport=answers).handle_request(request)
    assert body.closed == 1
    if isinstance(error, StoreError):
        limiter = Limiter("100/s", store=store, name="another")
        with pytest.raises(StoreError, match="no access"):
            asyncio.run(AsyncRateLimitTransport(limiter, transport=answers).handle_async_request(request))
        assert body.closed == 2


def test_an_answer_that_is_returned_is_neither_read_nor_closed() -> None:
    body = Body()
    answers = httpx.MockTransport(lambda request: httpx.Response(429, headers={"Retry-After": "3"}, stream=body))
    request = httpx.Request("GET", "http://a.example")
    assert RateLimitTransport("100/s", transport=answers).handle_request(request).status_code == 429
    assert (
        asyncio.run(AsyncRateLimitTransport("100/s", transport=answers).handle_async_request(request)).status_code
        == 429
    )
    assert body.closed == 0


def test_a_request_that_cannot_be_sent_raises_as_the_library_does_and_has_had_its_turn() -> None:
    nowhere = "http://127.0.0.1:1"
    clock = ManualClock(start=1000)
    limiter = Limiter("1/minute", store=MemoryStore(clock=clock))
    with requests.Session() as session, httpx.Client(transport=RateLimitTransport(limiter, retries=3)) as client:
        session.mount("http://", RateLimitAdapter(limiter, retries=3))
        with pytest.raises(requests.ConnectionError):
            session.get(nowhere)
        with pytest.raises(httpx.ConnectError):
            client.get(nowhere)
    assert clock.ticks() == 1060 * 16e9


def test_threads_on_one_client_each_have_their_own_retries(api: LimitedAPI) -> None:
    api.answers = [Answer(429, {})] * 20
    with ThreadPoolExecutor(8) as pool, requests.Session() as session:
        session.mount("http://", RateLimitAdapter("10000/s", retries=20))
        assert [reply.status_code for reply in pool.map(lambda _: session.get(api.url), range(40))] == [200] * 40
    assert len(api.got) == 60


# ---- stores of the other kind ----


@pytest.mark.parametrize("client", [AsyncRateLimitTransport, RateLimitClientMiddleware])
@pytest.mark.parametrize("limiter", [Limiter, AsyncLimiter])
def test_a_client_that_is_awaited_refuses_a_store_that_blocks(client: Any, limiter: Any) -> None:
    with (
        RedisStore("redis://127.0.0.1:1") as store,
        pytest.raises(TypeError, match=r"RedisStore blocks .* such as AsyncRedisStore"),
    ):
        client(limiter("1/s", store=store))


@pytest.mark.parametrize("client", [RateLimitTransport, RateLimitAdapter])
def test_a_client_that_blocks_refuses_a_store_that_is_awaited_and_names_one_that_will_do(client: Any) -> None:
    store = AsyncMemoryStore(MemoryStore())
    with pytest.raises(TypeError, match="or here a store that is not awaited, such as RedisStore"):
        client(AsyncLimiter("1/s", store=store))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda store: rate_limit(AsyncLimiter("1/s", store=store)),  # type: ignore[arg-type]
        lambda store: rate_limit("1/s", store=store),
    ],
)
def test_a_celery_task_refuses_a_store_that_is_awaited_and_names_one_that_will_do(wrong: Any) -> None:
    with pytest.raises(TypeError, match="or here a store that is not awaited, such as RedisStore"):
        wrong(AsyncMemoryStore(MemoryStore()))

"""A failover behind one address: a name or virtual IP leads to a new primary, while the old one still answers."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
from flaky_proxy import Proxy, proxy
from redis_servers import Server, cluster_url, redis_server, wait_for
from servers import PATIENCE, free_port

from ratekeeper import AsyncRedisStore, ManualClock, RedisStore, TokenBucket
from ratekeeper.decision import Charge
from ratekeeper.stores.redis.call_monitor import FAILURES
from ratekeeper.stores.redis.connections import BlockingConnections

pytestmark = pytest.mark.slow

CHARGE = Charge.of("test/0", "a", TokenBucket(1000, "1/day"), 1)
IDLE = 8  # connections of the store, all to the old primary
fresh = itertools.count()


@contextmanager
def two_servers() -> Iterator[tuple[Server, Server, Proxy]]:
    quick = ("valkey 9", "--shutdown-timeout", "0")  # it waits for no replica
    with redis_server(*quick) as old, redis_server(*quick) as new, proxy(old.port) as address:
        yield old, new, address


def options() -> dict[str, Any]:
    clock = ManualClock(1_800_000_000)
    return {"prefix": f"failover {next(fresh)}:", "on_error": "deny", "clock": clock, "timeout": PATIENCE}


def connections(server: Server) -> int:
    """Count the connections of everybody else."""
    return len(server.ask("CLIENT", "LIST").splitlines()) - 1


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Have a server that takes connections, and never answers."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def fail_over(old: Server, new: Server, address: Proxy, stale: bool) -> None:
    if stale:
        old.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
    old.ask("REPLICAOF", "127.0.0.1", free_port() if stale else new.port)
    address.to = new.port


def opened(store: RedisStore, node: Any = None) -> None:
    assert isinstance(store._connections, BlockingConnections)
    pool, taken = store._connections.pool(node), list[Any]()
    while len(taken) < IDLE:
        with suppress(redis.TimeoutError):  # of a store with a short timeout, on a machine that stands still
            taken.append(pool.get_connection())
    for one in taken:
        pool.release(one)


def comes_back(store: RedisStore, charge: Charge = CHARGE) -> bool:
    """Return whether the server decides. If not, the time comes at which a store asks again."""
    if store.decide([charge])[0].source == "exact":
        return True
    store.clock.advance(0.5)  # type: ignore[attr-defined]
    return False


async def come_back(store: AsyncRedisStore, charge: Charge = CHARGE) -> None:
    while (await store.decide([charge]))[0].source != "exact":
        store.clock.advance(0.5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("stale", [False, True], ids=["READONLY", "MASTERDOWN"])
def test_the_next_call_after_one_that_the_old_primary_refused_asks_the_new_one(stale: bool) -> None:
    with two_servers() as (old, new, address), RedisStore(address.url, **options()) as store:
        opened(store)
        assert store.decide([CHARGE])[0].source == "exact"
        fail_over(old, new, address, stale)
        sources = [store.decide([CHARGE])[0].source for _ in range(30)]
        assert sources == ["fallback"] + ["exact"] * 29


@pytest.mark.parametrize("stale", [False, True], ids=["READONLY", "MASTERDOWN"])
def test_on_an_event_loop_too(stale: bool) -> None:
    async def run(old: Server, new: Server, address: Proxy) -> None:
        async with AsyncRedisStore(address.url, **options()) as store:
            assert (await store.decide([CHARGE]))[0].source == "exact"
            fail_over(old, new, address, stale)
            sources = [(await store.decide([CHARGE]))[0].source for _ in range(30)]
            assert sources == ["fallback"] + ["exact"] * 29

    with two_servers() as servers:
        asyncio.run(run(*servers))


def test_when_the_breaker_opens_no_connection_stays_open_to_what_did_not_answer() -> None:
    with redis_server() as server, RedisStore(server.url, **(options() | {"timeout": 0.5})) as store:
        opened(store)
        wait_for(lambda: connections(server) == IDLE)
        with stopped(server):
            assert [store.decide([CHARGE])[0].source for _ in range(FAILURES)] == ["fallback"] * FAILURES
        wait_for(lambda: connections(server) == 0)
        store.clock.advance(0.5)  # type: ignore[attr-defined]
        wait_for(lambda: comes_back(store))


def test_nor_on_an_event_loop() -> None:
    async def run(server: Server) -> None:
        async with AsyncRedisStore(server.url, **(options() | {"timeout": 0.5})) as store:
            charges = [[Charge.of("test/0", str(number), CHARGE.limit, 1)] for number in range(500)]
            while connections(server) <= 1:
                await come_back(store)
                await asyncio.gather(*map(store.decide, charges))
            await come_back(store)
            with stopped(server):
                assert [(await store.decide([CHARGE]))[0].source for _ in range(FAILURES)] == ["fallback"] * FAILURES
            await asyncio.to_thread(wait_for, lambda: connections(server) == 0)
            store.clock.advance(0.5)  # type: ignore[attr-defined]
            await asyncio.wait_for(come_back(store), PATIENCE)

    with redis_server() as server:
        asyncio.run(run(server))


def on_node(store: Any, node: Server) -> Charge:
    """Return a charge whose bucket is on that node of a cluster, which is the first."""
    last = 16384 // 3 - 1
    keys = map(str, itertools.count())
    name = store._questions._names.name
    key = next(key for key in keys if node.ask("CLUSTER", "KEYSLOT", name("test/0", key)) <= last)
    return Charge.of("test/0", key, CHARGE.limit, 1)


def test_nor_to_a_node_of_a_cluster(cluster: list[Server]) -> None:
    with RedisStore(cluster_url(cluster), **(options() | {"timeout": 0.5})) as store:
        charge = on_node(store, cluster[0])
        wait_for(lambda: comes_back(store, charge))
        opened(store, node=store._connections.client().get_node("127.0.0.1", cluster[0].port))
        assert connections(cluster[0]) >= IDLE
        with stopped(cluster[0]):
            assert [store.decide([charge])[0].source for _ in range(FAILURES)] == ["fallback"] * FAILURES
        wait_for(lambda: connections(cluster[0]) <= 1)  # one that asks for the map of the cluster


def test_nor_to_a_node_of_a_cluster_on_an_event_loop(cluster: list[Server]) -> None:
    async def run() -> None:
        async with AsyncRedisStore(cluster_url(cluster), **(options() | {"timeout": 0.5})) as store:
            charge = on_node(store, cluster[0])
            await asyncio.wait_for(come_back(store, charge), PATIENCE)
            node = store._connections.client().get_node("127.0.0.1", cluster[0].port)
            idle = [node.acquire_connection() for _ in range(IDLE)]
            for one in idle:
                while not one.is_connected:
                    with suppress(redis.TimeoutError):
                        await one.connect()
                node._free.append(one)
            assert connections(cluster[0]) >= IDLE
            with stopped(cluster[0]):
                assert [(await store.decide([charge]))[0].source for _ in range(FAILURES)] == ["fallback"] * FAILURES
            await asyncio.to_thread(wait_for, lambda: connections(cluster[0]) <= 1)

    asyncio.run(run())

"""Every store of ratekeeper's passes the suite that it ships for others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from async_memory import AsyncMemoryStore
from needs import need
from redis_servers import cluster_url, redis_cluster, redis_server
from servers import PATIENCE

from ratekeeper import IMPLEMENTATION, AsyncRedisStore, ManualClock, MemoryStore, RedisStore, SharedMemoryStore
from ratekeeper.testing import StoreConformance


class TestPythonTable(StoreConformance):
    def make_store(self, clock: ManualClock) -> MemoryStore:
        return MemoryStore(10_000, clock=clock, implementation="python")


class TestCTable(StoreConformance):
    def make_store(self, clock: ManualClock) -> MemoryStore:
        need("the C core", IMPLEMENTATION == "c")
        return MemoryStore(10_000, clock=clock, implementation="c")


class TestSharedTable(StoreConformance):
    def make_store(self, clock: ManualClock) -> SharedMemoryStore:
        need("the C core", IMPLEMENTATION == "c")
        with TemporaryDirectory() as folder:  # a mapped file lives on without its name
            return SharedMemoryStore(Path(folder) / "table", 10_000, clock=clock)


class TestAwaitedStore(StoreConformance):
    def make_store(self, clock: ManualClock) -> AsyncMemoryStore:
        return AsyncMemoryStore(MemoryStore(10_000, clock=clock))


# ---- on servers, each with its own prefix for each claim ----

servers: dict[str, str] = {}
fresh = count()


@pytest.fixture(scope="module", autouse=True)
def _running() -> Iterator[None]:
    with redis_server("valkey 9") as valkey, redis_server("redis 8") as redis, redis_cluster() as nodes:
        servers.update(valkey=valkey.url, redis=redis.url, cluster=cluster_url(nodes))
        yield


class OnServer(StoreConformance):
    """Without memory of denials, which may be a second old."""

    server: str
    where = property(lambda self: servers[self.server])
    options = property(lambda self: {"prefix": f"{next(fresh)}:", "timeout": PATIENCE, "remember_denials": False})

    def make_store(self, clock: ManualClock) -> RedisStore | AsyncRedisStore:
        return RedisStore(
            servers[self.server], prefix=f"{next(fresh)}:", clock=clock, timeout=PATIENCE, remember_denials=False
        )


class OnServerAwaited(OnServer):
    def make_store(self, clock: ManualClock) -> AsyncRedisStore:
        return AsyncRedisStore(
            servers[self.server], prefix=f"{next(fresh)}:", clock=clock, timeout=PATIENCE, remember_denials=False
        )


class TestValkey(OnServer):
    server = "valkey"


class TestValkeyAwaited(OnServerAwaited):
    server = "valkey"


class TestRedis(OnServer):
    server = "redis"


class TestRedisAwaited(OnServerAwaited):
    server = "redis"


class TestCluster(OnServer):
    server = "cluster"


class TestClusterAwaited(OnServerAwaited):
    server = "cluster"

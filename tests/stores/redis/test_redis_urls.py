"""The place of a Redis store: URLs of every kind, and the user's own clients."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import redis
import valkey
from redis_servers import Server, cluster_url, redis_server
from servers import PATIENCE
from test_redis_store import fresh, one
from tls_proxy import make_certificate, tls_proxy

from ratekeeper import AsyncRedisStore, MissingExtraError, RedisStore, StoreError, TokenBucket
from ratekeeper.decision import Charge
from ratekeeper.stores.redis.urls import client_maker


def test_every_kind_of_url_opens_a_store(server: Server, cluster: list[Server], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    port = server.port
    with redis_server("valkey 9", "--unixsocket", str(path)):
        urls = [f"redis://127.0.0.1:{port}", f"valkey://127.0.0.1:{port}/1", f"unix://{path}", cluster_url(cluster)]
        urls.append(cluster_url(cluster[:1]).replace("redis+", "valkey+"))
        for url in urls:
            with RedisStore(url, timeout=PATIENCE, prefix=f"{next(fresh)}:") as store:
                assert one(store).remaining == 4


@pytest.mark.parametrize("library", ["redis", "valkey"])
def test_tls_is_used_and_a_certificate_that_nobody_vouches_for_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr("ratekeeper.stores.redis.urls.LIBRARIES", (library,))
    certificate, key = make_certificate(tmp_path)
    with tls_proxy(server.port, certificate, key) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        trusting = f"{url}?ssl_ca_certs={certificate}&ssl_check_hostname=yes&ssl_cert_reqs=required&client_name=me"
        with RedisStore(trusting, timeout=PATIENCE, prefix=f"{next(fresh)}:") as store:
            assert one(store).remaining == 4
            asyncio.run(_ask_once(AsyncRedisStore(trusting, timeout=PATIENCE, prefix=f"{next(fresh)}:")))
        with (
            RedisStore(url, timeout=PATIENCE, on_error="allow") as store,
            pytest.raises(StoreError, match="ssl_ca_certs"),
        ):
            one(store)
        with (
            RedisStore(url.replace("rediss", "redis"), timeout=PATIENCE) as store,
            pytest.raises(StoreError, match="does not answer"),
        ):
            one(store)


def test_a_store_says_where_it_is_and_no_secret(server: Server) -> None:
    store = RedisStore("redis://ann:hunter2@host:6379/0?password=hunter2", prefix="mine:", secret="hunter2")
    assert repr(store) == "RedisStore('redis://***@host:6379/0', prefix='mine:')"
    assert repr(AsyncRedisStore("rediss://host:1/2")) == "AsyncRedisStore('rediss://host:1/2', prefix='ratekeeper:')"
    with redis.Redis(port=server.port, password="hunter2") as client:
        assert repr(RedisStore(client)) == "RedisStore(<redis.client.Redis>, prefix='ratekeeper:')"


async def _ask_once(store: AsyncRedisStore) -> None:
    async with store:
        [decision] = await store.decide([Charge.of("test/0", "a", TokenBucket(5, 1))])
        assert decision.remaining == 4


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", "unknown scheme"),
        ("http://localhost", "unknown scheme 'http'"),
        ("redis+clutser://localhost", "unknown scheme"),
        ("redis+cluster://", "no host"),
        ("redis+cluster://host:port", "Port could not be cast"),
        ("redis+cluster://host/3", "only one database"),
        ("redis+sentinel://host:26379", "service's name"),
        ("redis+sentinel://host:26379/main/x", "number"),
        ("redis+cluster://host?x=1", "only a single server"),
        ("redis://user:hunter2@host:port", r"//\*\*\*@host:port"),
        ("redis://user:hunter2/@host:6379", "write / . # @ as %2F"),
        ("redis://user:?hunter2@host:6379", "write / . # @ as %2F"),
        ("redis://user:#hunter2@host:6379", "write / . # @ as %2F"),
        ("redis://user:hunter2\uff20x@host:6379", "write .* what is not ASCII in that way"),
        ("redis://user:hunter2[@host:6379", "as %5B %5D"),
        ("unix://run/redis.sock", "three slashes begin a path"),
        ("unix://", "names no socket"),
        ("redis://host/main", "a database's number"),
        ("redis://host,host2/0", "several hosts"),
        ("redis://host?db=main", "'db' needs a number"),
        ("redis://host?password=", "'password' needs a value"),
        ("redis://host?pasword=hunter2", "no option 'pasword': did you mean 'password'"),
        ("unix:///run/redis.sock?pasword=hunter2", "no option 'pasword': did you mean 'password'"),
        ("redis://host?ssl_ca_certs=/etc/ca.pem", "no option 'ssl_ca_certs': use one of"),
        ("rediss://host?ssl_ca_cert=/etc/ca.pem", "no option 'ssl_ca_cert': did you mean 'ssl_ca_certs'"),
        ("rediss://host?ssl_ca_certs=/no/such/file", "'ssl_ca_certs' names no file"),
        ("redis://host?socket_timeout=9", "set the store's timeout"),
        ("redis://host?retry_on_timeout=yes", "nothing is ever asked twice"),
        ("redis://host/1?db=2", "two databases, 1 and 2"),
        ("redis://host/0?db=1&db=2", "'db' stands there twice"),
        ("redis://host/0#1", "write # as %23"),
        ("unix:///run/a#b.sock", "write # as %23"),
        ("redis+sentinel://host:26379/main/\u00b2", "a database's number may"),
    ],
)
def test_a_bad_url_is_an_error_that_says_what_would_be_right(url: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason) as raised:
        RedisStore(url)
    with pytest.raises(StoreError, match=reason):
        AsyncRedisStore(url)
    assert "redis+sentinel://host:26379,host2:26379/service/0" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_space_around_a_url_changes_nothing() -> None:
    for space in ("", " ", "\n"):
        client = client_maker(f"{space}redis://host:1/0{space}", 1, asynchronous=False).make()
        assert client.connection_pool.connection_class is redis.Connection


def test_capital_letters_in_a_scheme_change_nothing() -> None:
    kinds = {"UNIX:///run/a.sock": redis.UnixDomainSocketConnection, "Rediss://host:1/0": redis.SSLConnection}
    for url, kind in kinds.items():
        assert client_maker(url, 1, asynchronous=False).make().connection_pool.connection_class is kind


def test_a_client_of_ones_own_can_be_handed_in(server: Server, cluster: list[Server]) -> None:
    node: Any = {"host": "127.0.0.1", "port": cluster[0].port}
    clients: tuple[Any, ...] = (
        redis.Redis(port=server.port),
        redis.Redis(port=server.port, decode_responses=True, protocol=3),
        valkey.Valkey(port=server.port),
        redis.RedisCluster(**node),
        valkey.ValkeyCluster(**node),
    )
    for client in clients:
        store = RedisStore(client, prefix=f"{next(fresh)}:", timeout=PATIENCE)
        assert one(store).remaining == 4
        store.close()
        client.ping()  # and is left open
        client.close()


async def _use_clients(server: Server, cluster: list[Server]) -> None:
    node: Any = {"host": "127.0.0.1", "port": cluster[0].port}
    clients: tuple[Any, ...] = (
        redis.asyncio.Redis(port=server.port),
        valkey.asyncio.Valkey(port=server.port, decode_responses=True),
        redis.asyncio.RedisCluster(**node),
        valkey.asyncio.cluster.ValkeyCluster(**node),
    )
    for client in clients:
        store = AsyncRedisStore(client, prefix=f"{next(fresh)}:", timeout=PATIENCE)
        [decision] = await store.decide([Charge.of("test/0", "a", TokenBucket(5, 1))])
        assert decision.remaining == 4
        await store.close()
        await client.ping()
        await client.aclose()


def test_asyncio_clients_too(server: Server, cluster: list[Server]) -> None:
    asyncio.run(_use_clients(server, cluster))


def test_a_client_of_the_wrong_kind_is_an_error(server: Server) -> None:
    with pytest.raises(TypeError, match=r"is for AsyncRedisStore, not for RedisStore"):
        RedisStore(redis.asyncio.Redis(port=server.port))
    with pytest.raises(TypeError, match=r"is for RedisStore, not for AsyncRedisStore"):
        AsyncRedisStore(redis.Redis(port=server.port))
    with pytest.raises(TypeError, match="a URL, or a client"):
        RedisStore(6379)
    for kind in (RedisStore, AsyncRedisStore):
        for near in (redis, redis.asyncio, valkey, valkey.asyncio):
            for other in (near.ConnectionPool(), near.Sentinel([("127.0.0.1", server.port)])):
                with pytest.raises(
                    TypeError, match=r"takes a URL, or a client of (redis|valkey), not a .*(Pool|Sentinel)"
                ):
                    kind(other)
    for seconds in (0, -1, float("nan"), float("inf"), 3600, 10**400, True, "1"):
        with pytest.raises(ValueError, match="timeout must be more than 0 seconds, and less than an hour, not"):
            RedisStore(server.url, timeout=seconds)  # type: ignore[arg-type]


def test_without_a_client_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratekeeper.stores.redis.urls.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ratekeeper\[redis\]'"):
        RedisStore("redis://localhost")


def test_the_valkey_library_will_do_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("ratekeeper.stores.redis.urls.find_spec", lambda name: find(name) if name == "valkey" else None)
    with RedisStore(server.url.replace("redis:", "valkey:"), prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        assert store._connections.maker.library is valkey
        assert one(store).remaining == 4

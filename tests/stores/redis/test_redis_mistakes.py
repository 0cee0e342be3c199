"""A mistake in the configuration is a `StoreError` at once, whatever `on_error` says, and it says what to write."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import redis.asyncio
import valkey
import valkey.asyncio
from flaky_proxy import proxy
from redis_servers import Server, cluster_url, redis_server
from servers import PATIENCE

from ratekeeper import AsyncLimiter, AsyncRedisStore, Limiter, ManualClock, RedisStore, StoreError, StoreUnavailable
from ratekeeper.limits import TokenBucket

KEYS = [f"key {number}" for number in range(12)]  # of a cluster of three some are on each node
LIMIT = TokenBucket(5, "5/day")


def asked(where: Any) -> list[StoreError | None]:
    """Ask a blocking store that lets everything pass in an outage; return what each request raised."""
    with RedisStore(where, on_error="allow", timeout=PATIENCE) as store:
        limiter = Limiter(LIMIT, store=store)
        raised = [_raised(limiter, key) for key in KEYS]
        assert store.stats().fallbacks == 0
        return raised


def _raised(limiter: Limiter, key: str) -> StoreError | None:
    try:
        assert limiter.try_acquire(key).source == "exact"
    except StoreError as error:
        return error
    return None


async def awaited(where: Any) -> list[StoreError | None]:
    """As `asked`, on an event loop."""
    async with AsyncRedisStore(where, on_error="allow", timeout=PATIENCE) as store:
        limiter = AsyncLimiter(LIMIT, store=store)
        answers = [await asyncio.gather(limiter.try_acquire(key), return_exceptions=True) for key in KEYS]
        assert store.stats().fallbacks == 0
        for [answer] in answers:
            assert isinstance(answer, StoreError) or answer.source == "exact"  # type: ignore[union-attr]
        return [answer if isinstance(answer, StoreError) else None for [answer] in answers]


def check(answers: list[StoreError | None], says: str, all_of_them: bool = True) -> None:
    errors = [error for error in answers if error is not None]
    assert errors
    assert len(errors) == len(answers) or not all_of_them
    for error in errors:
        assert not isinstance(error, StoreUnavailable)
        assert says in str(error)


def test_a_plain_url_of_a_cluster_s_node_never_passes_what_other_nodes_hold(cluster: list[Server]) -> None:
    node = cluster[0]
    says = "write redis+cluster://"
    check(asked(node.url), says, all_of_them=False)
    check(asyncio.run(awaited(node.url)), says, all_of_them=False)
    for library in (redis, valkey):
        with library.Redis(port=node.port, socket_timeout=PATIENCE) as client:
            check(asked(client), says, all_of_them=False)

        async def use(library: Any = library) -> None:
            async with library.asyncio.Redis(port=node.port, socket_timeout=PATIENCE) as client:
                check(await awaited(client), says, all_of_them=False)

        asyncio.run(use())


def test_limits_of_two_keys_on_one_node_of_a_cluster_say_that_it_is_one(cluster: list[Server]) -> None:
    from ratekeeper.decision import Charge  # noqa: PLC0415

    charges = [Charge.of("two", key, LIMIT, 1) for key in KEYS]
    with RedisStore(cluster[0].url, on_error="allow", timeout=PATIENCE) as store:
        with pytest.raises(StoreError, match="write redis\\+cluster://") as caught:
            store.decide(charges)
        assert not isinstance(caught.value, StoreUnavailable)


def test_a_cluster_s_url_of_a_server_that_is_none_says_so(server: Server) -> None:
    url = f"redis+cluster://127.0.0.1:{server.port}"
    check(asked(url), "the server is not a cluster")
    check(asyncio.run(awaited(url)), "the server is not a cluster")


def test_a_sentinel_s_url_of_a_server_that_is_none_says_so(server: Server) -> None:
    url = f"redis+sentinel://127.0.0.1:{server.port}/service"
    check(asked(url), "the server is not a Sentinel")
    check(asyncio.run(awaited(url)), "the server is not a Sentinel")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}/0", "redis://:wrong@127.0.0.1:{}/0"], ids=["none", "wrong"])
def test_no_password_or_a_wrong_one_says_where_it_goes(url: str) -> None:
    with redis_server() as server:
        server.ask("CONFIG", "SET", "requirepass", "right")
        at = url.format(server.port)
        check(asked(at), "write the right name and password")
        check(asyncio.run(awaited(at)), "write the right name and password")


def test_a_user_who_may_run_no_script_is_told_what_to_allow() -> None:
    with redis_server() as server:
        server.ask("ACL", "SETUSER", "ann", "on", ">hidden", "~*", "+@all", "-evalsha")
        url = f"redis://ann:hidden@127.0.0.1:{server.port}/0"
        for answers in (asked(url), asyncio.run(awaited(url))):
            check(answers, "allow the user EVALSHA")
            assert "hidden" not in str(answers)


@pytest.mark.parametrize("keys", ["~other:*", "%R~ratekeeper:*"])
def test_a_user_who_may_not_write_the_stores_keys_is_told_what_to_allow(server: Server, keys: str) -> None:
    server.ask("ACL", "SETUSER", "bob", "reset", "on", ">hidden", keys, "+@all")
    url = f"redis://bob:hidden@127.0.0.1:{server.port}/0"
    for answers in (asked(url), asyncio.run(awaited(url))):
        check(answers, "on the keys that begin with the store's prefix")


@pytest.mark.parametrize("value", [b"", b"another program's"])
def test_a_value_that_is_not_a_bucket_is_told(server: Server, value: bytes) -> None:
    with RedisStore(server.url, prefix="taken:", timeout=PATIENCE) as store:
        limiter = Limiter(LIMIT, store=store)
        limiter.try_acquire("a")
        [name] = server.ask("KEYS", "taken:*")
        server.ask("SET", name, value)
        try:
            with pytest.raises(StoreError, match="give the store another prefix") as caught:
                limiter.try_acquire("a")
        finally:
            server.ask("DEL", name)
        assert not isinstance(caught.value, StoreUnavailable)


RIGHTS = ["~ratekeeper:*", "+evalsha", "+eval", "+time", "+get", "+set", "+del"]


async def asked_each_way(where: str) -> list[str]:
    """Ask, and forget all keys, by both kinds of store; return what was raised."""
    said: list[str] = []
    with RedisStore(where, timeout=PATIENCE) as store:
        limiter = Limiter(LIMIT, store=store, name="rights")
        for verb in (lambda: limiter.try_acquire("a"), limiter.reset_all):
            try:
                verb()
            except StoreError as error:
                said.append(str(error))
    async with AsyncRedisStore(where, timeout=PATIENCE) as remote:
        awaiting = AsyncLimiter(LIMIT, store=remote, name="rights")
        answers = await asyncio.gather(awaiting.try_acquire("a"), awaiting.reset_all(), return_exceptions=True)
        return said + [str(answer) for answer in answers if isinstance(answer, StoreError)]


def test_who_allows_the_user_what_the_error_names_can_use_every_verb_and_database(server: Server) -> None:
    server.ask("ACL", "SETUSER", "lim", "on", ">hidden", *RIGHTS)
    for db, rights in ((0, "SCAN and UNLINK"), (1, "SELECT"), (1, "")):
        said = asyncio.run(asked_each_way(f"redis://lim:hidden@127.0.0.1:{server.port}/{db}"))
        assert bool(said) == bool(rights)
        for text in said:
            assert rights in text
        server.ask("ACL", "SETUSER", "lim", *(f"+{word}" for word in rights.lower().split(" and ") if word))
    server.ask("ACL", "DELUSER", "lim")


def test_a_user_without_rights_on_a_cluster_is_not_told_that_it_is_none(cluster: list[Server]) -> None:
    url = cluster_url(cluster).replace("://", "://lim:hidden@")
    for rights in ([], ["+cluster|slots"], ["+cluster|slots", "+command", "+scan", "+unlink"]):
        for node in cluster:
            node.ask("ACL", "SETUSER", "lim", "reset", "on", ">hidden", *RIGHTS, *rights)
        said = asyncio.run(asked_each_way(url))
        assert bool(said) == (len(rights) < 2)
        for text in said:
            assert "CLUSTER, COMMAND and ASKING" in text
            assert "not a cluster" not in text
    for node in cluster:
        node.ask("ACL", "DELUSER", "lim")


def test_a_server_without_scripts_says_so_and_names_no_bucket() -> None:
    with redis_server("valkey 9", "--rename-command", "EVALSHA", "") as server:
        for answers in (asked(server.url), asyncio.run(awaited(server.url))):
            check(answers, "may use EVALSHA, EVAL")
            assert "ratekeeper:" not in str(answers)


@pytest.mark.parametrize("kind", ["valkey 9", "redis 8"])
def test_a_server_without_a_command_of_the_script_says_what_is_needed(kind: str) -> None:
    with redis_server(kind, "--rename-command", "TIME", "") as server:
        check(asked(server.url), "may use EVALSHA, EVAL, TIME, GET")


def test_a_server_that_cannot_be_searched_says_what_a_reset_needs() -> None:
    with (
        redis_server("valkey 9", "--rename-command", "SCAN", "") as server,
        RedisStore(server.url, timeout=PATIENCE) as store,
        pytest.raises(StoreError, match="for reset_all and reset_rule also SCAN"),
    ):
        store.reset_scope("test/0")


def test_a_protocol_that_there_is_not_is_an_error_when_the_store_is_opened(server: Server) -> None:
    for kind in (RedisStore, AsyncRedisStore):
        with pytest.raises(StoreError, match="'protocol' is 2 or 3"):
            kind(f"{server.url}?protocol=7")
    with valkey.Valkey(port=server.port, protocol=7) as client:
        check(asked(client), "protocol is 2 or 3")


@contextmanager
def somebody_else(says: bytes) -> Iterator[int]:
    """Listen, and say this to whoever comes; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    one, _ = listener.accept()
                except OSError:
                    return
                with one:
                    one.recv(65536)
                    one.sendall(says)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_what_is_not_redis_at_all_is_an_error() -> None:
    with somebody_else(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") as port:
        url = f"redis://127.0.0.1:{port}/0"
        check(asked(url), "what listens there is not Redis or Valkey")
        check(asyncio.run(awaited(url)), "what listens there is not Redis or Valkey")


def test_a_mistake_neither_closes_an_open_breaker_nor_hides_behind_it(server: Server) -> None:
    clock = ManualClock(1_800_000_000)
    with proxy(server.port) as flaky, RedisStore(flaky.url, on_error="allow", clock=clock, timeout=PATIENCE) as store:
        limiter = Limiter(LIMIT, store=store)
        server.ask("LPUSH", store._questions._names.name(f"{limiter.name}/0", "wrong"), "x")
        flaky.manner = "cut"
        assert [limiter.try_acquire("key").source for _ in range(4)] == ["fallback"] * 4
        flaky.manner = "pass"
        assert limiter.try_acquire("wrong").source == "fallback"  # it is not asked yet
        clock.advance(0.5)
        for _ in range(3):
            with pytest.raises(StoreError, match="another prefix"):
                limiter.try_acquire("wrong")
        assert store.stats().opened == 1
        assert not store._monitor.breakers[""]._closed
        assert limiter.try_acquire("key").source == "exact"

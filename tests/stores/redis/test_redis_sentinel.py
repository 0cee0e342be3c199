"""A server that Sentinel watches: where it is, what a lost answer may not do, and what a failover keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from flaky_proxy import proxy
from redis_servers import PROGRAMS, Server, redis_server, wait_for
from servers import PATIENCE, free_port, program

from ratekeeper import AsyncRedisStore, Decision, RedisStore, StoreUnavailable, TokenBucket
from ratekeeper.decision import Charge

pytestmark = pytest.mark.slow

LIMIT = TokenBucket(5, "5/day")
TILT = 30.0
"""Seconds in which a sentinel does nothing, after it has stood still for two: it trusts its clock no more."""


@contextmanager
def sentinel(primary: int, folder: Path) -> Iterator[Server]:
    """One sentinel that decides alone. A server that stands still for a moment is not down."""
    config, port = folder / "sentinel.conf", free_port()
    lines = [f"port {port}", "bind 127.0.0.1", f"sentinel monitor main 127.0.0.1 {primary} 1"]
    lines += ["sentinel down-after-milliseconds main 3000", "sentinel failover-timeout main 2000"]
    config.write_text("\n".join(lines) + "\n")
    with program(str(PROGRAMS["valkey 9"]()), config, "--sentinel") as process:
        running = Server(port, process)
        wait_for(lambda: answering(running))
        yield running


def answering(server: Server) -> bool:
    try:
        return bool(server.ask("PING"))
    except redis.ConnectionError:
        return False


def url_of(one: Server) -> str:
    return f"redis+sentinel://127.0.0.1:{one.port}/main/0"


def ask(store: RedisStore, key: str) -> Decision | None:
    """One decision, or None if the server does not answer."""
    try:
        return store.decide([Charge.of("test/0", key, LIMIT)])[0]
    except StoreUnavailable:
        return None


async def ask_async(store: AsyncRedisStore, key: str) -> Decision:
    async with store:
        while True:
            try:
                return (await store.decide([Charge.of("test/0", key, LIMIT)]))[0]
            except StoreUnavailable as error:
                await asyncio.sleep(error.retry_after)


def test_a_sentinel_says_where_the_server_is(server: Server, tmp_path: Path) -> None:
    with sentinel(server.port, tmp_path) as watching, RedisStore(url_of(watching), timeout=PATIENCE) as store:
        wait_for(lambda: ask(store, "early") is not None)  # if the server stood still, a sentinel takes it for down
        decision = ask(store, "where")
        assert decision is not None
        assert decision.remaining == 4


def test_an_answer_that_was_given_up_is_nobody_elses(server: Server, tmp_path: Path) -> None:
    with (
        proxy(server.port) as slow,
        sentinel(slow.port, tmp_path) as watching,
        RedisStore(url_of(watching), timeout=0.5) as store,
    ):
        wait_for(lambda: ask(store, "early") is not None)
        slow.delay = 60  # seconds, of answers on connections that are open now
        assert ask(store, "given up") is None
        slow.delay = 0
        wait_for(lambda: ask(store, "next") is not None)


@pytest.mark.parametrize("reason", ["it was killed", "it was asked for"])
def test_after_a_failover_the_new_primary_decides_and_knows_what_was_taken(tmp_path: Path, reason: str) -> None:
    quick = ("--repl-diskless-sync-delay", "0")
    with redis_server("valkey 9", *quick) as primary:
        following = ("--replicaof", "127.0.0.1", str(primary.port))
        with redis_server("valkey 9", *quick, *following) as replica, sentinel(primary.port, tmp_path) as watching:
            store = RedisStore(url_of(watching), timeout=PATIENCE)
            for _ in range(3):
                assert ask(store, "a") is not None
            wait_for(lambda: info(primary)["master_repl_offset"] == info(replica).get("slave_repl_offset"))
            wait_for(lambda: bool(watching.ask("SENTINEL", "REPLICAS", "main")))
            if reason == "it was killed":
                primary.process.kill()
            else:
                wait_for(lambda: fails_over(watching))
            wait_for(lambda: info(replica)["role"] == "master", TILT + PATIENCE)
            if reason == "it was asked for":  # Sentinel tells the old primary later, and until then it takes charges
                primary.ask("REPLICAOF", "127.0.0.1", str(replica.port))
            wait_for(lambda: ask(store, "is it there?") is not None, TILT + PATIENCE)
            decision = ask(store, "a")
            assert decision is not None
            assert (decision.source, decision.remaining) == ("exact", 1)
            assert asyncio.run(ask_async(AsyncRedisStore(url_of(watching)), "a")).remaining == 0
            store.close()


def fails_over(watching: Server) -> bool:
    """Ask for a failover; return whether it begins. It does not before the sentinel has heard from a replica itself."""
    try:
        watching.ask("SENTINEL", "FAILOVER", "main")
    except redis.ResponseError:
        return False
    return True


def info(server: Server) -> Any:
    return server.ask("INFO", "replication")

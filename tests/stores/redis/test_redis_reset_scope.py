"""A reset of all buckets of a scope on a server: which names go, in how many steps, and what an outage says."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from redis_servers import Server, cluster_url, redis_cluster, redis_server
from servers import PATIENCE, free_port

from ratekeeper import AsyncRedisStore, Keeper, Limiter, ManualClock, Policy, RedisStore, StoreUnavailable, TokenBucket
from ratekeeper.stores.redis.script import BucketNames

pytestmark = pytest.mark.slow

ONE = TokenBucket(1, "1/day")
fresh = itertools.count()


@pytest.fixture(scope="module", params=["valkey 9", "redis 8"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with redis_server(request.param) as running:
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with redis_cluster() as nodes:
        yield cluster_url(nodes)


def test_all_keys_of_a_limiter_go_in_many_steps_and_nothing_else_does(server: Server) -> None:
    with server.client as client, RedisStore(server.url, prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        client.mset({f"stranger {n}": "theirs" for n in range(3000)})
        keys = [f"key {n}" for n in range(3000)]
        gone, kept = Limiter(ONE, store=store, name="gone"), Limiter(ONE, store=store, name="kept")
        assert all(gone.try_acquire_many(keys))
        assert all(kept.try_acquire_many(keys[:100]))
        before = client.dbsize()
        scans = (
            int(client.info("commandstats")["cmdstat_scan"]["calls"])
            if "cmdstat_scan" in client.info("commandstats")
            else 0
        )
        gone.reset_all()
        assert client.dbsize() == before - 3000
        assert int(client.info("commandstats")["cmdstat_scan"]["calls"]) - scans >= 6
        assert all(gone.try_acquire_many(keys))
        assert not any(kept.try_acquire_many(keys[:100]))
        assert client.mget("stranger 0", "stranger 2999") == [b"theirs", b"theirs"]
        client.flushall()


@pytest.mark.parametrize("prefix", ["*", "a?b:", "[a-z]", "back\\slash:", "]^-:", "é:"])
def test_a_prefix_means_itself_whatever_letters_it_has(server: Server, prefix: str) -> None:
    with ExitStack() as stack:
        stores = [
            stack.enter_context(RedisStore(server.url, prefix=each, timeout=PATIENCE)) for each in (prefix, "axb:")
        ]
        limiters = [Limiter(ONE, store=store, name="one") for store in stores]
        assert all(limiter.try_acquire("a") for limiter in limiters)
        limiters[0].reset_all()
        assert [bool(limiter.try_acquire("a")) for limiter in limiters] == [True, False]
        limiters[1].reset("a")


def test_names_with_a_secret_and_keys_of_several_attributes_go_too_and_other_secrets_stay(server: Server) -> None:
    policy = Policy.parse('[[rules]]\nname = "both"\nkey = ["tenant", "user"]\nlimit = "1/day"\n')
    stores = [RedisStore(server.url, prefix="s:", secret=secret, timeout=PATIENCE) for secret in ("one", "two")]
    keepers = [Keeper(policy, store) for store in stores]
    asked = [{"tenant": "t", "user": "a"}, {"tenant": "t", "user": "b"}, {"user": "c"}, {}]
    assert all(keeper.try_acquire(attributes) for keeper in keepers for attributes in asked)
    keepers[0].reset_rule("both")
    assert [[bool(keeper.try_acquire(one)) for one in asked] for keeper in keepers] == [[True] * 4, [False] * 4]


def test_no_two_names_are_one_and_a_scope_is_told_by_its_pattern() -> None:
    names = BucketNames()
    keys = ["", "a", "1:a", "1:a1:b", "1:a1:c", "1:b1:b", "-1:a"]
    made = {names.name(scope, key): scope for scope in ("r/0", "r/1", "1:a", "") for key in keys}
    assert len(made) == 4 * len(keys)
    begin = len(names.name("r/0", "a")) - 22
    for name, scope in made.items():
        assert names.pattern(scope).endswith(name[begin : begin + 22] + b"*")


def test_a_client_that_decodes_its_answers_will_do(server: Server) -> None:
    with redis.Redis(port=server.port, decode_responses=True) as client:
        limiter = Limiter(ONE, store=RedisStore(client, prefix=f"{next(fresh)}:", timeout=PATIENCE))
        assert limiter.try_acquire("a")
        limiter.reset_all()
        assert limiter.try_acquire("a")


def test_on_a_cluster_the_buckets_of_all_nodes_go(cluster: str) -> None:
    with RedisStore(cluster, prefix="sync:", timeout=PATIENCE) as store:
        gone, kept = Limiter(ONE, store=store, name="gone"), Limiter(ONE, store=store, name="kept")
        keys = [str(n) for n in range(100)]
        assert all(limiter.try_acquire(key) for limiter in (gone, kept) for key in keys)
        gone.reset_all()
        assert all(gone.try_acquire(key) for key in keys)
        assert not any(kept.try_acquire(key) for key in keys)


def test_denials_that_this_process_remembers_are_forgotten(server: Server) -> None:
    async def use() -> None:
        clock = ManualClock(1_800_000_000)  # it is remembered for a second
        async with AsyncRedisStore(server.url, prefix=f"{next(fresh)}:", clock=clock, timeout=PATIENCE) as store:
            charge = Limiter(ONE, store=RedisStore(server.url, timeout=PATIENCE), name="x")._charges("a", 1, 0)
            assert [(await store.decide(charge))[0].allowed for _ in range(3)] == [True, False, False]
            assert store.stats().remembered == 1
            await asyncio.gather(store.reset_scope("x/0"), store.decide(charge, commit=False))
            assert (await store.decide(charge))[0].allowed

    asyncio.run(use())


@pytest.mark.parametrize("on_error", ["raise", "deny", "local", "allow"])
def test_in_an_outage_a_reset_of_a_scope_raises_in_time_whatever_on_error_says(on_error: Any) -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}", on_error=on_error, expected_nodes=1)
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"does not answer|did not answer"):
            Limiter(ONE, store=store, name="one").reset_all()
    assert time.monotonic() - begun < PATIENCE

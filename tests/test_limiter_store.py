"""Where a limiter's buckets live: a store by its name, and the mistakes of a store that is given."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import secrets
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from async_memory import AsyncMemoryStore
from needs import need
from redis_servers import patient_stores, redis_server
from servers import PATIENCE

from ratekeeper import (
    IMPLEMENTATION,
    AsyncKeeper,
    AsyncLimiter,
    AsyncRedisStore,
    Keeper,
    LeakyBucket,
    Limiter,
    ManualClock,
    MemoryStore,
    Policy,
    PolicyError,
    RedisStore,
    SharedMemoryStore,
    StoreError,
    TokenBucket,
)
from ratekeeper.policy.model import Rule
from ratekeeper.stores.table_store import TableStore

KINDS: list[Any] = [Limiter, AsyncLimiter]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_server() as server, patient_stores():
        yield server.url


@pytest.fixture
def table() -> Iterator[str]:
    need("the C core", IMPLEMENTATION == "c")
    name = f"ratekeeper-test-{secrets.token_hex(4)}"
    try:
        yield name
    finally:
        Path("/dev/shm", name).unlink(missing_ok=True)


# A store by its name


def test_a_limiter_opens_the_store_that_a_string_names_and_closes_it(url: str, table: str) -> None:
    limiters = [Limiter("5/hour", store=f"shared:{table}", name=str(number)) for number in range(2)]
    limiters[0].try_acquire("alice", 2)
    assert isinstance(limiters[0].store, SharedMemoryStore)
    with SharedMemoryStore.open(table) as store:
        assert Limiter("5/hour", store=store, name="0").peek("alice").remaining == 3
    limiters[0].close()
    with pytest.raises(ValueError, match="this store is closed"):
        limiters[0].try_acquire("alice")
    assert limiters[1].try_acquire("alice"), "each closes its own"

    on_server = Limiter("5/hour", store=url, name=secrets.token_hex(4))
    assert isinstance(on_server.store, RedisStore)
    assert on_server.try_acquire("alice").remaining == 4
    on_server.close()

    in_memory = Limiter("5/hour", store="memory")
    assert isinstance(in_memory.store, MemoryStore)
    in_memory.close()
    assert in_memory.try_acquire("alice").remaining == 4, "there is nothing to close"


def test_an_async_limiter_opens_a_server_to_be_awaited(url: str, table: str) -> None:
    async def use() -> None:
        on_server = AsyncLimiter("5/hour", store=url, name=secrets.token_hex(4))
        assert isinstance(on_server.store, AsyncRedisStore)
        assert (await on_server.try_acquire("alice")).remaining == 4
        await on_server.close()
        shared = AsyncLimiter("5/hour", store=f"shared:{table}")
        assert isinstance(shared.store, SharedMemoryStore)
        await shared.close()
        with pytest.raises(ValueError, match="this store is closed"):
            await shared.try_acquire("alice")
        await AsyncLimiter("5/hour").close()

    asyncio.run(use())


def test_a_store_that_was_given_stays_open(table: str) -> None:
    with SharedMemoryStore(table) as store:
        for kind in KINDS:
            closing = kind("5/hour", store=store).close()
            if closing is not None:
                asyncio.run(closing)
        assert Limiter("5/hour", store=store).try_acquire("alice")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("store", "says"),
    [
        ("redsi://host", "did you mean 'redis'"),
        ("", "memory, shared:NAME, or the URL"),
        ("shared:", "shared:NAME"),
        ("shared:..", "use one such as 'ratekeeper-api'"),
        ("redis", "write redis://host:6379/0$"),
        ("memory://", "write memory$"),
        ("shared", "write shared:NAME$"),
    ],
)
def test_a_name_of_no_store_is_an_error_that_says_what_is(kind: Any, store: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        kind("5/s", store=store)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("store", "says"),
    [
        (42, "not int"),
        (MemoryStore, "not the class MemoryStore"),
        (b"memory", "not bytes"),
        (Path("x"), "Path"),
        ({}, ""),
    ],
)
def test_what_is_no_store_is_an_error_that_says_what_is(kind: Any, store: Any, says: str) -> None:
    with pytest.raises(TypeError, match=r"store must be a store, such as MemoryStore\(\), or a string: .*" + says):
        kind("5/s", store=store)


# A store that blocks


def test_a_store_that_blocks_its_thread_is_not_for_asyncio(url: str) -> None:
    says = "RedisStore blocks the event loop until its server answers: use .* AsyncRedisStore"
    policy = Policy.parse('[[rules]]\nname = "r"\nlimit = "5/s"')

    class Own(RedisStore):
        """A subclass blocks as well."""

    with RedisStore(url, prefix="blocks:", timeout=PATIENCE) as store:
        with pytest.raises(TypeError, match=says):
            AsyncLimiter("5/s", store=store)
        with pytest.raises(TypeError, match=says):
            AsyncKeeper(policy, store)
        assert Keeper(policy, store).try_acquire({})
        limiter = Limiter("5/s", store=store)
        assert limiter.limit(key="all")(lambda: "fine")() == "fine"
        with pytest.raises(TypeError, match=says):

            @limiter.limit(key="all")
            async def call() -> None: ...

        async def block() -> None:
            async with limiter.limit(key="all"):
                pass

        with pytest.raises(TypeError, match=says):
            asyncio.run(block())
    with Own(url) as own, pytest.raises(TypeError, match="Own blocks the event loop"):
        AsyncLimiter("5/s", store=own)


def test_a_store_of_the_users_own_may_say_that_it_blocks() -> None:
    class Remote(MemoryStore):
        blocks = True

    with pytest.raises(TypeError, match="Remote blocks the event loop"):
        AsyncLimiter("5/s", store=Remote())


# Two limiters without a name


@pytest.mark.parametrize("kinds", [(Limiter, Limiter), (Limiter, AsyncLimiter), (AsyncLimiter, AsyncLimiter)])
def test_two_unnamed_limiters_of_one_text_on_a_store_given_to_both_warn_once(kinds: Any, store: TableStore) -> None:
    first = kinds[0]("5/s", store=store)
    with pytest.warns(UserWarning, match="share their buckets.* Give each its own name=") as caught:
        second = kinds[1]("5/second burst 5", store=store)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "it points to the line that made the limiter"
    third = Limiter("5/s", store=store)
    assert first.name == second.name == third.name


def test_a_store_that_must_be_awaited_or_is_named_counts_too(store: TableStore, table: str) -> None:
    awaited = AsyncMemoryStore(store)
    kept: list[Any] = [AsyncLimiter("5/s", store=awaited), Limiter("5/s", store=f"shared:{table}")]
    with pytest.warns(UserWarning, match="share their buckets"):
        kept.append(AsyncLimiter("5/s", store=awaited))
    with pytest.warns(UserWarning, match="share their buckets"):
        kept.append(Limiter("5/s", store=f"shared:{table}"))


def test_limiters_that_do_not_share_by_accident_do_not_warn(store: TableStore, clock: ManualClock) -> None:
    other = MemoryStore(100, clock=clock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = [
            Limiter("5/s", store=store), Limiter("6/s", store=store), Limiter("5/s", "6/s", store=store),
            Limiter("5/s", store=other), Limiter(LeakyBucket(5, 5), store=store),
            Limiter("5/s", store=store, name="one"), Limiter("5/s", store=store, name="one"),
            Limiter("5/s"), Limiter("5/s"), Limiter("5/s", store="memory"), Limiter("5/s", store="memory"),
        ]  # fmt: skip
        for _ in range(3):
            Limiter("7/s", store=store)  # each is gone before the next
    assert len(kept) == 11


def test_a_warning_keeps_neither_limiters_nor_stores_alive() -> None:
    store = MemoryStore(100)
    gone: list[weakref.ref[Any]] = [weakref.ref(store)]
    first = Limiter("5/s", store=store)
    with pytest.warns(UserWarning, match="share their buckets"):
        second = Limiter("5/s", store=store)
    gone += [weakref.ref(first), weakref.ref(second)]
    del first, second, store
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


# Mistakes that a limiter rejects


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_limiter_is_not_pickled_or_copied(kind: Any, way: Any, store: TableStore) -> None:
    class Own(kind):  # type: ignore[misc]
        pass

    for made in (kind("5/s", store=store, name="n"), Own("5/s")):
        with pytest.raises(
            TypeError, match=f"^{type(made).__name__} cannot be pickled or copied: make one in each process"
        ):
            way(made)


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_store_and_a_keeper_are_not_pickled_or_copied(way: Any) -> None:
    """The words were of a lock, or of a weak dictionary."""
    stores = [MemoryStore(9), MemoryStore(9, implementation="python"), RedisStore("redis://127.0.0.1:1")]
    for store in stores:
        with pytest.raises(TypeError, match=f"^{type(store).__name__} cannot be pickled or copied: make one in each"):
            way(store)
    for kind in (Keeper, AsyncKeeper):
        with pytest.raises(TypeError, match=f"^{kind.__name__} cannot be pickled or copied: make one in each process"):
            way(kind(Policy.parse('[[rules]]\nname = "a"\nlimit = "5/s"')))


def test_a_verb_is_not_pickled() -> None:
    for limits in (["5/s"], ["5/s", "9/m"]):
        limiter = Limiter(*limits, store=MemoryStore(9, implementation="python"))
        with pytest.raises(TypeError, match=r"^a verb of a limiter cannot be pickled or copied: make the limiter in"):
            pickle.dumps(limiter.try_acquire)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [5, b"x", ["a"], object()])
def test_a_name_is_a_string(kind: Any, name: Any) -> None:
    with pytest.raises(TypeError, match="name must be a string, not "):
        kind("5/s", name=name)


@pytest.mark.parametrize("name", ["\ud800", "a\udfff"])
def test_a_name_has_no_halves_of_characters(name: str) -> None:
    with pytest.raises(ValueError, match="name must be a string without halves of characters"):
        Limiter("5/s", name=name)
    with pytest.raises(PolicyError, match="name must be a string without halves of characters"):
        Rule(name, TokenBucket(1, 1))


@pytest.mark.parametrize("bad", ["2", 1.5, float("nan"), None, object(), [1]])
def test_a_refund_of_no_decision_or_no_cost_is_an_error_and_gives_nothing_back(bad: Any, store: TableStore) -> None:
    limiter = Limiter("5/hour", store=store)
    decision = limiter.try_acquire("a", 3)
    with pytest.raises(TypeError, match="refund takes a decision of this limiter, not "):
        limiter.refund(bad)
    if bad is not None:
        with pytest.raises(TypeError, match="cost must be a whole number"):
            limiter.refund(decision, bad)
    assert limiter.peek("a").remaining == 2
    limiter.refund(decision)
    assert limiter.peek("a").remaining == 5

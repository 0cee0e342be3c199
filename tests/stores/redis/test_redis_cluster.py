"""A slot moves between nodes of a cluster while it is asked: nothing is charged twice, and decisions go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from oracles import assert_windows_hold
from redis_servers import Server, cluster_node, cluster_url, meet, redis_cluster
from servers import PATIENCE

from ratekeeper import AsyncLimiter, AsyncRedisStore, Limiter, RedisStore, StoreUnavailable, TokenBucket
from ratekeeper.decision import Charge

pytestmark = pytest.mark.slow

TIMEOUT = 3 * PATIENCE  # a node that stands still for seconds makes no outage
IN_TIME = PATIENCE  # so one that waits for an answer that is lost is found
FAST, SLOW = TokenBucket(40, 400), TokenBucket(30, "300/second")
JUDGED = {"one": FAST, "two limits": SLOW, "two slots": FAST}
REST = 0.02
"""Seconds that a migration stands still at each step, so that requests meet it there."""


@pytest.fixture(scope="module", params=["valkey 9", "redis 8"])
def nodes(request: pytest.FixtureRequest) -> Iterator[list[Server]]:
    with redis_cluster(request.param) as running:
        yield running


class History:
    """The decisions, by the kind of request, and how long each took."""

    def __init__(self) -> None:
        self.admitted: dict[str, list[int]] = {}
        self.seen: Counter[str] = Counter()
        self.errors: dict[str, StoreUnavailable] = {}  # the first of each kind
        self.slowest = 0.0

    def note(self, kind: str, begun: float, answer: Any) -> None:
        self.slowest = max(self.slowest, time.monotonic() - begun)
        if isinstance(answer, StoreUnavailable):
            self.seen[f"{kind} error"] += 1
            self.errors.setdefault(f"{kind} error", answer)
            return
        self.seen[kind] += 1
        if all(answer):
            self.admitted.setdefault(kind, []).append(answer[0].at_ticks)

    def enough(self) -> bool:
        """Return whether more was admitted of each kind than a burst, so that windows can be judged."""
        return all(len(self.admitted.get(kind, ())) > limit.capacity for kind, limit in JUDGED.items())


def requests(tag: int) -> dict[str, list[Charge]]:
    """By kind: of one bucket that lives, of one that is always new, of two limits on a key, of two slots."""
    return {
        "one": [Charge.of("one", "hot", FAST, 1)],
        "new": [Charge.of(f"new {tag}", "hot", FAST, 1)],
        "two limits": [Charge.of("two/0", "hot", FAST, 1), Charge.of("two/1", "hot", SLOW, 1)],
        "two slots": [Charge.of("slots", "hot", FAST, 1), Charge.of("slots", "else", FAST, 1)],
    }


def slot_of(store: Any, server: Server) -> int:
    return int(server.ask("CLUSTER", "KEYSLOT", store._questions._names.name("one", "hot")))


def node_id(server: Server) -> str:
    name = server.ask("CLUSTER", "MYID")
    return name.decode() if isinstance(name, bytes) else str(name)


def move(slot: int, source: Server, target: Server, nodes: list[Server]) -> None:
    """Move a slot as the tools do: the target first, then bucket by bucket, then the owner."""
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(target))
    time.sleep(REST)
    while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 3):
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, round(1000 * PATIENCE), "KEYS", *keys)
        time.sleep(REST / 4)
    time.sleep(REST)
    for server in [target, source, *nodes]:
        server.ask("CLUSTER", "SETSLOT", slot, "NODE", node_id(target))


def move_about(slot: int, nodes: list[Server], history: History, times: int = 6) -> None:
    """Move a slot so often, and more often while a loaded machine has asked for too little to judge."""
    owner = slot * len(nodes) // 16384
    for moved in range(20 * times):
        if moved >= times and history.enough():
            break
        move(slot, nodes[owner], nodes[(owner + 1) % len(nodes)], nodes)
        owner = (owner + 1) % len(nodes)
        time.sleep(REST)
    while owner != slot * len(nodes) // 16384:  # home again, for the next test
        move(slot, nodes[owner], nodes[(owner + 1) % len(nodes)], nodes)
        owner = (owner + 1) % len(nodes)


def judge(history: History) -> None:
    for kind, limit in JUDGED.items():
        admitted = sorted(history.admitted[kind])
        assert len(admitted) > limit.capacity, history.seen
        assert_windows_hold(limit, admitted)
    assert len(history.admitted["new"]) > 20
    assert history.slowest < IN_TIME
    assert not history.errors.keys() & {"one error", "new error"}, (
        history.seen,
        history.errors,
    )  # ASK and MOVED are followed


LASTING, ONCE = TokenBucket(10_000, "10/day"), TokenBucket(1, "1/day")


def test_a_slot_moves_while_threads_ask(nodes: list[Server]) -> None:
    store = RedisStore(cluster_url(nodes), prefix="sync:", timeout=TIMEOUT, remember_denials=False)
    history, done, crashes = History(), threading.Event(), []
    lasting = [0, 0]

    def ask(number: int) -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            for kind, charges in requests(turn * 10 + number).items():
                begun = time.monotonic()
                try:
                    history.note(kind, begun, store.decide(charges))
                except StoreUnavailable as error:
                    history.note(kind, begun, error)
                except Exception as error:
                    crashes.append(error)
            if number == 0:
                lasting[0] += bool(store.decide([Charge.of("lasting", "hot", LASTING, 1)])[0])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        move_about(slot_of(store, nodes[0]), nodes, history)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not crashes, crashes[0]
    judge(history)
    exactly_charged = store.decide([Charge.of("lasting", "hot", LASTING, 1)], commit=False)[0]
    assert LASTING.capacity - exactly_charged.remaining == lasting[0]
    for charges in requests(-1).values():  # and decisions go on, about all
        assert store.decide(charges)[0].source == "exact"
    assert store.stats().opened == 0
    store.close()


def test_a_slot_moves_while_tasks_ask(nodes: list[Server]) -> None:
    history = History()

    async def run() -> None:
        options: dict[str, Any] = {"timeout": TIMEOUT, "remember_denials": False}
        async with AsyncRedisStore(cluster_url(nodes), prefix="async:", **options) as store:
            lasting = [0]
            moving = asyncio.create_task(asyncio.to_thread(move_about, slot_of(store, nodes[0]), nodes, history))

            async def ask(number: int) -> None:
                turn = 0
                while not moving.done():
                    turn += 1
                    for kind, charges in requests(turn * 100 + number).items():
                        begun = time.monotonic()
                        try:
                            history.note(kind, begun, await store.decide(charges))
                        except StoreUnavailable as error:
                            history.note(kind, begun, error)
                    if number == 0:
                        lasting[0] += bool((await store.decide([Charge.of("lasting", "hot", LASTING, 1)]))[0])

            await asyncio.gather(moving, *(ask(number) for number in range(8)))
            [look] = await store.decide([Charge.of("lasting", "hot", LASTING, 1)], commit=False)
            assert LASTING.capacity - look.remaining == lasting[0]
            for charges in requests(-1).values():
                assert (await store.decide(charges))[0].source == "exact"
            assert store.stats().opened == 0

    asyncio.run(run())
    judge(history)


def test_a_node_that_is_gone_leaves_the_others_exact_on_an_event_loop() -> None:
    async def run(mode: Any, nodes: list[Server]) -> None:
        async with AsyncRedisStore(cluster_url(nodes), prefix=mode, timeout=TIMEOUT, on_error=mode) as store:

            async def sources() -> list[str]:
                charges = [[Charge.of("test/0", str(number), FAST, 1)] for number in range(40)]
                answers = await asyncio.gather(*map(store.decide, charges), return_exceptions=True)
                assert {type(one) for one in answers} <= {list, StoreUnavailable}
                return ["raised" if isinstance(one, BaseException) else one[0].source for one in answers]

            assert set(await sources()) == {"exact"}
            nodes[2].process.kill()
            nodes[2].process.wait()
            for _ in range(3):
                begun = time.monotonic()
                assert Counter(await sources()).keys() == {"exact", "raised" if mode == "raise" else "fallback"}
                assert time.monotonic() - begun < IN_TIME

    for mode in ("raise", "deny"):
        with redis_cluster() as nodes:
            for node in nodes:
                node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
            asyncio.run(run(mode, nodes))


@pytest.fixture
def growing() -> Iterator[tuple[list[Server], Server]]:
    """A cluster, and a node that is not of it yet."""
    with redis_cluster() as nodes, cluster_node() as new:
        yield nodes, new


KEYS = [str(number) for number in range(30)]


def grow(nodes: list[Server], new: Server) -> None:
    """Let a new node have all that is in the slots of the first."""
    meet([*nodes, new])
    for slot in {nodes[0].ask("CLUSTER", "KEYSLOT", name) for name in nodes[0].ask("KEYS", "*")}:
        move(slot, nodes[0], new, nodes)
    assert new.ask("DBSIZE")


def test_buckets_that_went_to_a_new_node_are_asked_for_there(growing: tuple[list[Server], Server]) -> None:
    nodes, new = growing
    with RedisStore(cluster_url(nodes), timeout=TIMEOUT, remember_denials=False) as store:
        limiter = Limiter(ONCE, store=store, name="moved")
        assert all(limiter.try_acquire(key) for key in KEYS)
        grow(nodes, new)
        assert not any(limiter.try_acquire(key) for key in KEYS)


def test_they_are_on_an_event_loop_too(growing: tuple[list[Server], Server]) -> None:
    nodes, new = growing

    async def run() -> None:
        async with AsyncRedisStore(cluster_url(nodes), timeout=TIMEOUT, remember_denials=False) as store:
            limiter = AsyncLimiter(ONCE, store=store, name="moved")
            assert all(await limiter.try_acquire_many(KEYS))
            await asyncio.to_thread(grow, nodes, new)
            assert not any(await limiter.try_acquire_many(KEYS))

    asyncio.run(run())


def test_a_reset_of_all_finds_the_buckets_on_a_new_node(growing: tuple[list[Server], Server]) -> None:
    nodes, new = growing
    with RedisStore(cluster_url(nodes), timeout=TIMEOUT) as store:
        limiter = Limiter(ONCE, store=store, name="moved")
        assert all(limiter.try_acquire(key) for key in KEYS)
        grow(nodes, new)
        limiter.reset_all()
        assert [node.ask("DBSIZE") for node in [*nodes, new]] == [0, 0, 0, 0]


def test_it_does_on_an_event_loop_too(growing: tuple[list[Server], Server]) -> None:
    nodes, new = growing

    async def run() -> None:
        async with AsyncRedisStore(cluster_url(nodes), timeout=TIMEOUT) as store:
            limiter = AsyncLimiter(ONCE, store=store, name="moved")
            assert all(await limiter.try_acquire_many(KEYS))
            await asyncio.to_thread(grow, nodes, new)
            await limiter.reset_all()
            assert [node.ask("DBSIZE") for node in [*nodes, new]] == [0, 0, 0, 0]

    asyncio.run(run())

"""RedisStore and AsyncRedisStore: scripts that are forgotten, keys that go, names, denials, clusters, batches."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import struct
import threading
import types
from collections.abc import Coroutine, Generator, Iterator, Sequence
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_servers import Server, cluster_url, redis_server, wait_for
from servers import PATIENCE, free_port
from test_stores import (  # noqa: F401  claims about limiters, on the `store` below
    test_a_cost_must_be_a_whole_number_of_zero_or_more,
    test_a_decision_is_immutable_and_a_value,
    test_a_timeout_must_be_zero_or_more,
    test_another_kind_of_key_is_an_error_that_names_the_kinds,
    test_many_keys_are_asked_in_order_at_one_instant,
    test_retry_after_is_never_too_early_also_over_months,
)

from ratekeeper import (
    AsyncRedisStore,
    Decision,
    Keeper,
    LeakyBucket,
    Limiter,
    ManualClock,
    Policy,
    RateLimitExceeded,
    RedisStore,
    StoreError,
    StoreUnavailable,
    TokenBucket,
)
from ratekeeper.coroutines import run_sync
from ratekeeper.decision import Charge
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores.redis.fallback import Fallback
from ratekeeper.stores.redis.questions import Questions
from ratekeeper.stores.redis.script import BucketNames, Request, tag_of

fresh = itertools.count()
DAILY = TokenBucket(5, "5/day")
"""For the server's own clock: nothing of it comes back while a test runs."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000)


@pytest.fixture
def store(server: Server, clock: ManualClock) -> Iterator[RedisStore]:
    with RedisStore(server.url, prefix=f"{next(fresh)}:", clock=clock, timeout=PATIENCE) as opened:
        yield opened


def one(store: Any, key: str | bytes = "a", cost: int = 1, limit: TokenBucket | None = None) -> Decision:
    decision: Decision = store.decide([Charge.of("test/0", key, limit or TokenBucket(5, 1), cost)])[0]
    return decision


def answers(store: RedisStore) -> bool:
    try:
        one(store, limit=DAILY)
    except StoreUnavailable:
        return False
    return True


@types.coroutine
def paused(requests: Sequence[Request]) -> Generator[Any, Any, Any]:
    """Have requests sent by whom drives the coroutine, and return the replies that it gives."""
    return (yield requests)


def deciding(store: RedisStore, charges: list[Charge]) -> Coroutine[Any, Any, list[Decision]]:
    """Return the decision of a request over several slots, which stops before each request."""
    questions = Questions(store._questions._names, store._denials, True, paused)
    return Fallback(questions, store.clock.ticks, "raise", None).decide(charges, commit=True)


def sent(store: RedisStore, requests: Any) -> Any:
    return [run_sync(store._call([request]))[0] for request in requests]


def finish(store: RedisStore, work: Any, requests: Any) -> list[Decision]:
    """Drive a decision on from these requests to its end."""
    while True:
        try:
            requests = work.send(sent(store, requests))
        except StopIteration as stop:
            answer: list[Decision] = stop.value
            return answer


# ---- the script, and the keys that it leaves ----


def test_a_script_that_the_server_forgot_is_sent_again_once(server: Server) -> None:
    with RedisStore(server.url, prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        for round_ in range(1, 4):
            server.ask("SCRIPT", "FLUSH")
            assert [one(store, key, limit=DAILY).allowed for key in "ab"] == [True, True]
            assert store.stats().scripts_sent == round_
        assert one(store, cost=0, limit=DAILY).remaining == 2


def test_a_server_that_restarts_empty_is_used_again() -> None:
    port = free_port()
    with redis_server(port=port) as running:
        store = RedisStore(running.url, timeout=PATIENCE, retry=0.001)
        assert not one(store, cost=5, limit=DAILY).remaining
    with pytest.raises(StoreUnavailable, match="does not answer"):
        one(store)
    with redis_server(port=port):
        wait_for(lambda: answers(store))
        assert one(store, limit=DAILY).remaining == 3


def lateness(server: Server, name: bytes, decision: Decision) -> int:
    """Return by how much a key goes after its bucket is full, in ticks of the server's own clock."""
    goes = server.ask("PEXPIRETIME", name) * TICKS_PER_SECOND // 1000
    return int(goes) - decision.at_ticks - decision.debt_ticks


def test_idle_buckets_leave_no_key_behind_and_live_ones_stay() -> None:
    with redis_server() as running, RedisStore(running.url, timeout=PATIENCE) as store:
        longest = TokenBucket(10, 100)
        for number in range(50):
            one(store, str(number), 1 + number % 10, longest)
        decision = one(store, "long", 10, TokenBucket(10, "10/day"))
        [name] = [name for name in running.ask("KEYS", "*") if running.ask("PTTL", name) > 1000]
        assert 0 <= lateness(running, name, decision) <= 2 * TICKS_PER_SECOND // 1000
        store.adjust("test/0", "long", 2**62 - 1, 0)
        wait_for(lambda: running.ask("DBSIZE") == 0)


def test_a_bucket_that_fills_in_less_than_a_millisecond_still_limits(server: Server) -> None:
    with RedisStore(server.url, timeout=PATIENCE, prefix=f"{next(fresh)}:") as store:
        charges = [Charge.of("test/0", "a", TokenBucket(1, 80_000))] * 2
        assert [decision.allowed for decision in store.decide(charges)] == [True, False]
        assert one(store, limit=TokenBucket(1, 80_000))


def test_what_writes_nothing_writes_nothing(server: Server, store: RedisStore) -> None:
    one(store, cost=6)
    one(store, cost=0)
    store.decide([Charge.of("test/0", "a", TokenBucket(5, 1))], commit=False)
    store.refund([Charge.of("test/0", "a", TokenBucket(5, 1))], store.clock.ticks())
    prefix = store._questions._names.name("test/0", "a").split(b"{")[0]
    assert server.ask("KEYS", prefix + b"*") == []


def test_a_key_goes_when_its_bucket_is_full_and_never_before(server: Server) -> None:
    """By the server's own clock, on which a key goes within two milliseconds."""
    for limit in (TokenBucket(5, "5/7h"), TokenBucket(3, "1/day"), TokenBucket(9, "9/hour")):
        prefix = f"{next(fresh)}:"
        with RedisStore(server.url, prefix=prefix, timeout=PATIENCE) as store:
            made = one(store, cost=3, limit=limit)
            [name] = server.ask("KEYS", f"{prefix}*")
            assert 0 <= lateness(server, name, made) <= 2 * TICKS_PER_SECOND // 1000


def test_a_refund_of_all_deletes_the_key(server: Server, store: RedisStore) -> None:
    name = store._questions._names.name("test/0", "a")
    decision = one(store)
    assert server.ask("EXISTS", name) == 1
    store.refund([Charge.of("test/0", "a", TokenBucket(5, 1))], decision.at_ticks)
    assert server.ask("EXISTS", name) == 0


def test_more_than_a_charge_of_nothing_cannot_be_given_back(store: RedisStore) -> None:
    limiter = Limiter("3/s", store=store, name="nothing")
    with pytest.raises(ValueError, match="cost must be from 0 to the 0 not yet given back of 0, not 1"):
        limiter.refund(limiter.try_acquire("a", 0), 1)


# ---- names ----


def test_no_key_is_on_the_server_and_no_braces_choose_a_slot(server: Server, store: RedisStore) -> None:
    for key in ("alice@example.com", "{x}alice", b"}{alice", "5:alice7:secrets"):
        one(store, key)
    for name in server.ask("KEYS", "*"):
        assert b"alice" not in name
        assert b"secrets" not in name
        assert name.count(b"{") == name.count(b"}") == 1


def test_names_are_one_to_one_and_tagged_by_the_first_attribute() -> None:
    names = BucketNames()
    keys = ["5:alice", "5:alice4:team", "5:alice5:teams", "5:alice-", "5:alicia4:team", "2:éa1:b", "9:short", "1:", ""]
    made = {names.name(scope, key) for scope in ("a", "b", "a5:alice") for key in keys}
    assert len(made) == 3 * len(keys)
    assert tag_of(names.name("a", "5:alice")) == tag_of(names.name("b", "5:alice4:team"))
    braced = BucketNames("a}b:")
    assert tag_of(braced.name("a", "5:alice")) == tag_of(braced.name("b", "5:alice4:team"))
    assert tag_of(braced.name("a", "5:alice")) != tag_of(braced.name("a", "5:alicia"))
    for key in keys:
        assert names.name("a", key) == names.name("a", key.encode())
    assert BucketNames(secret="one").name("a", "b") != BucketNames(secret="two").name("a", "b")
    with pytest.raises(ValueError, match="prefix must be"):
        BucketNames("{all}")


# ---- trouble ----


def test_a_server_that_hangs_is_given_up_in_time_and_asked_only_once() -> None:
    with redis_server() as running:
        own = redis.Redis(port=running.port, socket_timeout=0.5, retry=Retry(NoBackoff(), 3))  # which it is not to do
        for store in (RedisStore(running.url, timeout=0.5), RedisStore(own, timeout=0.5)):
            wait_for(lambda store=store: answers(store))  # type: ignore[misc]
            before = running.calls()
            running.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(StoreUnavailable, match="does not answer"):
                    one(store, "hang")
            finally:
                running.process.send_signal(signal.SIGCONT)
            wait_for(lambda before=before: running.calls() > before)  # type: ignore[misc]
            assert running.calls() == before + 1
            wait_for(lambda store=store: answers(store))  # type: ignore[misc]


def test_a_key_of_another_type_is_loud(server: Server, store: RedisStore) -> None:
    server.ask("LPUSH", store._questions._names.name("test/0", "a"), "x")
    with pytest.raises(StoreError, match="WRONGTYPE") as raised:
        one(store)
    assert not isinstance(raised.value, StoreUnavailable)


SECONDS, TICKS = (struct.pack("<d", number) for number in (1_800_000_000, 5))
FOREIGN = [
    b"", b"5", b"\xff" * 32, b"\xff" * 33, b"a" * 32, b"\0" * 31, b"\0" * 33, b"\0" * 34, b"\0" * 50, b"\0" * 80,
    SECONDS + TICKS + SECONDS + struct.pack("<d", TICKS_PER_SECOND), SECONDS + struct.pack("<d", 0.5) + SECONDS + TICKS,
    struct.pack("<d", 2.0**60) + TICKS + SECONDS + TICKS, struct.pack("<d", float("inf")) + TICKS + SECONDS + TICKS,
    (SECONDS + TICKS) * 2 + b"?", (SECONDS + TICKS) * 2 + b"!" + b"\xff" * 16,
]  # fmt: skip


@pytest.mark.parametrize("value", FOREIGN)
def test_a_value_that_is_not_a_bucket_is_loud(server: Server, store: RedisStore, value: bytes) -> None:
    name = store._questions._names.name("test/0", "a")
    server.ask("SET", name, value)
    for ask in (one, lambda store: store.adjust("test/0", "a", 1, 0)):
        with pytest.raises(StoreError, match=r"is not a bucket.*another prefix") as raised:
            ask(store)
        assert not isinstance(raised.value, StoreUnavailable)
    assert server.ask("GET", name) == value


def test_a_forked_child_has_connections_of_its_own(server: Server) -> None:
    with RedisStore(server.url, prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        limit = TokenBucket(1000, "1/day")
        one(store, limit=limit)
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                try:
                    for _ in range(100):
                        one(store, limit=limit)
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        for _ in range(100):
            one(store, limit=limit)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        assert one(store, cost=0, limit=limit).remaining == 1000 - 301


# ---- denials are remembered ----


def test_a_refused_caller_costs_no_round_trip_and_is_let_in_on_time(server: Server, clock: ManualClock) -> None:
    with RedisStore(server.url, prefix=f"{next(fresh)}:", clock=clock, timeout=PATIENCE) as store:
        limit = TokenBucket(2, 4)
        one(store, cost=2, limit=limit)
        first = one(store, limit=limit)
        before = server.calls()
        clock.advance_ticks(first.retry_ticks - 1)
        again = one(store, limit=limit)
        assert (again.allowed, again.retry_ticks, again.at_ticks) == (False, 1, clock.ticks())
        assert server.calls() == before
        assert store.stats().remembered == 1
        clock.advance_ticks(1)
        assert one(store, limit=limit)
        assert server.calls() == before + 1


def test_a_denial_is_recalled_though_the_server_s_clock_is_far_from_this_machine_s(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratekeeper.stores.redis.replies.REMEMBERED", 60 * TICKS_PER_SECOND)
    with RedisStore(server.url, prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:  # the one counts from 1970
        limit = TokenBucket(1, "1/hour")
        one(store, limit=limit)
        told, recalled = one(store, limit=limit), one(store, limit=limit)
        assert store.stats().remembered == 1
        assert told.at_ticks <= recalled.at_ticks < told.at_ticks + 60 * TICKS_PER_SECOND
        assert recalled.at_ticks + recalled.retry_ticks == told.at_ticks + told.retry_ticks


def test_a_smaller_cost_than_was_refused_is_still_asked(store: RedisStore) -> None:
    one(store, cost=3)
    assert not one(store, cost=3)
    assert one(store, cost=2)


def test_ones_own_reset_and_refund_are_seen_at_once_another_s_within_a_second(
    server: Server, clock: ManualClock
) -> None:
    prefix = f"{next(fresh)}:"
    mine, other = (RedisStore(server.url, prefix=prefix, clock=clock, timeout=PATIENCE) for _ in range(2))
    limit = TokenBucket(1, "1/hour")
    charged = one(mine, limit=limit)
    for store in (mine, other):
        assert not one(store, limit=limit)
    mine.refund([Charge.of("test/0", "a", limit)], charged.at_ticks)
    assert one(mine, limit=limit)
    mine.adjust("test/0", "a", 2**62 - 1, 0)
    assert not one(other, limit=limit)
    clock.advance(1)
    assert one(other, limit=limit)
    for store in (mine, other):
        store.close()


def test_what_is_remembered_is_bounded(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratekeeper.stores.redis.replies.MAX_REMEMBERED", 10)
    for number in range(35):
        one(store, str(number), 6)
    assert store._denials is not None
    assert len(store._denials._owed) <= 10


# ---- many keys at once ----


def test_many_keys_are_few_calls_and_each_is_all_or_nothing_in_order(server: Server, clock: ManualClock) -> None:
    limits = TokenBucket(2, "1/day"), TokenBucket(9, "9/day")
    keys = [str(number) for number in range(150)] * 2 + ["0", "twice"]
    with RedisStore(server.url, prefix=f"{next(fresh)}:", clock=clock, timeout=PATIENCE) as store:
        limiter = Limiter(*limits, store=store)
        before = server.calls()
        assert limiter.try_acquire_many(keys) == [True] * 300 + [False, True]
        assert server.calls() == before + 3  # of 128 at most
        assert limiter.try_acquire_many(keys) == [False] * 301 + [True]
        assert limiter.try_acquire_many(keys[1:]) == [False] * 301
        assert [limiter.peek("1", 0).remaining, limiter.peek("twice", 0).remaining] == [0, 0]
        calls = server.calls()
        assert limiter.try_acquire_many(["0", "1"]) == [False, False]  # which is remembered
        assert server.calls() == calls
        assert limiter.try_acquire_many([]) == []


@pytest.mark.parametrize("mode", ["raise", "deny", "local", "allow"])
def test_many_keys_are_answered_each_when_the_server_is_gone(mode: Any) -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}", on_error=mode, expected_nodes=1)
    limiter = Limiter(TokenBucket(2, "1/day"), store=store)
    keys = ["a"] * 3 + ["b"]
    if mode == "raise":
        with pytest.raises(StoreUnavailable, match="does not answer"):
            limiter.try_acquire_many(keys)
        return
    expected = {"deny": [False] * 4, "local": [True, True, False, True], "allow": [True] * 4}
    assert limiter.try_acquire_many(keys) == expected[mode]
    assert limiter.store.stats().fallbacks == 4  # type: ignore[attr-defined]


def test_many_keys_are_asked_for_on_a_cluster_too(cluster: list[Server]) -> None:
    with RedisStore(cluster_url(cluster), prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        assert Limiter(TokenBucket(2, "1/day"), store=store).try_acquire_many(["a", "b", "a", "a"]) == [
            True, True, True, False,
        ]  # fmt: skip


# ---- a cluster ----


def test_all_limits_of_one_key_are_one_call_also_on_a_cluster(cluster: list[Server]) -> None:
    with RedisStore(cluster_url(cluster), prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        limiter = Limiter(TokenBucket(5, 1), TokenBucket(3, 1), LeakyBucket(9, 1), store=store)
        for key in map(str, range(20)):
            limiter.try_acquire(key)
        assert store.stats().calls == store.stats().requests == 20


def test_charges_in_several_slots_are_made_or_none(cluster: list[Server]) -> None:
    with RedisStore(cluster_url(cluster), prefix=f"{next(fresh)}:", timeout=PATIENCE, remember_denials=False) as store:
        limit = TokenBucket(10, "1/day")
        names = [str(number) for number in range(12)]
        charges = [Charge.of("test/0", name, limit) for name in names] + [Charge.of("test/0", "tight", limit, 10)]
        assert all(decision.allowed for decision in store.decide(charges))
        assert [decision.allowed for decision in store.decide(charges)] == [True] * 12 + [False]
        assert [one(store, name, 0, limit).remaining for name in names] == [9] * 12


def test_who_comes_between_two_slots_undoes_the_request_exactly(cluster: list[Server]) -> None:
    with RedisStore(cluster_url(cluster), prefix=f"{next(fresh)}:", timeout=PATIENCE, remember_denials=False) as store:
        limit = TokenBucket(2, "1/day")
        work = deciding(store, [Charge.of("test/0", key, limit) for key in ("a", "b")])
        charge_a = work.send(sent(store, work.send(None)))
        charge_b = work.send(sent(store, charge_a))
        assert one(store, "a", 0, limit).remaining == 1
        one(store, "b", 2, limit)
        requests = work.send(sent(store, charge_b))
        assert [decision.allowed for decision in finish(store, work, requests)] == [True, False]
        assert [decision.debt_ticks for decision in store.decide([Charge.of("test/0", "a", limit, 0)])] == [0]


def test_a_charge_that_a_reset_gave_back_is_not_taken_from_those_who_wait_by_then(
    cluster: list[Server], clock: ManualClock
) -> None:
    """The TAT is what it was, and the range at its end is another's: only the mark tells."""
    with RedisStore(cluster_url(cluster), prefix=f"{next(fresh)}:", clock=clock, timeout=PATIENCE) as store:
        queue = LeakyBucket(9, 1)
        work = deciding(store, [Charge.of("test/0", key, queue, 3) for key in ("a", "b")])
        charge_b = work.send(sent(store, work.send(sent(store, work.send(None)))))
        store.adjust("test/0", "a", 2**62 - 1, 0)
        assert [store.decide([Charge.of("test/0", "a", queue)])[0].delay for _ in range(3)] == [0, 1, 2]
        store.decide([Charge.of("test/0", "b", queue, 10)])
        assert [bool(decision) for decision in finish(store, work, work.send(sent(store, charge_b)))] == [True, False]
        assert store.decide([Charge.of("test/0", "a", queue)])[0].delay == 3


@pytest.mark.parametrize("marked", [False, True], ids=["marked by it", "marked before"])
def test_a_mark_goes_with_the_charge_that_set_it_and_no_other(
    cluster: list[Server], clock: ManualClock, marked: bool
) -> None:
    with RedisStore(cluster_url(cluster), prefix=f"{next(fresh)}:", clock=clock, timeout=PATIENCE) as store:
        queue, before = LeakyBucket(9, 1), 1 + marked  # the second waits for the first, and so marks
        first, *_ = [store.decide([Charge.of("test/0", "a", queue)])[0] for _ in range(before)]
        work = deciding(store, [Charge.of("test/0", key, queue) for key in ("a", "b")])
        charge_b = work.send(sent(store, work.send(sent(store, work.send(None)))))
        store.decide([Charge.of("test/0", "b", queue, 10)])
        finish(store, work, work.send(sent(store, charge_b)))
        assert store.decide([Charge.of("test/0", "a", queue)], commit=False)[0].delay == before
        store.refund([Charge.of("test/0", "a", queue, 2)], first.at_ticks)  # which a mark forbids
        assert store.decide([Charge.of("test/0", "a", queue)], commit=False)[0].delay == (2 if marked else 0)


def test_a_mark_ends_with_the_debt_though_the_key_is_still_there(store: RedisStore, clock: ManualClock) -> None:
    limit = TokenBucket(5, 1)
    for timeout in (0, 1):  # the second leaves in a second, and so marks
        store.decide([Charge.of("test/0", "a", limit, 5 - 4 * timeout, timeout)])
    clock.advance(7)  # the server's own clock has not moved, so it keeps the key
    again = one(store, cost=4)
    store.refund([Charge.of("test/0", "a", limit, 4)], again.at_ticks)
    assert one(store, cost=0).remaining == 5


def test_a_refund_to_a_bucket_that_is_full_by_then_writes_nothing(store: RedisStore, clock: ManualClock) -> None:
    limit = TokenBucket(5, 1)
    made = one(store, cost=5)
    store.adjust("test/0", "a", 4 * limit.interval, None)
    clock.advance(1.5)
    store.refund([Charge.of("test/0", "a", limit, 5)], made.at_ticks)
    assert one(store, cost=0).debt_ticks == 0
    assert one(store, cost=5).debt_ticks == 5 * limit.interval


@pytest.mark.parametrize("fails", [False, True], ids=["refused by the second", "the second fails"])
def test_who_was_refused_for_a_charge_that_is_taken_back_may_ask_again_at_once(
    cluster: list[Server], fails: bool
) -> None:
    with RedisStore(cluster_url(cluster), prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        limit = TokenBucket(2, "1/day")
        work = deciding(store, [Charge.of("test/0", key, limit, 2) for key in ("a", "b")])
        charge_b = work.send(sent(store, work.send(sent(store, work.send(None)))))
        assert not one(store, "a", 2, limit)
        if fails:
            with pytest.raises(StoreUnavailable, match=r"^lost$"):
                finish(store, work, work.throw(StoreUnavailable("lost")))
        else:
            one(store, "b", 2, limit)
            finish(store, work, work.send(sent(store, charge_b)))
        assert one(store, "a", 2, limit)


def test_a_node_that_fails_between_two_slots_is_an_error_and_the_others_get_theirs_back(cluster: list[Server]) -> None:
    with RedisStore(cluster_url(cluster), prefix=f"{next(fresh)}:", timeout=PATIENCE, remember_denials=False) as store:
        limit = TokenBucket(2, "1/day")
        work = deciding(store, [Charge.of("test/0", key, limit) for key in ("a", "b")])
        work.send(sent(store, work.send(sent(store, work.send(None)))))
        requests = work.throw(StoreUnavailable("lost"))
        with pytest.raises(StoreUnavailable, match="lost"):
            finish(store, work, requests)
        assert one(store, "a", 0, limit).debt_ticks == 0


# ---- all the rest works on it ----


def test_limiters_wait_their_turn_on_it(server: Server) -> None:
    with RedisStore(server.url, prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        limiter = Limiter(LeakyBucket(9, 100), store=store)
        left: list[int] = []
        threads = [threading.Thread(target=lambda: left.append(limiter.acquire("a").delay_ticks)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(left) == 5
        with pytest.raises(RateLimitExceeded, match="can never admit a cost of 2"):
            Limiter(TokenBucket(1, 1), store=store).acquire("a", cost=2)


def test_a_limiter_and_a_keeper_give_back_and_forget(store: RedisStore) -> None:
    limiter = Limiter(TokenBucket(5, 1), TokenBucket(9, 1), store=store)
    decision = limiter.try_acquire("a", 4)
    limiter.refund(decision, 3)
    assert limiter.peek("a", 0).remaining == 4
    limiter.reset("a")
    assert limiter.peek("a", 0).remaining == 5
    policy = Policy.parse('[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "2/minute"\n')
    keeper = Keeper(policy, store=store)
    assert [keeper.try_acquire({"user": "alice"}).allowed for _ in range(3)] == [True, True, False]


# ---- asyncio: decisions that are asked for together travel together ----


async def _ask_together(url: str, server: Server) -> None:
    async with AsyncRedisStore(url, prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        limit = TokenBucket(100, "1/day")
        await store.decide([Charge.of("s", "warm", limit)])
        before = server.calls()
        asked = [store.decide([Charge.of("s", str(number % 7), limit)]) for number in range(100)]
        answers = await asyncio.gather(*asked)
        assert all(decision.allowed for [decision] in answers)
        assert server.calls() == before + 1
        many = await asyncio.gather(*(store.decide([Charge.of("s", "x", limit)]) for _ in range(300)))
        assert sum(decision.allowed for [decision] in many) == 100
        assert server.calls() == before + 4


def test_requests_of_one_turn_of_the_event_loop_are_one_call(server: Server) -> None:
    asyncio.run(_ask_together(server.url, server))


async def _ask_all_kinds(server: Server, clock: ManualClock) -> None:
    limit = TokenBucket(5, 1)

    def charge(key: str, cost: int = 1) -> Charge:
        return Charge.of("s", key, limit, cost)

    async with AsyncRedisStore(server.url, prefix=f"{next(fresh)}:", clock=clock, timeout=PATIENCE) as store:
        await store.decide([charge(key, 3) for key in "abcdef"])
        at, before = clock.ticks(), server.calls()
        await asyncio.gather(
            store.refund([charge("a", 1), charge("b", 2)], at),
            store.adjust("s", "d", 2**62 - 1, 0),
            store.rewind("s", "e", at + 3 * limit.interval, at + limit.interval),
            store.decide([charge("c"), charge("d")]),
            store.decide([charge("f")], commit=False),
            store.decide([charge("f", 2)]),
        )
        assert server.calls() == before + 1
        left = await store.decide([charge(key, 0) for key in "abcdef"], commit=False)
        assert [decision.remaining for decision in left] == [3, 4, 1, 4, 4, 0]


def test_requests_of_all_kinds_travel_together_and_each_gets_its_own(server: Server, clock: ManualClock) -> None:
    asyncio.run(_ask_all_kinds(server, clock))


async def _cancel_some(url: str) -> None:
    async with AsyncRedisStore(url, prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        limit = TokenBucket(100, "1/day")
        tasks = [asyncio.create_task(store.decide([Charge.of("s", "x", limit)])) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()  # before they are sent
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, asyncio.CancelledError) for one in done) == 5
        [left] = await store.decide([Charge.of("s", "x", limit, 0)])
        assert left.remaining == 95


def test_a_task_cancelled_before_it_is_sent_is_not_charged_and_harms_no_other(server: Server) -> None:
    asyncio.run(_cancel_some(server.url))


async def _fail_together(port: int) -> list[Any]:
    async with AsyncRedisStore(f"redis://127.0.0.1:{port}", timeout=PATIENCE) as store:
        asked = [store.decide([Charge.of("s", str(n), TokenBucket(5, 1))]) for n in range(5)]
        return await asyncio.gather(*asked, return_exceptions=True)


def test_a_server_that_is_gone_is_an_error_for_each_task() -> None:
    errors = asyncio.run(_fail_together(free_port()))
    assert [type(error) for error in errors] == [StoreUnavailable] * 5


async def _cross_slots(url: str) -> None:
    async with AsyncRedisStore(url, prefix=f"{next(fresh)}:", timeout=PATIENCE) as store:
        limit = TokenBucket(3, "1/day")
        charges = [[Charge.of("s", f"{who} {n}", limit) for n in range(3)] for who in range(5)]
        answers = await asyncio.gather(*(store.decide(request) for request in charges * 5))
        assert sum(all(decision.allowed for decision in answer) for answer in answers) == 15


def test_an_event_loop_s_requests_go_to_all_slots_of_a_cluster(cluster: list[Server]) -> None:
    asyncio.run(_cross_slots(cluster_url(cluster)))


async def _hammer(store: AsyncRedisStore, limit: TokenBucket, count: int) -> int:
    answers = await asyncio.gather(*(store.decide([Charge.of("s", "hot", limit)]) for _ in range(count)))
    return sum(decision.allowed for [decision] in answers)


@pytest.mark.parametrize("closing", [True, False], ids=["closed in each", "never closed"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of connections that are never closed
def test_a_store_serves_one_event_loop_after_another(server: Server, cluster: list[Server], closing: bool) -> None:
    for url in (server.url, cluster_url(cluster)):
        store = AsyncRedisStore(url, prefix=f"{next(fresh)}:", timeout=PATIENCE)
        for admitted in (40, 10, 0):

            async def use(right: int = admitted, store: AsyncRedisStore = store) -> None:
                assert await _hammer(store, TokenBucket(50, "1/day"), 40) == right
                if closing:
                    await store.close()

            asyncio.run(use())
        asyncio.run(store.close())
        assert store.stats().failures == 0
    gc.collect()


def test_a_store_refuses_to_serve_two_event_loops_at_once(server: Server) -> None:
    store = AsyncRedisStore(server.url, prefix=f"{next(fresh)}:", timeout=PATIENCE)

    async def other() -> None:
        with pytest.raises(RuntimeError, match="one event loop at a time"):
            await _hammer(store, TokenBucket(50, "1/day"), 1)

    async def use() -> None:
        async with store:
            await _hammer(store, TokenBucket(50, "1/day"), 1)
            await asyncio.gather(asyncio.to_thread(asyncio.run, other()), _hammer(store, TokenBucket(50, "1/day"), 40))

    asyncio.run(use())


async def _fail_over_slots(url: str) -> list[Any]:
    logged: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: logged.append(said))
    async with AsyncRedisStore(url, timeout=PATIENCE, retry=PATIENCE) as store:
        charges = [Charge.of("s", str(n), TokenBucket(5, 1)) for n in range(5)]
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.decide(charges)
        with pytest.raises(StoreUnavailable, match="is not asked"):
            await store.refund(charges, 5)
    gc.collect()  # a future says when it goes that nobody asked for its exception
    return logged


def test_a_cluster_that_is_gone_is_one_error_for_a_request_over_slots_and_nothing_is_logged() -> None:
    assert asyncio.run(_fail_over_slots(f"redis+cluster://127.0.0.1:{free_port()}")) == []

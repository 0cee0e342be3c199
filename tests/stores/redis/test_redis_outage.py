"""When Redis does not answer: killed, stopped, slow, cut off, or answering too late; and when it comes back."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import redis
from async_memory import turn_of
from flaky_proxy import Manner, Proxy, proxy
from oracles import assert_windows_hold
from redis_servers import Server, cluster_url, redis_cluster, redis_server, wait_for
from servers import PATIENCE, free_port
from wire_client import HttpAnswer, WireClient, answers_in

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
from ratekeeper.decision import Charge
from ratekeeper.limits import Limit
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.wire import HttpWire
from ratekeeper.stores.redis.replies import DenialCache, Reply
from ratekeeper.waiting.waitlist import Waiter

pytestmark = pytest.mark.slow

TIMEOUT = 0.5  # of servers that do not answer for a while
PATIENT = 3 * PATIENCE  # of all others: a machine that stands still for seconds makes no outage
HAMMERED = 0.25  # for so many threads that a slow machine keeps an answer waiting longer than that of one
IN_TIME = PATIENT / 3
"""Seconds that a decision may take at most. So one that waits for an answer that is lost is found."""

LIMIT = TokenBucket(8, "1/hour")
fresh = itertools.count()
made: list[RedisStore] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close the stores of a test: a socket that is collected later fails another test."""
    yield
    while made:
        made.pop().close()


@pytest.fixture
def flaky(server: Server) -> Iterator[Proxy]:
    with proxy(server.port) as running:
        yield running


def store_at(url: str, **options: Any) -> RedisStore:
    options = {"timeout": PATIENT, "expected_nodes": 1} | options
    made.append(RedisStore(url, prefix=f"outage {next(fresh)}:", **options))
    return made[-1]


def gone(**options: Any) -> RedisStore:
    """A store where nobody listens, on a clock that stands still."""
    return store_at(f"redis://127.0.0.1:{free_port()}", clock=ManualClock(1_800_000_000), **options)


def charge(key: str = "a", limit: Any = LIMIT, **options: Any) -> Charge:
    return Charge.of("test/0", key, limit, options.pop("cost", 1), **options)


def one(store: RedisStore, key: str = "a", **options: Any) -> Decision:
    begun = time.monotonic()
    try:
        return store.decide([charge(key, **options)])[0]
    finally:
        assert time.monotonic() - begun < IN_TIME


def ready(store: RedisStore, key: str = "ready") -> bool:
    """Return whether a store with a short TIMEOUT has an answer. If not, the time comes at which it asks again."""
    if one(store, key).source == "exact":
        return True
    store.clock.advance(0.5)  # type: ignore[attr-defined]
    return False


# ---- what it is set to ----


def test_by_default_an_outage_raises_and_the_error_says_when_to_come_back() -> None:
    store = gone()
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as raised:
            one(store)
        assert raised.value.retry_after == 0.5
    assert store.stats()[4:] == (1, 0, 1, 1), "the breaker has opened once, and is open"


def test_allow_lets_pass_and_charges_nothing_but_not_what_never_passes() -> None:
    store = gone(on_error="allow")
    for _ in range(20):
        decision = one(store)
        assert (decision.allowed, decision.source, decision.debt_ticks, decision._refunded) == (True, "fallback", 0, -1)
    assert one(store, cost=9).impossible


def test_deny_refuses_until_the_next_probe() -> None:
    store = gone(on_error="deny")
    decision = one(store)
    assert (decision.allowed, decision.source, decision.remaining, decision.retry_after) == (False, "fallback", 0, 0.5)
    store.clock.advance(0.2)  # type: ignore[attr-defined]
    assert one(store).retry_after == pytest.approx(0.3)


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_local_gives_each_node_its_part_of_burst_and_rate(nodes: int) -> None:
    store = gone(on_error="local", expected_nodes=nodes)
    clock: Any = store.clock
    decisions = [one(store) for _ in range(9)]
    share = 8 // nodes
    assert [decision.allowed for decision in decisions] == [True] * share + [False] * (9 - share)
    assert [decision.remaining for decision in decisions[:share]] == list(reversed(range(share)))
    assert decisions[-1].retry_after == nodes * 3600
    clock.advance_ticks(decisions[-1].retry_ticks - 1)
    assert not one(store)
    clock.advance_ticks(1)
    assert one(store)


@pytest.mark.parametrize("nodes", [1, 2, 4])
@pytest.mark.parametrize("limit", [LeakyBucket(10, 10), LeakyBucket(3, 10)], ids=str)
def test_local_lets_the_first_request_of_an_idle_leaky_bucket_go_at_once(nodes: int, limit: LeakyBucket) -> None:
    store = gone(on_error="local", expected_nodes=nodes)
    limiter = Limiter(limit, store=store)
    for key in "abc":
        first = limiter.acquire(key, timeout=0)
        assert (first.source, first.delay_ticks) == ("fallback", 0)
        reserved = [limiter.reserve(key) for _ in range(20)]
        delays = [one.decision.delay_ticks for one in reserved if one]
        assert delays == [limit.interval * nodes * place for place in range(1, (limit.capacity + 1) // nodes)]


@pytest.mark.parametrize("timeout", [0, 0.05, 0.15, 1, None])
def test_nodes_that_decide_locally_let_no_more_leave_than_a_leaky_bucket_admits(timeout: float | None) -> None:
    limit, nodes, clock = LeakyBucket(10, 10), 4, ManualClock(1_800_000_000)
    options: Any = {"on_error": "local", "expected_nodes": nodes, "clock": clock}
    stores = [store_at(f"redis://127.0.0.1:{free_port()}", **options) for _ in range(nodes)]
    left, choice = [[] for _ in stores], random.Random(7)  # type: ignore[var-annotated]
    for _ in range(3000):
        node = choice.randrange(nodes)
        decision = stores[node].decide([Charge.of("test/0", "a", limit, 1, timeout)])[0]
        if decision:
            left[node].append(decision.at_ticks + decision.delay_ticks)
        clock.advance(choice.choice([0, 0, 0.001, 0.03, 0.03, 1.5 if choice.random() < 0.01 else 0]))
    assert_windows_hold(TokenBucket(limit.capacity + 1, 10), sorted(itertools.chain(*left)))
    for times in left:
        assert len(times) > 40
        assert all(after - before >= nodes * limit.interval for before, after in itertools.pairwise(times))


@pytest.mark.parametrize("timeout", [0, 0.5, 3, None])
def test_nodes_that_decide_locally_let_no_more_leave_than_a_token_bucket_admits(timeout: float | None) -> None:
    limit, nodes, clock = TokenBucket(7, 3), 3, ManualClock(1_800_000_000)
    options: Any = {"on_error": "local", "expected_nodes": nodes, "clock": clock}
    stores = [store_at(f"redis://127.0.0.1:{free_port()}", **options) for _ in range(nodes)]
    left: list[int] = []
    choice = random.Random(7)
    for _ in range(3000):
        cost = choice.choice([1, 1, 2, 3, 7])
        decision = choice.choice(stores).decide([Charge.of("test/0", "a", limit, cost, timeout)])[0]
        if decision:
            left += [decision.at_ticks + decision.delay_ticks] * cost
        clock.advance(choice.choice([0, 0, 0.01, 0.3, 0.3, 9 if choice.random() < 0.01 else 0]))
    assert len(left) > 100
    assert_windows_hold(limit, sorted(left))


def test_local_refuses_at_once_a_waiter_whose_cost_is_more_than_a_node_s_part() -> None:
    limiter = Limiter(TokenBucket(5, 3), store=gone(on_error="local", expected_nodes=2))
    for timeout in (0, 60, None):
        with pytest.raises(RateLimitExceeded) as refused:
            limiter.acquire("a", 3, timeout)
        assert refused.value.decision.retry_after == 0.5
    assert limiter.acquire("a", 2, timeout=None).source == "fallback"


def test_local_needs_the_number_of_nodes_and_says_so_before_an_outage(server: Server) -> None:
    for kind in (RedisStore, AsyncRedisStore):
        with pytest.raises(ValueError, match="write expected_nodes, the number"):
            kind(server.url, on_error="local")
    with RedisStore(server.url, timeout=PATIENCE) as store:
        assert store.decide([charge("any", on_error="deny")])[0].source == "exact"
        for ask in (store.decide, lambda charges: store.decide_many([charges])):
            with pytest.raises(StoreError, match="write expected_nodes, the number"):
                ask([charge("any", on_error="local")])


def test_a_limit_smaller_than_the_fleet_refuses_and_says_when_the_server_is_asked() -> None:
    decision = one(gone(on_error="local", expected_nodes=9))
    assert (decision.allowed, decision.retry_after) == (False, 0.5)


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        (["allow", "local", "deny", "raise"], "raise"), (["allow", "local", "deny"], "deny"),
        (["allow", "local"], "local"), (["allow", "allow"], "allow"), (["allow", None], "deny"),
    ],
)  # fmt: skip
def test_of_several_charges_the_strictest_rules(modes: list[str | None], expected: str) -> None:
    store = gone(on_error="deny")
    charges = [charge(str(place), on_error=mode) for place, mode in enumerate(modes)]
    if expected == "raise":
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.decide(charges)
    else:
        assert {decision.on_error for decision in store.decide(charges)} == {expected}


def test_a_rule_in_shadow_has_no_say_and_never_refuses() -> None:
    text = '[[rules]]\nname = "r"\nlimit = "8/hour"\non_error = "{}"\nshadow = {}\n'
    strict, lax = text.format("raise", "true"), text.format("allow", "false").replace('"r"', '"s"')
    assert Keeper(Policy.parse(strict), store=gone()).try_acquire({})
    decision = Keeper(Policy.parse(strict + lax), store=gone()).try_acquire({})
    assert (decision.allowed, decision.source) == (True, "fallback")
    with pytest.raises(StoreUnavailable, match="does not answer"):
        Keeper(Policy.parse(strict.replace("true", "false")), store=gone()).try_acquire({})


def test_bad_settings_are_errors_that_say_what_would_be_right() -> None:
    with pytest.raises(ValueError, match="did you mean 'allow'"):
        gone(on_error="alow")
    with pytest.raises(ValueError, match="expected_nodes must be"):
        gone(expected_nodes=0)
    for seconds in (0, float("inf"), 1e300, 10**400):
        with pytest.raises(ValueError, match="retry must be more than 0 seconds, and less than an hour, not"):
            gone(retry=seconds)
    for empty in ("", b""):
        with pytest.raises(ValueError, match="secret must not be empty, as names would be"):
            gone(secret=empty)
    with pytest.raises(TypeError, match="secret must be str or bytes, not int"):
        gone(secret=5)


# ---- looking, giving back, forgetting ----


def test_a_look_follows_the_mode_and_charges_nothing() -> None:
    for mode, allowed in (("allow", True), ("deny", False), ("local", True)):
        limiter = Limiter(LIMIT, store=gone(on_error=mode))
        assert [limiter.peek("a", 8).allowed for _ in range(3)] == [allowed] * 3
        assert limiter.peek("a").source == "fallback"


def test_what_was_charged_here_is_never_given_back_on_the_server(flaky: Proxy) -> None:
    store = store_at(flaky.url, on_error="local", retry=0.001)
    exact, limiter = one(store, cost=4), Limiter(LIMIT, store=store)
    flaky.manner = "cut"
    local = one(store, cost=3)
    waited = limiter.try_acquire("a")
    assert (exact.source, local.source, waited.source) == ("exact", "fallback", "fallback")
    limiter.refund(waited)
    flaky.manner = "pass"
    wait_for(lambda: one(store, "b").source == "exact")
    store.refund([charge(cost=3)], local.at_ticks)
    assert one(store, cost=0).remaining == 4
    store.refund([charge(cost=4)], exact.at_ticks)
    assert one(store, cost=0).remaining == 8


@pytest.mark.parametrize("on_error", ["raise", "deny", "local", "allow"])
def test_in_an_outage_no_change_by_hand_is_taken_as_done_whatever_on_error_says(on_error: str) -> None:
    limiter = Limiter(TokenBucket(10, 1), store=gone(on_error=on_error))
    changes: list[tuple[str, list[float]]] = [
        ("grant", [5]),
        ("block", [time.time() + 60]),
        ("unblock", []),
        ("reset", []),
    ]
    for verb, arguments in changes:
        with pytest.raises(StoreUnavailable, match=r"does not answer|did not answer"):
            getattr(limiter, verb)("a", *arguments)


def test_in_an_outage_a_block_still_holds_for_the_share_of_this_process_and_of_no_other() -> None:
    limiter, other, allowing = (
        Limiter(TokenBucket(10, 1), store=gone(on_error=mode), name="blocked") for mode in ("local", "local", "allow")
    )
    for blocking in (limiter, allowing):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            blocking.block("a", time.time() + 60)
    assert not limiter.try_acquire("a")
    assert limiter.try_acquire("b")
    assert other.try_acquire("a")
    assert allowing.try_acquire("a")


def test_in_an_outage_a_refund_does_nothing_a_rewind_is_taken_as_done_and_a_reset_raises() -> None:
    store = gone(on_error="local")
    store.refund([charge()], 5)
    assert store.rewind("test/0", "a", 5, 3) is True  # it may have been done
    one(store, cost=8)
    with pytest.raises(StoreUnavailable, match="did not answer a moment ago"):
        store.adjust("test/0", "a", 2**62 - 1, 0)
    assert one(store).remaining == 7
    with pytest.raises(StoreUnavailable, match="does not answer"):
        gone().refund([charge()], 5)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        gone().rewind("test/0", "a", 5, 3)


def test_who_waits_in_an_outage_waits_its_turn_and_may_give_up() -> None:
    limiter = Limiter(LeakyBucket(5, 10), store=gone(on_error="local"))
    assert [limiter.acquire("a").source for _ in range(3)] == ["fallback"] * 3


def joined(store: RedisStore, limits: Sequence[Limit]) -> Waiter:
    waiter = Waiter(lambda: None)
    places = enumerate(limits)
    assert all(store.wait_queue.join(waiter, [Charge.of(f"test/{at}", "a", limit, 1, None) for at, limit in places]))
    return waiter


@pytest.mark.parametrize("mode", ["raise", "deny", "local", "allow"])
@pytest.mark.parametrize("passing", [0, 1, 2], ids=["the first is lost", "the second is lost", "none is lost"])
@pytest.mark.parametrize("other", [LeakyBucket(20, 5), TokenBucket(1, 5)], ids=["leaky", "token"])
def test_if_it_fails_while_waiters_move_up_they_move_and_no_newcomer_leaves_with_them(
    flaky: Proxy, mode: Any, passing: int, other: Limit
) -> None:
    store = store_at(flaky.url, on_error=mode, clock=ManualClock(1_800_000_000))
    limits = LeakyBucket(20, 10), other
    _, gives_up, behind, last = (joined(store, limits) for _ in range(4))
    freed, interval = gives_up.leaves_at, last.leaves_at - behind.leaves_at
    flaky.manner, flaky.passing = "lose replies", passing
    store.wait_queue.give_up(gives_up)
    flaky.manner, flaky.passing = "pass", 0
    assert (turn_of(behind), turn_of(last)) == (freed, freed + interval)
    assert joined(store, limits).leaves_at >= turn_of(last) + interval


def test_who_gives_up_in_an_outage_is_not_kept_by_it(flaky: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    store = store_at(flaky.url, clock=ManualClock(1_800_000_000))
    _, gives_up, behind = (joined(store, [LeakyBucket(20, 10)]) for _ in range(3))
    freed = gives_up.leaves_at
    flaky.manner = "cut"
    store.wait_queue.give_up(gives_up)
    assert turn_of(behind) == freed
    assert "places that were given up are lost" in caplog.text


def test_a_reset_whose_answer_is_lost_is_not_hidden_by_a_denial_that_was_remembered(flaky: Proxy) -> None:
    store = store_at(flaky.url, retry=0.001)
    limiter = Limiter(LIMIT, store=store)
    limiter.try_acquire("a", 8)
    assert not limiter.try_acquire("a")
    flaky.manner = "lose replies"
    with pytest.raises(StoreUnavailable, match="does not answer"):
        limiter.reset("a")
    flaky.manner = "pass"
    wait_for(lambda: _exact(store))
    assert limiter.try_acquire("a", 8)


def test_a_denial_is_not_remembered_past_a_reset_that_another_thread_made_meanwhile() -> None:
    denials, charges = DenialCache(lambda: 0), [charge("a")]

    def debts() -> Iterator[int]:  # looked at after it was seen that nothing had changed, and before it is remembered
        denials.forget([b"a"])
        yield LIMIT.full

    denials.remember([b"a"], Reply(0, debts(), 0), denials.changes)  # type: ignore[arg-type]
    assert denials.recall([b"a"], charges) is None
    denials.remember([b"a"], Reply(0, [LIMIT.full], 0), denials.changes)
    assert denials.recall([b"a"], charges) is not None


# ---- the breaker, on real sockets ----


def test_an_open_breaker_touches_no_socket_and_one_probe_goes_at_a_time(flaky: Proxy, server: Server) -> None:
    clock = ManualClock(1_800_000_000)
    store = store_at(flaky.url, on_error="allow", clock=clock, timeout=TIMEOUT)
    wait_for(lambda: ready(store))
    failures, fallbacks, opened = store.stats()[4:7]
    flaky.manner = "hang"
    for _ in range(3):
        one(store)
    before = flaky.asked_for()
    assert all(one(store).source == "fallback" for _ in range(1000))
    assert flaky.asked_for() == before
    assert store.stats()[4:7] == (failures + 3, fallbacks + 1003, opened + 1)
    clock.advance(0.5)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: one(store).allowed, range(64)))
    assert flaky.asked_for() <= before + 1
    assert store.stats().failures == failures + 4
    flaky.manner = "pass"
    clock.advance(0.5)
    wait_for(lambda: ready(store))


def test_each_change_of_state_is_logged_once_and_no_key_is(flaky: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    store = store_at(flaky.url, on_error="allow", retry=0.01)
    with caplog.at_level(logging.DEBUG, "ratekeeper"):
        for _ in range(2):
            flaky.manner = "cut"
            wait_for(lambda: one(store, "secret").source == "fallback" and store.stats().failures % 7 == 6)
            flaky.manner = "pass"
            wait_for(lambda: one(store, "secret", cost=0).source == "exact")
    said = [record.getMessage() for record in caplog.records]
    assert ["does not answer" in text for text in said] == [True, False, True, False]
    assert "ConnectionError: " in said[0]
    assert not any("secret" in text for text in said)
    assert store.stats().opened == 2


@pytest.mark.parametrize("manner", ["hang", "cut", "half-close", "lose replies"])
def test_a_broken_line_is_answered_in_time_and_used_again_by_itself(flaky: Proxy, manner: Manner) -> None:
    store = store_at(flaky.url, on_error="deny", timeout=TIMEOUT)
    one(store)
    flaky.manner = manner
    assert {one(store).source for _ in range(5)} == {"fallback"}
    flaky.manner = "pass"
    wait_for(lambda: one(store, "b", cost=0).source == "exact")


def test_a_reply_that_is_lost_was_charged_and_is_not_asked_for_again(flaky: Proxy, server: Server) -> None:
    store = store_at(flaky.url, retry=0.001)
    one(store)
    before = server.calls()
    flaky.manner = "lose replies"
    with pytest.raises(StoreUnavailable, match="does not answer"):
        one(store)
    wait_for(lambda: server.calls() == before + 1)
    flaky.manner = "pass"
    wait_for(lambda: _exact(store))
    assert one(store, cost=0).remaining == 6


def _exact(store: RedisStore) -> bool:
    try:
        return one(store, "other", cost=0).source == "exact"
    except StoreUnavailable:
        return False


def test_a_slow_server_is_given_up(flaky: Proxy) -> None:
    store = store_at(flaky.url, on_error="local", timeout=TIMEOUT)
    one(store)
    flaky.delay = 60
    assert {one(store).source for _ in range(4)} == {"fallback"}


def test_a_server_that_is_killed_and_comes_back_empty_is_used_again() -> None:
    port = free_port()
    with redis_server(port=port) as running:
        store = store_at(running.url, on_error="local", retry=0.05)
        assert one(store, cost=8)
        running.process.kill()
        running.process.wait()
        assert [one(store).source for _ in range(9)] == ["fallback"] * 9
    with redis_server(port=port):
        wait_for(lambda: one(store, "b").source == "exact")
        assert one(store).remaining == 7  # it has forgotten, as is said


def test_a_server_that_is_stopped_and_goes_on_is_used_again(server: Server) -> None:
    store = store_at(server.url, on_error="deny", retry=0.05, timeout=TIMEOUT)
    one(store)
    server.process.send_signal(signal.SIGSTOP)
    try:
        assert {one(store).source for _ in range(5)} == {"fallback"}
    finally:
        server.process.send_signal(signal.SIGCONT)
    wait_for(lambda: one(store, "b", cost=0).source == "exact")


def test_what_must_be_mended_is_loud_whatever_is_set(server: Server) -> None:
    store = store_at(server.url, on_error="allow")
    server.ask("LPUSH", store._questions._names.name("test/0", "a"), "x")
    for _ in range(5):
        with pytest.raises(StoreError, match="WRONGTYPE"):
            one(store)
    assert store.stats()[4:] == (0, 0, 0, 0)


def test_a_node_of_a_cluster_that_is_gone_leaves_the_others_exact() -> None:
    with redis_cluster() as nodes:
        store = store_at(cluster_url(nodes), on_error="deny")
        keys = [str(number) for number in range(30)]
        before = {one(store, key).source for key in keys}
        nodes[2].process.kill()
        nodes[2].process.wait()
        sources = [one(store, key).source for key in keys]
        assert before == {"exact"}
        assert set(sources) == {"exact", "fallback"}


# ---- asyncio ----


def in_loop(flaky: Proxy, use: Callable[[AsyncRedisStore], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        prefix = f"outage {next(fresh)}:"
        async with AsyncRedisStore(flaky.url, prefix=prefix, **({"timeout": PATIENT} | options)) as store:
            await use(store)

    asyncio.run(run())


@pytest.mark.parametrize("mode", ["raise", "allow", "deny", "local"])
def test_on_an_event_loop_an_outage_is_answered_alike_and_costs_no_socket(flaky: Proxy, mode: str) -> None:
    async def use(store: AsyncRedisStore) -> None:
        async def ask(count: int, key: str = "a") -> list[Any]:
            tasks = (store.decide([charge(key)]) for _ in range(count))
            answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), IN_TIME)
            return [answer if isinstance(answer, BaseException) else answer[0] for answer in answers]

        async def come_back() -> None:
            while getattr((await ask(1, "another"))[0], "source", "") != "exact":
                clock.advance(0.5)

        await come_back()
        opened = store.stats().opened
        flaky.manner = "hang"
        answers = await ask(600)  # five calls or so: three that fail open the breaker
        before = flaky.asked_for()
        answers += await ask(300)
        assert flaky.asked_for() == before
        if mode == "raise":
            assert {type(answer) for answer in answers} == {StoreUnavailable}
        else:
            assert {answer.on_error for answer in answers} == {mode}
            allowed = {"allow": 900, "deny": 0, "local": 4}[mode]
            assert sum(answer.allowed for answer in answers) == allowed
        assert store.stats().opened == opened + 1
        flaky.manner = "pass"
        await come_back()

    clock = ManualClock(1_800_000_000)
    in_loop(flaky, use, on_error=mode, expected_nodes=2, clock=clock, timeout=TIMEOUT)


def block_loop(servers: Sequence[Server]) -> None:
    """Let the time of the event loop go on as if it had stood still for longer than the timeout.

    By then the servers have answered all that they were asked.
    """
    for _ in range(2):  # a server may be asked both at once, and take this first
        for one in servers:
            one.ask("PING")
    loop: Any = asyncio.get_running_loop()
    later = loop.time() + 1.5 * PATIENT - time.monotonic()
    loop.time = lambda: time.monotonic() + later


@pytest.mark.parametrize("clustered", [False, True], ids=["single", "cluster"])
def test_an_event_loop_that_was_blocked_for_longer_than_the_timeout_still_reads_the_answer(
    server: Server, cluster: list[Server], clustered: bool
) -> None:
    servers = cluster if clustered else [server]
    url = cluster_url(cluster) if clustered else server.url

    def calls() -> int:
        return sum(one.calls() for one in servers)

    async def run() -> None:
        async with AsyncRedisStore(url, prefix=f"outage {next(fresh)}:", timeout=PATIENT) as store:
            await store.decide([charge("busy")])
            failures, blocked = store.stats().failures, 0
            for _ in range(12):
                before = calls()
                task = asyncio.ensure_future(store.decide([charge("busy", cost=0)]))
                while calls() == before:
                    await asyncio.sleep(0)
                blocked += not task.done()
                block_loop(servers)
                assert (await task)[0].source == "exact"
            assert blocked > 3
            assert store.stats().failures == failures

    asyncio.run(run())


@pytest.mark.parametrize("clustered", [False, True], ids=["single", "cluster"])
def test_an_event_loop_that_was_blocked_while_connecting_connects_once_more(
    server: Server, cluster: list[Server], clustered: bool
) -> None:
    url = cluster_url(cluster) if clustered else server.url

    async def run(turns: int) -> bool:
        async with AsyncRedisStore(url, prefix=f"outage {next(fresh)}:", timeout=PATIENT) as store:
            task = asyncio.ensure_future(store.decide([charge(str(turns))]))
            while clustered and not store._connections.knows_map:
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            under_way = not task.done()
            if under_way:
                block_loop(cluster if clustered else [server])
            assert (await task)[0].source == "exact"
            assert store.stats().failures == 0
            return under_way

    assert sum(asyncio.run(run(turns)) for turns in range(9)) > 3


@pytest.mark.parametrize("clustered", [False, True], ids=["single", "cluster"])
def test_a_server_that_hangs_while_connecting_is_given_up_after_one_timeout(flaky: Proxy, clustered: bool) -> None:
    flaky.manner = "hang"

    async def run() -> float:
        url = flaky.url.replace("redis:", "redis+cluster:").removesuffix("/0") if clustered else flaky.url
        async with AsyncRedisStore(url, timeout=1) as store:
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await store.decide([charge()])
            return time.monotonic() - begun

    # An event loop that stands still meanwhile tries once more, as it is to. It does not each time.
    assert any(asyncio.run(run()) < 1.9 for _ in range(5))


MANY = 20


def test_of_many_that_wait_for_a_cluster_that_hangs_one_asks_and_the_others_share_its_error(flaky: Proxy) -> None:
    flaky.manner = "hang"
    url = flaky.url.replace("redis:", "redis+cluster:").removesuffix("/0")
    with RedisStore(url, timeout=1, on_error="deny") as store, ThreadPoolExecutor(MANY) as pool:
        asked = list(pool.map(lambda number: store.decide([charge(str(number))])[0], range(MANY)))
    assert {decision.source for decision in asked} == {"fallback"}
    assert flaky.connections < MANY / 2  # 1, but for threads that came later

    async def run() -> None:
        async with AsyncRedisStore(url, timeout=1, on_error="deny") as store:
            answers = await asyncio.gather(*(store.decide([charge(str(number))]) for number in range(MANY)))
            assert {decision.source for [decision] in answers} == {"fallback"}

    before = flaky.connections
    asyncio.run(run())
    assert flaky.connections < before + MANY / 2


# ---- the service ----


def test_the_service_says_503_and_when_to_come_back() -> None:
    policy = Policy.parse('[[rules]]\nname = "r"\nlimit = "8/hour"\n')
    for mode in ("raise", "deny"):

        async def ask(mode: Any = mode) -> list[HttpAnswer]:
            url = f"redis://127.0.0.1:{free_port()}"
            async with AsyncRedisStore(url, on_error=mode, clock=ManualClock(1_800_000_000)) as store:
                core = Core(policy, store)
                client = WireClient(lambda channel: HttpWire(core, channel, Bounds()))
                client.send(b"GET /check HTTP/1.1\r\n\r\n")
                client.send(b'POST /v1/check HTTP/1.1\r\nContent-Length: 18\r\n\r\n{"attributes": {}}')
                await client.answered()
                return answers_in(client.sent)

        answer, checked = asyncio.run(ask())
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert json.loads(answer.body)["type"].endswith("#temporary-reduced-capacity")
        told = json.loads(checked.body)
        if mode == "raise":
            assert (checked.status, told["type"]) == (503, json.loads(answer.body)["type"])
        else:
            assert (checked.status, told["allowed"], told["undecided"]) == (200, False, True)


# ---- everything at once ----

PROCESSES, THREADS = 4, 8
BUSY = TokenBucket(40, 400)


def hammer(url: str, prefix: str, stop: Path) -> list[tuple[int, str]]:
    """Ask with many threads, in one of several processes. Return the times and sources of the admissions."""
    store = RedisStore(url, prefix=prefix, timeout=HAMMERED, retry=0.1, on_error="local", expected_nodes=PROCESSES)

    def ask(_: int) -> list[tuple[int, str]]:
        admitted = []
        while not stop.exists():
            decision = one(store, "hot", limit=BUSY)
            if decision:
                admitted.append((decision.at_ticks, decision.source))
            else:
                time.sleep(0.0005)  # else the two cores do nothing but refuse
        return admitted

    with ThreadPoolExecutor(THREADS) as pool:
        return [one for part in pool.map(ask, range(THREADS)) for one in part]


def trouble(flaky: Proxy, server: Server) -> None:
    """One trouble after the other; the next when the one before has been got over."""

    def decides() -> None:
        before = server.calls()
        wait_for(lambda: server.calls() > before + BUSY.capacity)

    manners: tuple[Manner, ...] = ("cut", "lose replies", "hang", "half-close")
    for manner in (*manners, *manners[:2]):
        decides()
        server.ask("SCRIPT", "FLUSH")
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        decides()
        flaky.manner = manner
        time.sleep(0.1)
        flaky.manner = "pass"
        flaky.drop()
        decides()
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        server.process.send_signal(signal.SIGCONT)


def test_processes_and_threads_hammer_one_key_through_trouble_and_no_window_holds_too_much(
    flaky: Proxy, server: Server, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    with get_context("spawn").Pool(PROCESSES) as pool:
        coming = pool.starmap_async(hammer, [(flaky.url, f"outage {next(fresh)}:", stop)] * PROCESSES)
        try:
            trouble(flaky, server)
        finally:
            stop.touch()
        histories = coming.get(60)
    exact = sorted(at for history in histories for at, source in history if source == "exact")
    assert len(exact) > BUSY.capacity
    assert_windows_hold(BUSY, exact)
    here = sorted(at for history in histories for at, source in history if source == "fallback")
    assert here
    # Each process has the server's time from a reply, which may have come late by a timeout, and from another later.
    slack = int(BUSY.rate * 2 * HAMMERED)
    assert_windows_hold(TokenBucket(BUSY.capacity + slack, BUSY.rate), here)


@pytest.mark.parametrize("clustered", [False, True], ids=["single", "cluster"])
def test_a_wrong_password_is_loud_and_never_fails_open(clustered: bool) -> None:
    with ExitStack() as stack:
        servers = stack.enter_context(redis_cluster()) if clustered else [stack.enter_context(redis_server())]
        url = (cluster_url(servers) if clustered else servers[0].url).replace("//", "//:wrong@")
        for server in servers:
            server.ask("CONFIG", "SET", "requirepass", "right")
        store = stack.enter_context(RedisStore(url, on_error="allow", timeout=PATIENCE))
        with pytest.raises(StoreError) as caught:
            Limiter(TokenBucket(1, 1), store=store).try_acquire("a")
        assert not isinstance(caught.value, StoreUnavailable)


def test_a_pool_that_is_used_up_is_an_error_of_its_own_and_never_fails_open() -> None:
    with redis_server() as server, redis.Redis(port=server.port, max_connections=1) as client:
        store = RedisStore(client, on_error="allow", timeout=PATIENCE)
        taken = client.connection_pool.get_connection()
        with pytest.raises(StoreError, match="connections") as caught:
            Limiter(TokenBucket(1, 1), store=store).try_acquire("a")
        assert not isinstance(caught.value, StoreUnavailable)
        client.connection_pool.release(taken)
        assert Limiter(TokenBucket(1, 1), store=store).try_acquire("a").source == "exact"

"""Limits from a function: which limit counts for a bucket, when it is looked up, and what counts while that fails."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from needs import need

from ratekeeper import (
    IMPLEMENTATION,
    AsyncKeeper,
    Keeper,
    LeakyBucket,
    LimitUnavailable,
    LookupFunction,
    ManualClock,
    MemoryStore,
    Policy,
    PolicyError,
    TokenBucket,
)
from ratekeeper.http.headers import rate_limit_headers
from ratekeeper.http.responses import problem
from ratekeeper.policy.lookups import threads as lookup_threads
from ratekeeper.policy.lookups.functions import Lookups
from ratekeeper.policy.lookups.lookup import Lookup
from ratekeeper.policy.model import Override, Rule

RULE = '[[rules]]\nname = "each user"\nkey = ["user"]\nlimit = "app:plan"\ndefault = "10/minute"\nttl = 60\n'
POLICY = Policy.parse(RULE)
ALICE, BOB = {"user": "alice"}, {"user": "bob"}


@pytest.fixture(autouse=True, params=["c", "python"])
def core_in_use(request: pytest.FixtureRequest) -> None:
    """Run each test on both cores."""
    need("the C core", request.param == "python" or IMPLEMENTATION == "c")
    STORE["implementation"] = request.param


STORE: dict[str, Any] = {}


def until(true: Callable[[], object]) -> None:
    """Poll until something is true."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.001)


class Plans:
    """A look-up by a dictionary, which counts and can be held up."""

    def __init__(self, plans: Mapping[str, Any]) -> None:
        self.plans: dict[str, Any] = dict(plans)
        self.calls: list[dict[str, str]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, attributes: Mapping[str, str]) -> Any:
        self.calls.append(dict(attributes))
        assert self.go_on.wait(20)
        answer = self.plans.get(attributes.get("user", ""))
        if isinstance(answer, Exception):
            raise answer
        return answer


PATIENT = 20.0  # seconds, of a look-up that is to end on a machine that stands still for some


def keeper_of(plans: Any, policy: Policy = POLICY, **options: Any) -> tuple[Keeper, ManualClock]:
    clock = ManualClock(1000)
    given = LookupFunction(plans, **({"timeout": PATIENT} | options))
    return Keeper(policy, MemoryStore(1000, clock=clock, **STORE), limits={"plan": given}), clock


def settled(keeper: Keeper | AsyncKeeper) -> Callable[[], bool]:
    return lambda: keeper.lookups["plan"].under_way == 0


# ---- which limit ----


@pytest.mark.parametrize(
    ("answer", "limits"),
    [
        ("500/minute", [TokenBucket(500, "500/minute")]),
        (TokenBucket(3, 1), [TokenBucket(3, 1)]),
        (LeakyBucket(3, 1), [LeakyBucket(3, 1)]),
        (None, [TokenBucket(10, "10/minute")]),
        ("5/s; 100/hour", [TokenBucket(5, "5/s"), TokenBucket(100, "100/hour")]),
        (["5/s", TokenBucket(7, 1)], [TokenBucket(5, "5/s"), TokenBucket(7, 1)]),
        (("5/s",), [TokenBucket(5, "5/s")]),
    ],
)
def test_a_look_up_returns_a_limit_a_string_several_or_none(answer: Any, limits: list[Any]) -> None:
    keeper, _ = keeper_of(Plans({"alice": answer}))
    decision = keeper.try_acquire(ALICE)
    assert [one.limit for one in decision.rules] == limits
    assert [one.name for one in decision.rules] == ["each user"] * len(limits)


@pytest.mark.parametrize(
    "answer",
    [7, 1.5, b"5/s", {"limit": "5/s"}, [], [None], [7], ["5/s"] * 9, "", "often", "5/fortnight", object(), True],
)
def test_anything_else_is_a_failed_look_up(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    keeper, _ = keeper_of(Plans({"alice": answer}))
    with caplog.at_level(logging.ERROR, "ratekeeper"):
        assert keeper.try_acquire(ALICE).limit == TokenBucket(10, "10/minute")
    assert keeper.lookups["plan"].errors == 1
    assert "the look-up of limits 'plan' fails" in caplog.text


def test_it_gets_the_attributes_of_the_key_only_and_cannot_change_them() -> None:
    seen: list[Mapping[str, str]] = []

    def plan(attributes: Mapping[str, str]) -> str:
        seen.append(attributes)
        return "1/s"

    keeper, _ = keeper_of(plan)
    keeper.try_acquire({"user": "alice", "secret": "s", "path": "/"})
    keeper.try_acquire({"secret": "s"})  # all without a user share a bucket
    assert list(map(dict, seen)) == [ALICE, {}]
    with pytest.raises(TypeError, match="item assignment"):
        seen[0]["user"] = "bob"  # type: ignore[index]


def test_several_limits_count_all_or_nothing_and_say_so() -> None:
    keeper, clock = keeper_of(Plans({"alice": ["2/s", "3/hour"]}))
    assert keeper.try_acquire(ALICE, 2)
    refused = keeper.try_acquire(ALICE, 2)
    assert [one.decision.allowed for one in refused.rules] == [False, False]
    clock.advance(1)
    refused = keeper.try_acquire(ALICE, 2)
    assert [one.decision.allowed for one in refused.rules] == [True, False]
    assert [one.label for one in refused.rules] == ["each user", "each user/1"]
    assert dict(rate_limit_headers(refused))["RateLimit"].startswith('"each user";r=2;t=1, "each user/1";r=1;t=')
    assert b'"violated-policies": ["each user/1"]' in problem(refused).body
    assert refused.outcomes == (("each user", "refused"),)
    assert keeper.try_acquire(ALICE).remaining == 0
    assert [(it.name, it.used) for it in keeper.usage(ALICE)] == [("each user", 1), ("each user/1", 3)]


def test_a_refund_and_a_reset_find_each_limits_bucket() -> None:
    keeper, _ = keeper_of(Plans({"alice": ["5/s", "7/hour"]}))
    decision = keeper.try_acquire(ALICE, 4)
    keeper.refund(decision)
    keeper.refund(decision)
    assert [one.decision.remaining for one in keeper.peek(ALICE).rules] == [5, 7]
    keeper.try_acquire(ALICE, 4)
    keeper.reset(ALICE)
    assert [one.decision.remaining for one in keeper.peek(ALICE).rules] == [5, 7]


@pytest.mark.parametrize("verb", ["unblock", "reset"])
def test_the_end_of_a_block_is_of_all_limits_that_the_look_up_has_returned(verb: str) -> None:
    plans = Plans({"alice": ["5/s", "7/hour"]})
    keeper, clock = keeper_of(plans)
    keeper.block(ALICE, time.time() + 86_400)
    keeper.block(BOB, time.time() + 86_400)

    def change_to(plan: Any) -> None:
        plans.plans["alice"] = plan
        clock.advance(61)
        keeper.peek(ALICE)
        until(settled(keeper))

    change_to("5/s")
    getattr(keeper, verb)(ALICE, rule="each user")
    change_to(["5/s", "7/hour"])
    assert [one.decision.allowed for one in keeper.peek(ALICE).rules] == [True, True]
    assert not keeper.peek(BOB)


def test_a_block_holds_whatever_limits_the_look_up_returns_later() -> None:
    plans = Plans({"alice": "5/s"})
    keeper, clock = keeper_of(plans)
    keeper.block(ALICE, time.time() + 86_400)
    for plan in (["5/s", "7/hour"], "100000/day", "0/s", ["9/s", "1000/hour", "7/day"], None):
        plans.plans["alice"] = plan
        clock.advance(61)
        keeper.peek(ALICE)
        until(settled(keeper))
        assert not keeper.try_acquire(ALICE)
        assert keeper.try_acquire(BOB)
    keeper.unblock(ALICE)
    assert keeper.try_acquire(ALICE)


def test_an_override_counts_before_a_look_up() -> None:
    rule = Rule(
        "each user", TokenBucket(1, 1), key=("user",), lookup=Lookup("plan"),
        overrides=(Override({"user": ("bob",)}, TokenBucket(9, 1)),),
    )  # fmt: skip
    plans = Plans({"alice": "5/s", "bob": "6/s"})
    keeper, _ = keeper_of(plans, Policy((rule,)))
    assert (keeper.peek(ALICE).remaining, keeper.peek(BOB).remaining) == (5, 9)
    assert plans.calls == [ALICE]


def test_rules_with_one_key_and_one_look_up_share_what_is_known() -> None:
    other = RULE.replace("each user", "each user's exports")
    plans = Plans({"alice": "5/s"})
    keeper, _ = keeper_of(plans, Policy.parse(RULE + other))
    decision = keeper.try_acquire(ALICE)
    assert [(one.name, one.decision.remaining) for one in decision.rules] == [
        ("each user", 4),
        ("each user's exports", 4),
    ]
    assert plans.calls == [ALICE]


def test_all_verbs_use_the_looked_up_limit() -> None:
    keeper, _ = keeper_of(Plans({"alice": "5/s"}))
    assert keeper.peek(ALICE).remaining == 5
    assert keeper.acquire(ALICE).remaining == 4
    assert keeper.reserve(ALICE).decision.remaining == 3
    assert keeper.usage(ALICE)[0].limit == TokenBucket(5, "5/s")
    assert [it.decision and it.decision.remaining for it in keeper.explain(ALICE)] == [3]


# ---- when it is looked up ----


def test_a_known_limit_is_looked_up_again_in_the_background_when_its_time_is_over() -> None:
    plans = Plans({"alice": "5/s"})
    keeper, clock = keeper_of(plans)
    keeper.try_acquire(ALICE)
    plans.plans["alice"] = "50/s"
    clock.advance(59.9)
    assert keeper.peek(ALICE).limit == TokenBucket(5, "5/s")
    assert len(plans.calls) == 1
    clock.advance(0.1)
    plans.go_on.clear()
    for _ in range(10):  # the known answer counts meanwhile, and nobody waits
        assert keeper.peek(ALICE).limit == TokenBucket(5, "5/s")
    until(lambda: len(plans.calls) == 2)
    plans.go_on.set()
    until(settled(keeper))
    assert keeper.peek(ALICE).limit == TokenBucket(50, "50/s")
    assert len(plans.calls) == 2


def test_debts_stay_when_a_limit_changes() -> None:
    plans = Plans({"alice": "10/minute"})
    keeper, clock = keeper_of(plans)
    assert keeper.try_acquire(ALICE, 10)
    plans.plans["alice"] = "20/minute"
    clock.advance(60)
    assert keeper.try_acquire(ALICE, 10)
    until(settled(keeper))
    decision = keeper.peek(ALICE, 0)
    assert decision.limit == TokenBucket(20, "20/minute")
    assert decision.remaining == 0  # full again in 60 s, as before; 20 refill in that time


def test_the_counts_of_look_ups_may_be_read_while_a_policy_is_replaced() -> None:
    def policy(first: int, count: int) -> Policy:
        rules = [
            RULE.replace("each user", f"r{n}").replace("10/minute", f"{n}/minute") for n in range(first, first + count)
        ]
        return Policy.parse("".join(rules))

    policies = [policy(1, 1), policy(2, 20), policy(30, 3)]
    keeper, failed, done = (
        Keeper(policies[0], limits={"plan": lambda attributes: None}),
        list[Exception](),
        threading.Event(),
    )

    def read() -> None:
        try:
            while not done.is_set():
                assert keeper.lookups.keys() == {"plan"}
        except Exception as error:
            failed.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(300):
            keeper.replace(policies[number % 3])
        done.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert failed == []


def test_many_first_requests_of_a_key_make_one_look_up() -> None:
    plans = Plans({"alice": "1000000/s"})
    plans.go_on.clear()
    keeper, _ = keeper_of(plans, timeout=20)
    decisions: list[Any] = []
    threads = [threading.Thread(target=lambda: decisions.append(keeper.try_acquire(ALICE))) for _ in range(200)]
    for thread in threads:
        thread.start()
    until(lambda: plans.calls)
    plans.go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(decisions) == 200
    assert all(one.limit == TokenBucket(1_000_000, "1000000/s") for one in decisions)
    assert len(plans.calls) == keeper.lookups["plan"].lookups == 1


def test_what_is_known_is_bounded_and_the_oldest_is_forgotten_first() -> None:
    plans = Plans({})
    keeper, _ = keeper_of(plans, max_keys=160)
    for number in range(1000):
        keeper.peek({"user": f"u-{number}"})
        assert keeper.lookups["plan"].known <= 160
    calls = len(plans.calls)
    keeper.peek({"user": "u-999"})
    assert len(plans.calls) == calls
    keeper.peek({"user": "u-0"})
    assert len(plans.calls) == calls + 1


def test_hits_are_counted() -> None:
    keeper, _ = keeper_of(Plans({}))
    for _ in range(5):
        keeper.try_acquire(ALICE)
    assert keeper.lookups["plan"] == (4, 1, 0, 0, 1, 0)


# ---- while it fails ----


@pytest.mark.parametrize(("on_error", "limit"), [("last known", "5/s"), ("default", "10/minute")])
def test_a_failed_refresh_leaves_the_last_known_or_the_default(on_error: Any, limit: str) -> None:
    plans = Plans({"alice": "5/s"})
    keeper, clock = keeper_of(plans, Policy.parse(f'{RULE}on_lookup_error = "{on_error}"'))
    keeper.peek(ALICE)
    plans.plans["alice"] = OSError("the database is away")
    clock.advance(60)
    keeper.peek(ALICE)
    until(settled(keeper))
    assert keeper.peek(ALICE).limit == Policy.parse(f'rules = [{{name = "x", limit = "{limit}"}}]').rules[0].limit
    assert len(plans.calls) == 2  # asked again in a second, and not for each request
    clock.advance(1)
    plans.plans["alice"] = "7/s"
    keeper.peek(ALICE)
    until(settled(keeper))
    assert keeper.peek(ALICE).limit == TokenBucket(7, "7/s")


def test_deny_refuses_until_a_look_up_succeeds_and_charges_nothing() -> None:
    plans = Plans({"alice": OSError("away"), "bob": "5/s"})
    text = f'[[rules]]\nname = "all"\nlimit = "100/hour"\n{RULE}on_lookup_error = "deny"'
    keeper, clock = keeper_of(plans, Policy.parse(text))
    for _ in range(3):
        with pytest.raises(
            LimitUnavailable, match="rule 'each user': its limit 'app:plan' cannot be looked up"
        ) as error:
            keeper.try_acquire(ALICE)
        assert error.value.retry_after == 1
    assert len(plans.calls) == 1
    assert keeper.try_acquire(BOB).rules[0].decision.remaining == 99
    plans.plans["alice"] = "2/s"
    clock.advance(1)
    with pytest.raises(LimitUnavailable, match="cannot be looked up"):
        keeper.try_acquire(ALICE)  # it is looked up again meanwhile
    until(settled(keeper))
    assert keeper.try_acquire(ALICE).remaining == 1


def test_a_rule_in_shadow_denies_nobody() -> None:
    plans = Plans({"alice": OSError("away")})
    keeper, _ = keeper_of(plans, Policy.parse(f'{RULE}on_lookup_error = "deny"\nshadow = true'))
    decision = keeper.try_acquire(ALICE)
    assert decision.allowed
    assert decision.rules[0].limit == TokenBucket(10, "10/minute")


def test_a_slow_look_up_holds_a_request_for_its_timeout_at_most_and_once() -> None:
    plans = Plans({"alice": "5/s"})
    plans.go_on.clear()
    keeper, _ = keeper_of(plans, timeout=0.05)
    begun = time.monotonic()
    assert keeper.peek(ALICE).limit == TokenBucket(10, "10/minute")
    assert 0.05 <= time.monotonic() - begun < PATIENT  # as long as the look-up is held up
    for _ in range(100):
        keeper.peek(ALICE)
    assert keeper.lookups["plan"].timeouts == 1
    plans.go_on.set()
    until(settled(keeper))
    assert keeper.peek(ALICE).limit == TokenBucket(5, "5/s")  # the late answer counts
    assert len(plans.calls) == 1


def test_a_failure_is_logged_once_for_each_kind_and_never_with_the_key(caplog: pytest.LogCaptureFixture) -> None:
    plans = Plans({f"secret-{n}": (OSError if n % 2 else KeyError)(f"no secret-{n}") for n in range(20)})
    keeper, _ = keeper_of(plans)
    with caplog.at_level(logging.DEBUG, "ratekeeper"):
        for number in range(20):
            keeper.peek({"user": f"secret-{number}"})
    assert len(caplog.records) == 2
    assert "secret" not in caplog.text
    assert "test_lookups.py:" in caplog.text
    assert keeper.lookups["plan"].errors == 20


def test_a_look_up_that_ends_its_thread_harms_nobody() -> None:
    def plan(attributes: Mapping[str, str]) -> str:
        raise SystemExit(3) if attributes["user"] == "bob" else KeyboardInterrupt

    keeper, _ = keeper_of(plan)
    for attributes in (ALICE, BOB):
        assert keeper.peek(attributes).limit == TokenBucket(10, "10/minute")


def test_a_limit_that_does_not_add_up_is_a_failed_look_up() -> None:
    need("the C core", IMPLEMENTATION == "c")
    limit = TokenBucket(5, 1)
    object.__setattr__(limit, "interval", 0)
    keeper, _ = keeper_of(Plans({"alice": limit}))
    assert keeper.peek(ALICE).limit == TokenBucket(10, "10/minute")
    assert keeper.lookups["plan"][2:] == (1, 0, 1, 0)


class HostileList(list[str]):
    def __iter__(self) -> Any:
        raise KeyError("alice")


class HostileText(str):
    def __hash__(self) -> int:
        raise SystemExit(3)


@pytest.mark.parametrize("answer", [HostileList(["5/s"]), HostileText("5/s")])
def test_an_answer_whose_own_code_raises_is_a_failed_look_up(answer: Any) -> None:
    keeper, _ = keeper_of(Plans({"alice": answer}), timeout=20)
    assert keeper.peek(ALICE).limit == TokenBucket(10, "10/minute")
    stats = keeper.lookups["plan"]
    assert (stats.errors, stats.timeouts, stats.under_way) == (1, 0, 0)


def test_a_look_up_may_ask_its_own_keeper() -> None:
    def plan(attributes: Mapping[str, str]) -> str:
        return "5/s" if keeper.peek(BOB if attributes == ALICE else ALICE) else "1/s"

    keeper, _ = keeper_of(plan, timeout=0.05)
    # Each waits for the other, for a while. A busy machine may wake this thread only after the other's wait has ended.
    assert keeper.peek(ALICE).limit in (TokenBucket(10, "10/minute"), TokenBucket(5, "5/s"))
    until(settled(keeper))
    assert keeper.peek(ALICE).limit == TokenBucket(5, "5/s")


def test_threads_end_when_there_is_nothing_to_do_and_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_threads, "IDLE_SECONDS", 0.01)
    keeper, _ = keeper_of(Plans({}), at_once=3)
    for user in "abc":
        keeper.peek({"user": user})
        until(lambda: not any(thread.name == "ratekeeper lookup" for thread in threading.enumerate()))
    assert keeper.lookups["plan"].known == 3


def test_too_many_look_ups_at_once_are_failed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_threads, "MOST_QUEUED", 5)
    plans = Plans({})
    plans.go_on.clear()
    keeper, _ = keeper_of(plans, at_once=1, timeout=0.001)
    for number in range(20):
        keeper.peek({"user": f"u-{number}"})
    assert keeper.lookups["plan"].errors >= 10
    plans.go_on.set()
    until(settled(keeper))


def test_a_log_handler_may_wait_for_another_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_threads, "MOST_QUEUED", 0)
    keeper, _ = keeper_of(Plans({}))
    others: list[bool] = []

    class Waiting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            other = threading.Thread(target=lambda: others.append(keeper.peek(BOB).allowed), daemon=True)
            other.start()
            other.join(PATIENT)
            others.append(other.is_alive())

    handler = Waiting()
    logging.getLogger("ratekeeper").addHandler(handler)
    try:
        assert keeper.peek(ALICE).limit == TokenBucket(10, "10/minute")
    finally:
        logging.getLogger("ratekeeper").removeHandler(handler)
    assert others == [True, False]


def test_a_fork_in_the_middle_of_a_look_up_leaves_no_bucket_waiting_for_ever() -> None:
    need("fork", hasattr(os, "fork"))
    plans = Plans({"alice": "5/s"})
    plans.go_on.clear()
    keeper, _ = keeper_of(plans, timeout=0.01)
    keeper.peek(ALICE)
    until(lambda: plans.calls)
    held, free = plans.go_on, threading.Event()
    free.set()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            plans.go_on = free  # the parent's thread, which is not in the child, may have held a lock of the other
            keeper.store.clock.advance(1)  # type: ignore[attr-defined]
            keeper.peek(ALICE)
            until(settled(keeper))
            code = 0 if keeper.peek(ALICE).limit == TokenBucket(5, "5/s") else 2
        finally:
            os._exit(code)
    held.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- asyncio ----


class AsyncPlans(Plans):
    """The same, async."""

    def __init__(self, plans: Mapping[str, Any]) -> None:
        super().__init__(plans)
        self.held: asyncio.Event | None = None

    async def __call__(self, attributes: Mapping[str, str]) -> Any:
        self.calls.append(dict(attributes))
        if self.held is not None:
            await self.held.wait()
        answer = self.plans.get(attributes["user"])
        if isinstance(answer, BaseException):
            raise answer
        return answer


def async_keeper_of(plans: Any, policy: Policy = POLICY, **options: Any) -> tuple[AsyncKeeper, ManualClock]:
    clock = ManualClock(1000)
    store = MemoryStore(1000, clock=clock, **STORE)
    return AsyncKeeper(policy, store, limits={"plan": LookupFunction(plans, **({"timeout": PATIENT} | options))}), clock


@pytest.mark.parametrize("kind", [Plans, AsyncPlans])
def test_ten_thousand_first_requests_make_one_look_up(kind: type[Plans]) -> None:
    plans = kind({"alice": "1000000/s"})
    keeper, _ = async_keeper_of(plans, timeout=20)

    async def ask() -> list[Any]:
        if isinstance(plans, AsyncPlans):
            plans.held = asyncio.Event()
            asyncio.get_running_loop().call_later(0.05, plans.held.set)
        else:
            plans.go_on.clear()
            asyncio.get_running_loop().call_later(0.05, plans.go_on.set)
        decisions: list[Any] = await asyncio.gather(*(keeper.try_acquire(ALICE) for _ in range(10_000)))
        return decisions

    decisions = asyncio.run(ask())
    assert {one.limit for one in decisions} == {TokenBucket(1_000_000, "1000000/s")}
    assert len(plans.calls) == 1
    assert min(one.remaining for one in decisions) == 990_000


@pytest.mark.parametrize("kind", [Plans, AsyncPlans])
def test_all_async_verbs_use_the_looked_up_limit(kind: type[Plans]) -> None:
    keeper, clock = async_keeper_of(kind({"alice": "5/s"}))

    async def ask() -> None:
        assert [it.decision and it.decision.remaining for it in await keeper.explain(ALICE)] == [5]
        assert (await keeper.peek(ALICE)).remaining == 5
        assert (await keeper.acquire(ALICE)).remaining == 4
        assert (await keeper.reserve(ALICE)).decision.remaining == 3
        assert (await keeper.usage(ALICE))[0].limit == TokenBucket(5, "5/s")
        await keeper.reset(ALICE)
        assert (await keeper.try_acquire(ALICE)).remaining == 4
        clock.advance(60)
        assert (await keeper.try_acquire(ALICE)).remaining == 4

    asyncio.run(ask())


def test_a_cancelled_request_does_not_cancel_the_look_up_of_the_others() -> None:
    plans = AsyncPlans({"alice": "5/s"})
    keeper, _ = async_keeper_of(plans, timeout=20)

    async def ask() -> Any:
        plans.held = asyncio.Event()
        first, second = (asyncio.ensure_future(keeper.try_acquire(ALICE)) for _ in range(2))
        while not plans.calls:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        plans.held.set()
        return await second

    assert asyncio.run(ask()).limit == TokenBucket(5, "5/s")
    assert len(plans.calls) == 1


def test_a_loop_that_ends_leaves_no_bucket_waiting_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    plans = AsyncPlans({"alice": "5/s"})
    keeper, clock = async_keeper_of(plans, timeout=0.01)

    async def ask(held: bool) -> Any:
        plans.held = asyncio.Event() if held else None
        return await keeper.peek(ALICE)

    assert asyncio.run(ask(held=True)).limit == TokenBucket(10, "10/minute")  # and the loop cancels the look-up
    clock.advance(1)
    asyncio.run(ask(held=False))
    loop = asyncio.new_event_loop()
    clock.advance(60)
    loop.run_until_complete(ask(held=True))
    loop.close()  # with the look-up in the middle
    clock.advance(1)

    async def again() -> Any:
        plans.held = None
        await keeper.peek(ALICE)
        while keeper.lookups["plan"].under_way:
            await asyncio.sleep(0)
        return await keeper.peek(ALICE)

    plans.plans["alice"] = "6/s"
    assert asyncio.run(again()).limit == TokenBucket(6, "6/s")
    assert [record for record in caplog.records if record.name == "ratekeeper"] == [], "no look-up has failed"


@pytest.mark.parametrize("end", [SystemExit("the end"), KeyboardInterrupt("the end")])
def test_an_async_look_up_may_end_the_program(end: BaseException) -> None:
    keeper, _ = async_keeper_of(AsyncPlans({"alice": end}))
    with pytest.raises(type(end), match="the end"):
        asyncio.run(keeper.peek(ALICE))


def test_two_loops_wait_for_one_look_up() -> None:
    plans = AsyncPlans({"alice": "5/s"})
    keeper, _ = async_keeper_of(plans, timeout=20)
    begun, results = threading.Event(), list[Any]()

    async def first() -> None:
        plans.held = asyncio.Event()
        begun.set()
        waits = asyncio.ensure_future(keeper.try_acquire(ALICE))
        while keeper.lookups["plan"].under_way == 0 or not second.is_alive():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)  # the other loop waits by now, or finds the answer: both are right
        plans.held.set()
        results.append(await waits)

    def other() -> None:
        until(lambda: keeper.lookups["plan"].under_way)
        results.append(asyncio.run(keeper.try_acquire(ALICE)))

    second = threading.Thread(target=other)
    second.start()
    asyncio.run(first())
    second.join(20)
    assert [one.limit for one in results] == [TokenBucket(5, "5/s")] * 2
    assert len(plans.calls) == 1


def test_an_async_look_up_that_raises_is_a_failed_one() -> None:
    keeper, _ = async_keeper_of(AsyncPlans({"alice": OSError("away")}), Policy.parse(f'{RULE}on_lookup_error = "deny"'))
    with pytest.raises(LimitUnavailable, match="cannot be looked up"):
        asyncio.run(keeper.try_acquire(ALICE))
    assert keeper.lookups["plan"].errors == 1


def plain_factory(loop: asyncio.AbstractEventLoop, coroutine: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop)


@pytest.mark.parametrize("factory", [plain_factory, getattr(asyncio, "eager_task_factory", plain_factory)])
def test_no_task_factory_runs_an_async_look_up_while_others_are_kept_out(factory: Any) -> None:
    others: list[Any] = []

    async def plan(attributes: Mapping[str, str]) -> str:
        if attributes == ALICE:
            other = threading.Thread(target=lambda: others.append(asyncio.run(keeper.peek(BOB))), daemon=True)
            other.start()
            other.join(20)
        return "5/s"

    async def ask() -> Any:
        asyncio.get_running_loop().set_task_factory(factory)
        return await keeper.peek(ALICE)

    keeper, _ = async_keeper_of(plan, timeout=60)
    assert asyncio.run(ask()).limit == TokenBucket(5, "5/s")
    assert [one.limit for one in others] == [TokenBucket(5, "5/s")]


class Stop(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [asyncio.CancelledError, Stop])
def test_an_async_look_up_that_raises_no_exception_is_a_failed_one(error: type[BaseException]) -> None:
    async def plan(attributes: Mapping[str, str]) -> str:
        raise error

    keeper, _ = async_keeper_of(plan)
    assert asyncio.run(keeper.peek(ALICE)).limit == TokenBucket(10, "10/minute")
    stats = keeper.lookups["plan"]
    assert (stats.lookups, stats.errors, stats.timeouts, stats.under_way) == (1, 1, 0, 0)


# ---- mistakes ----


async def async_plan(attributes: Mapping[str, str]) -> str:
    return "5/s"


def test_mistakes_are_found_at_the_start() -> None:
    with pytest.raises(PolicyError, match=r"rule 'each user': nothing gives the limit 'app:plan'\. Give a function"):
        Keeper(POLICY)
    with pytest.raises(PolicyError, match="nothing gives the limit 'app:plan': did you mean 'plans'"):
        Keeper(POLICY, limits={"plans": lambda _: None})
    with pytest.raises(PolicyError, match="no rule reads the limit 'more' that is given"):
        Keeper(POLICY, limits={"plan": lambda _: None, "more": lambda _: None})
    with pytest.raises(TypeError, match="'plan' is async, which a Keeper cannot await: use AsyncKeeper"):
        Keeper(POLICY, limits={"plan": async_plan})
    with pytest.raises(TypeError, match="must be a function"):
        Keeper(POLICY, limits={"plan": "5/s"})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="limits must be a mapping"):
        Keeper(POLICY, limits=lambda _: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error"),
    [({"timeout": 0}, "timeout must be seconds"), ({"timeout": float("nan")}, "timeout"),
     ({"timeout": 1e9}, "at most an hour"),
     ({"max_keys": 3}, "at least 16"), ({"max_keys": True}, "max_keys"), ({"at_once": 0}, "at_once")],
)  # fmt: skip
def test_bounds_that_cannot_be_are_an_error(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        LookupFunction(lambda _: None, **options)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [("", {}, "look-up's name"), ("a b", {}, "look-up's name"), ("plan", {"ttl": 0}, "ttl"),
     ("plan", {"ttl": True}, "ttl"), ("plan", {"ttl": float("nan")}, "ttl"),
     ("plan", {"on_error": "last know"}, "did you mean 'last known'")],
)  # fmt: skip
def test_a_look_up_that_cannot_be_is_an_error(name: str, options: dict[str, Any], error: str) -> None:
    with pytest.raises(PolicyError, match=error):
        Lookup(name, **options)


def test_a_reload_keeps_what_is_known_of_a_rule_that_stays() -> None:
    plans = Plans({"alice": "5/s"})
    keeper, _ = keeper_of(plans)
    keeper.peek(ALICE)
    keeper.replace(Policy.parse(f'{RULE}[[rules]]\nname = "all"\nlimit = "9/s"'))
    keeper.peek(ALICE)
    assert len(plans.calls) == 1
    keeper.replace(Policy.parse(RULE.replace("10/minute", "11/minute")))
    keeper.peek(ALICE)
    assert len(plans.calls) == 2
    with pytest.raises(PolicyError, match="nothing gives the limit 'app:other'"):
        keeper.replace(Policy.parse(RULE.replace("app:plan", "app:other")))
    assert keeper.peek(ALICE).remaining == 5


@pytest.mark.slow
def test_many_keys_take_no_more_memory_than_the_bound() -> None:
    keeper, _ = keeper_of(lambda _: "5/s", max_keys=1000)
    keeper.peek({"user": "first"})
    tracemalloc.start()
    try:
        for number in range(2_000):
            keeper.peek({"user": f"u-{number}"})
        before = tracemalloc.get_traced_memory()[0]
        for number in range(8_000):
            keeper.peek({"user": f"v-{number}"})
        assert tracemalloc.get_traced_memory()[0] < before + 300_000
    finally:
        tracemalloc.stop()
    assert keeper.lookups["plan"].known <= 1000
    assert keeper.lookups["plan"].under_way == 0


def test_a_rule_with_the_label_of_another_rules_further_limit_is_an_error() -> None:
    other = RULE.replace("each user", "each user/1")
    with pytest.raises(
        PolicyError, match=r"a rule is named 'each user/1', as is the second .* of the two rules another"
    ):
        Policy.parse(RULE + other)
    fixed = '[[rules]]\nname = "each user/{}"\nlimit = "1/s"\n'
    for place in (1, 7):
        with pytest.raises(PolicyError, match=f"a rule is named 'each user/{place}'"):
            Policy.parse(RULE + fixed.format(place))
    for other_place in ("0", "8", "01", "a"):
        assert len(Policy.parse(RULE + fixed.format(other_place)).rules) == 2


def test_look_ups_that_stores_on_two_clocks_share_grow_stale_by_each_stores_own_clock() -> None:
    plans = Plans({"alice": "5/s"})
    lookups = Lookups({"plan": LookupFunction(plans, timeout=PATIENT)}, awaits=False)
    clocks = [ManualClock(1_000_000), ManualClock(5)]
    keepers = [Keeper(Policy.parse(RULE), MemoryStore(100, clock=clock), limits=lookups) for clock in clocks]
    for keeper in keepers * 2:
        assert keeper.peek(ALICE).remaining == 5
    assert len(plans.calls) == 2
    plans.plans["alice"] = "9/s"
    clocks[1].advance(61)
    for keeper in keepers:
        keeper.peek(ALICE)
    until(settled(keepers[1]))
    assert [keeper.peek(ALICE).remaining for keeper in keepers] == [5, 9]


def test_stores_on_the_systems_clock_share_what_their_look_ups_know() -> None:
    plans = Plans({"alice": "5/s"})
    lookups = Lookups({"plan": LookupFunction(plans, timeout=PATIENT)}, awaits=False)
    keepers = [Keeper(Policy.parse(RULE), MemoryStore(100), limits=lookups) for _ in range(3)]
    assert [keeper.peek(ALICE).remaining for keeper in keepers] == [5, 5, 5]
    assert len(plans.calls) == 1

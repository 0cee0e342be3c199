"""A policy at work: which rules are charged, what is answered, and what `explain` says of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from async_memory import AsyncMemoryStore
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import (
    AsyncKeeper,
    Decision,
    Keeper,
    LeakyBucket,
    ManualClock,
    MemoryStore,
    Policy,
    PolicyDecision,
    RateLimitExceeded,
)
from ratekeeper.policy.model import Rule
from ratekeeper.stores.table_store import TableStore

POLICY = Policy.parse("""
[tiers]
by = "api_key"
default = "free"
pro = ["k-alice", "k-bob"]

[[rules]]
name = "free keys"
match = { tier = "free", path = "/api/*" }
key = ["api_key"]
capacity = 2
refill_rate = 1

[[rules]]
name = "pro keys"
match = { tier = "pro" }
key = ["api_key"]
capacity = 5
refill_rate = 1
overrides = [{ api_key = "k-bob", capacity = 7 }]

[[rules]]
name = "everyone"
limit = "6/day"

[[rules]]
name = "tried out"
match = { path = "/api/*" }
limit = "1/day"
shadow = true
""")

LEAKY = 'algorithm = "leaky_bucket"\ncapacity = 10\nleak_rate = "1/day"'


@pytest.fixture
def keeper(store: TableStore) -> Keeper:
    return Keeper(POLICY, store)


def test_tiers_keys_and_overrides_choose_the_limit(keeper: Keeper) -> None:
    for key, capacity in (("x", 2), ("k-alice", 5), ("k-bob", 7)):
        decision = keeper.try_acquire({"api_key": key, "path": "/api/x"}, cost=0)
        assert decision.rules[0].limit.capacity == capacity


def test_a_request_cannot_name_its_own_tier(keeper: Keeper) -> None:
    decision = keeper.try_acquire({"api_key": "x", "path": "/api/x", "tier": "pro"})
    assert [rule.name for rule in decision.rules] == ["free keys", "everyone", "tried out"]


def test_all_rules_that_match_are_charged_or_none_is(keeper: Keeper) -> None:
    request = {"api_key": "x", "path": "/api/x"}
    assert [bool(keeper.try_acquire(request)) for _ in range(4)] == [True, True, False, False]
    everyone = keeper.try_acquire({"api_key": "k-alice"}, cost=0).rules[1].decision
    assert everyone.remaining == 4, "the two that were refused cost this rule nothing"


def test_the_answer_is_that_of_the_most_binding_rule_and_carries_all(keeper: Keeper) -> None:
    request = {"api_key": "x", "path": "/api/x"}
    decision = keeper.try_acquire(request)
    assert decision.rule is not None
    assert (decision.rule.name, decision.remaining) == ("free keys", 1)
    keeper.try_acquire(request)
    refused = keeper.try_acquire(request)
    assert not refused
    assert refused.rule is not None
    assert (refused.rule.name, refused.retry_after) == ("free keys", 1.0)
    assert [(rule.name, rule.decision.allowed) for rule in refused.rules] == [
        ("free keys", False),
        ("everyone", True),
        ("tried out", False),
    ]


def test_a_shadow_rule_reports_but_never_refuses(keeper: Keeper) -> None:
    request = {"api_key": "k-alice", "path": "/api/x"}
    decisions = [keeper.try_acquire(request) for _ in range(3)]
    assert all(decisions)
    assert [decision.rules[-1].decision.allowed for decision in decisions] == [True, False, False]
    assert decisions[-1].retry_after == 0.0


def test_without_a_matching_rule_nothing_limits_and_the_answer_says_so(store: TableStore) -> None:
    keeper = Keeper(Policy.parse('[[rules]]\nname = "r"\nmatch = { path = "/a" }\nlimit = "1/s"'), store)
    decision = keeper.try_acquire({"path": "/b"})
    assert decision.allowed
    assert (decision.rules, decision.rule, decision.limit, decision.remaining) == ((), None, None, float("inf"))


@pytest.mark.parametrize(
    ("missing", "outcomes"), [("shared", [True, False]), ("skip", [True, True]), ("reject", [False, False])]
)
def test_a_request_without_the_keys_attribute_is_treated_as_the_rule_says(
    store: TableStore, missing: str, outcomes: list[bool]
) -> None:
    text = f'[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1/day"\nmissing = "{missing}"'
    keeper = Keeper(Policy.parse(text), store)
    assert [keeper.try_acquire({}).allowed for _ in range(2)] == outcomes
    assert keeper.try_acquire({"user": ""}).allowed, "an empty value is not a missing one"
    assert keeper.try_acquire({}).missing == ("user" if missing == "reject" else None)


def test_a_shadow_rule_that_would_reject_for_a_missing_attribute_does_not(store: TableStore) -> None:
    text = '[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1/day"\nmissing = "reject"\nshadow = true'
    assert Keeper(Policy.parse(text), store).try_acquire({}).allowed


def test_the_cost_of_a_rule_and_of_a_request_multiply(store: TableStore) -> None:
    text = '[[rules]]\nname = "r"\nlimit = "10/day"\ncost = 2\n[[rules]]\nname = "s"\nlimit = "30/day"\ncost = "tokens"'
    keeper = Keeper(Policy.parse(text), store)
    decision = keeper.try_acquire({"tokens": "5"}, cost=3)
    assert [rule.decision.remaining for rule in decision.rules] == [4, 15]
    assert [rule.decision.remaining for rule in keeper.try_acquire({}).rules] == [2, 14]
    with pytest.raises(ValueError, match="tokens must be a whole number"):
        keeper.try_acquire({"tokens": "many"})
    assert [rule.decision.remaining for rule in keeper.try_acquire({}, 0).rules] == [2, 14]


def test_max_wait_delays_before_it_refuses(store: TableStore) -> None:
    text = '[[rules]]\nname = "r"\ncapacity = 1\nrefill_rate = 1\nmax_wait = 2'
    keeper = Keeper(Policy.parse(text), store)
    decisions = [keeper.reserve({}) for _ in range(4)]
    assert [(bool(decision), decision.delay) for decision in decisions[:3]] == [(True, 0), (True, 1), (True, 2)]
    assert not decisions[3]
    assert decisions[3].retry_after == 1.0


def test_acquire_waits_as_long_as_the_rules_and_the_caller_allow(store: TableStore, clock: ManualClock) -> None:
    text = '[[rules]]\nname = "r"\ncapacity = 1\nrefill_rate = 1\nmax_wait = 2'
    keeper = Keeper(Policy.parse(text), store)
    began = clock.ticks()
    assert [keeper.acquire({}).delay for _ in range(3)] == [0.0, 1.0, 1.0]
    assert (clock.ticks() - began) / 16e9 == 2.0
    with pytest.raises(RateLimitExceeded, match="rule 'r': over the limit of token_bucket of 1 at 1/s: retry after"):
        keeper.acquire({}, timeout=0.5)
    with pytest.raises(RateLimitExceeded, match=r"rule 'r': .* can never admit a cost of 4"):
        keeper.acquire({}, cost=4)
    with pytest.raises(ValueError, match="timeout must be"):
        keeper.acquire({}, timeout=-1)


def test_acquire_without_the_keys_attribute_is_refused_if_the_rule_says_so(store: TableStore) -> None:
    text = '[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1/day"\nmissing = "reject"'
    with pytest.raises(RateLimitExceeded, match="the request has no user"):
        Keeper(Policy.parse(text), store).acquire({})


def test_a_shadow_rule_delays_nobody(store: TableStore, clock: ManualClock) -> None:
    text = '[[rules]]\nname = "r"\nalgorithm = "leaky_bucket"\ncapacity = 5\nleak_rate = 1\nshadow = true'
    keeper = Keeper(Policy.parse(text), store)
    began = clock.ticks()
    assert all(keeper.acquire({}) for _ in range(9))
    assert clock.ticks() == began


def test_a_shadow_rules_queue_costs_the_other_rules_nothing(store: TableStore) -> None:
    """Charges of one key are made for when the request leaves, which a rule in shadow has no say in."""
    text = '[[rules]]\nname = "r"\nalgorithm = "leaky_bucket"\ncapacity = 5\nleak_rate = 1\nshadow = true\n'
    keeper = Keeper(Policy.parse(text + '[[rules]]\nname = "s"\ncapacity = 50\nrefill_rate = 10'), store)
    decisions = [keeper.acquire({}) for _ in range(4)]
    assert decisions[-1].rules[1].decision.remaining == 46


def test_explain_says_of_each_rule_whether_it_applies_and_why_not_and_charges_nothing(keeper: Keeper) -> None:
    for _ in range(2):
        explained = {it.rule.name: it for it in keeper.explain({"api_key": "secret-key", "path": "/x"})}
        assert explained["free keys"].reason == "path is '/x', not '/api/*'"
        assert explained["pro keys"].reason == "tier is 'free', not 'pro'"
        assert explained["everyone"].decision is not None
        assert explained["everyone"].decision.remaining == 6
    applied = keeper.explain({"api_key": "secret-key", "path": "/api/x"})[0]
    assert applied.bucket is not None
    assert applied.bucket.startswith("free keys(api_key=#")
    assert "secret" not in repr(applied)


def test_explain_tells_of_a_missing_attribute(store: TableStore) -> None:
    text = '[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1/day"\nmissing = "{}"'
    for missing, says in (("skip", "skipped: the request has no user"), ("reject", "refused: the request has no user")):
        [explained] = Keeper(Policy.parse(text.format(missing)), store).explain({})
        assert explained.reason == says


@pytest.mark.parametrize("wrap", [lambda store: store, AsyncMemoryStore], ids=["local", "awaited"])
def test_the_async_keeper_decides_alike(clock: ManualClock, wrap: Any) -> None:
    async def use() -> None:
        request = {"api_key": "x", "path": "/api/x"}
        keeper = Keeper(POLICY, MemoryStore(100, clock=clock))
        async_keeper = AsyncKeeper(POLICY, wrap(MemoryStore(100, clock=clock)))
        for _ in range(3):
            assert await async_keeper.try_acquire(request) == keeper.try_acquire(request)
        with pytest.raises(RateLimitExceeded, match=r"rule 'free keys': .* retry after 1\.000 s"):
            await async_keeper.acquire(request)
        explained = await async_keeper.explain(request)
        assert [it._replace(bucket=None) for it in explained] == [
            it._replace(bucket=None) for it in keeper.explain(request)
        ]

    asyncio.run(use())


def test_the_async_keeper_waits_and_refuses_alike(either_store: MemoryStore | AsyncMemoryStore) -> None:
    text = '[[rules]]\nname = "r"\nkey = ["user"]\ncapacity = 1\nrefill_rate = 1\nmax_wait = 2\nmissing = "reject"'

    async def use() -> None:
        keeper = AsyncKeeper(Policy.parse(text), either_store)
        assert [(await keeper.acquire({"user": "a"})).delay for _ in range(3)] == [0.0, 1.0, 1.0]
        with pytest.raises(RateLimitExceeded, match=r"rule 'r': .* retry after 0\.500 s"):
            await keeper.acquire({"user": "a"}, timeout=0.5)
        with pytest.raises(RateLimitExceeded, match="the request has no user"):
            await keeper.acquire({})
        assert (await keeper.try_acquire({})).missing == "user"

    asyncio.run(use())


def test_a_keeper_that_cannot_await_its_store_says_who_can(store: TableStore) -> None:
    with pytest.raises(TypeError, match="AsyncMemoryStore must be awaited, which Keeper cannot: use AsyncKeeper"):
        Keeper(POLICY, AsyncMemoryStore(store))  # type: ignore[arg-type]


def outcome(keeper: Keeper, *asked: Any) -> object:
    try:
        decision = keeper.try_acquire(*asked)
    except Exception as error:  # whatever it is, it is to be the same
        return type(error), str(error)
    return decision.missing, [(it.name, it.shadow, it.decision) for it in decision.rules]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([{}, {"user": "a"}, {"user": "b", "team": 7}, {"user": None}, {"user": 7}, {"user": b"a"}]),
            st.sampled_from([1, 1, 1, 0, 2, 5, True, False, 1.0, 2.5, "1", None, -1, 10**30]),
        ),
        max_size=12,
    ),
    st.sampled_from(["", 'key = ["user"]', 'key = ["user"]\ncost = 2', "cost = 3"]),
)
def test_one_plain_rule_decides_alone_as_it_does_beside_one_that_matches_nothing(asked: list[Any], more: str) -> None:
    alone = f'[[rules]]\nname = "r"\nlimit = "5/minute"\n{more}\n'
    beside = '[[rules]]\nname = "never"\nlimit = "1/day"\nmatch = { path = "/never" }\n'
    one, other = (Keeper(Policy.parse(text), MemoryStore(100, clock=ManualClock())) for text in (alone, alone + beside))
    for question in asked:
        assert outcome(one, *question) == outcome(other, *question), question


class RefundedMeanwhile(Decision):
    """A decision that another thread gives back while the first one reads it, to do the same."""

    __slots__ = ("meanwhile",)
    meanwhile: Callable[[], None] | None

    def _let_the_other_go_ahead(self) -> None:
        if self.meanwhile is not None:
            other, self.meanwhile = threading.Thread(target=self.meanwhile), None
            other.start()
            other.join()

    @property
    def cost(self) -> int:
        self._let_the_other_go_ahead()
        return super().cost

    @property
    def source(self) -> str:
        if self.reads == "source":
            self._let_the_other_go_ahead()
        return super().source

    reads = "cost"


class RefundedEarlier(RefundedMeanwhile):
    """The same, before the first thread has looked at its cost."""

    reads = "source"


@pytest.mark.parametrize("moment", [RefundedMeanwhile, RefundedEarlier])
@pytest.mark.parametrize("algorithm", ['limit = "10/day"', LEAKY], ids=["token", "leaky"])
def test_two_threads_that_refund_one_decision_give_its_charge_back_once(
    store: TableStore, algorithm: str, moment: type[RefundedMeanwhile]
) -> None:
    keeper = Keeper(Policy.parse(f'[[rules]]\nname = "r"\n{algorithm}'), store)
    if "limit" in algorithm:
        keeper.try_acquire({}, cost=3)
    rule = keeper.try_acquire({}, cost=2).rules[0]
    made = rule.decision
    one = moment(
        made.allowed, made.limit, made.key, made.cost,
        made.debt_ticks, made.delay_ticks, made.retry_ticks, made.at_ticks,
    )  # fmt: skip
    taken = PolicyDecision((rule._replace(decision=one),))
    one.meanwhile = lambda: keeper.refund(taken)
    keeper.refund(taken)
    assert one.meanwhile is None, "the other thread did not come in between"
    assert keeper.try_acquire({}, cost=0).remaining == (7 if "limit" in algorithm else 11)


def test_a_refund_gives_nothing_back_of_a_rule_in_shadow_that_refused() -> None:
    policy = Policy.parse(
        '[[rules]]\nname = "shadow"\nlimit = "1/hour"\nshadow = true\n[[rules]]\nname = "all"\nlimit = "9/hour"\n'
    )
    keeper = Keeper(policy, MemoryStore(clock=ManualClock()))
    keeper.try_acquire({})
    for _ in range(2):
        decision = keeper.try_acquire({})
        assert [rule.decision.allowed for rule in decision.rules] == [False, True]
        keeper.refund(decision)
    assert [rule.decision.remaining for rule in keeper.try_acquire({}).rules] == [0, 7]


@pytest.mark.parametrize("make", [Keeper, AsyncKeeper])
def test_a_refund_gives_back_once_what_was_charged_and_a_leaky_place_if_nobody_came_since(
    make: Any, store: TableStore, clock: ManualClock
) -> None:
    policy = Policy.parse(
        '[[rules]]\nname = "tokens"\nkey = ["user"]\nlimit = "9/hour"\ncost = 2\n'
        '[[rules]]\nname = "queue"\nalgorithm = "leaky_bucket"\ncapacity = 5\nleak_rate = "1/hour"\n'
    )
    keeper = make(policy, store)

    def done(verb: Callable[..., Any], *arguments: Any) -> Any:
        if make is Keeper:
            return verb(*arguments)

        async def awaiting() -> Any:
            return await verb(*arguments)

        return asyncio.run(awaiting())

    def left() -> tuple[int, int]:
        tokens, queue = (rule.decision for rule in done(keeper.peek, {"user": "a"}, 0).rules)
        return tokens.remaining, queue.remaining

    first = done(keeper.try_acquire, {"user": "a"})
    assert left() == (7, 5)
    for _ in range(2):
        done(keeper.refund, first)
        assert left() == (9, 6)
    first = done(keeper.try_acquire, {"user": "a"})
    clock.advance(3600)
    second = done(keeper.try_acquire, {"user": "a"})
    done(keeper.refund, first)  # its tokens have refilled, and the second has the place behind it
    assert left() == (7, 5)
    done(keeper.refund, done(keeper.try_acquire, {"user": "a"}, 9))  # it was refused
    assert left() == (7, 5)
    done(keeper.refund, second)
    assert left() == (9, 6)


def test_a_lone_leaky_rule_that_lets_nobody_wait_admits_one_at_a_time() -> None:
    policy = Policy((Rule("leaky", LeakyBucket(5, 1), max_wait=0),))
    keeper = Keeper(policy, MemoryStore(clock=ManualClock()))
    assert [keeper.try_acquire({}).allowed for _ in range(3)] == [True, False, False]

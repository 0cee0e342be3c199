"""Rules that deny, and limits of nothing: they refuse every request, charge nothing, and need no store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from async_memory import AsyncMemoryStore
from servers import free_port

from ratekeeper import (
    AsyncKeeper,
    AsyncLimiter,
    Deny,
    Keeper,
    Limit,
    Limiter,
    LookupFunction,
    ManualClock,
    MemoryStore,
    Policy,
    PolicyError,
    RateLimitExceeded,
    RedisStore,
    StoreUnavailable,
    TokenBucket,
    parse_limits,
)
from ratekeeper.cli.main import main
from ratekeeper.cli.replay.engine import replay
from ratekeeper.http.responses import problem
from ratekeeper.policy.model import Override, Rule
from ratekeeper.stores.table_store import TableStore

FILE = """
exempt = [{ user = "root" }]
[[rules]]
name = "each user"
key = ["user"]
limit = "5/hour"
overrides = [{ user = "late", limit = "0/s" }, { user = "worse", deny = true }]
[[rules]]
name = "banned"
match = { user = "b*" }
deny = true
[[rules]]
name = "all"
limit = "100/hour"
"""
POLICY = Policy.parse(FILE)
REFUSED = {"bob": "banned", "late": "each user", "worse": "each user"}


@pytest.mark.parametrize("limit", [TokenBucket(0, 0), Deny()])
@pytest.mark.parametrize("cost", [0, 1, 7, 10**30])
def test_every_verb_of_a_limiter_refuses_at_once_for_ever(
    limit: TokenBucket, cost: int, store: TableStore, clock: ManualClock
) -> None:
    limiter = Limiter(limit, TokenBucket(9, 1), store=store)
    refused = limiter.try_acquire("alice", cost)
    assert (refused.allowed, refused.limit, refused.impossible) == (False, limit, True)
    assert (refused.remaining, refused.retry_after, refused.retry_after_seconds) == (0, float("inf"), None)
    for timeout in (0.0, 3600.0, None):
        with pytest.raises(RateLimitExceeded, match=r"request is denied|refuses every request"):
            limiter.acquire("alice", cost, timeout)
    assert limiter.try_acquire_many(["alice", "bob"], cost) == [False, False]
    assert not limiter.reserve("alice", cost)
    assert not limiter.peek("alice", cost)
    with (
        pytest.raises(RateLimitExceeded, match=r"request is denied|refuses every request"),
        limiter.limit("alice", cost),
    ):
        raise AssertionError
    clock.advance(10**6)
    assert not limiter.try_acquire("alice", cost)
    assert [(it.used, it.remaining) for it in limiter.usage("alice")] == [(0, 0), (0, 9)]
    assert store.stats().live == 0


def test_an_async_limiter_refuses_too(either_store: TableStore | AsyncMemoryStore) -> None:
    async def ask() -> None:
        limiter = AsyncLimiter(*parse_limits("5/s; 0/s"), store=either_store)
        assert not await limiter.try_acquire("alice", 0)
        with pytest.raises(RateLimitExceeded, match="the limit token_bucket of 0 at 0/s refuses every request"):
            await limiter.acquire("alice", timeout=None)

    asyncio.run(ask())


@pytest.mark.parametrize(("user", "rule"), REFUSED.items())
def test_a_request_that_is_refused_so_charges_nothing_and_names_that_rule_alone(
    user: str, rule: str, store: TableStore
) -> None:
    keeper, request = Keeper(POLICY, store), {"user": user}
    for cost in (0, 1, 1000):
        decision = keeper.try_acquire(request, cost)
        assert (decision.allowed, [one.name for one in decision.rules]) == (False, [rule])
        assert (decision.denied, decision.retry_after_seconds) == (user != "late", None)
        for timeout in (0.0, 60.0, None):
            with pytest.raises(RateLimitExceeded, match=f"rule {rule!r}: (every request is denied|.* refuses every)"):
                keeper.acquire(request, cost, timeout)
        assert keeper.peek(request, cost) == decision == keeper.reserve(request, cost).decision
    assert store.stats().live == 0
    assert keeper.try_acquire({"user": "alice"}).remaining == 4
    assert keeper.try_acquire({"user": "root"}).rules == ()


def test_an_async_keeper_refuses_alike(either_store: TableStore | AsyncMemoryStore) -> None:
    async def ask() -> None:
        keeper = AsyncKeeper(POLICY, either_store)
        for user, rule in REFUSED.items():
            decision = await keeper.try_acquire({"user": user})
            assert [one.name for one in decision.rules] == [rule]
            with pytest.raises(RateLimitExceeded, match=r"request is denied|refuses every request"):
                await keeper.acquire({"user": user}, timeout=None)
        assert (await keeper.try_acquire({"user": "alice"})).remaining == 4

    asyncio.run(ask())


def test_it_needs_no_store_so_an_outage_opens_nothing() -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0", on_error="allow", timeout=0.1)
    keeper = Keeper(POLICY, store)
    for user in REFUSED:
        decision = keeper.try_acquire({"user": user})
        assert (decision.allowed, decision.source) == (False, "exact")
    assert keeper.try_acquire({"user": "alice"}).source == "fallback"
    assert not Limiter("0/s", store=store).try_acquire("alice", 0)
    store.close()
    strict = RedisStore(f"redis://127.0.0.1:{free_port()}/0", timeout=0.1)
    assert Keeper(POLICY, strict).try_acquire({"user": "bob"}).denied
    with pytest.raises(StoreUnavailable, match="does not answer"):
        Keeper(POLICY, strict).try_acquire({"user": "alice"})
    strict.close()


@pytest.mark.parametrize(
    ("on_error", "allowed", "undecided"),
    [
        ("deny", [False, False], [True, True]),
        ("local", [True, False], [False, False]),
        ("allow", [True, True], [False, False]),
    ],
)
def test_only_a_refusal_for_an_outage_is_undecided(on_error: Any, allowed: list[bool], undecided: list[bool]) -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0", on_error=on_error, expected_nodes=1)
    keeper = Keeper(Policy((Rule("each", TokenBucket(3, "1/day"), key=("user",), missing="reject"),)), store)
    decisions = [keeper.try_acquire({"user": "alice"}, 2) for _ in range(2)]
    assert [decision.allowed for decision in decisions] == allowed
    assert [decision.undecided for decision in decisions] == undecided
    too_much = keeper.try_acquire({"user": "alice"}, 4)
    assert (too_much.allowed, too_much.undecided) == (False, False), "no answer of a store would allow it"
    assert (keeper.try_acquire({}).missing, keeper.try_acquire({}).undecided) == ("user", False)
    assert not Keeper(POLICY, store).try_acquire({"user": "bob"}).undecided
    store.close()


@pytest.mark.parametrize("limit", [TokenBucket(0, 0), Deny()])
def test_in_shadow_it_only_reports(limit: TokenBucket, store: TableStore) -> None:
    rules = (Rule("tried", limit, match={"user": ("a*",)}, shadow=True), Rule("each", TokenBucket(5, 1)))
    keeper = Keeper(Policy(rules), store)
    decision = keeper.try_acquire({"user": "alice"})
    assert (decision.allowed, decision.denied, decision.remaining) == (True, False, 4)
    assert decision.outcomes == (("tried", "shadow_refused"), ("each", "allowed"))
    keeper.refund(decision)
    assert keeper.peek({"user": "alice"}).remaining == 5
    assert keeper.acquire({"user": "alice"}).allowed


def test_a_denial_may_have_exceptions_and_the_strictest_reading_counts(store: TableStore) -> None:
    office = Override({"user": ("office",)}, TokenBucket(5, 1))
    keeper = Keeper(Policy((Rule("closed", Deny(), overrides=(office,)),)), store)
    assert keeper.try_acquire({"user": "office"}).remaining == 4
    assert keeper.try_acquire({"user": "alice"}).denied
    both = (Override({"user": ("a",)}, TokenBucket(0, 0)), Override({"user": ("*",)}, Deny()))
    assert not Keeper(Policy((Rule("r", TokenBucket(1, 1), overrides=both),)), store).try_acquire({"user": "a"}).denied


def test_a_debt_stays_when_a_limit_becomes_nothing_and_comes_back(store: TableStore) -> None:
    rule = '[[rules]]\nname = "r"\nlimit = "{}"\n'
    keeper = Keeper(Policy.parse(rule.format("10/minute")), store)
    keeper.try_acquire({}, 4)
    keeper.replace(Policy.parse(rule.format("0/s")))
    assert not keeper.try_acquire({}, 0)
    keeper.replace(Policy.parse(rule.format("10/minute")))
    assert keeper.peek({}).remaining == 6


def test_the_commands_say_it_plainly(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(FILE)
    assert main(["validate", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\nbanned\n  for    requests with user (1 given)\n  limit  none: every request is denied\n" in out
    assert "  but    user (1 given): 0: every request is refused\n" in out
    assert main(["explain", str(path), "user=bob"]) == 1
    out = capsys.readouterr().out
    assert "- banned: denies the request\n" in out
    assert out.endswith("=> denied\n")
    assert main(["explain", str(path), "user=late"]) == 1
    out = capsys.readouterr().out
    assert "- each user: refuses; 0 of 0 left, costs 1\n" in out
    assert out.endswith("=> refused\n")


def test_explain_tells_the_messages_of_the_rules_that_refuse_and_its_json_has_no_infinity(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "policy.toml"
    rules = {"banned": "deny = true", "closed": 'limit = "0/s"', "open": 'limit = "5/s"', "tried": 'limit = "0/s"'}
    texts = [f'[[rules]]\nname = "{name}"\n{limit}\nmessage = "It is {name}"\n' for name, limit in rules.items()]
    path.write_text("".join(texts) + "shadow = true\n")
    assert main(["explain", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "says" in line] == ["    says   It is banned", "    says   It is closed"]
    assert lines[:2] == ["- banned: denies the request", "    says   It is banned"]
    assert main(["explain", "--json", str(path)]) == 1

    def reject(constant: str) -> None:
        raise AssertionError(constant)

    told = json.loads(capsys.readouterr().out, parse_constant=reject)["rules"]
    assert [(rule["message"], rule["delay"]) for rule in told] == [
        ("It is banned", None), ("It is closed", None), (None, 0.0), (None, None),
    ]  # fmt: skip
    assert main(["validate", "--json", str(path)]) == 0
    [good] = json.loads(capsys.readouterr().out)
    assert [rule["message"] for rule in good["rules"]] == [f"It is {name}" for name in rules]


def test_a_deny_that_is_no_truth_value_is_one_mistake() -> None:
    with pytest.raises(PolicyError) as mistake:
        Policy.parse('[[rules]]\nname = "r"\ndeny = "yes"\n')
    [line] = str(mistake.value).splitlines()
    assert "'deny' must be true or false, not a string" in line


def test_a_replay_rejects_what_the_keeper_would_and_names_no_capacity(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = [f'{{"ts": 0, "path": "/", "user": "{user}"}}\n' for user in ("alice", "bob", "late", "bob")]
    report = replay(POLICY, lines)
    assert (report.admitted, report.rejected) == (1, 3)
    assert [(rule.rule.name, rule.admitted, rule.rejected, rule.needed) for rule in report.rules] == [
        ("each user", 1, 1, 1), ("banned", 0, 2, 0), ("all", 1, 0, 1),
    ]  # fmt: skip
    policy, log = tmp_path / "policy.toml", tmp_path / "access.log"
    policy.write_text(FILE)
    log.write_text("".join(lines))
    assert main(["replay", str(policy), str(log)]) == 0
    shown = capsys.readouterr().out
    assert "\n  deny" in shown
    assert next(line.split()[-2:] for line in shown.splitlines() if line.startswith("banned  ")) == ["-", "-"]


LOOKED_UP = """
[[rules]]
name = "each user"
key = ["user"]
limit = "app:plan"
default = "5/s"
message = "Ask sales."
[[rules]]
name = "all"
limit = "100/s"
"""


@pytest.mark.parametrize(("user", "status"), [("banned", 403), ("unpaid", 429), ("strict", 429), ("alice", 200)])
def test_a_limit_that_is_looked_up_may_refuse_all_too(user: str, status: int, store: TableStore) -> None:
    plans: dict[str, Limit | str] = {"banned": Deny(), "unpaid": "0/s", "strict": "5/s; 0/s"}
    plan = LookupFunction(lambda attributes: plans.get(attributes["user"]), timeout=20)
    keeper = Keeper(Policy.parse(LOOKED_UP), store, limits={"plan": plan})
    decisions = [keeper.try_acquire({"user": user}) for _ in range(3)]
    statuses = {200 if one else problem(one).status for one in decisions}
    assert statuses == {status}
    if status != 200:
        assert decisions[0].message == "Ask sales."
        assert [one.name for one in decisions[0].rules] == ["each user"]
        assert store.stats().live == 0


def test_an_override_of_a_rule_that_denies_may_let_requests_wait() -> None:
    text = '[attributes]\nuser = "app"\n[[rules]]\nname = "r"\nkey = ["user"]\ndeny = true\nmax_wait = 2\n'
    policy = Policy.parse(text + 'overrides = [{ user = "a", capacity = 1, refill_rate = 1 }]\n')
    clock = ManualClock()
    keeper = Keeper(policy, MemoryStore(clock=clock))
    assert [keeper.reserve({"user": "a"}).delay for _ in range(2)] == [0.0, 1.0]
    assert keeper.reserve({"user": "b"}).decision.denied

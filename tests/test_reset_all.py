"""reset_all and reset_rule: all buckets of a limiter or a rule are full again, seen by every path and every process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from async_memory import AsyncMemoryStore
from needs import need

from ratekeeper import (
    IMPLEMENTATION,
    AsyncKeeper,
    AsyncLimiter,
    Keeper,
    Limiter,
    ManualClock,
    MemoryStore,
    Policy,
    SharedMemoryStore,
    StoreError,
    TokenBucket,
)
from ratekeeper.core.pytable import MAX_RESETS
from ratekeeper.stores.table_store import TableStore

ONE = TokenBucket(1, "1/day")
POLICY = """
[[rules]]
name = "each"
key = ["user"]
limit = "1/day"
[[rules]]
name = "other"
key = ["user"]
limit = "2/day"
"""


def asked_async(ask: Callable[[], Any]) -> Any:
    async def run() -> Any:
        return await ask()

    return asyncio.run(run())


def test_each_path_to_a_bucket_finds_it_full_after_a_reset_and_no_other_limiter_does(store: TableStore) -> None:
    single, both = Limiter(ONE, store=store, name="single"), Limiter(ONE, ONE, store=store, name="both")
    awaited, other = AsyncLimiter(ONE, store=store, name="single"), Limiter(ONE, store=store, name="other")
    paths: list[Callable[[], Any]] = [
        lambda: single.try_acquire("a"),
        lambda: single.try_acquire_many(["a"])[0],
        lambda: single.reserve("a", timeout=0),
        lambda: asked_async(lambda: awaited.try_acquire("a")),
        lambda: store.decide(single._charges("a", 1, 0))[0],
    ]
    assert other.try_acquire("a")
    for path in paths:
        single.reset_all()
        assert path()
        assert not any(again() for again in paths)
    assert [bool(both.try_acquire("a")) for _ in range(2)] == [True, False]
    both.reset_all()
    assert both.try_acquire("a")
    assert not other.try_acquire("a")


def test_what_is_changed_after_a_reset_is_the_new_bucket(store: TableStore, clock: ManualClock) -> None:
    limiter = Limiter(TokenBucket(5, "1/day"), store=store)
    limiter.try_acquire("a", 5)
    limiter.reset_all()
    made = limiter.try_acquire("a", 4)
    limiter.refund(made, 3)
    assert limiter.peek("a").remaining == 4
    limiter.try_acquire("a", 4)
    limiter.grant("a", 2)
    assert limiter.usage("a")[0].remaining == 2
    limiter.reset("a")
    assert limiter.peek("a").remaining == 5


def test_a_turn_that_was_given_up_before_a_reset_makes_no_newcomer_wait(store: TableStore) -> None:
    limiter = Limiter(ONE, store=store)
    limiter.try_acquire("a")
    place = limiter.reserve("a", timeout=None)
    assert limiter._gate.reserve("a", 1, None)  # as another process
    place.cancel()
    limiter.reset_all()
    assert limiter.reserve("a", timeout=None).delay == 0


@pytest.mark.parametrize("kind", [Keeper, AsyncKeeper, AsyncMemoryStore])
def test_a_rule_is_reset_by_its_name_and_no_other_rule_is(store: TableStore, kind: Any) -> None:
    policy = Policy.parse(POLICY)
    keeper: Any = Keeper(policy, store)
    other: Any = (
        keeper
        if kind is Keeper
        else AsyncKeeper(policy, AsyncMemoryStore(store) if kind is AsyncMemoryStore else store)
    )
    for user in ("a", "b"):
        assert keeper.try_acquire({"user": user})
        assert not keeper.try_acquire({"user": user})
    done = other.reset_rule("each")
    if done is not None:
        asked_async(lambda: other.reset_rule("each"))
        done.close()
    for user in ("a", "b"):
        assert [one.remaining for one in keeper.usage({"user": user})] == [1, 1]
        assert keeper.try_acquire({"user": user})
        assert [one.remaining for one in keeper.usage({"user": user})] == [0, 0]


def test_a_rule_that_the_policy_does_not_have_is_an_error(store: TableStore) -> None:
    keeper = Keeper(Policy.parse(POLICY), store)
    with pytest.raises(ValueError, match=r"^the policy has no rule 'eahc': did you mean 'each'\?$"):
        keeper.reset_rule("eahc")
    with pytest.raises(ValueError, match=r"^the policy has no rule 5"):
        keeper.reset_rule(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^a scope must be a str, not int$"):
        store.reset_scope(5)  # type: ignore[arg-type]


def test_processes_that_share_a_table_see_a_reset_whenever_they_came(tmp_path: Path, clock: ManualClock) -> None:
    need("the C core", IMPLEMENTATION == "c")
    stores = [SharedMemoryStore(tmp_path / "table", 100, clock=clock) for _ in range(2)]
    limiters = [Limiter(ONE, store=store, name="all") for store in stores]
    keepers = [Keeper(Policy.parse(POLICY), store) for store in stores]
    for again in range(5):
        assert [bool(limiter.try_acquire("a")) for limiter in limiters] == [True, False]
        assert [bool(keeper.try_acquire({"user": "a"})) for keeper in keepers] == [True, False]
        limiters[again % 2].reset_all()
        keepers[again % 2].reset_rule("each")
        keepers[again % 2].reset_rule("other")
    late = SharedMemoryStore.open(tmp_path / "table", clock=clock)
    assert Limiter(ONE, store=late, name="all").try_acquire("a")
    assert not any(limiter.try_acquire("a") for limiter in limiters)


def test_after_all_resets_that_a_table_has_room_for_one_more_is_an_error_and_changes_nothing(store: TableStore) -> None:
    limiter = Limiter(ONE, store=store)
    for _ in range(MAX_RESETS):
        limiter.reset_all()
    limiter.try_acquire("a")
    with pytest.raises(StoreError, match=r"^the table has had 8,190 resets of rules, and has no room for more"):
        limiter.reset_all()
    assert not limiter.try_acquire("a")
    assert Limiter("1/day", store=store, name="another").try_acquire("a")


def test_a_log_of_resets_with_any_bytes_in_it_does_no_harm(tmp_path: Path, clock: ManualClock) -> None:
    need("the C core", IMPLEMENTATION == "c")
    path = tmp_path / "table"
    store = SharedMemoryStore(path, 100, clock=clock)
    limiter = Limiter(ONE, store=store, name="all")
    assert limiter.try_acquire("a")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(65536))
    late = Limiter(ONE, store=SharedMemoryStore.open(path, clock=clock), name="all")
    assert not any(one.try_acquire("a") for one in (limiter, late))
    with pytest.raises(StoreError, match="no room for more"):
        late.reset_all()


def test_old_buckets_take_room_until_they_are_full_and_then_none(implementation: Any, clock: ManualClock) -> None:
    store = MemoryStore(100, clock=clock, implementation=implementation)
    limiter = Limiter("1/minute", store=store)
    for _ in range(3):
        limiter.try_acquire_many([str(n) for n in range(10)])
        limiter.reset_all()
    assert store.stats().live == 30
    clock.advance(60)
    assert store.stats().live == 0


def test_all_limits_of_a_rule_whose_limits_are_looked_up_are_reset(store: TableStore) -> None:
    policy = Policy.parse('[[rules]]\nname = "plan"\nkey = ["user"]\nlimit = "app:plan"\ndefault = "9/day"\n')
    keeper = Keeper(policy, store, limits={"plan": lambda _: ["1/day", "2/day burst 3"]})
    for _ in range(3):
        assert [bool(keeper.try_acquire({"user": "a"})) for _ in range(2)] == [True, False]
        assert [one.remaining for one in keeper.usage({"user": "a"})] == [0, 2]
        keeper.reset_rule("plan")
        assert [one.remaining for one in keeper.usage({"user": "a"})] == [1, 3]

"""Pauses of rules: in the store, seen by each process that looks, ended by the store's clock."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from async_memory import AsyncMemoryStore

from ratekeeper import ManualClock, MemoryStore, Policy, StoreUnavailable
from ratekeeper.decision import Charge
from ratekeeper.errors import PolicyError
from ratekeeper.service import pauses
from ratekeeper.service.pauses import PAUSED, Pauses
from ratekeeper.stores.table_store import TableStore

POLICY = Policy.parse("""
rules = [
  {name = "one", limit = "1/day"},
  {name = "two", limit = "1/day"},
  {name = "dark", limit = "1/day", shadow = true},
]
""")


class Process:
    """The pauses of one process, and the rules that are in shadow there."""

    def __init__(self, store: Any) -> None:
        self.shadows: list[str] = []
        self.applied = 0
        self.pauses = Pauses(POLICY, store, self.apply)

    def apply(self, policy: Policy) -> None:
        self.applied += 1
        self.shadows = [rule.name for rule in policy.rules if rule.shadow]

    def look(self) -> list[str]:
        asyncio.run(self.pauses.look())
        return self.shadows


def test_another_process_sees_a_pause_and_its_end(store: TableStore, clock: ManualClock) -> None:
    here, there = Process(store), Process(AsyncMemoryStore(store))
    end = time.time() + 6000
    asyncio.run(here.pauses.begin("two", end))
    assert here.shadows == there.look() == ["two", "dark"]
    assert there.pauses.until["two"] == pytest.approx(end, abs=100)
    clock.advance(5900)
    assert there.look() == ["two", "dark"]
    clock.advance(101)
    assert here.look() == there.look() == ["dark"]
    assert there.pauses.until == {}
    assert there.applied == 2, "a look that sees nothing new compiles nothing"


def test_a_pause_can_be_made_shorter_and_ended(store: TableStore, clock: ManualClock) -> None:
    here = Process(store)
    asyncio.run(here.pauses.begin("one", time.time() + 600))
    asyncio.run(here.pauses.begin("one", time.time() + 60))
    clock.advance(61)
    assert here.look() == ["dark"]
    asyncio.run(here.pauses.begin("one", time.time() + 600))
    asyncio.run(here.pauses.end("one"))
    assert here.shadows == ["dark"]


class _LosesBlocks(AsyncMemoryStore):
    """A server that is gone whenever a block is to begin."""

    async def adjust(self, scope: str, key: str | bytes, back_ticks: int, block_ticks: int | None) -> None:
        if block_ticks:
            raise StoreUnavailable("gone")
        await super().adjust(scope, key, back_ticks, block_ticks)


def test_a_pause_that_cannot_be_made_longer_goes_on(store: TableStore) -> None:
    asyncio.run(Process(store).pauses.begin("one", time.time() + 60))
    unlucky = Process(_LosesBlocks(store))
    with pytest.raises(StoreUnavailable, match=r"^gone$"):
        asyncio.run(unlucky.pauses.begin("one", time.time() + 600))
    assert unlucky.look() == Process(store).look() == ["one", "dark"]


def test_the_pause_of_a_rule_that_has_left_the_policy_can_be_ended(store: TableStore) -> None:
    here = Process(store)
    asyncio.run(here.pauses.begin("one", time.time() + 600))
    here.pauses.replace(Policy.parse('rules = [{name = "new", limit = "9/day"}]'))
    assert asyncio.run(here.pauses.end("one"))
    assert not asyncio.run(here.pauses.end("one"))
    here.pauses.replace(POLICY)
    assert here.look() == ["dark"]


def with_a_forgotten_pause(clock: ManualClock) -> tuple[Process, Process]:
    """Return two processes that have seen a pause of the rule "one". A flood of keys has made their table forget it."""
    store = MemoryStore(100, clock=clock)
    here, there = Process(store), Process(AsyncMemoryStore(store))
    asyncio.run(here.pauses.begin("one", time.time() + 60))
    assert there.look() == ["one", "dark"]
    limit = Policy.parse('rules = [{name = "x", limit = "1/day"}]').rules[0].limit
    numbers = itertools.count()
    while "one" in Process(store).look():
        store.decide([Charge.of("x/0", f"key {next(numbers)}", limit, 1, 0)])
    return here, there


def test_a_flood_of_keys_ends_no_pause(clock: ManualClock) -> None:
    here, there = with_a_forgotten_pause(clock)
    assert here.look() == there.look() == ["one", "dark"]
    clock.advance(61)
    assert here.look() == there.look() == ["dark"]


def test_a_pause_that_a_table_has_forgotten_can_be_ended_in_all_processes(clock: ManualClock) -> None:
    here, there = with_a_forgotten_pause(clock)
    assert asyncio.run(there.pauses.end("one"))
    assert here.look() == there.look() == ["dark"]
    assert not asyncio.run(here.pauses.end("one"))
    asyncio.run(here.pauses.begin("one", time.time() + 60))
    assert here.look() == there.look() == ["one", "dark"]


def test_a_pause_that_a_table_has_forgotten_can_be_ended_by_a_process_that_has_not_seen_it(clock: ManualClock) -> None:
    here, there = with_a_forgotten_pause(clock)
    later = Process(there.pauses._store)
    assert not asyncio.run(later.pauses.end("one"))
    assert here.look() == there.look() == ["dark"]
    asyncio.run(later.pauses.begin("one", time.time() + 60))
    assert here.look() == there.look() == later.look() == ["one", "dark"]


def test_a_look_that_is_answered_late_undoes_no_newer_one(store: TableStore) -> None:
    policy = Policy.parse('rules = [{name = "new", limit = "1/day"}]')

    async def run() -> None:
        slow = AsyncMemoryStore(store)
        here, there = Process(slow), Process(store)
        await here.pauses.begin("one", time.time() + 600)
        late = await begun_late(here, slow)
        await here.pauses.end("one")
        await late()
        assert here.shadows == ["dark"]
        there.pauses.replace(policy)
        await there.pauses.begin("new", time.time() + 600)
        late = await begun_late(here, slow)
        here.pauses.replace(policy)
        await here.pauses.look()
        await late()
        assert here.shadows == ["new"]

    asyncio.run(run())


@pytest.mark.parametrize("paused", [False, True])
def test_of_a_pause_and_its_end_at_once_all_processes_see_the_same(paused: bool) -> None:
    order = Random(7)

    async def run() -> list[list[str]]:
        store = AsyncMemoryStore(MemoryStore(100))
        here, there, later = Process(store), Process(store), Process(store)
        if paused:
            await here.pauses.begin("one", time.time() + 600)
            await there.pauses.look()
        store.turns = lambda: order.randrange(1, 9)
        await asyncio.gather(here.pauses.begin("one", time.time() + 6000), there.pauses.end("one"))
        store.turns = lambda: 1
        for process in (here, there, later):
            await process.pauses.look()
        return [sorted(process.pauses.until) for process in (here, there, later)]

    for _ in range(300):
        seen = asyncio.run(run())
        assert seen in ([["one"]] * 3, [[]] * 3)


async def begun_late(process: Process, store: AsyncMemoryStore) -> Callable[[], Coroutine[Any, Any, None]]:
    """Have a process look now. Return a function with which its answer comes."""
    held = store.holds["after"] = asyncio.Event()
    look, asked = asyncio.create_task(process.pauses.look()), store.asked["decide"]
    while store.asked["decide"] == asked or store.asking == 0:
        await asyncio.sleep(0)
    for _ in range(9):  # it has its answer by now, and waits
        await asyncio.sleep(0)
    del store.holds["after"]

    async def answer() -> None:
        held.set()
        await look

    return answer


def test_a_rule_in_shadow_can_be_paused_and_nothing_changes(store: TableStore) -> None:
    here = Process(store)
    asyncio.run(here.pauses.begin("dark", time.time() + 600))
    assert here.applied == 0
    assert "dark" in here.pauses.until


def test_a_new_policy_keeps_the_pauses_that_are_known(store: TableStore) -> None:
    here = Process(store)
    asyncio.run(here.pauses.begin("one", time.time() + 600))
    here.pauses.replace(Policy.parse('rules = [{name = "one", limit = "9/day"}, {name = "new", limit = "9/day"}]'))
    assert here.shadows == ["one"]
    here.pauses.replace(Policy.parse('rules = [{name = "new", limit = "9/day"}]'))
    assert here.shadows == []


def test_a_policy_that_is_not_taken_changes_nothing(store: TableStore) -> None:
    def refuse(policy: Policy) -> None:
        raise PolicyError("no")

    here = Pauses(POLICY, store, refuse)
    with pytest.raises(PolicyError, match=r"^no$"):
        here.replace(Policy.parse('rules = [{name = "new", limit = "9/day"}]'))
    assert here.policy is POLICY


@pytest.mark.parametrize("until", [0, -1, 1, time.time() - 5, 1e18], ids=["0", "-1", "1", "past", "far"])
def test_a_time_that_cannot_be_is_an_error_and_changes_nothing(store: TableStore, until: float) -> None:
    here = Process(store)
    asyncio.run(here.pauses.begin("one", time.time() + 600))
    with pytest.raises(ValueError, match="until"):
        asyncio.run(here.pauses.begin("one", until))
    assert here.look() == ["one", "dark"]


def test_a_bucket_of_a_rule_is_not_a_pause(store: TableStore, clock: ManualClock) -> None:
    here = Process(store)
    rule = Policy.parse(f'rules = [{{name = "{PAUSED.format("one")}", limit = "1/day"}}]').rules[0]
    store.decide([Charge.of(f"{rule.name}/0", "all", rule.limit)])
    store.adjust(f"{rule.name}/0", "all", 0, 2**60)
    assert here.look() == []
    assert here.applied == 0


def test_while_the_store_is_away_a_known_pause_goes_on_to_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = AsyncMemoryStore(MemoryStore(100, clock=ManualClock()))  # whose time stands still
    here = Process(store)
    ahead = 0
    monkeypatch.setattr(pauses, "EVERY", 0.001)
    monkeypatch.setattr(pauses, "time", SimpleNamespace(time=lambda: time.time() + ahead))

    async def watched() -> None:
        nonlocal ahead
        watching = asyncio.create_task(here.pauses.watch(admin=True))
        await here.pauses.begin("one", time.time() + 600)
        store.away = True
        await until(lambda: "does not answer" in caplog.text)
        assert here.shadows == ["one", "dark"]
        ahead = 601
        await until(lambda: here.shadows == ["dark"])
        store.away = False
        await here.pauses.begin("two", time.time() + 6000)
        await until(lambda: here.shadows == ["one", "two", "dark"])
        watching.cancel()

    asyncio.run(watched())
    assert caplog.text.count("does not answer") == 1


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not claim():
            await asyncio.sleep(0.001)


def test_without_an_admin_nobody_looks_into_private_memory(clock: ManualClock) -> None:
    here = Process(MemoryStore(100, clock=clock))
    asyncio.run(asyncio.wait_for(here.pauses.watch(admin=False), 30))

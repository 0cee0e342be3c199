"""A keeper's verbs are a limiter's: their truth, waits and charges. Both keepers, each store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from async_memory import AsyncMemoryStore
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import (
    AsyncKeeper,
    Keeper,
    LeakyBucket,
    Limit,
    Limiter,
    ManualClock,
    MemoryStore,
    Policy,
    PolicyDecision,
    PolicyError,
    RateLimitExceeded,
    Reservation,
    TokenBucket,
    Usage,
    watch_policy,
)
from ratekeeper.policy.model import Rule
from ratekeeper.stores.table_store import TableStore
from ratekeeper.verbs import VERBS

QUEUE = '[[rules]]\nname = "queue"\nkey = ["user"]\nalgorithm = "leaky_bucket"\ncapacity = 2\nleak_rate = 1\n'
PATIENT = '[[rules]]\nname = "patient"\nkey = ["user"]\ncapacity = 1\nrefill_rate = 1\nmax_wait = 2\n'
TENANT = '[[rules]]\nname = "tenant"\nkey = ["tenant"]\nlimit = "10/hour"\n'
NEVER = '[[rules]]\nname = "never"\nlimit = "1/day"\nmatch = { path = "/never" }\n'
ALICE = {"user": "alice", "tenant": "t"}


class Asked:
    """A keeper of either kind, of which the verbs are called: those of an AsyncKeeper on one event loop."""

    def __init__(self, keeper: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self.keeper = keeper
        self._loop = loop

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        function = getattr(self.keeper, verb)
        return lambda *args, **named: self._run(function(*args, **named))

    def enter(self, reservation: Reservation[PolicyDecision]) -> None:
        """Wait for a reservation's turn."""
        if self._loop is None:
            with reservation:
                return

        async def wait() -> None:
            async with reservation:
                pass

        self._run(wait())

    def cancel(self, reservation: Reservation[PolicyDecision]) -> None:
        """Cancel a reservation, and let the store take back what is left of it."""
        reservation.cancel()
        if isinstance(self.keeper.store, AsyncMemoryStore):
            self._run(self.keeper.store.wait_queue.settle())
        elif self._loop is not None:
            self._run(asyncio.sleep(0))

    def charge_as_another_process(self, attributes: dict[str, str]) -> None:
        """Charge a request that waits elsewhere."""
        store = getattr(self.keeper.store, "store", self.keeper.store)
        [decision] = store.decide(self.keeper.compiled.plan(attributes).charges)
        assert decision.delay > 0

    def _run(self, work: Any) -> Any:
        return work if self._loop is None else self._loop.run_until_complete(work)


Make = Callable[[str], Asked]


@pytest.fixture(params=["Keeper", "AsyncKeeper", "AsyncKeeper, awaited"])
def make(request: pytest.FixtureRequest, store: TableStore) -> Iterator[Make]:
    """Make a keeper of a policy's text."""
    if request.param == "Keeper":
        yield lambda text: Asked(Keeper(Policy.parse(text), store), None)
        return
    loop = asyncio.new_event_loop()
    either = AsyncMemoryStore(store) if "awaited" in request.param else store
    yield lambda text: Asked(AsyncKeeper(Policy.parse(text), either), loop)
    loop.close()


@pytest.mark.parametrize("more", ["", NEVER], ids=["one rule", "two rules"])
@pytest.mark.parametrize("rule", [QUEUE, PATIENT], ids=["leaky bucket", "max_wait"])
def test_try_acquire_is_true_only_if_the_request_may_go_now(
    make: Make, clock: ManualClock, rule: str, more: str
) -> None:
    keeper = make(rule + more)
    decisions = [keeper.try_acquire(ALICE) for _ in range(3)]
    assert [(bool(decision), decision.retry_after) for decision in decisions] == [(True, 0), (False, 1), (False, 1)]
    clock.advance(1)
    assert keeper.try_acquire(ALICE).delay == 0


traces = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 1, 2, 4])), min_size=1, max_size=20)


@given(traces, st.sampled_from([TokenBucket(3, 1), LeakyBucket(3, 1)]), st.sampled_from([0, 2, None]), st.booleans())
def test_try_acquire_decides_as_a_limiter_does(
    trace: list[tuple[int, int]], limit: Limit, max_wait: float | None, alone: bool
) -> None:
    clock = ManualClock()
    rules = (Rule("r", limit, key=("user",), max_wait=max_wait), *Policy.parse(NEVER).rules)
    keeper = Keeper(Policy(rules[:1] if alone else rules), MemoryStore(100, clock=clock))
    limiter = Limiter(limit, store=MemoryStore(100, clock=clock))
    key = rules[0].bucket(ALICE)
    for gap, cost in trace:
        clock.advance(gap / 2)
        assert keeper.peek(ALICE, cost).rules[0].decision == limiter.peek(key, cost)
        assert keeper.try_acquire(ALICE, cost).rules[0].decision == limiter.try_acquire(key, cost)


def test_acquire_waits_and_returns_at_the_turn(make: Make, clock: ManualClock) -> None:
    keeper, began = make(QUEUE), clock.seconds()
    for turn in range(3):
        assert keeper.acquire(ALICE)
        assert clock.seconds() - began == turn
    with pytest.raises(RateLimitExceeded, match="rule 'queue': over the limit"):
        keeper.acquire(ALICE, timeout=0.5)


def test_reserve_takes_turns_that_can_be_cancelled(make: Make) -> None:
    keeper = make(QUEUE + TENANT)
    first, second, third = (keeper.reserve(ALICE) for _ in range(3))
    assert [(bool(one), one.delay) for one in (first, second, third)] == [(True, 0), (True, 1), (True, 2)]
    assert [rule.name for rule in second.rules] == ["queue", "tenant"]
    assert not keeper.reserve(ALICE), "the queue is full"
    keeper.cancel(second)
    assert third.delay == 1
    assert keeper.reserve(ALICE).delay == 2, "the place behind it is free"


def test_a_reservation_waits_for_its_turn_as_a_context_manager(make: Make, clock: ManualClock) -> None:
    keeper, began = make(QUEUE), clock.seconds()
    for turn in range(3):
        keeper.enter(keeper.reserve(ALICE))
        assert clock.seconds() - began == turn
    assert keeper.reserve(ALICE).delay == 1
    refused = keeper.reserve(ALICE, timeout=1)
    assert not refused
    with pytest.raises(RateLimitExceeded, match="rule 'queue'"):
        keeper.enter(refused)


def test_a_reservation_of_a_blocking_kind_is_not_for_async_keepers(store: TableStore) -> None:
    reservation = asyncio.run(AsyncKeeper(Policy.parse(QUEUE), store).reserve(ALICE))
    with pytest.raises(TypeError, match="use 'async with'"), reservation:
        pass


def test_a_cancelled_reservation_is_given_back_once(make: Make) -> None:
    """A refund of it too would give back what the next request was charged."""
    keeper = make(QUEUE + TENANT)
    keeper.try_acquire(ALICE)
    second = keeper.reserve(ALICE)
    keeper.cancel(second)
    assert keeper.peek(ALICE).rules[1].decision.remaining == 9
    assert keeper.reserve(ALICE).delay == 1
    keeper.refund(second.decision)
    assert keeper.reserve(ALICE).delay == 2
    assert keeper.peek(ALICE).rules[1].decision.remaining == 7


def test_a_refund_of_a_reservation_gives_nothing_back_while_it_waits(make: Make) -> None:
    keeper = make(QUEUE)
    keeper.try_acquire(ALICE)
    second = keeper.reserve(ALICE)
    keeper.refund(second.decision)
    assert keeper.reserve(ALICE).delay == 2


def test_a_refund_of_a_reservation_that_was_used_gives_back_what_other_rules_took(make: Make) -> None:
    keeper = make(QUEUE + TENANT)
    keeper.try_acquire(ALICE)
    second = keeper.reserve(ALICE)
    keeper.enter(second)
    assert keeper.peek(ALICE).rules[1].decision.remaining == 8
    keeper.refund(second.decision)
    assert keeper.peek(ALICE).rules[1].decision.remaining == 9


def test_peek_charges_nothing_and_says_what_try_acquire_would(make: Make) -> None:
    keeper = make(PATIENT + TENANT)
    for allowed in (True, False):
        looks = [keeper.peek(ALICE) for _ in range(2)]
        assert [(bool(look), [rule.decision.remaining for rule in look.rules]) for look in looks] == [
            (allowed, [int(allowed), 9 + allowed])
        ] * 2
        assert bool(keeper.try_acquire(ALICE)) == allowed


def test_usage_tells_of_each_limit_that_applies(make: Make) -> None:
    keeper = make('exempt = [{ user = "root" }]\n' + QUEUE + TENANT + 'cost = "size"\n' + NEVER)
    queue, tenant = keeper.usage({**ALICE, "size": "many"})
    assert queue == Usage("queue", LeakyBucket(2, 1), 0, 3, 0.0, 0.0, 0)
    assert tenant.name == "tenant"
    keeper.try_acquire({**ALICE, "size": "4"})
    waiting = keeper.reserve(ALICE)
    assert keeper.usage(ALICE) == [
        Usage("queue", LeakyBucket(2, 1), 2, 1, 2.0, 2.0, 1),
        Usage("tenant", TokenBucket(10, "10/hour"), 5, 5, 1800.0, 0.0, 1),
    ]
    assert [one.waiting for one in keeper.usage({"user": "bob", "tenant": "t"})] == [0, 1]
    keeper.enter(waiting)
    assert [(one.used, one.waiting) for one in keeper.usage(ALICE)] == [(1, 0), (5, 0)]
    assert keeper.usage({"user": "root"}) == []
    assert repr(queue) == (
        "Usage('queue', used=0, remaining=3, reset_after=0, retry_after=0, waiting=0, limit='leaky_bucket of 2 at 1/s')"
    )


def test_reset_forgets_what_the_buckets_of_a_request_owe_and_no_others(make: Make) -> None:
    keeper, bob = make(PATIENT + TENANT), {"user": "bob", "tenant": "t"}
    assert [bool(keeper.try_acquire(who)) for who in (ALICE, ALICE, bob)] == [True, False, True]
    keeper.reset(ALICE)
    assert [one.used for one in keeper.usage(ALICE)] == [0, 0]
    assert keeper.try_acquire(ALICE)
    assert not keeper.try_acquire(bob)


def test_after_a_reset_no_place_that_was_given_up_makes_a_newcomer_wait(make: Make) -> None:
    """A place in the middle cannot be taken back in the store, so it serves newcomers; after a reset it must not."""
    patient = PATIENT.replace("max_wait = 2", "max_wait = 9")
    keeper = make(
        patient + patient.replace('"patient"', '"path"').replace("capacity", 'match = { path = "/p" }\ncapacity')
    )
    keeper.try_acquire(ALICE)
    place = keeper.reserve(ALICE)
    keeper.charge_as_another_process(ALICE)
    keeper.cancel(place)
    keeper.reset({**ALICE, "path": "/p"})
    assert keeper.reserve(ALICE).delay == 0


def test_a_request_without_a_required_attribute_is_refused_by_each_verb(make: Make) -> None:
    keeper = make(QUEUE + 'missing = "reject"\n' + TENANT)
    for verb in (keeper.try_acquire, keeper.peek, keeper.reserve):
        refused = verb({"tenant": "t"})
        assert (bool(refused), refused.missing) == (False, "user")
    with pytest.raises(RateLimitExceeded, match="the request has no user"):
        keeper.acquire({"tenant": "t"})
    assert [(one.name, one.used) for one in keeper.usage({"tenant": "t"})] == [("tenant", 0)]


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_means_nothing_is_an_error_before_anything_is_charged(make: Make, timeout: float) -> None:
    keeper = make(TENANT)
    for verb in (keeper.acquire, keeper.reserve):
        with pytest.raises(ValueError, match="timeout must be 0 or more seconds, or None"):
            verb(ALICE, timeout=timeout)
    assert keeper.usage(ALICE)[0].used == 0


def test_a_refund_of_something_else_says_what_it_takes(make: Make) -> None:
    keeper = make(TENANT)
    reservation = keeper.reserve(ALICE)
    with pytest.raises(TypeError, match="a PolicyDecision, not Reservation"):
        keeper.refund(reservation)


@pytest.mark.parametrize("kind", [Keeper, AsyncKeeper])
def test_another_librarys_verb_is_an_error_that_names_ours(kind: type) -> None:
    keeper = kind(Policy.parse(TENANT))
    for verb, ours in VERBS.items():
        with pytest.raises(AttributeError, match=f"{kind.__name__} has no '{verb}': use {ours}"):
            getattr(keeper, verb)
        assert hasattr(keeper, ours.split()[0])


@pytest.mark.parametrize("kind", [Keeper, AsyncKeeper])
def test_a_keeper_loads_the_file_of_its_policy(kind: type, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TENANT)
    for given_path in (path, str(path)):
        assert kind(given_path).policy == Policy.load(path)
    with pytest.raises(PolicyError, match=r"nowhere\.toml"):
        kind("nowhere.toml")
    with pytest.raises(TypeError, match=r"policy must be a Policy, such as Policy\.load\('policy\.toml'\), not 7"):
        kind(7)


def test_a_policy_made_of_a_path_says_how_to_load_it() -> None:
    for path in ("policy.toml", Path("policy.toml")):
        with pytest.raises(TypeError, match=r"to read a policy file, write Policy\.load\('policy\.toml'\)"):
            Policy(path)  # type: ignore[arg-type]


def test_a_keepers_store_may_be_a_string(tmp_path: Path) -> None:
    keepers = [Keeper(Policy.parse(TENANT), f"shared:{tmp_path / 'table'}") for _ in range(2)]
    assert [keeper.try_acquire(ALICE).remaining for keeper in keepers] == [9, 8]


def test_reprs_say_which_policy_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(QUEUE + TENANT)
    keeper = Keeper(path)
    assert repr(keeper.policy) == f"Policy('{path}', rules=['queue', 'tenant'])"
    assert repr(keeper) == f"Keeper({keeper.policy!r}, store=MemoryStore)"
    with watch_policy(path, keeper.replace, in_use=keeper.policy) as watch:
        assert repr(watch) == f"PolicyWatch('{path}', every=0.25, in_use={keeper.policy!r})"
    assert repr(watch) == f"PolicyWatch('{path}', every=0.25, in_use={keeper.policy!r}, stopped)"

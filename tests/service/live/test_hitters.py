"""The keys that are refused most: a bounded sketch keeps its exact bounds, whatever keys clients invent."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import ManualClock, MemoryStore, Policy, TokenBucket
from ratekeeper import core as cores
from ratekeeper.core import IMPLEMENTATION
from ratekeeper.coroutines import run_sync
from ratekeeper.policy.bucket_keys import bucket_of
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange
from ratekeeper.service.live.hitters import PLACES, HeavyHitters, Hitter, hashed, merged
from ratekeeper.service.live.sketch import PythonSketch
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.operator_options import OperatorOptions

POLICY = Policy.parse("""
[tiers]
by = "api_key"
default = "free"
paid = ["k-paid"]

[[rules]]
name = "each key"
key = ["api_key"]
limit = "1/day"

[[rules]]
name = "each tier and path"
match = { path = "/api/*" }
key = ["tier", "path"]
limit = "3/day"

[[rules]]
name = "planned"
shadow = true
limit = "1/day"
""")
SECRET = b"s" * 32
SKETCHES: list[Callable[..., Any]] = [PythonSketch, *([cores.sketch] if cores.sketch else [])]


@pytest.fixture(params=SKETCHES, ids=lambda made: made.__name__)
def sketch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    made: Callable[..., Any] = request.param
    monkeypatch.setattr(cores, "sketch", made)
    return made


def core(policy: Policy = POLICY, **options: Any) -> Core:
    made = Core(policy, MemoryStore(1000, clock=ManualClock()), **options)
    made.operate(OperatorOptions(page=True, recording_bytes=0))
    return made


def ask(core: Core, **attributes: str) -> None:
    core.charge(ProgramExchange(core.limiter, CheckRequest(attributes)))


def told(core: Core) -> dict[tuple[str, str], int]:
    assert core.hitters is not None
    return {(one.rule, one.key): one.rejected for one in merged([core.hitters.published()])}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=300), st.integers(1, 8), st.integers(1, 8))
def test_the_sum_over_processes_and_windows_keeps_the_bounds(
    refusals: list[tuple[int, int]], places: int, most: int
) -> None:
    """Each process tells only its most refused keys, so a sum may be too high by its `error`, and is never too low."""
    sketches = [HeavyHitters(SECRET, places) for _ in range(4)]
    for number, (process, key) in enumerate(refusals):
        if number == len(refusals) // 2:
            sketches[0].renew()
        sketches[process]._sketch.add('["rule", ["key"]]', bucket_of([str(key)]))
    exact = Counter(str(key) for _, key in refusals)
    published = [json.loads(json.dumps(one.published(most))) for one in sketches]
    for one in merged(published, 1000):
        assert one.rejected - one.error <= exact[str(one.values[0])] <= one.rejected
    assert all(len(one["keys"]) <= most for one in published)


def test_each_rule_that_refuses_counts_its_own_key_and_a_shadow_refuses_nobody(sketch: object) -> None:
    decided = core()
    for _ in range(4):
        ask(decided, api_key="k-1", path="/api/x")
    ask(decided, api_key="k-2", path="/api/x")
    ask(decided, api_key="k-paid", path="/api/x")
    ask(decided, path="/api/x")
    ask(decided, path="/other")
    ask(decided, api_key="k-3", path="/api/x")
    assert told(decided) == {
        ("each key", "api_key=k-1"): 3,
        ("each key", "api_key=(none)"): 1,
        ("each tier and path", "tier=free, path=/api/x"): 1,
    }


def test_several_questions_about_one_request_count_by_their_own_keys(sketch: object) -> None:
    decided = core()
    ask(decided, api_key="k-1")
    asked = [CheckRequest({"api_key": "k-2"}), CheckRequest({"api_key": "k-1"})]
    exchange = ProgramExchange(decided.limiter, asked[0])
    refusal = decided.charge_together(exchange, asked)
    assert refusal is not None
    assert told(decided) == {("each key", "api_key=k-1"): 1}


def test_windows_end(sketch: object) -> None:
    decided = core()
    assert decided.hitters is not None
    ask(decided, api_key="k-1")
    ask(decided, api_key="k-1")
    decided.hitters.renew()
    assert told(decided) == {("each key", "api_key=k-1"): 1}
    decided.hitters.renew()
    assert told(decided) == {}


def test_invented_keys_of_any_length_and_form_take_bounded_memory_and_no_place_of_a_heavy_one(sketch: object) -> None:
    hitters = HeavyHitters(SECRET)
    decided = Core(Policy.parse('rules = [{name = "r", key = ["k"], deny = true}]'), MemoryStore(10))
    decided.limiter.refused = hitters.refused
    for number in range(8 * PLACES):
        ask(decided, k=f"<script>\x00\u202e{number}" + "x" * 10_000)
        ask(decided, k="heavy")
    published = hitters.published()
    assert len(json.dumps(published)) < 64_000
    assert sum(sys.getsizeof(key) for _, key, *_ in hitters._sketch.entries()) < PLACES * 1000
    first, *_, last = merged([published], 1000)
    assert (first.rejected, first.error, first.values) == (8 * PLACES, 0, ("heavy",))
    assert last.values[0] is not None
    assert len(last.values[0]) < 100


def test_long_keys_that_begin_alike_are_told_apart(sketch: object) -> None:
    decided = core()
    for end in "aab":
        ask(decided, api_key="k" * 10_000 + end)
        ask(decided, api_key="k" * 10_000 + end)
    assert sorted(told(decided).values()) == [1, 3]


def test_a_rule_counts_once_however_many_limits_of_it_refuse(sketch: object) -> None:
    limits = {"plan": lambda request: [TokenBucket(1, "1/day"), TokenBucket(1, "2/day")]}
    rule = 'rules = [{name = "plan", key = ["k"], limit = "app:plan", default = "9/day"}]'
    decided = core(Policy.parse(rule), limits=limits)

    async def ask_often() -> None:
        for _ in range(3):
            await decided.charge(ProgramExchange(decided.limiter, CheckRequest({"k": "a"})))  # type: ignore[misc]

    asyncio.run(ask_often())
    assert told(decided) == {("plan", "k=a"): 2}


def test_a_request_that_would_wait_for_longer_than_it_may_is_counted(sketch: object) -> None:
    decided = core(Policy.parse('rules = [{name = "q", key = ["k"], max_wait = 1, limit = "1/hour"}]'))
    ask(decided, k="a")

    async def ask_with_patience() -> None:
        assert decided.charge(ProgramExchange(decided.limiter, CheckRequest({"k": "a"}, 1, 0.5))) is not None

    asyncio.run(ask_with_patience())
    assert told(decided) == {("q", "k=a"): 1}


def test_a_reload_goes_on_with_the_rules_that_stay_and_another_key_is_another(sketch: object) -> None:
    decided = core(Policy.parse('rules = [{name = "r", key = ["k"], limit = "1/day"}]'))
    for rule in ('key = ["k"], limit = "2/day"', 'key = ["user"], limit = "1/day"'):
        ask(decided, k="a", user="a")
        ask(decided, k="a", user="a")
        decided.replace(Policy.parse(f'rules = [{{name = "first", limit = "99/s"}}, {{name = "r", {rule}}}]'))
    ask(decided, k="a", user="a")
    ask(decided, k="a", user="a")
    assert told(decided) == {("r", "k=a"): 3, ("r", "user=a"): 2}  # the first debt is all of "2/day"


VALUES = st.sampled_from(["a", "k-paid", "/api/x", "é\ud800", "\U0001f600" * 40, "x" * 300, "x" * 300 + "y", "3:abc-"])
REQUESTS = st.dictionaries(st.sampled_from(["api_key", "path"]), VALUES)


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="compares both sketches")
@given(st.lists(REQUESTS | st.sampled_from(["renew", "replace"]), max_size=60), st.integers(1, 8))
def test_both_sketches_tell_the_same_of_the_same_requests(asked: list[dict[str, str] | str], most: int) -> None:
    decided = []
    for made in SKETCHES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cores, "sketch", made)
            slots = Slots.make(1)
            slots.secret = SECRET
            decided.append(core(metrics=Metrics(slots)))
    for step in asked:
        for one in decided:
            assert one.hitters is not None
            if step == "renew":
                one.hitters.renew()
            elif step == "replace":
                one.replace(Policy.parse('rules = [{name = "each key", key = ["api_key"], limit = "1/day"}]'))
            elif isinstance(step, dict):
                ask(one, **step)
    first, second = (one.hitters.published(most) for one in decided if one.hitters)
    assert first == second


def test_a_key_is_shown_by_a_hash_that_all_processes_share_and_others_do_not() -> None:
    slots, others = Slots.make(2), Slots.make(2)
    hitter = Hitter("each key", ("api_key",), ("k-1",), 3, 0)
    shown = hashed(slots.secret, hitter)
    assert shown == hashed(Slots.attach(slots.descriptor).secret, hitter._replace(rejected=9))
    assert shown != hashed(others.secret, hitter)
    assert shown != hashed(slots.secret, hitter._replace(rule="other"))
    assert len(shown) == 13
    assert shown[0] == "#"


def test_nothing_is_counted_when_no_operator_can_see_it() -> None:
    decided = Core(POLICY, MemoryStore(10))
    decided.operate(OperatorOptions(page=False, recording_bytes=0))
    assert decided.hitters is None
    ask(decided, api_key="k-1")
    run_sync(decided.close())

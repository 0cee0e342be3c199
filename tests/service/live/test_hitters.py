"""The keys that are refused most: a bounded sketch keeps its exact bounds, whatever keys clients invent."""

from __future__ import annotations

import json
import sys
from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.coroutines import run_sync
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange
from ratekeeper.service.live.hitters import PLACES, HeavyHitters, Hitter, Sketch, hashed, merged
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


def core() -> Core:
    made = Core(POLICY, MemoryStore(1000, clock=ManualClock()))
    made.operate(OperatorOptions(page=True, recording_bytes=0))
    return made


def ask(core: Core, **attributes: str) -> None:
    core.charge(ProgramExchange(core.limiter, CheckRequest(attributes)))


def told(core: Core) -> dict[tuple[str, str], int]:
    assert core.hitters is not None
    return {(one.rule, one.key): one.rejected for one in merged([core.hitters.published()])}


@given(st.lists(st.integers(0, 40), max_size=400), st.integers(1, 12))
def test_a_count_is_never_too_low_and_too_high_by_its_error_at_most(keys: list[int], places: int) -> None:
    sketch, exact = Sketch(places), Counter(keys)
    for key in keys:
        sketch.add(key)
    assert len(sketch.counts) <= places
    assert sum(count for count, _ in sketch.counts.values()) == len(keys)
    for key, times in exact.items():
        if key in sketch.counts:
            count, error = sketch.counts[key]
            assert count - error <= times <= count
            assert error <= len(keys) / places
        else:
            assert times <= sketch.floor


def test_the_heavy_keys_of_a_skewed_trace_are_found_in_their_order() -> None:
    random = Random(7)
    keys = [f"k-{int(random.paretovariate(0.5))}" for _ in range(60_000)]
    sketch, exact = Sketch(256), Counter(keys)
    for key in keys:
        sketch.add(key)
    heavy = [key for key, times in exact.most_common(10) if times > 2 * len(keys) / 256]
    assert len(exact) > 2_000
    assert len(heavy) > 4
    found = sorted(sketch.counts, key=lambda key: sketch.counts[key][0], reverse=True)
    assert found[: len(heavy)] == heavy


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=300), st.integers(1, 8), st.integers(1, 8))
def test_the_sum_over_processes_and_windows_keeps_the_bounds(
    refusals: list[tuple[int, int]], places: int, most: int
) -> None:
    """Each process tells only its most refused keys, so a sum may be too high by its `error`, and is never too low."""
    sketches = [HeavyHitters(SECRET, places) for _ in range(4)]
    for number, (process, key) in enumerate(refusals):
        if number == len(refusals) // 2:
            sketches[0].renew()
        sketches[process]._now.add(("rule", ("key",), (str(key),)))
    exact = Counter(str(key) for _, key in refusals)
    published = [json.loads(json.dumps(one.published(most))) for one in sketches]
    for one in merged(published, 1000):
        assert one.rejected - one.error <= exact[str(one.values[0])] <= one.rejected
    assert all(len(one["keys"]) <= most for one in published)


def test_each_rule_that_refuses_counts_its_own_key_and_a_shadow_refuses_nobody() -> None:
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


def test_several_questions_about_one_request_count_by_their_own_keys() -> None:
    decided = core()
    ask(decided, api_key="k-1")
    asked = [CheckRequest({"api_key": "k-2"}), CheckRequest({"api_key": "k-1"})]
    exchange = ProgramExchange(decided.limiter, asked[0])
    refusal = decided.charge_together(exchange, asked)
    assert refusal is not None
    assert told(decided) == {("each key", "api_key=k-1"): 1}


def test_windows_end() -> None:
    decided = core()
    assert decided.hitters is not None
    ask(decided, api_key="k-1")
    ask(decided, api_key="k-1")
    decided.hitters.renew()
    assert told(decided) == {("each key", "api_key=k-1"): 1}
    decided.hitters.renew()
    assert told(decided) == {}


def test_invented_keys_of_any_length_and_form_take_bounded_memory_and_no_place_of_a_heavy_one() -> None:
    hitters = HeavyHitters(SECRET)
    decided = Core(Policy.parse('rules = [{name = "r", key = ["k"], deny = true}]'), MemoryStore(10))
    decided.limiter.refused = hitters.refused
    for number in range(8 * PLACES):
        ask(decided, k=f"<script>\x00\u202e{number}" + "x" * 10_000)
        ask(decided, k="heavy")
    published = hitters.published()
    assert len(json.dumps(published)) < 64_000
    assert sum(sys.getsizeof(repr(key)) for key in hitters._now.counts) < PLACES * 1000
    first, *_, last = merged([published], 1000)
    assert (first.rejected, first.error, first.values) == (8 * PLACES, 0, ("heavy",))
    assert last.values[0] is not None
    assert len(last.values[0]) < 100


def test_long_keys_that_begin_alike_are_told_apart() -> None:
    decided = core()
    for end in "aab":
        ask(decided, api_key="k" * 10_000 + end)
        ask(decided, api_key="k" * 10_000 + end)
    assert sorted(told(decided).values()) == [1, 3]


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

"""The sketch of the keys that come most often: its exact bounds, whatever keys clients invent, by both cores alike."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import Keeper, MemoryStore, Policy, core
from ratekeeper.core import IMPLEMENTATION
from ratekeeper.policy.bucket_keys import bucket_of, values_of
from ratekeeper.service.live.sketch import SHORT, PythonSketch

SKETCHES: list[Callable[..., Any]] = [PythonSketch, *([core.sketch] if core.sketch else [])]
SECRET = bytes(range(16))


def cut(key: str) -> str:
    return f"{key[:SHORT]}~{len(key)}~{key[-8:]}"


def sketch_of(made: Callable[..., Any], places: int, told: Callable[..., Any] = lambda *_: []) -> Any:
    return made(places, SECRET, lambda asked: (), told, cut)


@pytest.fixture(params=SKETCHES, ids=lambda made: made.__name__)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    made: Callable[..., Any] = request.param
    return lambda *args: sketch_of(made, *args)


@given(st.lists(st.integers(0, 40), max_size=400), st.integers(1, 12))
@pytest.mark.parametrize("made", SKETCHES, ids=lambda made: made.__name__)
def test_a_count_is_never_too_low_and_too_high_by_its_error_at_most(
    made: Callable[..., Any], keys: list[int], places: int
) -> None:
    sketch, exact = sketch_of(made, places), Counter(map(str, keys))
    for number in keys:
        sketch.add("rule", str(number))
    found = {key: (count, error) for _, key, count, error in sketch.entries()}
    assert len(found) == len(sketch.entries()) == min(places, len(exact))
    assert sum(count for count, _ in found.values()) == len(keys)
    floor = min((count for count, _ in found.values()), default=0)
    for key, times in exact.items():
        count, error = found.get(key, (floor, 0))
        assert count - error <= times <= count or key not in found
        assert times <= count
        assert error <= len(keys) / places


HOSTILE = st.one_of(
    st.sampled_from(["", "a", "b", "\x00", "é", "\ud800", "\U0001f600", "<script>", "\u202e", "x" * 64, "x" * 65]),
    st.text(max_size=3),
    st.integers(0, 9).map(lambda number: "k" * 10_000 + str(number)),
)


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="compares both sketches")
@given(
    st.lists(st.tuples(st.sampled_from(["one", "other", "é"]), HOSTILE) | st.just("clear"), max_size=200),
    st.integers(1, 20),
)
def test_both_sketches_answer_the_same(trace: list[tuple[str, str] | str], places: int) -> None:
    first, second = (sketch_of(made, places) for made in SKETCHES)
    for step in trace:
        for sketch in (first, second):
            sketch.clear() if isinstance(step, str) else sketch.add(*step)
        assert first.entries() == second.entries()


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="compares both sketches")
def test_both_sketches_answer_the_same_when_many_keys_come_and_go() -> None:
    random = Random(7)
    first, second = (sketch_of(made, 300) for made in SKETCHES)
    for turn in range(40_000):
        key = f"k-{int(random.paretovariate(0.5))}"
        for sketch in (first, second):
            sketch.add("rule", key)
        if turn % 8_000 == 0:
            assert first.entries() == second.entries()
    assert first.entries() == second.entries()


def test_the_heavy_keys_of_a_skewed_trace_are_found_in_their_order(make: Callable[..., Any]) -> None:
    random = Random(7)
    keys = [f"k-{int(random.paretovariate(0.5))}" for _ in range(60_000)]
    sketch, exact = make(256), Counter(keys)
    for key in keys:
        sketch.add("rule", key)
    heavy = [key for key, times in exact.most_common(10) if times > 2 * len(keys) / 256]
    assert len(exact) > 2_000
    assert len(heavy) > 4
    found = sorted(sketch.entries(), key=lambda entry: -entry[2])
    assert [key for _, key, *_ in found[: len(heavy)]] == heavy


def test_one_key_of_two_rules_is_two_keys(make: Callable[..., Any]) -> None:
    sketch = make(4)
    for label in ("one", "other", "one"):
        sketch.add(label, "k")
    assert sorted(sketch.entries()) == [("one", "k", 2, 0), ("other", "k", 1, 0)]


def test_a_long_key_is_kept_cut(make: Callable[..., Any]) -> None:
    sketch = make(4)
    for end in ("a", "b", "a"):
        sketch.add("rule", "k" * 100_000 + end)
    for short in ("s" * SHORT, "é" * SHORT):
        sketch.add("rule", short)
    kept = {key: count for _, key, count, _ in sketch.entries()}
    assert kept == {
        cut("k" * 100_000 + "a"): 2, cut("k" * 100_000 + "b"): 1, "s" * SHORT: 1, "é" * SHORT: 1
    }  # fmt: skip


def test_the_keys_that_are_told_of_a_decision_are_counted(make: Callable[..., Any]) -> None:
    sketch = make(4, lambda asked, decision: [(asked, key) for key in decision])
    sketch.refused("rule", ["a", "b"])
    sketch.refused("rule", ["b"])
    assert sorted(sketch.entries()) == [("rule", "a", 1, 0), ("rule", "b", 2, 0)]


def test_a_failure_of_its_functions_is_raised_and_counts_nothing() -> None:
    for made in SKETCHES:
        sketch = made(2, SECRET, lambda asked: (), lambda asked, decision: 1 / 0, lambda key: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sketch.refused(None, None)
        with pytest.raises(ZeroDivisionError):
            sketch.add("rule", "k" * 1000)
        assert sketch.entries() == []


@pytest.mark.skipif(core.sketch is None, reason="the C core's own arguments")
def test_the_c_sketch_takes_no_other_arguments() -> None:
    assert core.sketch is not None
    for places, secret in ((0, SECRET), (-1, SECRET), (2**20 + 1, SECRET), (4, b"short")):
        with pytest.raises(ValueError, match="a sketch has 1 to"):
            core.sketch(places, secret, None, None, None)
    sketch = sketch_of(core.sketch, 2)
    for wrong in ((), ("rule",), ("rule", 7), (7, "key")):
        with pytest.raises(TypeError):
            sketch.add(*wrong)
    for told in (("rule", "key"), ["rule"], [["rule", "key"]], [("rule",)], [("rule", 7)]):
        with pytest.raises(TypeError):
            sketch_of(core.sketch, 2, lambda *_, told=told: told).refused(None, None)


class Renamed(list[str]):
    """Labels of a wrong type, which changes its name when they die."""

    def __del__(self) -> None:
        type(self).__name__ = "Dead"


@pytest.mark.skipif(core.sketch is None, reason="its memory must be safe")
def test_labels_of_a_wrong_type_are_named_before_they_die() -> None:
    assert core.sketch is not None
    decision = Keeper(Policy.parse('rules = [{name = "each", limit = "0/s"}]'), MemoryStore(9)).try_acquire({})
    sketch = core.sketch(4, SECRET, lambda question: Renamed(), None, cut)
    with pytest.raises(TypeError, match="labels are a tuple, not Renamed"):
        sketch.refused((), decision)


class Calling(str):
    """A text that runs a function when it dies."""

    __slots__ = ("last",)
    last: Callable[[], object]

    def __del__(self) -> None:
        self.last()


def calling(text: str, last: Callable[[], object]) -> Calling:
    made = Calling(text)
    made.last = last
    return made


@pytest.mark.skipif(core.sketch is None, reason="its memory must be safe")
def test_keys_may_be_counted_while_others_are_forgotten() -> None:
    assert core.sketch is not None
    sketch = sketch_of(core.sketch, 4)
    seen: list[Any] = []

    def count() -> None:
        sketch.add("rule", "a")
        sketch.add("rule", "b")
        seen.append(sketch.entries())

    for key in "xyz":
        sketch.add(calling("rule", count), key)
    sketch.clear()
    assert len(seen) == 3
    assert sketch.entries() == [("rule", "a", 3, 0), ("rule", "b", 3, 0)] == seen[-1]


@pytest.mark.skipif(core.sketch is None, reason="only the C core asks for labels")
def test_refusals_may_be_counted_while_the_labels_of_a_policy_are_forgotten() -> None:
    first, second, third = (
        Keeper(Policy.parse('rules = [{name = "each", limit = "0/s"}]'), MemoryStore(9)).try_acquire({})
        for _ in range(3)
    )
    assert core.sketch is not None

    def count() -> None:
        sketch.refused(("third",), third)

    sketch = core.sketch(4, SECRET, lambda question: question, None, cut)
    sketch.refused((calling("first", count),), first)
    sketch.clear()
    sketch.refused(("second",), second)
    sketch.refused(("second",), second)
    assert sorted(sketch.entries()) == [("second", "", 2, 0), ("third", "", 1, 0)]


def test_a_sketch_in_a_cycle_is_collected() -> None:
    class Owner:
        def __init__(self, made: Callable[..., Any]) -> None:
            self.sketch = made(2, SECRET, self.labels, self.labels, cut)
            self.sketch.add("rule", "key")

        def labels(self, *_: object) -> tuple[str, ...]:
            return ()

    for made in SKETCHES:
        gone = weakref.ref(Owner(made))
        gc.collect()
        assert gone() is None


class Owner:
    """Keeps the functions of a sketch, and refers to it."""

    def told(self, *_: object) -> list[tuple[str, str]]:
        return []


@pytest.mark.skipif(core.sketch is None, reason="its memory must be safe")
def test_keys_may_be_counted_while_the_sketch_is_collected() -> None:
    assert core.sketch is not None
    seen: list[type[BaseException]] = []

    def sketches() -> list[Any]:
        return [one for one in gc.get_objects() if type(one) is core.sketch]

    def last(_: object) -> None:  # in the middle of the collection, when the sketch has lost its functions
        for sketch in [one for one in sketches() if id(one) not in others]:
            for count in (sketch.add, "rule", "k" * 100), (sketch.refused, None, None):
                with pytest.raises(TypeError) as caught:
                    count[0](*count[1:])
                seen.append(caught.type)

    gc.collect()
    others = set(map(id, sketches()))
    owner = Owner()
    sketch = core.sketch(2, SECRET, owner.told, owner.told, owner.told)
    holder = Owner()
    code = compile("0", "", "exec")  # the collector does not track it, so it dies with its holder, after the sketch
    holder.__dict__.update(code=code, sketch=sketch, itself=holder)
    owner.__dict__.update(sketch=sketch, holder=holder)
    watch = weakref.ref(code, last)
    del owner, sketch, holder, code
    gc.collect()
    assert watch() is None
    assert seen == [TypeError, TypeError]


@given(st.lists(st.none() | st.text() | st.sampled_from(["", "-", "3:abc", "\ud800", "\u202e1"]), max_size=5))
def test_the_values_in_a_buckets_key_are_told(values: list[str | None]) -> None:
    assert values_of(bucket_of(values)) == tuple(values)

"""The recording of requests: whole records, without values, in bounded memory, by both cores alike."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper import ManualClock, MemoryStore, Policy, core
from ratekeeper.core import IMPLEMENTATION
from ratekeeper.coroutines import run_sync
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.sources import Readings
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.operator_options import OperatorOptions
from ratekeeper.service.recording.recorder import PythonRecorder
from ratekeeper.service.recording.recording import Schema, recording_state
from ratekeeper.service.recording.ring import (
    ADMITTED,
    DELAYED,
    EXEMPT,
    OUTCOME,
    REJECTED,
    Record,
    Segment,
    fitting_schema,
    heads,
    read_segment,
    records_of,
    ring_for,
)
from ratekeeper.service.recording.siphash import hash_of

POLICY = Policy.parse("""
exempt = [{ path = "/healthz" }]

[attributes]
api_key = "header:x-api-key"
tokens = "header:x-tokens"

[tiers]
by = "api_key"
default = "free"
paid = ["sha256:be58b36c7a3e2dd9f4d8ae5cf22a9e5f6a09e2c9d1ca33b2d7e94ddf9eb1d5a4", "k-paid"]

[[rules]]
name = "each key"
key = ["api_key"]
limit = "3/minute"
missing = "reject"
match = { path = "/api/*" }

[[rules]]
name = "tokens"
key = ["tier", "client"]
cost = "tokens"
limit = "100/minute"
missing = "skip"

[[rules.overrides]]
client = "10.0.0.0/8"
limit = "5/minute"

[[rules]]
name = "banned"
match = { client = "203.0.113.9" }
deny = true

[[rules]]
name = "planned"
shadow = true
limit = "1/minute"
""")
SIZE = 1 << 18
RECORDERS: list[Callable[..., Any]] = [PythonRecorder, *([core.recorder] if core.recorder else [])]


@pytest.fixture(params=RECORDERS, ids=lambda made: made.__name__)
def recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    made: Callable[..., Any] = request.param
    monkeypatch.setattr(core, "recorder", made)
    return made


def core_of(policy: Policy = POLICY, slots: Slots | None = None, size: int = SIZE) -> Core:
    metrics = Metrics(slots or Slots.make(1, size))
    made = Core(policy, MemoryStore(1000, clock=ManualClock(100)), metrics=metrics)
    made.operate(OperatorOptions(recording_bytes=size))
    return made


def ask(core: Core, attributes: dict[str, str], cost: int = 1, timeout: float | None = 0) -> Any:
    charged = core.charge(ProgramExchange(core.limiter, CheckRequest(attributes, cost, timeout)))
    return run_sync(charged) if charged is not None and not isinstance(charged, Exception) else charged


def records(core: Core, slot: int = 0) -> list[Record]:
    segments = read_segments(core.metrics.slots[slot].ring)
    return [one for it in segments for one in records_of(it, len(Schema.read(it.schema).costs))]


def read_segments(ring: memoryview) -> list[Segment]:
    """Return a copy of each segment, the oldest first."""
    return sorted(found for start, _ in heads(ring) if (found := read_segment(ring, start)) is not None)


def plain(core: Core) -> list[tuple[Any, ...]]:
    return [(*one[:3], tuple(one.values), tuple(one.costs), *one[5:]) for one in records(core)]


def slot_of(core: Core, name: str) -> int:
    return core.policy.keeper.compiled.slot_names.index(name)


VALUES = st.sampled_from(
    ["k-1", "k-paid", "10.1.2.3", "203.0.113.9", "/api/x", "/healthz", "é\ud800", "7", "x" * 300, "12a"]
)
PATHS = st.one_of(VALUES, st.sampled_from(["/healthz/../api/x", "/api//x", "/y/..;/healthz"]))
REQUESTS = st.dictionaries(st.sampled_from(["api_key", "client", "tokens"]), VALUES).flatmap(
    lambda others: st.builds(lambda path: {**others, **({"path": path} if path else {})}, st.none() | PATHS)
)


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="compares both recorders")
@given(st.lists(st.tuples(REQUESTS, st.integers(0, 3)), max_size=12))
def test_both_recorders_write_the_same(asked: list[tuple[dict[str, str], int]]) -> None:
    secret = Slots.make(1, SIZE)
    cores = []
    for made in RECORDERS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core, "recorder", made)
            slots = Slots.make(1, SIZE)
            slots.secret = secret.secret
            cores.append(core_of(slots=slots))
    for attributes, cost in asked:
        for one in cores:
            ask(one, attributes, cost)
    first, second = map(plain, cores)
    assert first == second
    assert [one.recording.left_out for one in cores if one.recording] == [0, 0]


def test_a_record_tells_time_cost_hashes_rules_and_outcome(recorder: object) -> None:
    decided = core_of()
    clock: ManualClock = decided.store.clock  # type: ignore[assignment]
    ask(decided, {"api_key": "k-1", "path": "/api/x", "client": "10.1.2.3", "tokens": "4"}, 2)
    clock.advance(1)
    ask(decided, {"api_key": "k-1", "path": "/api/x", "client": "10.1.2.3", "tokens": "4"}, 2)
    one, other = records(decided)
    secret = decided.metrics.slots.secret
    assert other.at - one.at == TICKS_PER_SECOND
    assert (one.cost, list(one.costs), one.flags, other.flags) == (2, [4], REJECTED, REJECTED)
    assert one.rules == ((0, -1), (1, 0), (3, -1))  # "tokens" by its override
    assert one.values[slot_of(decided, "api_key")] == hash_of(secret, "k-1")
    assert one.values[slot_of(decided, "tier")] == hash_of(secret, "free")
    assert one.values[slot_of(decided, "client")] == other.values[slot_of(decided, "client")]


def test_rules_are_told_whatever_became_of_the_request(recorder: object) -> None:
    """Else what-if could not tell what they had met without an exemption, or without a rule that denies."""
    decided = core_of()
    ask(decided, {"path": "/healthz"})
    ask(decided, {"path": "/api/x"})  # without a key that it must have
    ask(decided, {"path": "/api/x", "api_key": "k", "client": "203.0.113.9"})
    ask(decided, {"path": "/api/x", "api_key": "k"})  # without a client, so "tokens" is left out
    exempt, lacking, denied, skipped = records(decided)
    assert (exempt.flags, exempt.rules) == (ADMITTED | EXEMPT, ((1, -1), (3, -1)))
    assert (lacking.flags, lacking.rules) == (REJECTED, ((0, -1), (1, -1), (3, -1)))
    assert (denied.flags, denied.rules) == (REJECTED, ((0, -1), (1, -1), (2, -1), (3, -1)))
    assert (skipped.flags, skipped.rules) == (ADMITTED, ((0, -1), (1, -1), (3, -1)))


def test_a_value_that_can_be_read_in_several_ways_has_all_of_its_hashes(recorder: object) -> None:
    decided = core_of()
    ask(decided, {"path": "/healthz/../api/x", "api_key": "k"})
    [one] = records(decided)
    readings = decided.policy.reader.respell({"path": "/healthz/../api/x"})["path"]
    assert isinstance(readings, Readings)
    hashes = [hash_of(decided.metrics.slots.secret, reading) for reading in readings.all]
    slot = slot_of(decided, "path")
    assert [one.values[slot], *(value for place, value in one.others if place == slot)] == hashes


def test_a_rule_whose_function_gives_several_limits_is_told_once(recorder: object) -> None:
    rule = '{name = "plan", key = ["user"], limit = "app:plan", default = "1/s"}, {name = "all", limit = "9/s"}'
    policy = Policy.parse(f'attributes = {{ user = "header:x-user" }}\nrules = [{rule}]')
    metrics, store = Metrics(Slots.make(1, SIZE)), MemoryStore(1000, clock=ManualClock(100))
    decided = Core(policy, store, metrics=metrics, limits={"plan": lambda _: "5/s; 1/hour"})
    decided.operate(OperatorOptions(recording_bytes=SIZE))

    async def ask_there() -> None:
        charged = decided.charge(ProgramExchange(decided.limiter, CheckRequest({"user": "alice"})))
        if charged is not None and not isinstance(charged, Exception):
            await charged

    async def ask_twice() -> None:
        await ask_there()
        await ask_there()

    asyncio.run(ask_twice())
    both = (0, -1), (1, -1)
    assert [(one.flags, one.rules) for one in records(decided)] == [(ADMITTED, both), (REJECTED, both)]


def test_no_value_is_kept(recorder: object) -> None:
    decided = core_of()
    for secret in ("k-very-secret", "k" * 5000):
        ask(decided, {"api_key": secret, "path": "/api/private", "client": "192.0.2.77"})
    memory = bytes(decided.metrics.slots._memory)
    assert len(records(decided)) == 2
    assert not [word for word in (b"k-very", b"kkkk", b"private", b"192.0.2.77") if word in memory]


def test_the_oldest_requests_make_room_and_none_is_torn(recorder: object) -> None:
    size = 1 << 17
    decided = core_of(Policy.parse('rules = [{name = "each", key = ["k"], limit = "9/s"}]'), size=size)
    for number in range(5_000):
        ask(decided, {"k": f"k-{number}"}, number)
    kept = records(decided)
    secret = decided.metrics.slots.secret
    assert [one.cost for one in kept] == list(range(kept[0].cost, 5_000))
    assert 1_000 < len(kept) < 5_000
    assert all(one.values[0] == hash_of(secret, f"k-{one.cost}") for one in kept)
    state = recording_state(decided.metrics.slots, decided.store.clock.ticks() + 5 * TICKS_PER_SECOND, 1_000)
    assert (state["requests"], state["since"], state["capacity_bytes"]) == (len(kept), 995, size)
    assert size // 2 < state["bytes"] <= size


def test_records_of_several_policies_are_kept_each_with_its_schema(recorder: object) -> None:
    decided = core_of()
    ask(decided, {"api_key": "k", "path": "/api/x"})
    user = 'attributes = { user = "header:x-user" }'
    other = Policy.parse(f'{user}\nrules = [{{name = "each user", key = ["user"], limit = "9/s"}}]')
    decided.replace(other)
    ask(decided, {"user": "u"})
    decided.replace(POLICY)
    ask(decided, {"api_key": "k", "path": "/api/x"})
    schemas = [Schema.read(one.schema) for one in read_segments(decided.metrics.slot.ring)]
    assert schemas[0] == schemas[2] != schemas[1]
    assert [name for name, _ in schemas[1].names] == ["user"]
    first, second, third = records(decided)
    assert first.values.tolist() == third.values.tolist()
    assert list(second.values) == [hash_of(decided.metrics.slots.secret, "u")]


def test_the_next_worker_of_a_slot_goes_on_after_the_records_of_the_one_before(recorder: object) -> None:
    slots = Slots.make(2, SIZE)
    for number in range(3):
        made = Core(POLICY, MemoryStore(10), metrics=Metrics(slots, 1))
        made.operate(OperatorOptions(recording_bytes=SIZE))
        ask(made, {"api_key": "k", "path": "/api/x"}, number)
    assert [one.cost for one in records(made, 1)] == [0, 1, 2]
    assert records(made, 0) == []


def test_all_questions_of_one_request_are_recorded_and_so_is_a_wait(recorder: object) -> None:
    decided = core_of(Policy.parse('rules = [{name = "q", key = ["k"], max_wait = 9, limit = "1/s"}]'))
    asked = [CheckRequest({"k": "a"}), CheckRequest({"k": "b"}, 2)]
    assert decided.charge_together(ProgramExchange(decided.limiter, asked[0]), asked) is not None
    ask(decided, {"k": "a"})

    async def wait() -> None:
        exchange = ProgramExchange(decided.limiter, CheckRequest({"k": "a"}, 1, 5))
        await decided.charge(exchange)  # type: ignore[misc]

    began = decided.store.clock.ticks()
    asyncio.run(wait())
    secret = decided.metrics.slots.secret
    values = [one.values[0] for one in records(decided)]
    assert values == [hash_of(secret, key) for key in "abaa"]
    assert [one.flags & OUTCOME for one in records(decided)] == [ADMITTED, REJECTED, ADMITTED, DELAYED]
    assert records(decided)[-1].at == began < decided.store.clock.ticks()


def test_requests_that_began_before_a_reload_take_no_segment_each(recorder: object) -> None:
    """Else those that wait, and newer ones between them, would push all others out."""
    decided = core_of()
    exchanges = []
    for policy in (POLICY, Policy.parse('attributes = { u = "header:x-u" }\nrules = [{name = "r", limit = "9/s"}]')):
        decided.replace(policy)
        exchange = ProgramExchange(decided.limiter, CheckRequest({"path": "/api/x", "api_key": "k"}))
        assert decided.charge(exchange) is None
        exchanges.append(exchange)
    assert decided.recording is not None
    for _ in range(40):
        for exchange in exchanges:
            decided.recording.decided(exchange.asked, exchange.decisions[0])
    assert len(read_segments(decided.metrics.slot.ring)) == 2
    assert len(records(decided)) == 42
    assert decided.recording.left_out == 40


def test_other_numbers_and_pauses_go_on_in_the_segment_and_so_do_requests_that_began_before(recorder: object) -> None:
    decided = core_of()
    asked: list[ProgramExchange] = []
    for rule in ("limit = '1/s'", "limit = '2/s'", "limit = '2/s'\nshadow = true", "limit = '1/s'"):
        for _ in range(20):
            decided.replace(
                Policy.parse(f"attributes = {{k = 'header:k'}}\n[[rules]]\nname = 'r'\nkey = ['k']\n{rule}")
            )
            exchange = ProgramExchange(decided.limiter, CheckRequest({"k": f"k-{len(asked)}"}))
            assert decided.charge(exchange) is None
            asked.append(exchange)
    assert decided.recording is not None
    decided.recording.decided(asked[0].asked, asked[0].decisions[0])
    [segment] = read_segments(decided.metrics.slot.ring)
    assert segment.requests == 81
    secret = decided.metrics.slots.secret
    hashes = [hash_of(secret, f"k-{number}") for number in (*range(80), 0)]
    assert [one.values[0] for one in records(decided)] == hashes
    assert {one.rules for one in records(decided)} == {((0, -1),)}
    assert decided.recording.left_out == 0


LONG = Policy.parse("".join(f'[[rules]]\nname = "rule {number}"\nlimit = "1/s"\n' for number in range(2_000)))


def test_a_policy_that_is_too_long_is_left_out_and_counted(recorder: object) -> None:
    decided = core_of(size=1 << 17)
    ask(decided, {"path": "/api/x", "api_key": "k"})
    decided.replace(LONG)
    ask(decided, {})
    ask(decided, {})
    assert decided.recording is not None
    decided.live.tick()
    assert json.loads(decided.live.status())["recording"]["left_out"] == decided.recording.left_out == 2
    decided.replace(POLICY)
    ask(decided, {"path": "/api/x", "api_key": "k"})
    assert [one.flags for one in records(decided)] == [ADMITTED, ADMITTED]


def test_the_log_tells_at_the_start_that_a_policy_is_too_long_and_the_size_that_is_enough(
    recorder: object, caplog: pytest.LogCaptureFixture
) -> None:
    core_of(LONG, size=1 << 17)
    [told] = caplog.messages
    assert told.startswith("no request is recorded, as the policy is too long for it: start with --recording ")
    caplog.clear()
    decided = core_of(LONG, size=int(told.rpartition(" ")[2].removesuffix("M")) << 20)
    ask(decided, {})
    assert caplog.messages == []
    assert len(records(decided)) == 1


@given(st.integers(0, 1 << 20))
def test_a_ring_for_a_schema_has_room_for_it(length: int) -> None:
    assert fitting_schema(ring_for(length)) >= length


@pytest.mark.parametrize("size", [1 << 17, 1 << 20, 5_000_000])
def test_the_longest_schema_fits_and_a_longer_one_does_not(recorder: Any, size: int) -> None:
    keeper = core_of(size=0).policy.keeper
    longest = fitting_schema(size)
    for length, fits in ((longest, True), (longest + 1, False)):
        made = recorder(memoryview(bytearray(size)), bytes(16), print, print, print)
        assert made.begin(keeper, keeper.compiled.matcher, b"x" * length, (), ()) is fits


class Unequal(bytes):
    """A schema that cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("it cannot be compared")

    __hash__ = bytes.__hash__


def test_a_schema_that_cannot_be_compared_is_an_error(recorder: Any) -> None:
    keeper = core_of(size=0).policy.keeper
    made = recorder(memoryview(bytearray(1 << 20)), bytes(16), print, print, print)
    assert made.begin(keeper, keeper.compiled.matcher, b"schema", (), ())
    with pytest.raises(ValueError, match="cannot be compared"):
        made.begin(keeper, keeper.compiled.matcher, Unequal(b"schema"), (), ())


class Beginning(bytes):
    """A schema that is equal to all others, and runs a function when it is compared."""

    first: Callable[[], object]

    def __eq__(self, other: object) -> bool:
        self.first()
        return True

    __hash__ = bytes.__hash__


@pytest.mark.skipif(core.recorder is None, reason="its memory must be safe")
def test_a_schema_whose_comparison_begins_another_one_gets_its_own_segment() -> None:
    assert core.recorder is not None
    keeper, ring = core_of(size=0).policy.keeper, memoryview(bytearray(SIZE))
    made, matcher = core.recorder(ring, bytes(16), print, print, print), keeper.compiled.matcher
    hostile = Beginning(b"third")
    hostile.first = lambda: made.begin(keeper, matcher, b"second", (), ())
    for schema in (b"first", hostile):
        assert made.begin(keeper, matcher, schema, (), ())
    found = [segment for start, _ in heads(ring) if (segment := read_segment(ring, start))]
    assert {segment.number: segment.schema for segment in found} == {1: b"first", 2: b"second", 3: b"third"}


@pytest.mark.skipif(core.recorder is None, reason="its memory must be safe")
def test_a_recorder_in_c_takes_places_of_slots_and_aligned_memory_only() -> None:
    assert core.recorder is not None
    keeper, ring = core_of(size=0).policy.keeper, memoryview(bytearray(SIZE + 8))
    made, names = core.recorder(ring, bytes(16), print, print, print), keeper.compiled.slot_names
    began = keeper, keeper.compiled.matcher, b"schema"
    every = tuple(range(len(names)))
    assert made.begin(*began, every, every)
    wrong: tuple[Any, ...]
    for wrong in ((len(names),), (0, -1), (2**80,), ("0",), (0.0,)):
        for places in ((wrong, ()), ((), wrong)):
            with pytest.raises((TypeError, ValueError, OverflowError)):
                made.begin(*began, *places)
    with pytest.raises(ValueError, match="multiple of 8"):
        core.recorder(ring[1:], bytes(16), print, print, print)


def test_without_a_recording_nothing_is_recorded() -> None:
    decided = core_of(size=0)
    ask(decided, {"path": "/api/x", "api_key": "k"})
    assert decided.recording is None
    state = recording_state(decided.metrics.slots, 0, 1_000)
    assert state == {"requests": 0, "since": None, "bytes": 0, "capacity_bytes": 0}


def test_a_recording_that_fails_fails_no_request(recorder: object, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = core_of()
    monkeypatch.setattr(Schema, "of", lambda keeper: 1 / 0)
    decided.replace(POLICY)
    assert ask(decided, {"path": "/api/x", "api_key": "k"}) is None
    assert decided.recording is not None
    assert decided.recording.left_out == 1


def test_an_interrupt_is_not_taken_for_an_error_of_the_recording(
    recorder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = core_of()

    def interrupted(keeper: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Schema, "of", interrupted)
    decided.replace(POLICY)
    with pytest.raises(KeyboardInterrupt):
        ask(decided, {"path": "/api/x", "api_key": "k"})


ONE_KEY = Policy.parse('rules = [{name = "each", key = ["k"], limit = "9/s"}]')


class Replacing(dict[str, str]):
    """Attributes that have the recorder begin another policy while it reads them."""

    def __init__(self, begin: Callable[[], object]) -> None:
        super().__init__({"k": "a"})
        self._begin = begin

    def get(self, name: str, default: Any = None) -> Any:
        self._begin()
        return super().get(name, default)


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="its memory must be safe")
def test_values_of_another_policy_are_never_taken_for_those_of_the_schema() -> None:
    recorded, other = core_of(), core_of(ONE_KEY)
    ask(recorded, {"api_key": "k", "path": "/api/x"})
    ask(other, {"k": "a"})
    taken = recorded.recording._recorder  # type: ignore[union-attr]
    asked = recorded.policy.keeper, {"api_key": "k", "path": "/api/x"}, 1
    assert other.policy.at_once is not None
    by_other = other.policy.at_once({"k": "a"})
    taken.decided(asked, by_other)

    keeper = other.policy.keeper
    began = keeper, keeper.compiled.matcher, Schema.of(keeper).written(), (), ()
    hostile = recorded.policy.keeper, Replacing(lambda: taken.begin(*began)), 1
    taken.decided(hostile, PolicyDecision(by_other.rules))
    assert (taken.left_out, len(records(recorded))) == (2, 1)


class Dying:
    """A keeper whose end runs code."""

    def __init__(self, at_end: Callable[[], object]) -> None:
        self._at_end = at_end

    def __del__(self) -> None:
        self._at_end()


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="its memory must be safe")
def test_a_policy_whose_end_decides_by_the_next_one_is_recorded_by_the_next_one() -> None:
    before, after = (core_of(one).policy.keeper.compiled for one in (POLICY, ONE_KEY))
    assert core.recorder is not None
    assert after.try_acquire is not None
    made = core.recorder(memoryview(bytearray(SIZE)), bytes(16), print, print, print)
    keeper, decision = object(), after.try_acquire({"k": "a"})
    dying = Dying(lambda: made.decided((keeper, {"k": "a"}, 1), decision))
    assert made.begin(dying, before.matcher, b"before", (), ())
    del dying
    assert made.begin(keeper, after.matcher, b"after", (), ())
    assert made.left_out == 0


class Owner:
    """Keeps the functions of a recorder, and refers to it."""

    def told(self, *_: object) -> None:
        """Tell nothing."""


@pytest.mark.skipif(core.recorder is None, reason="its memory must be safe")
def test_a_recorder_that_is_collected_counts_a_request_as_left_out() -> None:
    assert core.recorder is not None
    left_out: list[int] = []

    def recorders() -> list[Any]:
        return [one for one in gc.get_objects() if type(one) is core.recorder]

    def last(_: object) -> None:  # in the middle of the collection, when the recorder has lost its functions
        for made in recorders():
            if id(made) not in others:
                made.decided((None, {}, 1), None)
                left_out.append(made.left_out)

    gc.collect()
    others = set(map(id, recorders()))
    owner = Owner()
    made = core.recorder(memoryview(bytearray(SIZE)), bytes(16), owner.told, owner.told, owner.told)
    holder = Owner()
    code = compile("0", "", "exec")  # the collector does not track it, so it dies with its holder, after the recorder
    holder.__dict__.update(code=code, made=made, itself=holder)
    owner.__dict__.update(made=made, holder=holder)
    watch = weakref.ref(code, last)
    del owner, made, holder, code
    gc.collect()
    assert watch() is None
    assert left_out == [1]


WRITER = """
import sys
from ratekeeper import core, MemoryStore, Policy
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange
from ratekeeper.service.recording.recorder import PythonRecorder
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.operator_options import OperatorOptions
if sys.argv[2] == "PythonRecorder":
    core.recorder = None
policy = Policy.parse('rules = [{name = "each", key = ["k"], limit = "9/s"}]')
made = Core(policy, MemoryStore(10), metrics=Metrics(Slots.attach(int(sys.argv[1])), 1))
made.operate(OperatorOptions(recording_bytes=1))
number = 0
while True:
    number += 1
    made.charge(ProgramExchange(made.limiter, CheckRequest({"k": f"k-{number}"}, number)))
"""


def test_a_reader_beside_a_writer_and_after_its_kill_sees_whole_records_only(recorder: Any) -> None:
    slots = Slots.make(2, 1 << 17)
    command = [sys.executable, "-c", WRITER, str(slots.descriptor), recorder.__name__]
    with subprocess.Popen(command, pass_fds=[slots.descriptor]) as writer:
        try:
            last = looks = 0
            while last < 5_000 or looks < 20:
                assert writer.poll() is None
                looks += 1
                last = check(slots) or last
        finally:
            writer.send_signal(signal.SIGKILL)
    assert check(slots) >= last


def check(slots: Slots) -> int:
    """Check all records; return the number of the last request."""
    last = 0
    for segment in read_segments(slots[1].ring):
        found = [*records_of(segment, 0)]
        costs = [one.cost for one in found]
        last = costs[-1] if costs else last
        assert costs == list(range(last - len(costs) + 1, last + 1))
        assert len(found) <= segment.requests
        for one in found[:2] + found[-2:]:
            assert one.values[0] == hash_of(slots.secret, f"k-{one.cost}")
    return last

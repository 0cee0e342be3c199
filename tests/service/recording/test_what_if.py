"""What-if equals `replay`: the same requests as a log, and as a recording of hashes, meet the same decisions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.cli.replay.engine import replay
from ratekeeper.coroutines import run_sync
from ratekeeper.errors import PolicyError
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.replay.engine import Replay
from ratekeeper.replay.report import Report
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.operator_options import OperatorOptions
from ratekeeper.service.recording import what_if as module
from ratekeeper.service.recording.hashed_policy import Facts, HashedPolicy
from ratekeeper.service.recording.recorded import read_requests
from ratekeeper.service.recording.rule_toml import rule_toml
from ratekeeper.service.recording.what_if import BusyError, WhatIfError, what_if
from ratekeeper.service.recording.what_if_answer import _entries, _judged, answer
from ratekeeper.service.recording.what_if_edit import edited
from ratekeeper.service.recording.what_if_process import Job, compute

EPOCH = 1_800_000_000
SIZE = 1 << 18
TIERS = '[tiers]\nby = "user"\ndefault = "free"\npaid = ["u-1", "u-2"]\n'
EXEMPT = 'exempt = [{ path = "/healthz" }, { user = ["u-9"], method = "GET" }]\n'


class Asked(NamedTuple):
    """A request: nanoseconds after the one before, and its attributes."""

    later: int
    attributes: dict[str, str]


def text_of(rules: Sequence[dict[str, Any]], head: str) -> str:
    lines = [head]
    for number, rule in enumerate(rules):
        lines.append(f'[[rules]]\nname = "rule {number}"')
        lines += [f"{key} = {json.dumps(value)}" for key, value in rule.items() if key not in ("match", "overrides")]
        if rule.get("match"):
            lines.append("[rules.match]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in rule["match"].items()]
        for override in rule.get("overrides", ()):
            lines.append("[[rules.overrides]]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in override.items()]
    return "\n".join(lines)


LIMITS = st.one_of(
    st.fixed_dictionaries(
        {"capacity": st.integers(2, 6), "refill_rate": st.sampled_from(["1/s", "7/minute", "0.3/s"])}
    ),
    st.fixed_dictionaries(
        {
            "algorithm": st.just("leaky_bucket"),
            "capacity": st.integers(2, 5),
            "leak_rate": st.sampled_from(["2/s", "20/minute"]),
        }
    ),
    st.just({"deny": True}),
)
EXACT = st.fixed_dictionaries(
    {},
    optional={
        "path": st.sampled_from(["/api/x", ["/api/y", "/b"], "/healthz"]),
        "method": st.sampled_from(["get", "POST"]),
        "tier": st.sampled_from(["free", "paid"]),
        "client": st.just("192.0.2.7"),
        "user": st.sampled_from(["u-1", ["u-2", "u-9"]]),
    },
)
MATCHES = st.one_of(
    EXACT,
    st.fixed_dictionaries(
        {}, optional={"path": st.sampled_from(["/api/*", "*x", "/?"]), "client": st.just("192.0.0.0/16")}
    ),
)


@st.composite
def rules(draw: st.DrawFn, matches: st.SearchStrategy[dict[str, Any]] = MATCHES) -> dict[str, Any]:
    limit = draw(LIMITS)
    rule: dict[str, Any] = {**limit, "match": draw(matches)}
    rule["key"] = draw(st.lists(st.sampled_from(["user", "client", "path", "tier"]), max_size=2, unique=True))
    rule["shadow"] = draw(st.booleans())
    rule["missing"] = draw(st.sampled_from(["shared", "skip", "reject"]))
    if "deny" not in limit:
        rule["cost"] = draw(st.sampled_from([1, 2, "tokens"]))
        if draw(st.booleans()):
            rule["max_wait"] = draw(st.sampled_from([0, 0.5, 3]))
        if draw(st.booleans()):
            match = draw(matches.filter(bool))
            rule["overrides"] = [{**match, "capacity": 4}, {"user": "u-2", "deny": True}]
    return rule


POLICIES = st.builds(
    lambda each, exempt: text_of(each, (EXEMPT if exempt else "") + TIERS),
    st.lists(rules(), min_size=1, max_size=4),
    st.booleans(),
)
REQUESTS = st.builds(
    Asked,
    st.integers(1, 2_000_000_000),  # two processes at the same time have no order
    st.fixed_dictionaries(
        {"path": st.sampled_from(["/api/x", "/api/y", "/b", "/healthz", "/api/../b", "/b//api/x"])},
        optional={
            "method": st.sampled_from(["GET", "post"]),
            "user": st.sampled_from(["u-1", "u-2", "u-3", "u-9"]),
            "client": st.sampled_from(["192.0.2.7", "198.51.100.1", "192.0.3.1"]),
            "tokens": st.sampled_from(["0", "1", "3"]),
        },
    ),
)
TRACES = st.lists(REQUESTS, min_size=1, max_size=25)


def recorded(policy: Policy, trace: Sequence[Asked], processes: int = 1) -> Core:
    """Ask a service for each request of a trace, the processes in turn."""
    slots, clock = Slots.make(processes, SIZE), ManualClock(EPOCH)
    store = MemoryStore(1000, clock=clock)
    cores = []
    for number in range(processes):
        core = Core(policy, store, metrics=Metrics(slots, number))
        core.operate(OperatorOptions(recording_bytes=SIZE))
        cores.append(core)
    for number, one in enumerate(trace):
        clock.advance_ticks(one.later * 16)
        asked = CheckRequest(one.attributes)
        core = cores[number % processes]
        charged = core.charge(ProgramExchange(core.limiter, asked))
        assert charged is None or isinstance(charged, Exception)
    return cores[0]


def offset_of(core: Core, trace: Sequence[Asked]) -> int:
    now = EPOCH * TICKS_PER_SECOND + sum(one.later for one in trace) * 16
    return now - core.store.clock.ticks()


def log_of(trace: Sequence[Asked]) -> list[str]:
    at, lines = EPOCH * 10**9, []
    for one in trace:
        at += one.later
        lines.append(json.dumps({"ts": f"{at // 10**9}.{at % 10**9:09}", **one.attributes}))
    return lines


def numbers(report: Report) -> tuple[Any, ...]:
    """Return all of a report, but for names of attributes."""
    rules = [
        (
            rule.rule.name, rule.admitted, rule.rejected, rule.delayed, rule.buckets, rule.needed, rule.needed_99,
            rule.keyless, rule.timeline, rule.remedy,
        )
        for rule in report.rules
    ]  # fmt: skip
    return (
        report.requests, report.admitted, report.rejected, report.delayed, report.longest_delay, report.unmatched,
        sum(report.lacking.values()), report.span, report.timeline, report.unreadable, rules,
    )  # fmt: skip


def by_recording(core: Core, policy: Policy, trace: Sequence[Asked]) -> Report:
    requests = read_requests(core.metrics.slots)
    hashed = HashedPolicy.of(policy, Facts.of(requests[-1].schema), core.metrics.slots.secret)
    assert hashed.unknown == {}
    assert hashed.policy is not None
    assert _judged(requests, hashed.needs) == requests
    return Replay(hashed.policy).run(_entries(requests, offset_of(core, trace))).report()


@pytest.mark.slow
@given(POLICIES, TRACES, st.integers(1, 2))
def test_a_recording_meets_what_replay_computes_of_the_same_traffic(
    text: str, trace: list[Asked], processes: int
) -> None:
    policy = Policy.parse(text)
    core = recorded(policy, trace, processes)
    assert numbers(by_recording(core, policy, trace)) == numbers(replay(policy, log_of(trace)))


def test_a_key_takes_the_reading_that_its_rule_is_for() -> None:
    policy = Policy.parse('rules = [{name = "r", match = {path = "/login"}, key = ["path"], limit = "1/hour"}]')
    trace = [Asked(10**9, {"path": path}) for path in ("/login", "//a/login", "//b/login")]
    found = by_recording(recorded(policy, trace), policy, trace)
    assert numbers(found) == numbers(replay(policy, log_of(trace)))
    assert (found.admitted, found.rejected) == (1, 2)


@pytest.mark.slow
@given(POLICIES, TRACES, st.lists(st.integers(1, 9), min_size=8, max_size=8))
def test_other_numbers_meet_what_replay_computes(text: str, trace: list[Asked], capacities: list[int]) -> None:
    policy = Policy.parse(text)
    names = {
        rule.name: {"capacity": capacity, "per_second": 0.7}
        for rule, capacity in zip(policy.rules, capacities, strict=False)
    }
    core = recorded(policy, trace)
    after = edited(policy, {"rules": names})
    found = answer(read_requests(core.metrics.slots), policy, after, core.metrics.slots.secret, offset_of(core, trace))
    # Overrides by path depend on the limits, too: their rules are not known then, unless they test exact values.
    assume(all(rule["known"] for rule in found["rules"]))
    assert_equals_replay(found, policy, after, trace)


@pytest.mark.slow
@given(POLICIES, st.lists(rules(EXACT), min_size=1, max_size=3), st.booleans(), TRACES)
def test_new_tests_of_exact_values_meet_what_replay_computes(
    text: str, new: list[dict[str, Any]], exempt: bool, trace: list[Asked]
) -> None:
    """If the recording has the attributes that they look at. New exemptions are judged by exact values too."""
    before = Policy.parse(text + '\n[[rules]]\nname = "reads all"\nlimit = "9/s"\ncost = "tokens"\n' + READS_ALL)
    after = Policy.parse(text_of(new, (EXEMPT if exempt else "") + TIERS))
    core = recorded(before, trace)
    found = answer(read_requests(core.metrics.slots), before, after, core.metrics.slots.secret, offset_of(core, trace))
    assert all(rule["known"] for rule in found["rules"])
    assert_equals_replay(found, before, after, trace)


READS_ALL = 'key = ["user", "client", "path", "tier", "method"]\n'


def assert_equals_replay(found: dict[str, Any], before: Policy, after: Policy, trace: Sequence[Asked]) -> None:
    assert found["requests"] == len(trace)
    for when, policy in (("before", before), ("after", after)):
        report = replay(policy, log_of(trace))
        counts = {rule["name"]: rule[when] for rule in found["rules"]}
        for rule in report.rules:
            own = {"admitted": rule.admitted - rule.delayed, "rejected": rule.rejected, "delayed": rule.delayed}
            assert counts[rule.rule.name] == own
        series = found["series"][when]
        assert sum(series["admitted"]) == report.admitted - report.delayed
        assert (sum(series["rejected"]), sum(series["delayed"])) == (report.rejected, report.delayed)
        assert {len(each) for each in series.values()} == {len(found["series"]["times"])}


POLICY = Policy.parse(
    text_of(
        [
            {"key": ["user"], "capacity": 2, "refill_rate": "1/minute", "match": {"path": "/api/*"}},
            {"algorithm": "leaky_bucket", "capacity": 2, "leak_rate": "1/s", "key": ["client"]},
        ],
        TIERS,
    )
)
TRACE = [
    Asked(number % 3 * 200_000_000 + 1, {"path": "/api/x", "user": f"u-{number % 2}", "client": "192.0.2.7"})
    for number in range(12)
]


def asked_now(edit: dict[str, Any], trace: list[Asked] = TRACE, policy: Policy = POLICY) -> dict[str, Any]:
    core = recorded(policy, trace, 2)
    return compute(Job(policy, edit, offset_of(core, trace)), core.metrics.slots)


def rule_of(found: dict[str, Any], name: str) -> dict[str, Any]:
    [rule] = [one for one in found["rules"] if one["name"] == name]
    return rule  # type: ignore[no-any-return]


def test_numbers_that_are_dragged_change_what_is_met_and_nothing_else() -> None:
    edit = {"rules": {"rule 0": {"capacity": 100}}}
    found = asked_now(edit)
    assert_equals_replay(found, POLICY, edited(POLICY, edit), TRACE)
    assert rule_of(found, "rule 0")["before"]["rejected"] > rule_of(found, "rule 0")["after"]["rejected"] == 0
    assert found["recorded"] == {"admitted": 3, "delayed": 0, "rejected": 9}
    assert found["span"] == sum(one.later for one in TRACE[1:]) / 1e9
    assert Policy.parse(found["toml"]).rules == edited(POLICY, edit).rules[:1]


def test_what_hashes_cannot_tell_is_said_and_left_out() -> None:
    text = text_of(
        [
            {"capacity": 1, "refill_rate": 1, "match": {"path": "/api/*"}, "key": ["user"]},
            {"capacity": 1, "refill_rate": 1, "match": {"path": "/ap*"}},
            {"capacity": 1, "refill_rate": 1, "match": {"path": "/api/x"}, "key": ["api_key"]},
            {"capacity": 1, "refill_rate": 1, "match": {"path": "/api/x"}, "cost": "tokens"},
            {"limit": "app:plan", "default": "9/s", "key": ["user"]},
        ],
        TIERS,
    )
    found = asked_now({"policy": text})
    whys = [rule_of(found, f"rule {number}").get("why", "") for number in range(5)]
    assert whys[0] == ""
    assert "'path' by new patterns" in whys[1]
    assert "no attribute 'api_key'" in whys[2]
    assert "no attribute 'tokens'" in whys[3]
    assert "looks its limit up" in whys[4]
    assert [rule["known"] for rule in found["rules"]] == [True, False, False, False, False]
    assert rule_of(found, "rule 1")["after"] == {"admitted": 0, "rejected": 0, "delayed": 0}
    other_tiers = asked_now({"policy": text.replace("u-1", "u-0").replace("/ap*", "/api/*")})
    assert rule_of(other_tiers, "rule 1")["known"]
    exempt = asked_now({"policy": 'exempt = [{ path = "/a*" }]\n' + text})
    assert {rule["known"] for rule in exempt["rules"]} == {False}
    assert "exempt: " in exempt["rules"][0]["why"]


def test_requests_before_a_change_of_tests_are_left_out_if_they_cannot_be_judged() -> None:
    core = recorded(POLICY, TRACE)
    other = Policy.parse(text_of([{"capacity": 3, "refill_rate": 1, "match": {"path": "/api*"}, "key": ["user"]}], ""))
    core.replace(other)
    for _ in range(3):
        core.charge(ProgramExchange(core.limiter, CheckRequest({"path": "/api/x", "user": "u"})))
    slots = core.metrics.slots
    assert compute(Job(other, {"rules": {"rule 0": {"capacity": 1}}}, 0), slots)["requests"] == 3
    core.replace(POLICY)
    core.charge(ProgramExchange(core.limiter, CheckRequest({"path": "/api/x", "user": "u"})))
    assert compute(Job(POLICY, {"rules": {"rule 0": {"capacity": 1}}}, 0), slots)["requests"] == 1
    exact = text_of([{"capacity": 9, "refill_rate": 1, "match": {"path": "/api/x"}, "key": ["user"]}], "")
    found = compute(Job(Policy.parse(exact), {"policy": exact.replace("9", "8")}, 0), slots)
    assert found["requests"] == len(TRACE) + 4


def test_requests_begin_where_all_processes_have_theirs() -> None:
    """One process has lost its older requests: to go on from there with the others' alone would be wrong."""
    slots, clock = Slots.make(2, SIZE), ManualClock(EPOCH)
    cores = [Core(POLICY, MemoryStore(9, clock=clock), metrics=Metrics(slots, number)) for number in range(2)]
    for core in cores:
        core.operate(OperatorOptions(recording_bytes=SIZE))
    for number in range(8_000):
        clock.advance(0.001)
        for core in cores if number % 100 == 0 else cores[:1]:
            core.charge(ProgramExchange(core.limiter, CheckRequest({"path": "/", "client": "192.0.2.7"})))
    requests = read_requests(slots)
    times = [one.at for one in requests if one.process == 0]
    assert 1_000 < len(times) < 8_000
    assert all(later - earlier == TICKS_PER_SECOND // 1000 for earlier, later in pairwise(times))
    assert requests[0].at == times[0]
    assert 0 < len(requests) - len(times) < 80
    few = read_requests(slots, 500)
    assert 200 < len(few) <= 500
    assert few == requests[-len(few) :]


def test_an_empty_recording_has_an_empty_answer() -> None:
    found = asked_now({"rules": {"rule 0": {"capacity": 9}}}, [])
    assert (found["requests"], found["span"], found["series"]["times"]) == (0, 0, [])
    assert [rule["after"] for rule in found["rules"]] == [{"admitted": 0, "rejected": 0, "delayed": 0}] * 2


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({}, "an edit is"),
        ({"rules": 7}, "an edit is"),
        ({"policy": 7}, "an edit is"),
        ({"policy": "[[rules]]"}, "the edited policy:1"),
        ({"rules": {"rule 1x": {"capacity": 3}}}, "did you mean 'rule 1'"),
        ({"rules": {"rule 1": {"rate": 3}}}, "'rule 1': give a 'capacity'"),
        ({"rules": {"rule 1": 3}}, "'rule 1': give a 'capacity'"),
        ({"rules": {"rule 0": {"capacity": -1}}}, "'rule 0'"),
        ({"rules": {"rule 0": {"capacity": "many"}}}, "'rule 0'"),
        ({"rules": {"rule 0": {"per_second": float("inf")}}}, "'rule 0'"),
        ({"rules": {"rule 0": {"per_second": 1e300}}}, "'rule 0'"),
    ],
)
def test_a_mistake_in_the_edit_says_what_would_be_right(edit: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        edited(POLICY, edit)


@pytest.mark.parametrize("edit", [{"rules": {}}, {"rules": {"rule 0": {}}}])
def test_an_edit_without_numbers_changes_nothing(edit: dict[str, Any]) -> None:
    assert edited(POLICY, edit).rules == POLICY.rules


@pytest.mark.parametrize(
    ("count", "seconds", "told"),
    [(7, 3600, "7/hour"), (100, 86_400, "100/day"), (7, 60, "7/minute"), (0.1, 86_400, "1/864000s"), (4, 1, "4/s")],
)
def test_a_rate_is_tried_and_told_as_a_person_typed_it(count: float, seconds: int, told: str) -> None:
    after = edited(POLICY, {"rules": {"rule 0": {"per_second": count / seconds}}})
    assert after.rules[0].limit.rate == Fraction(str(count)) / seconds
    assert f'refill_rate = "{told}"' in rule_toml(after.rules[0])


def test_an_error_names_the_rate_in_use_as_a_policy_has_it() -> None:
    policy = Policy.parse("rules = [{name = 'all', limit = '90/hour'}]")
    with pytest.raises(PolicyError, match=r"raise the refill_rate \('90/hour'\)"):
        edited(policy, {"rules": {"all": {"capacity": 10**12}}})


def test_it_is_computed_by_another_process_and_one_at_a_time() -> None:
    core = recorded(POLICY, TRACE, 2)

    async def ask() -> Any:
        edit = {"rules": {"rule 0": {"capacity": 9}}}
        return await asyncio.gather(what_if(core, edit), what_if(core, edit), return_exceptions=True)

    found, refused = asyncio.run(ask())
    assert isinstance(refused, BusyError)
    assert "another what-if" in str(refused)
    offset = offset_of(core, TRACE)
    here = compute(Job(POLICY, {"rules": {"rule 0": {"capacity": 9}}}, offset), core.metrics.slots)
    assert {**found, "series": 0} == {**here, "series": 0}
    with pytest.raises(PolicyError, match="an edit is"):
        asyncio.run(what_if(core, {}))


def test_it_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    core = recorded(POLICY, TRACE)
    monkeypatch.setattr(module, "SECONDS", 0.001)
    with pytest.raises(WhatIfError, match="more than"):
        asyncio.run(what_if(core, {"rules": {"rule 0": {"capacity": 9}}}))
    monkeypatch.undo()
    assert asyncio.run(what_if(core, {"rules": {"rule 0": {"capacity": 9}}}))["requests"] == len(TRACE)


def test_without_a_recording_it_says_how_to_have_one() -> None:
    core = Core(POLICY, MemoryStore(9))
    core.operate(OperatorOptions(recording_bytes=0))
    with pytest.raises(WhatIfError, match="--recording"):
        run_sync(what_if(core, {}))


@given(POLICIES)
def test_a_rule_as_text_is_read_as_the_same_rule(text: str) -> None:
    policy = Policy.parse(text)
    read = Policy.parse(TIERS + "\n".join(map(rule_toml, policy.rules)))
    assert read.rules == policy.rules


@pytest.mark.parametrize("rate", ["1/s", "100/minute", "7/13s", "0.25/s", "1/3h", "5/10s", "1000000000/s"])
def test_a_rate_and_odd_names_are_copied_exactly(rate: str) -> None:
    text = (
        f'[[rules]]\nname = "a \\"b\\" \\\\ é"\nkey = ["x y"]\ncapacity = 2\nrefill_rate = "{rate}"\nmax_wait = 1.5\n'
        'message = "no <b>"\non_error = "deny"\n[rules.match]\n"x y" = ["\\u0001\\u007f*", "é"]\n'
    )
    policy = Policy.parse(text)
    assert Policy.parse(rule_toml(policy.rules[0])).rules == policy.rules


@pytest.mark.parametrize("default", ["5/s burst 9", "1/3h", "7/13s burst 1", "0/s", "100/minute"])
def test_a_rule_that_the_application_gives_a_limit_is_copied_with_its_default(default: str) -> None:
    policy = Policy.parse(
        f'[[rules]]\nname = "plan"\nlimit = "app:plan"\ndefault = "{default}"\nttl = 2.5\non_lookup_error = "deny"\n'
    )
    assert Policy.parse(rule_toml(policy.rules[0])).rules == policy.rules

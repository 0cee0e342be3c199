"""The policy in C and its twin in Python: the same decisions on the same requests, and the same errors."""

from __future__ import annotations

import sys
from collections import UserDict
from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from needs import need
from policy_strategies import REQUESTS, plan_of, policies

from ratekeeper import Decision, LeakyBucket, ManualClock, MemoryStore, Policy, TokenBucket, core
from ratekeeper.http.headers import rate_limit_headers
from ratekeeper.policy.compiled import CompiledPolicy, PythonMatcher
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.lookups.functions import Lookups
from ratekeeper.policy.lookups.lookup import Lookup
from ratekeeper.policy.model import Override, Rule, Tiers
from ratekeeper.policy.sources import Readings


class Twins:
    """One policy on two tables with one clock: in C, and in Python."""

    def __init__(self, policy: Policy) -> None:
        need("the C core", core.matcher is not None)
        self.clock = ManualClock(1000)
        self.stores = MemoryStore(100, clock=self.clock), MemoryStore(100, clock=self.clock, implementation="python")
        limits = {"plan": plan_of} if any(rule.lookup for rule in policy.rules) else {}
        lookups = [Lookups(limits, awaits=False) for _ in self.stores]
        self.c = CompiledPolicy(policy, self.stores[0], lookups=lookups[0])
        self.python = CompiledPolicy(policy, self.stores[1], PythonMatcher, lookups[1])
        assert type(getattr(self.c.try_acquire, "__self__", None)).__name__ == "PolicyGate"

    def ask(self, attributes: Any, *cost: Any) -> PolicyDecision | tuple[type[Exception], str]:
        """Return what both answer, a decision or an error."""
        results = [outcome(compiled, attributes, *cost) for compiled in (self.c, self.python)]
        assert results[0] == results[1]
        first, second = results
        if isinstance(first, PolicyDecision):
            assert isinstance(second, PolicyDecision)
            assert (first.allowed, first.missing, bool(first)) == (second.allowed, second.missing, bool(second))
            assert [refundable(one.decision) for one in first.rules] == [
                refundable(one.decision) for one in second.rules
            ]
            assert repr(first) == repr(second)
            assert hash(first) == hash(second)
            assert first.states == second.states
            assert binding(first) == binding(second)
            assert rate_limit_headers(first) == rate_limit_headers(second)
        return first


def decide(compiled: CompiledPolicy, attributes: Any, *cost: Any) -> PolicyDecision:
    assert compiled.try_acquire is not None
    return compiled.try_acquire(attributes, *cost)


def binding(decision: PolicyDecision) -> int | None:
    """Return the place of the most binding rule, which is one of the decision's own objects."""
    rule = decision.rule
    return None if rule is None else next(place for place, one in enumerate(decision.rules) if one is rule)


def refundable(decision: Decision) -> int:
    return 0 if decision._refunded < 0 else decision.cost - decision._refunded


def outcome(compiled: CompiledPolicy, attributes: Any, *cost: Any) -> PolicyDecision | tuple[type[Exception], str]:
    try:
        return decide(compiled, attributes, *cost)
    except Exception as error:
        return type(error), str(error)


@given(
    policies(looked_up=True),
    st.lists(st.tuples(REQUESTS, st.sampled_from([1, 1, 1, 2, 0, 10**6]), st.floats(0, 2)), max_size=8),
)
def test_both_decide_alike(policy: Policy, requests: list[tuple[dict[str, str], int, float]]) -> None:
    twins = Twins(policy)
    for attributes, cost, pause in requests:
        twins.ask(attributes, cost)
        twins.clock.advance(pause)


def test_a_look_up_is_asked_by_the_reading_that_the_rule_is_for() -> None:
    """The C core asked by the first reading, which the client chooses, and kept the answer for the other's bucket."""
    rule = Rule("r", TokenBucket(1, 1), match={"user": ("a",)}, key=("user",), lookup=Lookup("plan"))
    for readings in (["A", "a"], ["a", "A"], ["b", "A", "a"]):
        decision = Twins(Policy(rules=(rule,))).ask({"user": Readings.of(readings)})
        assert isinstance(decision, PolicyDecision)
        assert decision.rules[0].limit == plan_of({"user": "a"})


@pytest.mark.parametrize(
    ("network", "client"), [("10.1.2.3/32", "10.1.2.3"), ("2001:db8:0:7::/64", "2001:db8:0:7::/64")]
)
def test_a_network_as_narrow_as_a_client_is_known_matches_it(network: str, client: str) -> None:
    decision = Twins(Policy(rules=(Rule("r", TokenBucket(1, 1), match={"client": (network,)}),))).ask(
        {"client": client}
    )
    assert isinstance(decision, PolicyDecision)
    assert [rule.name for rule in decision.rules] == ["r"]


class Text(str):
    """A string of another class, with another idea of equality."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise AssertionError("nothing may ask")

    def __hash__(self) -> int:
        raise AssertionError("nothing may ask")


ODD = Policy(
    (
        Rule("plain", TokenBucket(1, 1), key=("user",), cost="tokens"),
        Rule("match", TokenBucket(2, 1), match={"path": ("/a*", "*.css", "/x?y"), "method": ("GET",)},
             key=("path", "user"),
             overrides=(Override({"client": ("10.0.0.0/8", "2001:db8::/32")}, TokenBucket(5, 1)),)),
        Rule("needs", TokenBucket(3, 1), match={"tier": ("pro",)}, key=("team",), missing="reject"),
    ),
    tiers=Tiers("user", "free", {"k": "pro", "\ud800": "pro"}),
    exempt=({"client": ("192.0.2.0/24",), "user": ("ops",)},),
)  # fmt: skip
BIG = TokenBucket(100, 1)
STRINGS = st.sampled_from([
    "k", "", "\ud800", "\0", "é" * 3, "日本", "\U0001f600", "x" * 5000, "1", "-1", "\u0663", "1" * 19, " 1", "ops",
    "/a", "/xéy", "x.css", "get", "gét", "PUT", "10.1.2.3", "10.01.2.3", "10.1.2", "10.1.2.3.4", "10.1.2.256",
    "010.1.2.3", "10.1.2.3/8", "10.1.2.\u0663", "::ffff:10.1.1.1", "2001:db8::/64", "2001:db8::1%eth0", "192.0.2.9",
    "99999999999999.1.1.1",
])  # fmt: skip
VALUES = st.one_of(
    STRINGS, STRINGS.map(Text), st.lists(STRINGS, min_size=1, max_size=3).map(Readings.of), st.text(max_size=4),
    st.sampled_from([None, 7, b"k", ["k"], 1.5, PurePosixPath("/a"), Readings("no others")]),
)  # fmt: skip
NAMES = ["user", "path", "method", "client", "team", "tokens", "tier", "other"]


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES), min_size=1, max_size=3))
def test_hostile_attributes_get_the_same_answer_or_the_same_error(requests: list[dict[str, Any]]) -> None:
    twins = Twins(ODD)
    for attributes in requests:
        twins.ask(attributes)


@pytest.mark.parametrize("attributes", [None, 7, "user", ["user"], object(), ManualClock])
def test_what_is_no_mapping_is_an_error(attributes: Any) -> None:
    error = Twins(ODD).ask(attributes)
    assert error == (
        TypeError,
        f"a request is a mapping of attributes, such as a dict, not {type(attributes).__name__}",
    )


@pytest.mark.parametrize("cost", [-1, 1.5, "1", None, True, -(10**400)])
def test_a_bad_cost_is_the_same_error_also_where_no_rule_matches(cost: Any) -> None:
    none_matches = Policy((Rule("r", TokenBucket(1, 1), match={"user": ("a",)}),))
    for policy in (ODD, none_matches):
        Twins(policy).ask({"user": "b"}, cost)


@pytest.mark.parametrize("cost", [2**62, 2**63, 2**64 + 1, 10**400])
def test_a_cost_beyond_all_limits_can_never_pass(cost: int) -> None:
    twins = Twins(Policy((Rule("r", TokenBucket(1, 1), cost=3),)))
    decision = twins.ask({}, cost)
    assert isinstance(decision, PolicyDecision)
    assert not decision
    assert decision.rules[0].decision.impossible
    assert decision.rules[0].decision.cost == min(3 * cost, 2**63 - 1)


class Two:
    """A whole number of another class, which knows no arithmetic."""

    def __index__(self) -> int:
        return 2


def test_a_cost_is_any_whole_number() -> None:
    for rule in (Rule("r", TokenBucket(9, 1)), Rule("r", TokenBucket(9, 1), cost=3), Rule("r", BIG, cost="tokens")):
        policy = Policy((rule,))
        assert Twins(policy).ask({"tokens": "3"}, Two()) == Twins(policy).ask({"tokens": "3"}, 2)
        twins = Twins(policy)
        explained = twins.c.explain({"tokens": "3"}, Two())  # type: ignore[arg-type]
        assert explained == twins.c.explain({"tokens": "3"}, 2)


@pytest.mark.parametrize("readings", [(1, 2), ("/a", b"/a"), (None,), (), ["/a"], "/a"])
def test_readings_that_are_not_strings_are_an_error(readings: Any) -> None:
    value = Readings("/a")
    value.all = readings
    override = Override({"path": ("/a*",), "user": ("u*",)}, TokenBucket(1, 1))
    policies = (
        Policy((Rule("r", BIG, match={"path": ("/a",)}),)),
        Policy((Rule("r", BIG, overrides=(override,)),)),
        Policy((Rule("r", BIG),), exempt=({"path": ("/a",)},)),
    )
    for policy in policies:
        with pytest.raises(TypeError, match="readings must be a tuple of strings"):
            decide(Twins(policy).c, {"path": value, "user": "u"})


class Raising(Mapping[str, str]):
    """A mapping that fails while it is read."""

    def __getitem__(self, name: str) -> str:
        raise KeyError(name) if name != "team" else RuntimeError("the database is away")

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_any_mapping_is_read_as_it_wants_to_be() -> None:
    twins = Twins(ODD)
    for attributes in (
        {"user": "k", "team": "t"},
        UserDict(user="k", team="t"),
        MappingProxyType({"user": "k", "team": "t"}),
    ):
        twins.ask(attributes)
    assert twins.ask(Raising()) == (RuntimeError, "the database is away")


def test_a_policy_with_many_rules_overrides_and_long_keys_decides_alike() -> None:
    overrides = tuple(Override({"user": (f"u-{n}",), "team": (f"t-{n}",)}, TokenBucket(n + 1, 1)) for n in range(100))
    rules = tuple(
        Rule(f"rule {n}", TokenBucket(n + 1, 1), key=("user", "team"), overrides=overrides,
             missing="skip" if n % 2 else "shared")
        for n in range(100)
    )  # fmt: skip
    attributes = tuple(Rule(f"attribute {n}", TokenBucket(1, 1), match={f"a{n}": ("x",)}) for n in range(40))
    twins = Twins(Policy(rules + attributes))
    for request in (
        {"user": "u-7", "team": "t-7"},
        {"user": "u-7"},
        {"a3": "x"},
        {"user": "u" * 9000, "team": "t" * 9000},
    ):
        twins.ask(request)


def test_the_rules_decisions_stay_the_same_objects_so_that_none_is_refunded_twice() -> None:
    decision = decide(Twins(ODD).c, {"user": "a"})
    assert decision.rules is decision.rules
    assert decision.rules[0].decision is decision.rules[0].decision


def test_headers_of_both_are_alike() -> None:
    policy = Policy(
        (Rule('say "hi" 100%', TokenBucket(5, 2), key=("user",)), Rule("shadow", TokenBucket(1, 1), shadow=True),
         Rule("slow", LeakyBucket(2, "7/minute")), Rule("huge", TokenBucket(10**17, "1000000000/s")),
         *(Rule(f"plan of {name}", TokenBucket(1, 1), match={"user": ("a",)}, key=(name,), lookup=Lookup("plan"))
           for name in ("user", "team", "path"))),
    )  # fmt: skip
    twins = Twins(policy)
    for _ in range(8):
        headers = [
            rate_limit_headers(decide(compiled, {"user": "a", "team": "b", "path": "d"}, 2))
            for compiled in (twins.c, twins.python)
        ]
        assert headers[0] == headers[1]
        twins.clock.advance(0.3)


@pytest.mark.parametrize(
    ("template", "most", "filled"),
    [
        ((b"r=", b";t=", b", r=", b";t=", b"."), 10**15, b"r=4;t=1, r=99999999999999999;t=1."),
        ((b"", b"", b"", b"", b""), 3, b"3131"),
        ((None, None, b"x" * 5000, None, b"y" * 5000), 0, b"x" * 5000 + b"0" + b"y" * 5000),
        ((None, None, None, None, b"end"), 2**63 - 1, b"end"),
    ],
)
def test_a_template_is_filled_with_the_numbers_of_the_rules_that_are_not_in_shadow(
    template: tuple[bytes | None, ...], most: int, filled: bytes
) -> None:
    policy = Policy(
        (Rule("a", TokenBucket(5, 2)), Rule("s", TokenBucket(1, 1), shadow=True), Rule("b", TokenBucket(10**17, 10**9)))
    )
    for compiled in (Twins(policy).c, Twins(policy).python):
        answer = decide(compiled, {}).fill(template, most)
        assert answer == filled.replace(b"99999999999999999", b"%d" % most)


@pytest.mark.parametrize(
    ("template", "most"),
    [
        ((), 1), ((b"", b""), 1), ((b"", b"", b"", b"", b"", b"", b""), 1), ((b"", b"", None), 1), ((b"", "", b""), 1),
        (([], b"", b""), 1), ((bytearray(b""), b"", b""), 1), ([b"", b"", b""], 1), (None, 1), ((b"", b"", b""), -1),
        ((b"", b"", b""), 2**63), ((b"", b"", b""), "1"),
    ],
)  # fmt: skip
def test_a_template_for_other_rules_is_an_error_in_c(template: Any, most: Any) -> None:
    decision = decide(Twins(Policy((Rule("a", TokenBucket(5, 2)),))).c, {})
    with pytest.raises((TypeError, ValueError, OverflowError)):
        decision.fill(template, most)


def test_a_combination_tells_looked_up_limits_apart() -> None:
    plans: dict[str, Any] = {
        "a": "2/s", "b": "2/s", "c": "3/s", "d": "2/s burst 3", "e": LeakyBucket(1, 2), "f": ["2/s", "3/s"],
        "g": ["3/s", "2/s"], "h": LeakyBucket(1, 3),
    }  # fmt: skip
    rule = Rule("each user", TokenBucket(2, 2), key=("user",), lookup=Lookup("plan"))
    store = MemoryStore(100, clock=ManualClock())
    compiled = CompiledPolicy(
        Policy((rule,)), store, lookups=Lookups({"plan": lambda it: plans[it["user"]]}, awaits=False)
    )
    combinations = [decide(compiled, {"user": user}).combination for user in "abcdefgh"]
    assert combinations[0] == combinations[1]
    assert len(set(combinations)) == 7


class Changing(dict[str, str]):
    """A request whose key is another at each look."""

    def get(self, name: str, default: Any = None) -> Any:
        self["user"] = self["user"] + "x"
        return self["user"]


def test_a_key_that_changes_while_it_is_read_is_looked_up_as_it_was_read() -> None:
    asked: list[str] = []

    def plan(attributes: Mapping[str, str]) -> str:
        asked.append(attributes["user"])
        return "5/s"

    rule = Rule("each user", TokenBucket(2, 2), key=("user",), lookup=Lookup("plan"))
    compiled = CompiledPolicy(Policy((rule,)), MemoryStore(100), lookups=Lookups({"plan": plan}, awaits=False))
    decision = decide(compiled, Changing(user="u"))
    assert decision.rules[0].decision.key == f"{len(asked[0])}:{asked[0]}"


def test_more_limits_than_fit_on_the_stack() -> None:
    rules = tuple(
        Rule(f"rule {n}", TokenBucket(n + 1, 1), key=("user",), lookup=Lookup("plan") if n % 2 else None)
        for n in range(40)
    )
    twins = Twins(Policy(rules))
    for user in "abcdefgh":
        twins.ask({"user": user})


@pytest.mark.parametrize("answer", [None, [], [None], [(TokenBucket(1, 1),)], "limits", [()]])
def test_an_answer_that_is_not_limits_is_an_error(answer: Any) -> None:
    rule = Rule("each user", TokenBucket(2, 2), key=("user",), lookup=Lookup("plan"))
    store = MemoryStore(100)
    compiled = CompiledPolicy(Policy((rule,)), store, lookups=Lookups({"plan": lambda _: None}, awaits=False))
    need("the C core", core.matcher is not None)
    if answer == [()]:
        answer = [core.known_limits((), 0)]
    gate = store.policy_gate(compiled._matcher, lambda wanted: answer)
    with pytest.raises(TypeError, match="limits must be known after they were asked for"):
        gate.try_acquire({"user": "a"})


def test_known_limits_are_values_of_at_most_eight_limits() -> None:
    known = core.known_limits((TokenBucket(1, 1),), 2**62)
    assert (known.limits, known.stale_at) == ((TokenBucket(1, 1),), 2**62)
    with pytest.raises(AttributeError):
        known.stale_at = 3  # type: ignore[misc]
    need("the C core", core.matcher is not None)
    mistakes: list[Any] = [[], (None,), (TokenBucket(1, 1),) * 9, ("1/s",)]
    for wrong in mistakes:
        with pytest.raises((TypeError, ValueError, AttributeError)):
            core.known_limits(wrong, 0)


def test_memory_is_given_back() -> None:
    need("the C core", core.matcher is not None)
    rule = Rule("each user", TokenBucket(2, 2), key=("user",), lookup=Lookup("plan"))
    entry = core.known_limits((TokenBucket(5, 5), TokenBucket(6, 6)), 2**62)
    store = MemoryStore(100)
    lookups = Lookups({"plan": lambda _: None}, awaits=False)
    compiled = CompiledPolicy(Policy((rule,)), store, lookups=lookups)
    cache = compiled.rules[0].known
    assert cache is not None
    cache.entries["1:a"] = entry
    before = sys.getrefcount(entry)
    decisions = [decide(compiled, {"user": "a"}) for _ in range(10)]
    assert sys.getrefcount(entry) == before + 2 * 10
    assert len({decision.combination for decision in decisions}) == 2  # allowed and refused
    del decisions
    assert sys.getrefcount(entry) == before

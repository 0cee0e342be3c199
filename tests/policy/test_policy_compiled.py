"""A compiled policy: it means what the slow definition says, and costs the same however long its lists are."""

from __future__ import annotations

import asyncio
import sys
from collections import UserDict
from collections.abc import Callable
from hashlib import sha256
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_oracle import Asked, planned
from policy_strategies import REQUESTS, policies

from ratekeeper import (
    AsyncKeeper,
    Keeper,
    LeakyBucket,
    ManualClock,
    MemoryStore,
    Policy,
    RateLimitExceeded,
    TokenBucket,
    core,
)
from ratekeeper.http.paths import read_path
from ratekeeper.policy.compiled import CompiledPolicy, Matcher, PythonMatcher
from ratekeeper.policy.model import Override, Rule, Tiers
from ratekeeper.policy.program import Program
from ratekeeper.policy.sources import (
    AppSource,
    BearerSource,
    ClientIP,
    CookieSource,
    HeaderSource,
    PathSource,
    Readings,
    Source,
)

BUCKET = TokenBucket(1, 1)
RULE = '[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "1000/s"\n'


# It means what the definition says

MATCHERS = [PythonMatcher] if core.matcher is None else [PythonMatcher, core.matcher]


@pytest.mark.parametrize("matcher", MATCHERS)
@given(policy=policies(), requests=st.lists(REQUESTS, min_size=1, max_size=8))
def test_a_compiled_policy_charges_what_the_definition_says(
    matcher: Callable[[Program], Matcher], policy: Policy, requests: list[dict[str, str]]
) -> None:
    compiled = CompiledPolicy(policy, matcher=matcher)
    for request in requests:
        plan = compiled.plan(request)
        charges = iter(plan.charges)
        asked = [plan.known[place] if place in plan.known else next(charges) for place in range(len(plan.rules))]
        found = [(rule.name, one.key, one.limit) for rule, one in zip(plan.rules, asked, strict=True)]
        assert (found, plan.missing) == planned(policy, request)
        assert [*charges] == []
        assert all(charge.limit.refuses_all == (place in plan.known) for place, charge in enumerate(asked))
        explained = compiled.explain(request)
        if plan.missing is None and not (plan.known and not plan.charges):
            assert explained.charges == plan.charges
            assert [it.rule for it in explained.explanations if it.reason is None] == plan.rules


# Readings


def path(*readings: str) -> dict[str, str]:
    return {"path": Readings.of(readings)}


def test_a_rule_matches_if_any_reading_does() -> None:
    rule = Asked(Rule("r", BUCKET, match={"path": ("/login", "/files/*")}))
    assert rule.matches(path("/login", "/x/../login"))
    assert rule.matches(path("/x", "/files/../x"))
    assert not rule.matches(path("/x", "/y"))
    assert rule.why_not(path("/x", "/y")) == "path is '/x', not '/login' or '/files/*'"


@pytest.mark.parametrize("matcher", MATCHERS)
def test_a_key_takes_the_reading_whose_hash_the_rule_lists(matcher: Callable[[Program], Matcher]) -> None:
    rule = Rule("r", BUCKET, match={"host": ("sha256:" + sha256(b"a.example:80").hexdigest(),)}, key=("host",))
    compiled = CompiledPolicy(Policy((rule,)), matcher=matcher)
    [charge] = compiled.plan({"host": Readings.of(("a.example", "a.example:80"))}).charges
    assert charge.key == "12:a.example:80"


@pytest.mark.parametrize("matcher", MATCHERS)
@pytest.mark.parametrize("readings", [("a", "b"), ("b", "a")])
def test_a_value_and_its_hash_take_the_same_reading(
    matcher: Callable[[Program], Matcher], readings: tuple[str, str]
) -> None:
    """Else the reading "b" with the hash of "a" finds no override, and the rule's own limit counts."""
    two = TokenBucket(2, 2)
    matches = ({"user": ("sha256:" + sha256(b"b").hexdigest(),)}, {"user": ("a",), "host": ("h",)})
    rule = Rule("r", BUCKET, overrides=tuple(Override(match, two) for match in matches))
    compiled = CompiledPolicy(Policy((rule,)), matcher=matcher)
    [charge] = compiled.plan({"user": Readings.of(readings), "host": "h"}).charges
    assert charge.limit == two
    [charge] = compiled.plan({"user": Readings.of(readings), "host": "other"}).charges
    assert charge.limit == BUCKET, "the reading a has no override here"


def test_an_exemption_holds_only_if_one_entry_matches_each_reading() -> None:
    policy = Policy((Rule("r", BUCKET),), exempt=({"path": ("/healthz",)}, {"path": ("/static/*", "/favicon.ico")}))
    compiled = CompiledPolicy(policy)
    for limited in (path("/healthz", "/files/../healthz"), path("/healthz", "/static/../healthz"), path("/x", "/y")):
        assert compiled.plan(limited).charges
    assert not compiled.plan(path("/favicon.ico", "/static/../favicon.ico")).charges
    assert not compiled.plan(path("/healthz")).charges


def test_of_overrides_that_the_readings_lead_to_the_strictest_counts() -> None:
    overrides = (
        Override({"path": ("/big",)}, TokenBucket(100, 100)),
        Override({"path": ("/slow/*",)}, TokenBucket(9, 1)),
        Override({"path": ("/small",)}, TokenBucket(5, 1)),
    )
    rule = Asked(Rule("r", TokenBucket(20, 10), overrides=overrides))
    assert rule.limit_for(path("/big")).capacity == 100
    assert rule.limit_for(path("/big", "/x/../big")).capacity == 20
    assert rule.limit_for(path("/big", "/slow/../big")).capacity == 9
    assert rule.limit_for(path("/small", "/slow/../small")).capacity == 5
    assert rule.policy.plan(path("/small", "/slow/../small")).charges[0].limit.capacity == 5


def test_a_key_takes_the_first_reading() -> None:
    compiled = CompiledPolicy(Policy((Rule("r", BUCKET, key=("path",), cost="path"),)))
    assert compiled.seen(path("/a", "/b/../a"))["path"] == "/a"
    with pytest.raises(ValueError, match="path must be a whole number"):
        compiled.plan(path("/a", "/b/../a"))
    keyed = CompiledPolicy(Policy((Rule("r", BUCKET, key=("path",)),)))
    assert keyed.plan(path("/a", "/b/../a")).charges == keyed.plan(path("/a")).charges
    assert type(keyed.plan(path("/a", "/b/../a")).charges[0].key) is str


@pytest.mark.parametrize("matcher", MATCHERS)
def test_a_key_takes_the_first_reading_that_the_rule_is_for(matcher: Callable[[Program], Matcher]) -> None:
    """Else a client would choose its bucket by another reading: //r1/login, //r2/login and so on."""
    rule = Rule("r", BUCKET, match={"path": ("/login", "/api/*")}, key=("user", "path"))
    compiled = CompiledPolicy(Policy((rule,)), matcher=matcher)
    for asked, meant in (
        (path("/r1/login", "//r1/login", "/login"), "/login"),
        (path("/r2\\..\\login", "/login", "/r2/../login"), "/login"),
        (path("/r1/api/x", "//r1/api/x", "/api/x", "/api/y"), "/api/x"),
        (path("/login", "/login/"), "/login"),
    ):
        charges = compiled.plan({"user": "u", **asked}).charges
        assert charges == compiled.plan({"user": "u", "path": meant}).charges
        assert charges == compiled.explain({"user": "u", **asked}).charges
        [bucket] = compiled.buckets({"user": "u", **asked}).charges
        assert bucket.key == charges[0].key
        assert f"path={meant}" in str(compiled.explain({"user": "u", **asked}).explanations[0].bucket)


@pytest.mark.parametrize("pattern", ["/login", "/login/"])
@pytest.mark.parametrize("request_path", [path("/login"), path("/login", "/login/")])
def test_a_slash_at_the_end_of_a_path_leaves_no_rule_and_no_override(
    pattern: str, request_path: dict[str, str]
) -> None:
    override = Override({"path": (pattern,)}, TokenBucket(1, 1))
    rule = Asked(Rule("r", TokenBucket(5, 5), match={"path": (pattern,)}, overrides=(override,)))
    assert rule.matches(request_path)
    assert rule.limit_for(request_path).capacity == 1
    assert not rule.matches(path("/log"))
    assert not Asked(Rule("r", BUCKET, match={"path": ("/",)})).matches(path(""))


def test_a_slash_at_the_end_of_another_value_than_a_path_counts() -> None:
    rule = Asked(Rule("r", BUCKET, match={"user": ("team/",)}))
    assert [rule.matches({"user": user}) for user in ("team/", "team")] == [True, False]


def test_two_requests_of_one_path_and_other_readings_are_told_apart() -> None:
    """Two such paths are equal as strings: nothing may take one for the other."""
    rule = Asked(Rule("r", BUCKET, match={"path": ("/files/*",)}))
    assert [rule.matches(one) for one in (path("/x"), path("/x", "/files/../x"), path("/x"))] == [False, True, False]


PIECES = ["/", "//", "/./", "/../", "%2f", "%2e", "..", ".", ";x", ";a.css", "login", "lo%67in", "static", "healthz",
          "files", "x.css", "#", "%23", "%3b", "?", "%3F", "\\"]  # fmt: skip


@settings(max_examples=20 * settings().max_examples)
@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_no_spelling_of_a_path_leaves_a_rule_or_joins_an_exemption_or_a_wider_limit(pieces: list[str]) -> None:
    wider = Override({"path": ("/files/*", "*.css")}, TokenBucket(100, 100))
    rules = (Rule("login", BUCKET, match={"path": ("/login",)}, key=("path",), overrides=(wider,)),)
    compiled = CompiledPolicy(Policy(rules, exempt=({"path": ("/healthz", "/static/*", "*.css")},)))
    found = read_path("/" + "".join(pieces))
    if found == "/login":
        (charge,) = compiled.plan({"path": found}).charges
        assert charge == compiled.plan({"path": "/login"}).charges[0]


# Names, waiting, types


def test_it_names_the_attributes_that_make_a_difference() -> None:
    rule = Rule("r", BUCKET, match={"tier": ("pro",), "path": ("/a",)}, key=("user",), cost="tokens",
                overrides=(Override({"team": ("x",)}, BUCKET),))  # fmt: skip
    policy = Policy((rule,), tiers=Tiers("api_key", "free", {"k": "pro"}), exempt=({"client": ("10.0.0.0/8",)},))
    assert CompiledPolicy(policy).names == ("api_key", "client", "path", "team", "tokens", "user")


@pytest.mark.parametrize(
    ("rule", "waits"),
    [(Rule("r", BUCKET), False), (Rule("r", BUCKET, max_wait=1), True), (Rule("r", LeakyBucket(1, 1)), True),
     (Rule("r", LeakyBucket(1, 1), max_wait=0), False), (Rule("r", LeakyBucket(1, 1), shadow=True), False)],
)  # fmt: skip
def test_it_says_whether_a_request_may_have_to_wait(rule: Rule, waits: bool) -> None:
    assert CompiledPolicy(Policy((Rule("other", BUCKET), rule))).waiting == ({rule.name} if waits else set())


def test_a_keeper_shows_its_compiled_policy_and_a_reload_swaps_it() -> None:
    for keeper in (Keeper(Policy((Rule("r", BUCKET),)), MemoryStore(9)), AsyncKeeper(Policy((Rule("r", BUCKET),)))):
        before, other = keeper.compiled, Policy((Rule("s", BUCKET),))
        keeper.replace(other)
        assert keeper.compiled is not before
        assert keeper.policy is keeper.compiled.policy is other


class Reloading(UserDict[str, str]):
    """A request that comes just before its keeper's policy is replaced."""

    def __init__(self, keeper: Keeper | AsyncKeeper, policy: Policy) -> None:
        super().__init__(user="a")
        self._keeper, self._policy = keeper, policy

    def get(self, name: str, default: Any = None) -> Any:
        self._keeper.replace(self._policy)
        return super().get(name, default)


def test_a_request_that_may_wait_ends_by_the_policy_that_it_began_with() -> None:
    before, after = (Policy((Rule(name, TokenBucket(1, "1/h"), key=("user",)),)) for name in ("before", "after"))
    keeper, waiting = Keeper(before, MemoryStore(9)), AsyncKeeper(before, MemoryStore(9))
    keeper.acquire({"user": "a"})
    asyncio.run(waiting.acquire({"user": "a"}))
    with pytest.raises(RateLimitExceeded, match="'before'"):
        keeper.acquire(Reloading(keeper, after))
    with pytest.raises(RateLimitExceeded, match="'before'"):
        asyncio.run(waiting.acquire(Reloading(waiting, after)))
    assert keeper.policy is waiting.policy is after


@pytest.mark.parametrize("value", [7, b"a", ["a"], 1.5, object()])
@pytest.mark.parametrize("name", ["user", "team", "path", "method", "client"])
def test_an_attribute_of_another_type_is_an_error_wherever_it_is_looked_at(name: str, value: Any) -> None:
    policy = Policy(
        (Rule("r", BUCKET, match={"path": ("/a",), "method": ("GET",)}, key=("user",),
              overrides=(Override({"team": ("t",)}, BUCKET),)),),
        exempt=({"client": ("10.0.0.0/8",)},),
    )  # fmt: skip
    keeper = Keeper(policy, MemoryStore(9))
    with pytest.raises(TypeError, match=f"attribute '{name}' must be a str, not {type(value).__name__}"):
        keeper.try_acquire({name: value})


class Text(str):
    """A string as frameworks have it: a subclass of str."""


def test_a_string_of_another_class_is_a_string() -> None:
    keeper = Keeper(Policy.parse(RULE + 'match = { path = "/a*" }\n'), MemoryStore(9))
    assert keeper.try_acquire({"user": Text("u"), "path": Text("/ab")}).rules


# The cost of a request

COUNT = 400


def lines_of_work(policy: Policy, request: dict[str, str]) -> int:
    """Return how many lines of Python a plan takes. Look-ups in C take one, whatever the size of the table."""
    compiled, lines = CompiledPolicy(policy, matcher=PythonMatcher), 0
    compiled.plan(request)  # the address is in the cache now

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        nonlocal lines
        lines += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        compiled.plan(request)
    finally:
        sys.settrace(before)
    return lines


def rule_with_overrides(count: int, *matches: Callable[[int], dict[str, tuple[str, ...]]]) -> Policy:
    overrides = [Override(match(number), TokenBucket(number + 1, 1)) for number in range(count) for match in matches]
    return Policy((Rule("r", BUCKET, key=("user",), overrides=tuple(overrides)),))


def network(number: int) -> str:
    return f"10.{number // 256}.{number % 256}.0/24"


POLICIES: dict[str, Callable[[int], Policy]] = {
    "overrides by value": lambda n: rule_with_overrides(n, lambda i: {"user": (f"u{i}", f"v{i}")}),
    "overrides by two values": lambda n: rule_with_overrides(
        n, lambda i: {"user": (f"u{i % 20}",), "path": (f"/p/{i // 20}",)}
    ),
    "overrides by a value and a glob": lambda n: rule_with_overrides(
        n, lambda i: {"user": (f"u{i}",), "path": ("/api/*", "*.php")}
    ),
    "overrides by prefix": lambda n: rule_with_overrides(n, lambda i: {"user": (f"team-{i + 1000}-*",)}),
    "overrides by suffix": lambda n: rule_with_overrides(n, lambda i: {"user": (f"*@{i + 1000}",)}),
    "overrides by glob": lambda n: rule_with_overrides(n, lambda i: {"user": (f"team-{i + 1000}-*-prod",)}),
    "overrides by network": lambda n: rule_with_overrides(n, lambda i: {"client": (network(i),)}),
    "exempt networks, in one entry": lambda n: Policy(
        (Rule("r", BUCKET),), exempt=({"client": tuple(map(network, range(n)))},)
    ),
    "exempt networks, an entry each": lambda n: Policy(
        (Rule("r", BUCKET),), exempt=tuple({"client": (network(i),)} for i in range(n))
    ),
    "exempt keys": lambda n: Policy((Rule("r", BUCKET),), exempt=({"user": tuple(f"k{i}" for i in range(n))},)),
    "tiers": lambda n: Policy(
        (Rule("r", BUCKET, match={"tier": ("pro",)}),), tiers=Tiers("user", "free", {f"k{i}": "pro" for i in range(n)})
    ),
    "match by value": lambda n: Policy((Rule("r", BUCKET, match={"path": tuple(f"/p/{i}" for i in range(n))}),)),
    "match by prefix": lambda n: Policy(
        (Rule("r", BUCKET, match={"path": tuple(f"/p/{i + 1000}/*" for i in range(n))}),)
    ),
    "match by network": lambda n: Policy((Rule("r", BUCKET, match={"client": tuple(map(network, range(n)))}),)),
}  # fmt: skip
STRANGER = {"user": "nobody", "path": "/elsewhere", "client": "192.0.2.7"}
KNOWN = {"user": "u2", "path": "/p/0", "client": "10.0.2.9"}


@pytest.mark.parametrize("what", POLICIES)
@pytest.mark.parametrize("request_", [STRANGER, KNOWN], ids=["stranger", "known"])
def test_a_request_costs_the_same_however_long_a_list_is(what: str, request_: dict[str, str]) -> None:
    few, many = (lines_of_work(POLICIES[what](count), request_) for count in (4, COUNT))
    assert few == many


def test_a_policy_of_fifty_thousand_keys_is_compiled_and_right() -> None:
    tiers = Tiers("user", "free", {f"k{number}": "pro" for number in range(50_000)})
    exempt = {"client": tuple(network(number) for number in range(8_000))}
    overrides = tuple(Override({"user": (f"k{number}",)}, TokenBucket(number + 1, 1)) for number in range(5_000))
    rule = Rule("r", TokenBucket(9_999, 1), match={"tier": ("pro",)}, key=("user",), overrides=overrides)
    keeper = Keeper(Policy((rule,), exempt=(exempt,), tiers=tiers), MemoryStore(9, clock=ManualClock()))
    assert [keeper.try_acquire({"user": user}).remaining for user in ("k4999", "k49999")] == [4_999, 9_998]
    assert [keeper.try_acquire({"user": "k1", "client": one}).rules for one in ("10.0.0.1", "10.31.63.255")] == [(), ()]
    assert keeper.try_acquire({"user": "k1", "client": "10.31.64.0"}).rules
    assert keeper.try_acquire({"user": "x"}).rules == ()


@pytest.mark.parametrize("pattern", ["*a" * 40 + "b", "a*" * 40 + "b", "*?a" * 40, "?*" * 40 + "b"])
def test_no_pattern_can_be_made_slow_by_a_request(pattern: str) -> None:
    assert not Asked(Rule("r", BUCKET, match={"user": (pattern,)})).matches({"user": "a" * 8000 + "c"})


@pytest.mark.parametrize("pattern", ["\ud800", "\ud800*", "*\udfff", "a\ud800?*"])
def test_a_lone_surrogate_is_a_character_as_any_other(pattern: str) -> None:
    override = Override({"user": (pattern,)}, TokenBucket(7, 1))
    rule = Asked(Rule("r", BUCKET, match={"user": (pattern, "10.0.0.0/8")}, overrides=(override,)))
    value = pattern.replace("*", "xyz").replace("?", "\udbff")
    assert rule.matches({"user": value})
    assert rule.limit_for({"user": value}).capacity == 7
    assert not rule.matches({"user": "\udc80"})
    explained = CompiledPolicy(Policy((Rule("r", BUCKET, key=("user",)),))).explain({"user": value})
    assert explained.explanations[0].bucket


# A policy's own strings are in the spelling of their source

SPELLED: list[tuple[Source, str, str, bool]] = [
    (HeaderSource("authorization"), "Basic  YWxpY2U6cHc=", "basic YWxpY2U6cHc=", True),
    (HeaderSource("Authorization"), "TOKEN x", "token x", True),
    (HeaderSource("Authorization"), "TOKEN x", "token X", False),
    (HeaderSource("authorization"), "Token   A*", "token Abc", True),
    (HeaderSource("authorization"), "Tok*", "token Abc", True),
    (HeaderSource("authorization"), "*Secret", "token Secret", True),
    (HeaderSource("authorization"), "*Secret", "token secret", False),
    (HeaderSource("authorization"), "Bearer\t*", "bearer k", True),
    (HeaderSource("x-key"), "Token  X", "Token  X", True),
    (CookieSource("session"), '"a\\054b"', "a,b", True),
    (CookieSource("session"), '"a"*', '"a"b', True),
    (BearerSource(), " k-1 ", "k-1", True),
    (BearerSource(), "a.b.YWI", "a.b.YWI", True),
    (BearerSource(), "a.b.YWJ=", "a.b.YWI", True),
    (BearerSource(), "k-*", "k-9", True),
    (PathSource(ignore_case=True), "/Login", "/login", True),
    (PathSource(ignore_case=True), "/API/*", "/api/x", True),
    (PathSource(ignore_case=True), "*.PHP", "/x.php", True),
    (PathSource(), "/Login", "/login", False),
    (ClientIP(), "2001:DB8:*", "2001:db8:0:7::/64", True),
    (ClientIP(ipv6_prefix=128), "2001:DB8::0:1", "2001:db8::1", True),
    (ClientIP(ipv6_prefix=56), "2001:db8:0:700::/56", "2001:db8:0:700::/56", True),
    (ClientIP(ipv4_prefix=24), "192.0.2.0/24", "192.0.2.0/24", True),
    (ClientIP(ipv4_prefix=24), "192.0.0.0/16", "192.0.2.0/24", True),
    (ClientIP(ipv4_prefix=24), "192.0.3.0/24", "192.0.2.0/24", False),
]


@pytest.mark.parametrize(("source", "pattern", "value", "matches"), SPELLED)
def test_a_pattern_is_in_the_spelling_of_its_source(source: Source, pattern: str, value: str, matches: bool) -> None:
    sources = {"path": source}
    match = {"path": (pattern,)}
    override = Override(match, TokenBucket(7, 1))
    rule = Asked(Rule("r", BUCKET, match=match, overrides=(override,)), sources)
    assert rule.matches({"path": value}) is matches
    assert rule.capacity_for(path=value) == (7 if matches else 1)
    exempt = CompiledPolicy(Policy((Rule("r", BUCKET),), sources, exempt=({**match, "user": ("u",)},)))
    assert bool(exempt.exempting(exempt.seen({"path": value, "user": "u"}))) is matches
    if "*" not in pattern and "/" not in pattern:
        tiers = CompiledPolicy(
            Policy((Rule("r", BUCKET, match={"tier": ("pro",)}),), sources, Tiers("path", "free", {pattern: "pro"}))
        )
        assert tiers.seen({"path": value})["tier"] == ("pro" if matches else "free")


def test_a_method_of_the_application_is_free_text() -> None:
    rule = Asked(Rule("r", BUCKET, match={"method": ("sms",)}), {"method": AppSource()})
    assert rule.matches({"method": "sms"})
    assert not rule.matches({"method": "SMS"})

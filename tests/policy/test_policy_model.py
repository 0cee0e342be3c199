"""The rules of a policy for a request: whether they match, the bucket, the limit, the tier and the cost."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_oracle import Asked, glob_matches

from ratekeeper.errors import PolicyError
from ratekeeper.limits import LeakyBucket, TokenBucket
from ratekeeper.policy.compiled import CompiledPolicy
from ratekeeper.policy.model import Missing, Override, Policy, Rule, Tiers
from ratekeeper.policy.sources import HeaderSource

# Matching


def matching(glob: str, value: str, attribute: str = "user") -> bool:
    rule = Asked(Rule("r", TokenBucket(1, 1), match={attribute: (glob,)}))
    matched = rule.matches({attribute: value})
    assert matched == (rule.why_not({attribute: value}) is None)
    return matched


@pytest.mark.parametrize(
    ("glob", "value"),
    [("/api/*", "/api/"), ("/api/*", "/api/a/b"), ("*", ""), ("*", "a\nb"), ("a?c", "abc"), ("a*b*c", "a-b-b-c"),
     ("[ab]", "[ab]"), ("a[", "a["), ("[!a]*", "[!a]x"), ("a.c", "a.c"), (r"a\*", "a\\x"), ("{a}|b$", "{a}|b$")],
)  # fmt: skip
def test_a_star_is_any_run_a_question_mark_any_one_and_all_else_is_literal(glob: str, value: str) -> None:
    assert matching(glob, value)


@pytest.mark.parametrize(
    ("glob", "value"),
    [("/api/*", "/api"), ("/api", "/api/"), ("/api", "x/api"), ("/api", "/api\n"), ("a?c", "ac"), ("[ab]", "a"),
     ("a.c", "abc"), ("/Api", "/api"), ("a*", "")],
)  # fmt: skip
def test_a_pattern_matches_the_whole_value_or_not_at_all(glob: str, value: str) -> None:
    assert not matching(glob, value)


@given(st.text("ab*?[]!-\n", min_size=1, max_size=8), st.text("ab*?[]!-\n", max_size=8))
def test_matching_is_what_the_definition_says(glob: str, value: str) -> None:
    assert matching(glob, value) == glob_matches(glob, value)


def test_no_request_can_be_made_slow_to_match() -> None:
    assert not matching("*a" * 30 + "b", "a" * 5000)


def test_only_the_method_matches_in_any_case() -> None:
    assert matching("get", "GET", "method")
    assert matching("P*", "post", "method")
    assert not matching("free", "FREE", "tier")


def test_every_attribute_must_match_and_one_pattern_of_each_is_enough() -> None:
    rule = Asked(Rule("r", TokenBucket(1, 1), match={"path": ("/a", "/b*"), "method": ("GET",)}))
    assert rule.matches({"path": "/bc", "method": "GET"})
    assert not rule.matches({"path": "/bc", "method": "PUT"})
    assert not rule.matches({"path": "/ab", "method": "GET"})
    assert not rule.matches({"path": "/a"})


def test_a_rule_without_a_match_is_for_every_request() -> None:
    assert Asked(Rule("r", TokenBucket(1, 1))).matches({})
    assert Asked(Rule("r", TokenBucket(1, 1))).why_not({}) is None


def test_why_not_says_what_differs_and_tells_no_secret() -> None:
    rule = Asked(Rule("r", TokenBucket(1, 1), match={"path": ("/a", "/b*"), "api_key": ("k-*",)}))
    assert rule.why_not({"path": "/x"}) == "path is '/x', not '/a' or '/b*'"
    assert rule.why_not({"path": "/a"}) == "no api_key"
    assert rule.why_not({"path": "/a", "api_key": "secret"}) == "api_key does not match"
    assert len(rule.why_not({"path": "/x" * 9999}) or "") < 200


def test_the_first_override_that_matches_counts() -> None:
    overrides = (Override({"user": ("a*",)}, TokenBucket(2, 1)), Override({"user": ("ab", "c")}, TokenBucket(3, 1)))
    rule = Asked(Rule("r", TokenBucket(1, 1), overrides=overrides))
    assert [rule.capacity_for(user=user) for user in ("ab", "c", "d")] == [2, 3, 1]
    assert rule.limit_for({}) == TokenBucket(1, 1)


def test_every_attribute_of_an_override_must_match() -> None:
    override = Override({"user": ("a",), "path": ("/x*", "/y")}, TokenBucket(9, 1))
    rule = Asked(Rule("r", TokenBucket(20, 1), overrides=(override,)))
    assert rule.capacity_for(user="a", path="/xz") == 9
    assert rule.capacity_for(user="a", path="/z") == 20


# Buckets, tiers and cost

ATTRIBUTES = st.dictionaries(st.sampled_from("abc"), st.text("-:0123 a", max_size=12), max_size=3)


@given(ATTRIBUTES, ATTRIBUTES)
def test_two_requests_share_a_bucket_only_if_they_agree_on_the_whole_key(
    one: dict[str, str], other: dict[str, str]
) -> None:
    rule = Rule("r", TokenBucket(1, 1), key=("a", "b"))
    agree = all(one.get(name) == other.get(name) for name in rule.key)
    assert (rule.bucket(one) == rule.bucket(other)) == agree


def test_a_bucket_is_a_text_of_lengths_and_values() -> None:
    rule = Rule("r", TokenBucket(1, 1), key=("user", "team"))
    assert rule.bucket({"team": "x:y", "user": "alice"}) == "5:alice3:x:y"
    assert rule.bucket({"team": ""}) == "-0:"
    assert Rule("r", TokenBucket(1, 1)).bucket({"user": "alice"}) == ""


@pytest.mark.parametrize("missing", ["skip", "reject"])
def test_the_first_missing_attribute_of_the_key_is_named(missing: Missing) -> None:
    rule = Asked(Rule("r", TokenBucket(1, 1), key=("user", "team"), missing=missing)).rule
    assert rule.lacking({}) == "user"
    assert rule.lacking({"user": ""}) == "team"
    assert rule.lacking({"user": "", "team": "x"}) is None
    assert Asked(Rule("r", TokenBucket(1, 1), key=("user", "team"))).rule.lacking({}) is None, "shared"


def test_an_attribute_that_is_none_is_missing() -> None:
    rule = Asked(Rule("r", TokenBucket(1, 1), match={"user": ("*",)}, key=("user",), cost="user"))
    nobody: dict[str, str] = {"user": None}  # type: ignore[dict-item]
    assert not rule.matches(nobody)
    assert rule.policy.seen(nobody) == {}
    assert (rule.rule.rule.bucket(nobody), rule.rule.rule.cost_of(nobody)) == ("-", 1)


def tier_of(policy: Policy, request: dict[str, str]) -> str:
    return CompiledPolicy(policy).seen(request)["tier"]


def test_tiers_go_by_value_and_else_to_the_default() -> None:
    policy = Policy((Rule("r", TokenBucket(1, 1)),), tiers=Tiers("api_key", "free", {"k-1": "pro", "": "none"}))
    requests: list[dict[str, str]] = [{"api_key": "k-1"}, {"api_key": "k-2"}, {}]
    assert [tier_of(policy, each) for each in requests] == ["pro", "free", "free"]


def test_a_request_cannot_promote_itself() -> None:
    policy = Policy((Rule("r", TokenBucket(1, 1)),), tiers=Tiers("api_key", "free", {"k-1": "pro"}))
    assert tier_of(policy, {"api_key": "k-2", "tier": "pro"}) == "free"
    assert tier_of(policy, {"api_key": "k-1", "tier": "free"}) == "pro"


def test_without_tiers_a_request_brings_its_own() -> None:
    rule = Asked(Rule("r", TokenBucket(1, 1), match={"tier": ("pro",)}))
    assert rule.matches({"tier": "pro"})
    assert not rule.matches({})


def test_cost_is_a_number_or_an_attribute_and_one_if_that_is_absent() -> None:
    assert Rule("r", TokenBucket(9, 1), cost=3).cost_of({}) == 3
    rule = Rule("r", TokenBucket(9, 1), cost="tokens")
    assert [rule.cost_of({"tokens": text}) for text in ("0", "007", "9" * 18)] == [0, 7, 10**18 - 1]
    assert rule.cost_of({}) == 1


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", " 1", "1_0", "٣", "²", "1e3", "9" * 19, "x" * 9999])
def test_a_cost_that_is_no_whole_number_is_an_error_that_names_the_attribute(text: str) -> None:
    with pytest.raises(ValueError, match="tokens must be a whole number of at most 18 digits") as caught:
        Rule("r", TokenBucket(9, 1), cost="tokens").cost_of({"tokens": text})
    assert len(str(caught.value)) < 120


# Values


def test_a_policy_built_by_hand_is_checked_too() -> None:
    rule = Rule("r", TokenBucket(1, 1))
    with pytest.raises(PolicyError, match="would limit nothing"):
        Policy(())
    with pytest.raises(PolicyError, match="two rules are named 'r'"):
        Policy((rule, rule))
    with pytest.raises(PolicyError, match="key must be a tuple"):
        Rule("r", TokenBucket(1, 1), key="user")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="'path': the patterns must be a tuple"):
        Rule("r", TokenBucket(1, 1), match={"path": "/a"})  # type: ignore[dict-item]


def test_a_policy_can_be_sent_to_another_process() -> None:
    override = Override({"user": ("a",)}, LeakyBucket(2, 1))
    rule = Rule("r", LeakyBucket(1, 1), match={"path": ("/api/*",)}, overrides=(override,))
    policy = Policy((rule,), {"user": HeaderSource("x-user")}, Tiers("user", "free", {"a": "pro"}))
    copy = pickle.loads(pickle.dumps(policy))
    assert copy == policy
    assert hash(copy) == hash(policy)
    assert Asked(copy.rules[0]).matches({"path": "/api/x"})
    assert not Asked(copy.rules[0]).matches({"path": "/x"})

"""The client's view of a decision: the headers, and the body of a refusal. http_sf is the oracle for the syntax."""

from __future__ import annotations

import json
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from oracles import structured
from rulings import decide

from ratekeeper import PolicyDecision, RuleDecision
from ratekeeper.decision import NEVER, Decision
from ratekeeper.http.headers import (
    legacy_headers,
    policy_name,
    rate_limit_block,
    rate_limit_headers,
    rate_limit_lines,
)
from ratekeeper.http.responses import QUOTA_EXCEEDED, problem
from ratekeeper.limits import MAX_AHEAD_TICKS, TICKS_PER_SECOND, Deny, LeakyBucket, Limit, TokenBucket, parse_limit

SECOND = TICKS_PER_SECOND
FIVE_PER_SECOND = TokenBucket(20, 5)
TEN_A_DAY = TokenBucket(10, "10/day")

rates = st.sampled_from([1, 3, 7, Fraction(1, 3600), "999983/h", 10**9, "7/min"])
limits = st.builds(TokenBucket, st.integers(1, 10_000), rates) | st.builds(LeakyBucket, st.integers(0, 10_000), rates)
huge = st.sampled_from([TokenBucket(10**17, 10**9), LeakyBucket(10**17, 10**9)])


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    """One rule's decision: as the rule makes them, from any debt, and any wait when refused."""
    limit: Limit = draw(limits | huge)
    debt = draw(st.just(0) | st.integers(0, limit.full) | st.integers(0, MAX_AHEAD_TICKS))
    wait = draw(st.just(0) | st.just(NEVER) | st.integers(1, MAX_AHEAD_TICKS) | st.integers(1, 3 * SECOND))
    return Decision(wait == 0, limit, "secret", draw(st.integers(0, 10)), debt, 0, wait, 0)


rules = st.builds(RuleDecision, st.text(), decisions(), st.booleans(), st.none() | st.text(min_size=1))
verdicts = st.builds(PolicyDecision, st.lists(rules, max_size=4).map(tuple), st.none() | st.text(min_size=1))


def decision_of(limit: Limit, debt: int = 0, retry: int = 0, cost: int = 1) -> Decision:
    return Decision(retry == 0, limit, "secret", cost, debt, 0, retry, 0)


def refusal(*retries: int, cost: int = 1) -> PolicyDecision:
    decisions = [decision_of(FIVE_PER_SECOND, FIVE_PER_SECOND.full, retry, cost) for retry in retries]
    return PolicyDecision(tuple(RuleDecision(f"rule {n}", one) for n, one in enumerate(decisions)))


def rounding(limit: Limit, seconds: int) -> int:
    """By how many ticks a limit's own time may be longer than so many seconds of its exact rate: one a token."""
    return ceil(limit.rate * seconds)


def parsed(headers: list[tuple[str, str]], name: str) -> list[tuple[str, dict[str, int]]]:
    """The items of a header as an independent parser reads them."""
    return structured(dict(headers)[name])


# The syntax


@given(verdicts)
def test_every_header_is_a_structured_field_with_one_item_for_each_enforced_rule(verdict: PolicyDecision) -> None:
    headers = rate_limit_headers(verdict)
    enforced = [rule for rule in verdict.rules if not rule.shadow]
    if not enforced:
        assert headers == []
        return
    assert parsed(headers, "RateLimit-Policy") == [
        (policy_name(rule.label), {"q": min(rule.limit.max_cost, 10**15 - 1), "w": max(1, -(-rule.limit.window // 1))})
        for rule in enforced
    ]
    for (name, parameters), rule in zip(parsed(headers, "RateLimit"), enforced, strict=True):
        assert (name, list(parameters)) == (policy_name(rule.label), ["r", "t"])
        assert parameters["r"] == min(rule.decision.remaining, 10**15 - 1)
        assert parameters["t"] >= 1


@given(verdicts)
def test_a_value_is_one_line_of_printable_ascii_and_shows_no_key(verdict: PolicyDecision) -> None:
    for name, value in rate_limit_headers(verdict):
        assert (name + value).isascii()
        assert (name + value).isprintable()
        assert "secret" not in value or any("secret" in rule.name for rule in verdict.rules)


@given(verdicts)
@example(PolicyDecision((RuleDecision("50% of %d", decision_of(FIVE_PER_SECOND, retry=SECOND)),)))
@example(PolicyDecision((RuleDecision("none", decision_of(Deny(), retry=NEVER)),)))
def test_the_block_has_the_lines_as_they_are_sent(verdict: PolicyDecision) -> None:
    lines = b"".join(b"%b: %b\r\n" % line for line in rate_limit_lines(verdict))
    assert rate_limit_block(verdict) == lines


@pytest.mark.parametrize(
    ("name", "item"), [('a "b" \\c', r'"a \"b\" \\c"'), ("free keys", '"free keys"'), ("é\r\nX: y\x7f", '"???X: y?"')]
)
def test_names_are_escaped_and_what_a_field_cannot_hold_is_a_question_mark(name: str, item: str) -> None:
    headers = dict(rate_limit_headers(PolicyDecision((RuleDecision(name, decision_of(FIVE_PER_SECOND)),))))
    assert headers["RateLimit-Policy"] == f"{item};q=20;w=4"
    assert headers["RateLimit"] == f"{item};r=20;t=1"


def test_without_a_rule_or_with_shadow_rules_only_there_are_no_headers() -> None:
    assert rate_limit_headers(PolicyDecision()) == []
    shadow = RuleDecision("s", decision_of(FIVE_PER_SECOND, FIVE_PER_SECOND.full, SECOND), shadow=True)
    assert rate_limit_headers(PolicyDecision((shadow,))) == []


# The numbers


def test_two_rules_read_as_in_the_draft() -> None:
    verdict = PolicyDecision((
        RuleDecision("burst", decision_of(FIVE_PER_SECOND, debt=19 * FIVE_PER_SECOND.interval + 1)),
        RuleDecision("hidden", decision_of(FIVE_PER_SECOND), shadow=True),
        RuleDecision("daily", decision_of(TEN_A_DAY, debt=10 * TEN_A_DAY.interval)),
    ))  # fmt: skip
    assert rate_limit_headers(verdict) == [
        ("RateLimit-Policy", '"burst";q=20;w=4, "daily";q=10;w=86400'),
        ("RateLimit", '"burst";r=0;t=1, "daily";r=0;t=8640'),
    ]


@given(
    limits.flatmap(lambda limit: st.tuples(st.just(limit), st.integers(0, limit.full) | st.integers(0, 2 * limit.full)))
)
@example((TEN_A_DAY, 0))
def test_r_can_be_taken_now_and_one_more_at_t_but_not_a_second_before(at: tuple[Limit, int]) -> None:
    limit, debt = at
    headers = rate_limit_headers(PolicyDecision((RuleDecision("x", decision_of(limit, debt)),)))
    ((_, state),) = parsed(headers, "RateLimit")
    taken = decide(debt, 0, state["r"] * limit.interval, limit.full, limit.full)
    assert taken.allowed or state["r"] == 0
    waited = state["t"] * SECOND + rounding(limit, state["t"])
    at_t = decide(taken.new_tat, waited, limit.interval, limit.full, limit.full)
    before = decide(taken.new_tat, (state["t"] - 1) * SECOND, limit.interval, limit.full, limit.full)
    assert at_t.allowed
    assert not before.allowed


EVERY_RATE = [
    *(f"{count}/{period}" for count in range(1, 1001) for period in ("second", "minute", "7s")),
    *(f"{count}/second burst {burst}" for count in (1, 3, 7, 60, 971, 10**6) for burst in (1, 999_983, 10**7)),
    "999983/hour burst 1000000", "80000/s", "1000/day burst 7", "999999999/s", "7/3 weeks",
]  # fmt: skip


def exact_seconds(tokens: int, limit: Limit) -> int:
    """The oracle: whole seconds in which so many tokens refill, at least 1."""
    return max(1, ceil(Fraction(tokens) / limit.rate))


def test_seconds_are_rounded_up_from_tokens_by_the_rate_whatever_the_rate_and_however_many_are_taken() -> None:
    for text in EVERY_RATE:
        limit = parse_limit(text)
        most = limit.capacity
        assert limit.window == Fraction(most) / limit.rate
        for taken in {0, 1, min(2, most), most // 3, most // 2, most - 1, most}:
            one = decision_of(limit, debt=taken * limit.interval)
            verdict = PolicyDecision((RuleDecision("x", one),))
            headers = dict(rate_limit_headers(verdict))
            assert headers["RateLimit-Policy"] == f'"x";q={most};w={exact_seconds(most, limit)}', text
            assert headers["RateLimit"] == f'"x";r={most - taken};t={exact_seconds(1, limit)}', text
            full_in = exact_seconds(taken, limit) if taken else 0
            assert dict(legacy_headers(verdict, "delta", 0.0))["X-RateLimit-Reset"] == str(full_in), text
            assert dict(legacy_headers(verdict, "epoch", 1e9))["X-RateLimit-Reset"] == str(10**9 + full_in), text
            lacking = max(1, most - taken)
            refused = decision_of(limit, debt=most * limit.interval, retry=lacking * limit.interval)
            verdict = PolicyDecision((RuleDecision("x", refused),))
            assert verdict.retry_after_seconds == exact_seconds(lacking, limit), text
            assert dict(rate_limit_headers(verdict))["Retry-After"] == str(exact_seconds(lacking, limit)), text


@given(limits, st.integers(0, MAX_AHEAD_TICKS))
def test_whole_seconds_are_at_most_a_tick_a_token_less_than_the_ticks_and_less_than_a_second_more(
    limit: Limit, ticks: int
) -> None:
    told = limit.whole_seconds(ticks)
    assert (told - 1) * SECOND < ticks <= told * SECOND + rounding(limit, told)


def test_a_decision_stays_exact_in_ticks() -> None:
    limit = TokenBucket(60, "60/second")
    one = decision_of(limit, debt=limit.full, retry=limit.full)
    assert one.retry_ticks == limit.full == 60 * -(-SECOND // 60)
    assert (one.retry_after, one.reset_after) == (limit.full / SECOND, limit.full / SECOND)


@given(verdicts)
def test_retry_after_is_there_when_waiting_helps_and_is_the_longest_wait_rounded_up(verdict: PolicyDecision) -> None:
    retry_after = dict(rate_limit_headers(verdict)).get("Retry-After")
    wait = max((Fraction(rule.decision.retry_ticks, SECOND) for rule in verdict.enforced), default=Fraction(0))
    hopeless = verdict.missing is not None or any(rule.decision.impossible for rule in verdict.enforced)
    if verdict.allowed or hopeless:
        assert retry_after is None
    else:
        assert retry_after is not None
        told = int(retry_after)
        assert told == verdict.retry_after_seconds
        assert told - 1 < wait
        assert all(rule.decision.retry_ticks <= told * SECOND + rounding(rule.limit, told) for rule in verdict.enforced)
        assert int(retry_after) >= 1


@pytest.mark.parametrize(("ticks", "seconds"), [(1, 1), (SECOND, 1), (SECOND + 1, 2), (2**53 * 16 + 1, 9007200)])
def test_a_wait_is_never_rounded_down(ticks: int, seconds: int) -> None:
    assert refusal(ticks, 1).retry_after_seconds == seconds


def test_a_refusal_that_a_race_made_without_a_wait_asks_for_a_second() -> None:
    lost = Decision(False, FIVE_PER_SECOND, "k", 1, 0, 0, 0, 0)
    assert PolicyDecision((RuleDecision("x", lost),)).retry_after_seconds == 1


# The body


@given(verdicts)
def test_every_refusal_has_a_problem_body_that_agrees_with_its_headers(verdict: PolicyDecision) -> None:
    assume(not verdict.allowed)
    answer = problem(verdict)
    body = json.loads(answer.body)
    assert body["status"] == answer.status == (429 if verdict.missing is None else 403)
    assert dict(answer.headers) == {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    if verdict.missing is not None:
        assert (body["type"], body["title"]) == ("about:blank", "Forbidden")
        assert repr(verdict.missing) in body["detail"]
        assert "violated-policies" not in body
        return
    assert body["type"] == QUOTA_EXCEEDED
    names = [name for name, _ in parsed(rate_limit_headers(verdict), "RateLimit")]
    refused = [not rule.decision.allowed for rule in verdict.enforced]
    assert body["violated-policies"] == [name for name, was in zip(names, refused, strict=True) if was]
    wait = verdict.retry_after_seconds
    if verdict.message is not None:
        assert body["detail"].startswith(verdict.message)
    else:
        assert (f"try again in {wait} second" if wait else "waiting will not help") in body["detail"]


def test_the_detail_is_a_sentence_for_people() -> None:
    one, both = json.loads(problem(refusal(1)).body), json.loads(problem(refusal(0, 2 * SECOND, 1)).body)
    assert one["detail"] == "Over the limit of 'rule 0' (token_bucket of 20 at 5/s): try again in 1 second."
    assert both["detail"] == (
        "Over the limit of 'rule 1' (token_bucket of 20 at 5/s) and 'rule 2' (token_bucket of 20 at 5/s): "
        "try again in 2 seconds."
    )
    assert both["violated-policies"] == ["rule 1", "rule 2"]


def test_the_detail_names_the_limit_also_if_another_with_the_same_numbers_refused_before() -> None:
    """As after a reload, on a store that makes its decisions in Python."""
    for limit in (TokenBucket(3, 10), LeakyBucket(2, 10)):
        verdict = PolicyDecision((RuleDecision("r", decision_of(limit, retry=1)),))
        assert json.loads(problem(verdict).body)["detail"] == f"Over the limit of 'r' ({limit}): try again in 1 second."


def test_a_cost_that_can_never_pass_is_told_so_and_not_told_to_come_back() -> None:
    verdict = refusal(SECOND, NEVER, cost=21)
    assert "Retry-After" not in dict(rate_limit_headers(verdict))
    assert json.loads(problem(verdict).body)["detail"] == (
        "The request costs 21, and 'rule 1' never admits more than 20 at once: "
        "waiting will not help, asking for less will."
    )


def test_a_missing_attribute_is_named_and_no_quota_is_blamed() -> None:
    verdict = PolicyDecision((RuleDecision("x", decision_of(FIVE_PER_SECOND)),), missing="api_key")
    assert json.loads(problem(verdict).body) == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "detail": "The request has no 'api_key', which names the quota to charge.",
    }
    assert [name for name, _ in rate_limit_headers(verdict)] == ["RateLimit-Policy", "RateLimit"]
    assert json.loads(problem(verdict, 400).body)["title"] == "Bad Request", "the title is the status's own phrase"


def test_nginx_can_be_answered_403_and_the_quota_is_still_named() -> None:
    answer = problem(refusal(1), status=403)
    assert (answer.status, json.loads(answer.body)["type"]) == (403, QUOTA_EXCEEDED)


def test_an_allowed_request_has_no_problem() -> None:
    with pytest.raises(ValueError, match="allowed"):
        problem(PolicyDecision())


@given(verdicts, st.floats(0, 4e9))
def test_x_ratelimit_tells_of_the_most_binding_rule_and_when_its_bucket_is_full_again(
    verdict: PolicyDecision, now: float
) -> None:
    if verdict.rule is None:
        assert legacy_headers(verdict, "delta", now) == legacy_headers(verdict, "epoch", now) == []
        return
    one = verdict.rule.decision
    full_in, exactly = Fraction(one.debt_ticks, SECOND), Fraction(one.debt_ticks, one.limit.interval) / one.limit.rate
    for reset, since in (("delta", 0), ("epoch", Fraction(now))):
        told = {name: int(value) for name, value in legacy_headers(verdict, reset, now)}  # type: ignore[arg-type]
        assert list(told) == ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
        assert told["X-RateLimit-Limit"] == one.limit.full // one.limit.interval
        assert 0 <= told["X-RateLimit-Remaining"] == one.remaining <= told["X-RateLimit-Limit"]
        at, blur = since + full_in, (since + full_in) / 2**50  # seconds are added as floats
        assert since + exactly - blur <= told["X-RateLimit-Reset"] < at + 1 + blur


def test_x_ratelimit_reset_is_never_rounded_down() -> None:
    for debt, delta, epoch in ((0, "0", "1700000001"), (1, "1", "1700000001"), (SECOND, "1", "1700000002")):
        decision = PolicyDecision((RuleDecision("r", decision_of(FIVE_PER_SECOND, debt)),))
        told = [dict(legacy_headers(decision, reset, 1_700_000_000.25)) for reset in ("delta", "epoch")]
        assert [one["X-RateLimit-Reset"] for one in told] == [delta, epoch]

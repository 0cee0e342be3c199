"""A rule's message: the text of a refusal, in every protocol, and of no other answer."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from django.test import override_settings
from django.urls import path
from django_site import Api
from exchanges import Asked
from hypothesis import given
from hypothesis import strategies as st
from web_sites import django_wsgi_site, flask_app, memory, serving

from ratekeeper import (
    Keeper,
    ManualClock,
    MemoryStore,
    Policy,
    PolicyDecision,
    PolicyError,
    TokenBucket,
    core,
)
from ratekeeper.frameworks.drf import RateLimitThrottle
from ratekeeper.frameworks.drf import rate_limit as drf_rate_limit
from ratekeeper.frameworks.flask import RateLimits
from ratekeeper.frameworks.grpc_call import LimitedContext
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.responses import problem
from ratekeeper.policy.compiled import CompiledPolicy, PythonMatcher
from ratekeeper.policy.model import Rule
from ratekeeper.service.http.json_check import report

FREE = 'Im kostenlosen Tarif gibt es "1" am Tag: https://example.com/tarife'
EACH = f'[[rules]]\nname = "each"\nkey = ["user"]\nlimit = "1/day"\nmessage = \'{FREE}\'\n'


def refused(policy: str | Policy, **attributes: str) -> PolicyDecision:
    """Return the first refusal of a policy. Both cores must agree."""
    chosen = Policy.parse(policy) if isinstance(policy, str) else policy
    decisions = []
    clock = ManualClock()
    twins = (core.matcher, MemoryStore(clock=clock)), (PythonMatcher, MemoryStore(clock=clock, implementation="python"))
    for matcher, store in twins:
        decide = CompiledPolicy(chosen, store, matcher).try_acquire
        assert decide is not None
        decisions.append(next(one for one in (decide(attributes) for _ in range(99)) if not one))
    first, second = decisions
    assert first == second
    assert (first.message, hash(first), repr(first)) == (second.message, hash(second), repr(second))
    return first


def detail(decision: PolicyDecision) -> Any:
    return json.loads(problem(decision).body)["detail"]


def test_a_message_is_the_detail_word_for_word_and_all_else_is_as_usual() -> None:
    decision = refused(EACH, user="alice")
    assert decision.message == FREE
    body, usual = json.loads(problem(decision).body), json.loads(problem(refused(_without(EACH), user="alice")).body)
    assert body == {**usual, "detail": FREE}
    assert problem(decision).body is problem(decision).body, "it is kept"


def _without(policy: str) -> str:
    return policy[: policy.index("message")]


def test_the_messages_of_several_rules_follow_each_other_and_the_others_are_explained() -> None:
    rule = '[[rules]]\nname = "{}"\nlimit = "1/minute"\n'
    silent = rule.format("a")
    first, second = rule.format("b") + 'message = "One."\n', rule.format("c") + 'message = "Two."\n'
    usual = "Over the limit of 'a' (token_bucket of 1 at 1/minute): try again in 60 seconds."
    assert detail(refused(silent + first + second)) == f"One. Two. {usual}"
    assert detail(refused(first + second.replace("Two.", "One."))) == "One."
    assert detail(refused(silent)) == usual
    assert refused(silent).message is None


def test_a_rule_that_does_not_refuse_says_nothing() -> None:
    rules = (
        Rule("wide", TokenBucket(9, 1), message="wide"), Rule("narrow", TokenBucket(1, 1)),
        Rule("tried", TokenBucket(1, 1), message="tried", shadow=True),
    )  # fmt: skip
    decision = refused(Policy(rules))
    assert decision.message is None
    assert "wide" not in detail(decision)
    assert "tried" not in detail(decision)
    assert Keeper(Policy(rules)).try_acquire({}).message is None


@pytest.mark.parametrize("limit", ["deny = true", 'limit = "0/s"', 'limit = "5/s"\ncost = "tokens"'])
def test_a_message_also_stands_for_a_refusal_that_no_wait_helps(limit: str) -> None:
    rule = f'[[rules]]\nname = "r"\n{limit}\nmessage = "Not for you."\n'
    other = '[[rules]]\nname = "other"\nlimit = "1/day"\n'
    for policy in (rule, other + rule):
        store = MemoryStore()
        keeper = Keeper(Policy.parse(policy), store)
        keeper.try_acquire({"tokens": "1"})
        decision = keeper.try_acquire({"tokens": "99"})
        assert detail(decision) == "Not for you."
        assert problem(decision).status == (403 if "deny" in limit else 429)


def test_a_reload_changes_the_text_also_of_bodies_that_are_kept() -> None:
    for store in (MemoryStore(), MemoryStore(implementation="python")):
        keeper = Keeper(Policy.parse(EACH), store)
        keeper.try_acquire({"user": "a"})
        texts = []
        for policy in (EACH, EACH.replace("kostenlosen", "freien"), EACH, _without(EACH)):
            keeper.replace(Policy.parse(policy))
            texts.append(detail(keeper.try_acquire({"user": "a"})))
        assert texts[:3] == [FREE, FREE.replace("kostenlosen", "freien"), FREE]
        assert texts[3].startswith("Over the limit of 'each'")


@given(st.text(max_size=600) | st.text(st.characters(categories=["L", "P"]), min_size=1, max_size=600))
def test_a_message_is_printable_and_bounded_or_an_error_in_code_and_in_files(text: str) -> None:
    if not (1 <= len(text) <= 500 and text.isprintable() and text == text.strip()):
        with pytest.raises(PolicyError, match="message must be a printable string of 1 to 500 characters, without spa"):
            Rule("r", TokenBucket(1, 1), message=text)
        return
    answer = problem(refused(Policy((Rule("r", TokenBucket(1, 1), message=text),))))
    assert json.loads(answer.body)["detail"] == text
    assert answer.body.isascii()


@pytest.mark.parametrize("value", ["5", '""', '" x"', '"a\\nb"', f'"{"x" * 501}"', "true"])
def test_a_bad_message_in_a_file_is_an_error_that_says_what_is_right(value: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(f'[[rules]]\nname = "r"\nlimit = "1/s"\nmessage = {value}\n', "policy.toml")
    assert str(caught.value) == (
        "policy.toml:4: rule 'r': 'message' must be a printable string of 1 to 500 characters, without spaces around it"
    )


def test_an_endpoints_limit_takes_a_message_too() -> None:
    [rule] = rate_limit("5/minute", message="Slow down.").policy.rules
    assert rule.message == "Slow down."
    with pytest.raises(PolicyError, match="message must be a printable string"):
        rate_limit("5/minute", message="")


def test_flask_describes_its_error_by_the_message() -> None:
    app = flask_app()
    app.register_error_handler(429, lambda error: (f"own page: {error.description}", 429))
    RateLimits(app, Policy.parse(EACH.replace('key = ["user"]\n', "")), store=memory())
    with serving(app) as client:
        *_, answer = [client.get("/items/1") for _ in range(2)]
    assert answer.text == f"own page: {FREE}"


@pytest.mark.parametrize("policy", [EACH.replace('key = ["user"]\n', ""), _without(EACH).replace("user", "client")])
def test_django_rest_framework_says_the_message_and_when_to_come_back(policy: str) -> None:
    class View(Api):
        throttle_classes = (RateLimitThrottle,)

    with (
        override_settings(ROOT_URLCONF=(path("", View.as_view()),), MIDDLEWARE=[]),
        django_wsgi_site(policy=Policy.parse(policy), store=memory()) as client,
    ):
        *_, answer = [client.get("/") for _ in range(2)]
    said = FREE if "message" in policy else "Request was throttled."
    assert answer.json() == {"detail": f"{said} Expected available in 86400 seconds."}
    assert answer.headers["retry-after"] == "86400"
    assert drf_rate_limit is rate_limit


def test_grpc_and_json_say_the_message() -> None:
    decision = refused(EACH, user="alice")
    context = LimitedContext(None, Asked("POST", "/"))  # type: ignore[arg-type]
    assert context.refusal(problem(decision))[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, FREE)
    answer = report(decision, held=False)
    assert (answer["message"], answer["denied"], answer["allowed"]) == (FREE, False, False)
    assert report(refused('[[rules]]\nname = "ban"\ndeny = true\n'), held=False)["denied"] is True

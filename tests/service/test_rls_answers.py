"""The answer to Envoy for one decision is the same in C and in Python."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ratekeeper import Keeper, ManualClock, MemoryStore, Policy, TokenBucket, core
from ratekeeper.policy.lookups.lookup import Lookup
from ratekeeper.policy.model import Rule
from ratekeeper.service.grpc.answers import answer, python_answer
from ratekeeper.stores.base import nobody_waits

pytestmark = pytest.mark.skipif(core.fill_envoy_answer is None, reason="the C core is not in use")

_POLICIES = [
    'rules = [{name = "each", key = ["client"], limit = "5/m"}]',
    'rules = [{name = "all", limit = "7/s"}, {name = "each", key = ["client"], limit = "3/m"}, '
    '{name = "tried", limit = "1/h", shadow = true}]',
    'rules = [{name = "one", limit = "2/m", cost = 2}, {name = "other", limit = "2/h"}, '
    '{name = "third", limit = "3/d"}]',
    'rules = [{name = "none", limit = "0/s"}, {name = "some", limit = "1/s"}]',
    'rules = [{name = "tried", limit = "1/h", shadow = true}]',
    'rules = [{name = "a long name, and \\"caf\u00e9 %\\"' + 60 * "x" + '", key = ["client"], limit = "10/10s"}]',
    'rules = [{name = "many", key = ["client"], limit = "1000000000/s"}, {name = "odd", limit = "7/13s"}]',
    'rules = [{name = "user", key = ["user"], limit = "2/m", missing = "reject"}]',
]


_LOOKED_UP = Policy((Rule("plan", TokenBucket(2, 2), key=("client",), lookup=Lookup("plan")),))


@pytest.mark.parametrize("policy", [*map(Policy.parse, _POLICIES), _LOOKED_UP])
def test_an_answer_is_the_same_in_c_and_in_python(policy: Policy) -> None:
    drawn = random.Random(1)
    clock = ManualClock(1000)
    limits = {"plan": lambda key: ["3/m", "4/h"]} if policy is _LOOKED_UP else {}
    keeper = Keeper(policy, MemoryStore(100, clock=clock), limits=limits)
    for _ in range(300):
        clock.advance(drawn.choice([0, 0, 0, 0.3, 2, 20, 5000]))
        decision = keeper.try_acquire({"client": drawn.choice("ab")}, drawn.choice([0, 1, 1, 2, 10**9]))
        is_refused = not decision.allowed
        assert answer([decision], is_refused, None) == python_answer([decision], is_refused, None)


class Index:
    """Becomes a number by code, which might forget the parts of an answer meanwhile."""

    def __index__(self) -> int:
        return 10**9


def test_what_is_not_an_answer_is_an_error_in_c() -> None:
    fill: Any = core.fill_envoy_answer
    decision = Keeper(Policy.parse(_POLICIES[0]), MemoryStore(100)).try_acquire({"client": "a"})
    good = [decision, (b"limit",), b"head", (b"r=", b";t=", b""), 10**9, {}, "key"]
    assert fill(*good).endswith(b"head\x1a\x15\x0a\x09ratelimit\x12\x08r=4;t=12")
    assert fill(None, *good[1:]) is None
    wrong = [
        (1, [b"limit"]),
        (1, ("limit",)),
        (1, ()),
        (2, "head"),
        (3, [b"r="]),
        (3, (b"",)),
        (4, "1"),
        (4, -1),
        (4, Index()),
        (5, ()),
    ]
    for place, value in wrong:
        with pytest.raises((TypeError, ValueError)):
            fill(*good[:place], value, *good[place + 1 :])
    with pytest.raises(TypeError):
        fill()


def test_a_refusal_in_c_has_the_end_that_is_kept_for_its_wait() -> None:
    fill: Any = core.fill_envoy_answer
    keeper = Keeper(Policy.parse(_POLICIES[0]), MemoryStore(100, clock=ManualClock()))
    refused = [keeper.try_acquire({"client": "a"}) for _ in range(6)][-1]
    ends: dict[Any, Any] = {("other", 12): b"other"}
    parts = [refused, (b"limit",), b"head", (b"r=", b";t=", b""), 10**9, ends, "key"]
    assert fill(*parts) == 12
    ends["key", 12] = b"end"
    assert fill(*parts).endswith(b"r=0;t=12end")
    ends["key", 12] = "end"
    with pytest.raises(TypeError, match="bytes, not str"):
        fill(*parts)
    with pytest.raises(TypeError, match="unhashable"):
        fill(*parts[:-1], [])
    assert fill(keeper.try_acquire({"client": "b"}, 6), *parts[1:]) is None, "it can never pass"


def test_a_gate_answers_by_its_own_decisions_only() -> None:
    store = MemoryStore(100)
    limits = TokenBucket(5, 5), TokenBucket(6, 6)
    gate: Any = store.bind(("a",), limits[:1], nobody_waits)
    two: Any = store.bind(("b", "c"), limits, nobody_waits)
    good = [(b"limit",), b"head", (b"r=", b";t=", b""), 10**9, {}, "key"]
    assert gate.fill_envoy_answer(gate.try_acquire("k"), *good).endswith(
        b"head\x1a\x14\x0a\x09ratelimit\x12\x07r=4;t=1"
    )
    of_policy = Keeper(Policy.parse(_POLICIES[0]), store).try_acquire({"client": "a"})
    for wrong in ((None, *good), (of_policy, *good), (gate.try_acquire("k"),), (gate.try_acquire("k"), *good, 1), ()):
        with pytest.raises(TypeError):
            gate.fill_envoy_answer(*wrong)
    with pytest.raises(TypeError):
        two.fill_envoy_answer(two.try_acquire("k"), *good)

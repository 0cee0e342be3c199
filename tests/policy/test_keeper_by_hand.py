"""A keeper's grant, block, unblock and reset: of which rules' buckets, and what is not clear is an error."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

import pytest
from async_memory import AsyncMemoryStore

from ratekeeper import AsyncKeeper, Keeper, ManualClock, Policy
from ratekeeper.stores.table_store import TableStore

USER = '[[rules]]\nname = "each user"\nkey = ["user"]\nlimit = "5/hour"\n'
TENANT = '[[rules]]\nname = "tenant"\nkey = ["tenant"]\nlimit = "20/hour"\n'
ALL = '[[rules]]\nname = "all"\nlimit = "100/hour"\n'
SHADOW = '[[rules]]\nname = "tried"\nkey = ["user"]\nlimit = "1/hour"\nshadow = true\n'
OTHER = '[[rules]]\nname = "search"\nkey = ["user"]\nlimit = "1/hour"\nmatch = { path = "/search" }\n'
EXEMPT = '[[exempt]]\nuser = "root"\n'
ALICE, BOB = {"user": "alice", "tenant": "t"}, {"user": "bob", "tenant": "t"}

Make = Callable[[str], Any]


class Asked:
    """A keeper of either kind, whose verbs are run to their end."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            async def ask() -> Any:
                answer = getattr(self._keeper, verb)(*args, **named)
                return await answer if inspect.isawaitable(answer) else answer

            return asyncio.run(ask())

        return run


@pytest.fixture(params=[Keeper, AsyncKeeper, AsyncMemoryStore])
def make(request: pytest.FixtureRequest, store: TableStore) -> Make:
    def made(text: str) -> Asked:
        policy = Policy.parse(text)
        if request.param is Keeper:
            return Asked(Keeper(policy, store))
        return Asked(AsyncKeeper(policy, AsyncMemoryStore(store) if request.param is AsyncMemoryStore else store))

    return made


def left(keeper: Any, attributes: dict[str, str]) -> list[int]:
    return [one.remaining for one in keeper.usage(attributes)]


def test_a_grant_and_a_block_are_of_the_one_rule_that_charges_the_request(make: Make, clock: ManualClock) -> None:
    keeper = make(USER)
    for _ in range(5):
        keeper.try_acquire(ALICE)
    keeper.grant(ALICE, 2)
    assert [left(keeper, ALICE), left(keeper, BOB)] == [[2], [5]]
    until = time.time() + 7200
    keeper.block(ALICE, until)
    [usage] = keeper.usage(ALICE)
    assert until - time.time() < usage.retry_after <= 7200
    assert not keeper.try_acquire(ALICE)
    assert keeper.try_acquire(BOB)
    keeper.unblock(ALICE)
    assert [bool(keeper.try_acquire(ALICE)) for _ in range(3)] == [True, True, False]


def test_of_several_rules_those_that_are_named_are_changed_and_no_others(make: Make) -> None:
    keeper = make(USER + TENANT + ALL)
    for _ in range(5):
        keeper.try_acquire(ALICE)
    assert left(keeper, ALICE) == [0, 15, 95]
    keeper.grant(ALICE, 1, rule="each user")
    assert left(keeper, ALICE) == [1, 15, 95]
    keeper.grant(ALICE, 2, rule=["each user", "all"])
    assert left(keeper, ALICE) == [3, 15, 97]
    keeper.reset(ALICE, rule=("tenant",))
    assert left(keeper, ALICE) == [3, 20, 97]
    keeper.block(ALICE, time.time() + 60, rule="tenant")
    assert not keeper.try_acquire(BOB)
    keeper.unblock(BOB)
    assert left(keeper, ALICE) == [3, 20, 97]
    keeper.reset(ALICE)
    assert left(keeper, ALICE) == [5, 20, 100]


def test_a_rule_without_a_key_is_blocked_only_by_its_name(make: Make) -> None:
    keeper = make(ALL)
    with pytest.raises(ValueError, match=r"^rule 'all' counts all .* would refuse everybody: name the rule if"):
        keeper.block(ALICE, time.time() + 60)
    assert keeper.try_acquire(BOB)
    keeper.block(ALICE, time.time() + 60, rule="all")
    assert not keeper.try_acquire(BOB)


@pytest.mark.parametrize(
    ("policy", "attributes", "rule", "words"),
    [
        (USER + TENANT, ALICE, None, r"^several rules charge this request: name one or more of 'each user', 'tenant'$"),
        (USER + TENANT, ALICE, "each usr", r"^the policy has no rule 'each usr': did you mean 'each user'\?$"),
        (USER + OTHER, ALICE, "search", r"^rule 'search' does not charge this request: no path$"),
        (USER + OTHER, {**ALICE, "path": "/"}, ["search"], r"^rule 'search' does not .*: path is '/', not '/search'$"),
        (USER + TENANT, ALICE, [], r"^rule must name at least one rule, not none$"),
        (OTHER, {"path": "/"}, None, r"^no rule charges this request$"),
        (EXEMPT + USER, {"user": "root"}, None, r"^no rule charges this request, as it is exempt$"),
        (EXEMPT + USER, {"user": "root"}, "each user", r"^rule 'each user' does not .*: the request is exempt$"),
    ],
)
def test_what_is_not_clear_is_an_error_that_names_the_rules(
    make: Make, policy: str, attributes: dict[str, str], rule: Any, words: str
) -> None:
    keeper = make(policy)
    asked: list[tuple[str, list[Any]]] = [("grant", [1]), ("block", [time.time() + 60]), ("reset", []), ("unblock", [])]
    for verb, arguments in asked if rule is not None else asked[:2]:
        with pytest.raises(ValueError, match=words):
            getattr(keeper, verb)(attributes, *arguments, rule=rule)


def test_a_block_that_would_refuse_nobody_or_strangers_is_an_error(make: Make) -> None:
    until = time.time() + 60
    with pytest.raises(ValueError, match=r"^rule 'tried' is in shadow and refuses nothing"):
        make(USER + SHADOW).block(ALICE, until, rule="tried")
    with pytest.raises(
        ValueError, match=r"^rule 'each user' counts by user, and these attributes have no user: a block"
    ):
        make(USER).block({"usr": "alice"}, until)
    with pytest.raises(TypeError, match=r"^rule must be the name of a rule, or several names, not 5$"):
        make(USER).block(ALICE, until, rule=[5])
    with pytest.raises(TypeError, match=r"^rule must be the name of a rule, or several names, not 5$"):
        make(USER).reset(ALICE, rule=5)
    with pytest.raises(TypeError, match=r"must be a str, not int"):
        make(USER).block({"user": 5}, until)
    keeper = make(USER)
    for verb, bad in (("grant", 0), ("grant", 1.5), ("block", 60), ("block", None)):
        with pytest.raises((ValueError, TypeError), match=r"^(tokens|until) must"):
            getattr(keeper, verb)(ALICE, bad)
    assert left(keeper, ALICE) == [5]


def test_a_grant_to_requests_without_the_attribute_of_a_key_fills_their_common_bucket(make: Make) -> None:
    keeper = make(USER)
    for _ in range(5):
        keeper.try_acquire({})
    keeper.grant({}, 4)
    assert left(keeper, {}) == [4]

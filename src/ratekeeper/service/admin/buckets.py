"""The operations on the buckets of one request: explain it, see them, and change them by hand, as a keeper's verbs do.

They know no HTTP. Keys are shown as they are: an admin asks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial, wraps
from typing import Any, NamedTuple

from ratekeeper.errors import BadRequestError
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.policy.lookups.finder import looked_up
from ratekeeper.policy.plan import RuleExplanation
from ratekeeper.policy.reports import explanation_report, finite, limit_report, rule_of, usage_report
from ratekeeper.policy.support import chosen, usage_of
from ratekeeper.service.admin.fields import Field, is_names, is_positive, is_strings, is_whole
from ratekeeper.service.admin.operation import Given, Operation, Report, Run
from ratekeeper.service.admin.times import TIMES, end_of
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import decide_async
from ratekeeper.service.pauses import block_probe, end_of_block
from ratekeeper.usage import Usage


class _Bucket(NamedTuple):
    """A bucket of a request: how much of its limit is used, and the end of its block."""

    usage: Usage
    blocked_until: float | None


async def explain(core: Core, given: Given) -> Report:
    """Return each rule's view of a request, with its bucket, and the decision that it would meet. Nothing changes."""
    keeper, attributes, cost = core.policy.keeper, given["attributes"], given.get("cost", 1)
    compiled, store = keeper.compiled, core.store
    explanations = await keeper.explain(attributes, cost)
    plan = await looked_up(partial(compiled.plan, attributes, cost, None))
    decision = plan.answer(await decide_async(store, plan.charges, commit=False))
    buckets = iter(await _buckets(core, keeper, attributes))
    seen = compiled.seen(attributes)
    rules = {rule.name: rule for rule in compiled.rules}
    return {
        "allowed": decision.allowed,
        "denied": decision.denied,
        "exempt": compiled.exempting(seen) is not None,
        "missing": decision.missing,
        "tier": seen["tier"] if keeper.policy.tiers is not None else None,
        "delay": finite(decision.delay),
        "retry_after": finite(decision.retry_after),
        "rules": [
            _explained(core, it, seen, None)
            if it.decision is None
            else _explained(core, it, rules[it.rule.name].keyed(seen), next(buckets, None))
            for it in explanations
        ],
    }


def _explained(core: Core, it: RuleExplanation, keyed: Mapping[str, str], bucket: _Bucket | None) -> Report:
    looked_up_by = it.rule.lookup.name if it.rule.lookup is not None else None
    about = explanation_report(it, looked_up_by) | {
        "key": {name: keyed.get(name) for name in it.rule.key},
        "paused_until": core.pauses.until.get(it.rule.name),
    }
    if it.decision is None or bucket is None:
        return about
    return about | {
        **limit_report(it.decision.limit),
        "retry_after": finite(it.decision.retry_after),
        "bucket": _bucket_report(bucket),
    }


async def usage(core: Core, given: Given) -> Report:
    """Return how full the buckets of a request are."""
    keeper, attributes = core.policy.keeper, given["attributes"]
    await looked_up(partial(chosen, keeper.compiled, attributes, given.get("rule")))  # an unknown rule is an error
    return await _state(core, keeper, attributes, given)


async def reset(core: Core, given: Given) -> Report:
    """Make buckets full, without a block."""
    keeper, attributes = core.policy.keeper, given["attributes"]
    await keeper.reset(attributes, given.get("rule"))
    return await _state(core, keeper, attributes, given)


async def refund(core: Core, given: Given) -> Report:
    """Give back what a request took: to each of its buckets its own cost, up to a full bucket."""
    keeper, attributes = core.policy.keeper, given["attributes"]
    explanations = await keeper.explain(attributes, given.get("cost", 1))
    decided = {it.rule.name: it.decision for it in explanations if it.decision is not None}
    costs = {name: one.cost for name, one in decided.items() if one.cost and not one.limit.refuses_all}
    names = given.get("rule")
    if names is not None:
        await looked_up(partial(chosen, keeper.compiled, attributes, names))
        costs = {name: cost for name, cost in costs.items() if name in _listed(names)}
    for name, cost in costs.items():
        await keeper.grant(attributes, cost, name)
    return await _state(core, keeper, attributes, given)


async def grant(core: Core, given: Given) -> Report:
    """Give a bucket some tokens more, up to a full bucket."""
    keeper, attributes = core.policy.keeper, given["attributes"]
    await keeper.grant(attributes, given["tokens"], given.get("rule"))
    return await _state(core, keeper, attributes, given)


async def block(core: Core, given: Given) -> Report:
    """Refuse all requests of a bucket until a time."""
    keeper, attributes, names, end = core.policy.keeper, given["attributes"], given.get("rule"), end_of(given)
    if names is None:
        plan = await looked_up(partial(keeper.compiled.buckets, attributes))
        charging = [rule.name for rule in plan.rules]
    else:
        charging = _listed(names)
    paused = [name for name in charging if name in core.pauses.until]
    if paused:
        raise BadRequestError(
            f"rule {paused[0]!r} is paused and refuses nothing, so a block would refuse nobody: resume it first, or "
            "name another rule"
        )
    await keeper.block(attributes, end, names)
    return await _state(core, keeper, attributes, given)


async def unblock(core: Core, given: Given) -> Report:
    """End a block. The debts of the bucket stay."""
    keeper, attributes = core.policy.keeper, given["attributes"]
    await keeper.unblock(attributes, given.get("rule"))
    return await _state(core, keeper, attributes, given)


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else names


async def _state(core: Core, keeper: AsyncKeeper, attributes: Mapping[str, str], given: Given) -> Report:
    """Return how the buckets of a request are now: those of the rules that were named, or all."""
    policy, names = keeper.policy, given.get("rule")
    buckets = await _buckets(core, keeper, attributes)
    if names is not None:
        buckets = [one for one in buckets if rule_of(one.usage.name, policy).name in _listed(names)]
    return {
        "exempt": _is_exempt(keeper, attributes),
        "rules": [
            usage_report(one.usage, policy)
            | _bucket_report(one)
            | {"paused_until": core.pauses.until.get(rule_of(one.usage.name, policy).name)}
            for one in buckets
        ],
    }


def _is_exempt(keeper: AsyncKeeper, attributes: Mapping[str, str]) -> bool:
    return keeper.compiled.exempting(keeper.compiled.seen(attributes)) is not None


async def _buckets(core: Core, keeper: AsyncKeeper, attributes: Mapping[str, str]) -> list[_Bucket]:
    """Return the buckets that a request is charged to by a keeper's rules, in their order. Nothing changes.

    A reload may have replaced the keeper since the operation began.
    """
    compiled, store = keeper.compiled, core.store
    plan = await looked_up(partial(compiled.buckets, attributes))
    looks = await decide_async(store, plan.charges, commit=False)
    probes = [block_probe(charge.scope, charge.key) for charge in plan.charges]
    blocks = await decide_async(store, probes, commit=False)
    now = time.time()
    usages = usage_of(plan, looks, store.wait_queue.waiting_at)
    return [_Bucket(one, end_of_block(probe, now)) for one, probe in zip(usages, blocks, strict=True)]


def _bucket_report(bucket: _Bucket) -> Report:
    own = bucket.usage
    numbers = limit_report(own.limit)
    return {
        "used": own.used,
        "remaining": own.remaining,
        "capacity": numbers["capacity"],
        "per_second": numbers["per_second"],
        "reset_after": own.reset_after,
        "blocked_until": bucket.blocked_until,
        "waiting": own.waiting,
    }


_ATTRIBUTES = Field(is_strings, 'an object of strings, such as {"api_key": "k-7"}', required=True)
_COST = Field(is_whole, "a whole number of tokens, 0 or more")
_RULE = Field(is_names, "the name of a rule, or a list of 1 to 100 names")
_OF_A_REQUEST = {"attributes": _ATTRIBUTES, "rule": _RULE}


def _after_a_look(run: Run) -> Run:
    """Return an operation that looks for pauses first: another process may have begun or ended one a moment ago."""

    @wraps(run)
    async def looked(core: Core, given: Given) -> Report:
        await core.pauses.look()
        return await run(core, given)

    return looked


_OPERATIONS = {
    "explain": Operation(explain, {"attributes": _ATTRIBUTES, "cost": _COST}),
    "usage": Operation(usage, _OF_A_REQUEST),
    "reset": Operation(reset, _OF_A_REQUEST, changes=True),
    "refund": Operation(refund, {**_OF_A_REQUEST, "cost": _COST}, changes=True),
    "grant": Operation(
        grant, {**_OF_A_REQUEST, "tokens": Field(is_positive, "a whole number, 1 or more", required=True)}, changes=True
    ),
    "block": Operation(block, {**_OF_A_REQUEST, **TIMES}, changes=True),
    "unblock": Operation(unblock, _OF_A_REQUEST, changes=True),
}

OPERATIONS = {name: one._replace(run=_after_a_look(one.run)) for name, one in _OPERATIONS.items()}

"""`ratekeeper validate` and `ratekeeper explain`: show a policy's rules, and its decision of one request."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ratekeeper.cli.attributes import conditions, read_attributes
from ratekeeper.clock import ManualClock
from ratekeeper.errors import RatekeeperError
from ratekeeper.limits import Limit
from ratekeeper.policy.keeper import Keeper
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.policy.patterns import accepts
from ratekeeper.policy.plan import RuleExplanation
from ratekeeper.rates import rate_text
from ratekeeper.stores.memory import MemoryStore

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Commands = _SubParsersAction[argparse.ArgumentParser]


def add_commands(commands: Commands) -> None:
    """Declare both commands."""
    validate = commands.add_parser("validate", help="check a policy file, and show its limits")
    validate.add_argument("policy", metavar="POLICY", help="the policy file (TOML)")
    validate.set_defaults(run=run_validate)
    explain = commands.add_parser("explain", help="say of each rule whether it applies to a request, and why")
    explain.add_argument("policy", metavar="POLICY", help="the policy file (TOML)")
    explain.add_argument("attributes", metavar="KEY=VALUE", nargs="*", help="an attribute, such as path=/api/search")
    explain.add_argument("--cost", type=int, default=1, help="what the request costs (default: 1)")
    explain.set_defaults(run=run_explain)


def run_validate(args: argparse.Namespace) -> int:
    """Print what each rule of a valid file limits; an invalid file is an error."""
    policy = Policy.load(args.policy)
    print(f"{args.policy}: {len(policy.rules)} rule{'s' * (len(policy.rules) > 1)}, no mistake found")
    for match in policy.exempt:
        print(f"\nexempt: requests with {conditions(match)}")
    for rule in policy.rules:
        print(f"\n{rule.name}{'  (shadow: counts, refuses nothing)' if rule.shadow else ''}")
        print(f"  for    {_requests(rule)}")
        if not rule.limit.denies or rule.overrides:
            print(f"  each   {' and '.join(rule.key) if rule.key else 'all requests together'}")
        print(f"  limit  {_limit(rule)}")
        if rule.message is not None:
            print(f"  says   {rule.message}")
        for override in rule.overrides:
            print(f"  but    {conditions(override.match)}: {describe(override.limit)}")
    for tier in _unlimited_tiers(policy):
        print(f"\nwarning: no rule limits tier {tier!r}: all its requests are admitted")
    if policy.store is not None and policy.store.clustered:
        print(f"\n{_slots(policy)}")
    return 0


def _unlimited_tiers(policy: Policy) -> list[str]:
    """Return the tiers that no rule can ever limit, except exempt ones."""
    if policy.tiers is None:
        return []
    exempt = accepts(pattern for match in policy.exempt if match.keys() == {"tier"} for pattern in match["tier"])
    tests = [accepts(rule.match.get("tier", ("*",))) for rule in policy.rules if not rule.shadow]
    tiers = dict.fromkeys([policy.tiers.default, *policy.tiers.tier_by_value.values()])
    return [tier for tier in tiers if not exempt(tier) and not any(test(tier) for test in tests)]


def _slots(policy: Policy) -> str:
    """Return the rules that share a script call on a cluster: their keys begin with the same attribute."""
    groups: dict[str, list[str]] = {}
    for rule in policy.rules:
        groups.setdefault(f"by {rule.key[0]}" if rule.key else f"{rule.name}, without a key", []).append(rule.name)
    if len(groups) == 1:
        return "On the cluster, all rules of a request share a slot: one script call."
    lines = [f"  {group}: {', '.join(names)}" for group, names in groups.items()]
    return "\n".join(["On the cluster, a request takes a look and a script call for each of these groups:", *lines])


def run_explain(args: argparse.Namespace) -> int:
    """Print each rule's view of one request, on empty buckets. Exit code 1 if it would be refused."""
    policy = Policy.load(args.policy)
    looked_up = {rule.name: rule.lookup.name for rule in policy.rules if rule.lookup is not None}
    policy = policy.without_lookups()  # their functions are the application's
    attributes = read_attributes(args.attributes, policy)
    if args.cost < 0:
        raise RatekeeperError(f"--cost must be 0 or more, not {args.cost}")
    keeper = Keeper(policy, MemoryStore(max_keys=1000, clock=ManualClock()))
    explanations = keeper.explain(attributes, args.cost)
    decision = keeper.reserve(attributes, args.cost).decision
    seen = keeper.compiled.seen(attributes)
    if policy.tiers is not None:
        print(f"tier: {seen['tier']}")
    for explanation in explanations:
        print(_explanation(explanation))
        if explanation.decision is not None and (name := looked_up.get(explanation.rule.name)):
            print(f"    which is the default: the application looks up 'app:{name}'")
    exempt_by = keeper.compiled.exempting(seen)
    if exempt_by is not None:
        print(f"=> allowed: exempt, as are all requests with {conditions(exempt_by)}")
        return 0
    if decision.allowed:
        print("=> allowed" if decision.rules else "=> allowed: no rule applies, so nothing limits this request")
        return 0
    why = "" if decision.missing is None else f": it has no {decision.missing}"
    print("=> denied" if decision.denied else f"=> refused{why}")
    return 1


def _limit(rule: Rule) -> str:
    lookup = rule.lookup
    if lookup is None:
        return describe(rule.limit)
    return (
        f"looked up by the application's 'app:{lookup.name}', again after {lookup.ttl:g} s; if that fails: "
        f"{lookup.on_error}\n  else   {describe(rule.limit)}"
    )


def describe(limit: Limit) -> str:
    """Return a limit in words that cannot be misunderstood."""
    if limit.refuses_all:
        return "none: every request is denied" if limit.denies else "0: every request is refused"
    rate = rate_text(limit.rate)
    if limit.queues:
        return f"one at a time, {rate}; {limit.capacity} may wait, more are refused"
    return f"bursts of {limit.capacity}, refilled at {rate}: in any time t at most {limit.capacity} + {rate} * t"


def _explanation(it: RuleExplanation) -> str:
    if it.decision is None:
        return f"- {it.rule.name}: does not apply: {it.reason}"
    decision, shadow = it.decision, " (shadow)" if it.rule.shadow else ""
    state = f"{decision.remaining} of {max(0, decision.limit.max_cost)} left, costs {decision.cost}"
    outcome = "allows" if decision.allowed else "refuses"
    if decision.limit.denies:
        return f"- {it.rule.name}{shadow}: denies the request"
    if decision.allowed and decision.delay:
        outcome += f" after {decision.delay:.3f} s"
    return (
        f"- {it.rule.name}{shadow}: {outcome}; {state}\n    bucket {it.bucket}\n    limit  {describe(decision.limit)}"
    )


def _requests(rule: Rule) -> str:
    return f"requests with {conditions(rule.match)}" if rule.match else "every request"

"""`ratekeeper explain`: a policy's decision of one request, rule by rule, on empty buckets."""

from __future__ import annotations

import argparse
import json

from ratekeeper.cli.attributes import conditions, read_attributes
from ratekeeper.cli.parser import add_policy, whole_number
from ratekeeper.cli.validate import describe
from ratekeeper.clock import ManualClock
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.keeper import Keeper
from ratekeeper.policy.model import Policy
from ratekeeper.policy.plan import RuleExplanation
from ratekeeper.policy.reports import explanation_report, message_of
from ratekeeper.stores.memory import MemoryStore

EXAMPLES = (
    ("explain policy.toml api_key=k-1 path=/api/search", "which rules charge this request, and why"),
    ("explain policy.toml method=POST path=/login client=192.0.2.7 --cost 3", "a request that costs three tokens"),
)
NOTES = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_policy(parser)
    parser.add_argument(
        "attributes", metavar="KEY=VALUE", nargs="*", default=[], help="an attribute, such as path=/api/search"
    )
    parser.add_argument(
        "--cost", type=whole_number(0), default=1, metavar="TOKENS", help="what the request costs (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(args: argparse.Namespace) -> int:
    """Print each rule's view of one request, on empty buckets. Exit code 1 if it would be refused."""
    policy = Policy.load(args.policy)
    looked_up = {rule.name: rule.lookup.name for rule in policy.rules if rule.lookup is not None}
    policy = policy.without_lookups()  # their functions are the application's
    attributes = read_attributes(args.attributes, policy)
    keeper = Keeper(policy, MemoryStore(max_keys=1000, clock=ManualClock()))
    explanations = keeper.explain(attributes, args.cost)
    decision = keeper.reserve(attributes, args.cost).decision
    seen = keeper.compiled.seen(attributes)
    tier = seen["tier"] if policy.tiers is not None else None
    exempt_by = keeper.compiled.exempting(seen)
    if args.json:
        print(json.dumps(_json_of(decision, explanations, tier, exempt_by is not None, looked_up), indent=2))
        return 0 if decision.allowed else 1
    if tier is not None:
        print(f"tier: {tier}")
    for explanation in explanations:
        print(_explanation(explanation))
        if (message := message_of(explanation)) is not None:
            print(f"    says   {message}")
        if explanation.decision is not None and (name := looked_up.get(explanation.rule.name)):
            print(f"    which is the default: the application looks up 'app:{name}'")
    if exempt_by is not None:
        print(f"=> allowed: exempt, as are all requests with {conditions(exempt_by)}")
    else:
        print(_outcome(decision))
    return 0 if decision.allowed else 1


def _outcome(decision: PolicyDecision) -> str:
    if decision.allowed:
        return "=> allowed" if decision.rules else "=> allowed: no rule applies, so nothing limits this request"
    why = "" if decision.missing is None else f": it has no {decision.missing}"
    return "=> denied" if decision.denied else f"=> refused{why}"


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


def _json_of(
    decision: PolicyDecision,
    explanations: list[RuleExplanation],
    tier: str | None,
    exempt: bool,
    looked_up: dict[str, str],
) -> dict[str, object]:
    return {
        "allowed": decision.allowed,
        "denied": decision.denied,
        "exempt": exempt,
        "missing": decision.missing,
        "tier": tier,
        "rules": [explanation_report(it, looked_up.get(it.rule.name)) for it in explanations],
    }

"""`ratekeeper validate`: find the mistakes of policy files, and show the limits of one without mistakes."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator

from ratekeeper.cli.attributes import conditions
from ratekeeper.cli.parser import policy_path
from ratekeeper.errors import PolicyError
from ratekeeper.limits import Limit
from ratekeeper.policy.file.load import PolicyUnreadable, decoded_policy, policy_text
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.policy.patterns import accepts
from ratekeeper.rates import rate_text

EXAMPLES = (
    ("validate policy.toml", "find mistakes, and show the limits"),
    ("validate policies/*.toml", "one line for each file, and one for each mistake"),
    ("validate - < policy.toml", "a policy on standard input"),
)
NOTES = """\
A mistake is a line on standard output: the file, the line in it, what is wrong, and what would be right."""

STDIN = "standard input"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "policies",
        metavar="POLICY",
        nargs="+",
        type=policy_path,
        help="a policy file (TOML), or - for standard input",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(args: argparse.Namespace) -> int:
    """Print a line for each file and each mistake. Exit code 1 if there are mistakes, 2 if a file cannot be read."""
    code, found = 0, []
    for path in dict.fromkeys(args.policies):  # standard input can be read once
        source = STDIN if path == "-" else path
        try:
            policy = Policy.parse(_text(path), source)
        except PolicyUnreadable as error:
            print(f"ratekeeper: {error}", file=sys.stderr)
            code = 2
            continue
        except PolicyError as error:
            code = max(code, 1)
            found.append(_json_of_mistakes(source, str(error)))
            lines = [str(error)]
        else:
            found.append(_json_of(source, policy))
            lines = _about(source, policy, alone=len(args.policies) == 1)
        if not args.json:
            print("\n".join(lines))
    if args.json:
        print(json.dumps(found, indent=2))
    return code


def _text(path: str) -> str:
    return decoded_policy(sys.stdin.buffer, STDIN) if path == "-" else policy_text(path)


def _about(source: str, policy: Policy, alone: bool) -> list[str]:
    """Return the lines about a policy without mistakes; `alone`, with all of its limits."""
    lines = [f"{source}: {len(policy.rules)} rule{'s' * (len(policy.rules) > 1)}, no mistake found"]
    if alone:
        lines += _limits(policy)
    mark = "\n" if alone else f"{source}: "
    lines += [f"{mark}warning: {warning}" for warning in _warnings(policy)]
    if alone and policy.store is not None and policy.store.clustered:
        lines.append(f"\n{_slots(policy)}")
    return lines


def _limits(policy: Policy) -> Iterator[str]:
    for match in policy.exempt:
        yield f"\nexempt: requests with {conditions(match)}"
    for rule in policy.rules:
        yield f"\n{rule.name}{'  (shadow: counts, refuses nothing)' if rule.shadow else ''}"
        yield f"  for    {f'requests with {conditions(rule.match)}' if rule.match else 'every request'}"
        if not rule.limit.denies or rule.overrides:
            yield f"  each   {' and '.join(rule.key) if rule.key else 'all requests together'}"
        yield f"  limit  {_limit(rule)}"
        if rule.message is not None:
            yield f"  says   {rule.message}"
        for override in rule.overrides:
            yield f"  but    {conditions(override.match)}: {describe(override.limit)}"


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


def _warnings(policy: Policy) -> list[str]:
    """Return a warning for each tier that no rule can ever limit, except exempt ones."""
    if policy.tiers is None:
        return []
    exempt = accepts(pattern for match in policy.exempt if match.keys() == {"tier"} for pattern in match["tier"])
    tests = [accepts(rule.match.get("tier", ("*",))) for rule in policy.rules if not rule.shadow]
    tiers = dict.fromkeys([policy.tiers.default, *policy.tiers.tier_by_value.values()])
    unlimited = [tier for tier in tiers if not exempt(tier) and not any(test(tier) for test in tests)]
    return [f"no rule limits tier {tier!r}: all its requests are admitted" for tier in unlimited]


def _slots(policy: Policy) -> str:
    """Return the rules that share a script call on a cluster: their keys begin with the same attribute."""
    groups: dict[str, list[str]] = {}
    for rule in policy.rules:
        groups.setdefault(f"by {rule.key[0]}" if rule.key else f"{rule.name}, without a key", []).append(rule.name)
    if len(groups) == 1:
        return "On the cluster, all rules of a request share a slot: one script call."
    lines = [f"  {group}: {', '.join(names)}" for group, names in groups.items()]
    return "\n".join(["On the cluster, a request takes a look and a script call for each of these groups:", *lines])


def _json_of(source: str, policy: Policy) -> dict[str, object]:
    rules = [
        {
            "name": rule.name,
            "shadow": rule.shadow,
            "key": list(rule.key),
            "limit": str(rule.limit),
            "message": rule.message,
            "looked_up": None if rule.lookup is None else rule.lookup.name,
            "ttl": None if rule.lookup is None else rule.lookup.ttl,
            "on_lookup_error": None if rule.lookup is None else rule.lookup.on_error,
            "overrides": [str(override.limit) for override in rule.overrides],
        }
        for rule in policy.rules
    ]
    return {"file": source, "valid": True, "mistakes": [], "warnings": _warnings(policy), "rules": rules}


def _json_of_mistakes(source: str, text: str) -> dict[str, object]:
    """Return the mistakes of a `PolicyError`, one in each line, after the file and maybe its line."""
    place = rf"(?:^|\n){re.escape(source)}:(?:(\d+):)? "  # the file's name may have any characters
    without, *parts = re.split(place, text)
    placed = [*([(None, without)] if without else []), *zip(parts[::2], parts[1::2], strict=True)]
    mistakes = [{"line": int(number) if number else None, "text": words} for number, words in placed]
    return {"file": source, "valid": False, "mistakes": mistakes, "warnings": [], "rules": []}

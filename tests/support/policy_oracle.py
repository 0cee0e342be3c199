"""The meaning of a policy for a request, computed slowly: the reference for a compiled one, and a way to ask either."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from hashlib import sha256
from ipaddress import ip_address, ip_network
from itertools import product

from ratekeeper.limits import Deny, Limit
from ratekeeper.policy.compiled import CompiledPolicy
from ratekeeper.policy.compiled_rule import CompiledRule
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.policy.sources import Source, readings_of

Values = Mapping[str, str]


class Asked:
    """One rule, compiled, asked about attributes as a request has them."""

    def __init__(self, rule: Rule, sources: Mapping[str, Source] | None = None) -> None:
        self.policy = CompiledPolicy(Policy((rule,), sources or {}))
        self.rule: CompiledRule = self.policy.rules[0]

    def matches(self, attributes: Values) -> bool:
        return self.rule.matches(self.policy.seen(attributes))

    def why_not(self, attributes: Values) -> str | None:
        return self.rule.why_not_charged(self.policy.seen(attributes))

    def limit_for(self, attributes: Values) -> Limit:
        return self.rule.limits[self.rule.limit_place(self.policy.seen(attributes))]

    def capacity_for(self, **attributes: str) -> int:
        return self.limit_for(attributes).capacity


def glob_matches(glob: str, value: str) -> bool:
    """Return whether a glob matches a value whole, by the definition."""
    if not glob:
        return not value
    if glob[0] == "*":
        return glob_matches(glob[1:], value) or (value != "" and glob_matches(glob, value[1:]))
    return value != "" and glob[0] in ("?", value[0]) and glob_matches(glob[1:], value[1:])


def pattern_matches(name: str, pattern: str, value: str) -> bool:
    """Return whether a pattern of an attribute, a hash, a glob or a network, matches one reading of a value."""
    if pattern.lower().startswith("sha256:"):
        return sha256(value.encode("utf-8", "surrogatepass")).digest() == bytes.fromhex(pattern[7:])
    try:
        network = ip_network(pattern)
    except ValueError:
        network = None
    if network is not None and "/" in pattern:
        try:
            return ip_address(value.partition("/")[0]) in network
        except ValueError:
            return False
    if name == "method":
        pattern, value = pattern.upper(), value.upper()
    return glob_matches(pattern, value)


def one_matches(name: str, globs: tuple[str, ...], value: str, *, exempt: bool = False) -> bool:
    """Return whether one of the patterns matches. In rules, a last slash of a path's pattern is optional."""
    both = [*globs]
    if name == "path" and not exempt:
        both += [glob[:-1] for glob in globs if glob.endswith("/") and glob != "/"]
    return any(pattern_matches(name, glob, value) for glob in both)


def matches(match: Mapping[str, tuple[str, ...]], request: Values) -> bool:
    """Return whether a rule or an override matches: each attribute by any reading."""
    return all(
        name in request and any(one_matches(name, globs, value) for value in readings_of(request[name]))
        for name, globs in match.items()
    )


def exempts(match: Mapping[str, tuple[str, ...]], request: Values) -> bool:
    """Return whether an entry of `exempt` matches: each attribute by each reading."""
    return all(
        name in request and all(one_matches(name, globs, value, exempt=True) for value in readings_of(request[name]))
        for name, globs in match.items()
    )


def readings(request: Values) -> Iterator[dict[str, str]]:
    """Return all the requests that a request may be read as."""
    for values in product(*(readings_of(value) for value in request.values())):
        yield dict(zip(request, values, strict=True))


def keyed(rule: Rule, request: Values) -> Values:
    """Return a request as the rule's key takes it: each attribute by its first reading that the rule matches."""
    firsts = {
        name: next(value for value in readings_of(request[name]) if one_matches(name, globs, value))
        for name, globs in rule.match.items()
    }
    return {**request, **firsts}


def limit_for(rule: Rule, request: Values) -> Limit:
    """Return the limit of the first override that matches, else the rule's own; of several readings the strictest."""

    def limit(read: Values) -> Limit:
        return next((it.limit for it in rule.overrides if matches(it.match, read)), rule.limit)

    return min(map(limit, readings(request)), key=strictness)


def strictness(limit: Limit) -> tuple[Fraction, int, bool]:
    """Return what orders limits, the strictest first: to deny is stricter than a limit of nothing."""
    return limit.rate, limit.capacity, not (limit.queues or limit == Deny())


def planned(policy: Policy, request: Values) -> tuple[list[tuple[str, str, Limit]], str | None]:
    """Return each rule that charges a request, with bucket and limit; and what the request is refused for lacking.

    A rule that refuses everything charges alone.
    """
    seen = {name: value for name, value in request.items() if value is not None}
    if policy.tiers is not None:
        by = seen.get(policy.tiers.by)
        listed = [
            tier for value, tier in policy.tiers.tier_by_value.items() if by and pattern_matches("", value, str(by))
        ]
        seen["tier"] = listed[0] if listed else policy.tiers.default
    if any(exempts(match, seen) for match in policy.exempt):
        return [], None
    charged = []
    for rule in policy.rules:
        lacking = next((name for name in rule.key if name not in seen), None)
        if not matches(rule.match, seen):
            continue
        if rule.missing != "shared" and lacking is not None:
            if rule.missing == "reject" and not rule.shadow:
                return [], lacking
            continue
        charged.append((rule.name, rule.bucket(keyed(rule, seen)), limit_for(rule, seen)))
    shadows = {rule.name for rule in policy.rules if rule.shadow}
    return next(([it] for it in charged if it[2].refuses_all and it[0] not in shadows), charged), None

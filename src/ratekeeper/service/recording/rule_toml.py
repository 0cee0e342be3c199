"""A rule as the text of a policy file, to be copied: the rule that is read from it is the same. Knows no file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from ratekeeper.limits import LeakyBucket, Limit, TokenBucket
from ratekeeper.policy.lookups.lookup import Lookup
from ratekeeper.policy.model import Rule

UNITS = {"s": 1, "minute": 60, "hour": 3600, "day": 86_400}
"""The seconds of each unit of a rate."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = re.compile(r'["\\\x00-\x1f\x7f]')


def rule_toml(rule: Rule) -> str:
    """Return a rule as a [[rules]] table.

    >>> print(rule_toml(Rule("each user", TokenBucket(20, "90/minute"), key=("user",))))
    [[rules]]
    name = "each user"
    key = ["user"]
    capacity = 20
    refill_rate = "90/minute"
    <BLANKLINE>
    """
    return "\n".join([*_lines(rule), ""])


def _lines(rule: Rule) -> Iterator[str]:
    yield "[[rules]]"
    yield f"name = {_string(rule.name)}"
    if rule.match:
        yield f"match = {{ {_match(rule)} }}"
    if rule.key:
        yield f"key = {_strings(rule.key)}"
    yield from _limit(rule.limit) if rule.lookup is None else _looked_up(rule.lookup, rule.limit)
    if rule.cost != 1:
        yield f"cost = {rule.cost if isinstance(rule.cost, int) else _string(rule.cost)}"
    if rule.max_wait is not None and (rule.max_wait or not isinstance(rule.limit, TokenBucket)):
        yield f"max_wait = {_number(rule.max_wait)}"
    if rule.shadow:
        yield "shadow = true"
    if rule.missing != "shared":
        yield f'missing = "{rule.missing}"'
    if rule.on_error is not None:
        yield f'on_error = "{rule.on_error}"'
    if rule.message is not None:
        yield f"message = {_string(rule.message)}"
    for override in rule.overrides:
        yield ""
        yield "[[rules.overrides]]"
        yield from (f"{_key(name)} = {_strings(globs)}" for name, globs in override.match.items())
        yield from (line for line in _limit(override.limit) if not line.startswith("algorithm"))


def _limit(limit: Limit) -> Iterator[str]:
    if limit.denies:
        yield "deny = true"
        return
    leaky = isinstance(limit, LeakyBucket)
    if leaky:
        yield 'algorithm = "leaky_bucket"'
    if limit.rate == 0:
        yield 'limit = "0/s"'
        return
    yield f"capacity = {limit.capacity}"
    yield f'{"leak_rate" if leaky else "refill_rate"} = "{rate_text(limit.rate)}"'


def _looked_up(lookup: Lookup, default: Limit) -> Iterator[str]:
    yield f'limit = "app:{lookup.name}"'
    yield f'default = "{f"{rate_text(default.rate)} burst {default.capacity}" if default.rate else "0/s"}"'
    yield f"ttl = {_number(lookup.ttl)}"
    yield f'on_lookup_error = "{lookup.on_error}"'


def rate_text(rate: Fraction) -> str:
    """Return a rate as a policy has it, in the shortest unit in which it is a whole number."""
    for unit, seconds in UNITS.items():
        if (count := rate * seconds).denominator == 1:
            return f"{count}/{unit}"
    return f"{rate.numerator}/{rate.denominator}s"


def _number(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)


def _match(rule: Rule) -> str:
    return ", ".join(f"{_key(name)} = {_strings(globs)}" for name, globs in rule.match.items())


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _strings(texts: tuple[str, ...]) -> str:
    return f"[{', '.join(map(_string, texts))}]"


def _string(text: str) -> str:
    return '"' + _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + '"'

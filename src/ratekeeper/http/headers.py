"""From a policy's decision to the headers that tell a client its limits. Pure functions; they know no framework.

`RateLimit-Policy` and `RateLimit` are those of draft-ietf-httpapi-ratelimit-headers-11, Lists of structured fields
(RFC 9651). `Retry-After` is that of RFC 9110 and RFC 6585. A client that gets both must obey `Retry-After`.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import ceil
from re import compile as pattern
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ratekeeper.policy.decision import PolicyDecision, Template

T = TypeVar("T")

LegacyReset: TypeAlias = Literal["epoch", "delta"]
"""The start of X-RateLimit-Reset: 1970, as at GitHub, or now."""

LARGEST_INTEGER = 999_999_999_999_999  # a structured field's Integer has 15 digits; a capacity may have 17
_MOST_KEPT = 1024
_FIELDS = [f"{prefix}RateLimit-{field}" for prefix in ("", "X-") for field in ("Limit", "Remaining", "Reset")]
_NAMES = {name.lower().encode(): name for name in ("RateLimit-Policy", "RateLimit", "Retry-After", *_FIELDS)}
_NOT_IN_A_STRING = pattern(r"[^ -~]")
_TO_ESCAPE = pattern(r'["\\]')


def rate_limit_headers(decision: PolicyDecision) -> list[tuple[str, str]]:
    """Return the headers of a response, allowed or refused: one item for each rule that is not in shadow.

    q   the tokens that a full bucket admits at once
    w   the seconds from an empty bucket to a full bucket
    r   the whole tokens that are left
    t   the seconds until there is one more: until then only `r` tokens can be used. A full bucket has it too: its next
        token comes that long after the first is taken.

    Times are whole seconds, rounded up from the exact rate (see `Limit.whole_seconds`), at least 1. `Retry-After` is
    there if waiting helps. A limit of nothing has neither `w` nor `t`, as nothing comes; a rule that denies is not
    about a quota, so it has no item. If no rule applies, the result is empty.
    """
    return named(rate_limit_lines(decision))


def named(lines: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Return lines as strings, with names as their specifications write them."""
    return [(_NAMES[name], value.decode("ascii")) for name, value in lines]


def rate_limit_lines(decision: PolicyDecision) -> list[tuple[bytes, bytes]]:
    """Return the headers of `rate_limit_headers` as a response's lines: bytes, with names in lower case."""
    key = decision.combination
    policies, states, _ = _templates.get(key) or _remember(key, decision)
    if not policies:
        return []
    lines = [(b"ratelimit-policy", policies), (b"ratelimit", decision.fill(states, LARGEST_INTEGER))]
    if not decision.allowed and (wait := decision.retry_after_seconds) is not None:
        lines.append((b"retry-after", b"%d" % wait))
    return lines


def rate_limit_block(decision: PolicyDecision) -> bytes:
    """Return the lines of `rate_limit_lines` as HTTP/1.1 sends them, each with its end."""
    if not decision.allowed:
        head, states, end = refusal_block(decision)
        return head + decision.fill(states, LARGEST_INTEGER) + end if head else b""
    key = decision.combination
    policies, states, head = _templates.get(key) or _remember(key, decision)
    return head + decision.fill(states, LARGEST_INTEGER) + b"\r\n" if policies else b""


def refusal_block(decision: PolicyDecision) -> tuple[bytes, Template, bytes]:
    """Return the parts of the block of a refusal: before the states, their template, and after them.

    They are the same for all refusals by the same rules that must wait equally long. Without headers, they are empty.
    """
    policies, states, head = rate_limit_template(decision)
    if not policies:
        return b"", (), b""
    wait = decision.retry_after_seconds
    return head, states, b"\r\n" if wait is None else b"\r\nretry-after: %d\r\n" % wait


def legacy_headers(
    decision: PolicyDecision, reset: LegacyReset, now: float, prefix: str = "X-RateLimit"
) -> list[tuple[str, str]]:
    """Return the three headers of the most restrictive rule, for older clients.

    `X-RateLimit-Reset` is the time when the bucket is full again, in whole seconds, rounded up. `now` is in seconds
    since 1970.
    """
    rule = decision.rule
    if rule is None or rule.limit.denies:
        return []
    one = rule.decision
    limit = one.limit
    values = {"Limit": max(0, limit.max_cost), "Remaining": one.remaining}
    if limit.refuses_all:
        pass  # a reset is a time at which more could pass
    elif reset == "epoch":
        values["Reset"] = ceil(Fraction(now) + Fraction(one.debt_ticks, limit.interval) / limit.rate)
    else:
        values["Reset"] = limit.whole_seconds(one.debt_ticks)
    return [(f"{prefix}-{name}", str(value)) for name, value in values.items()]


@lru_cache(maxsize=1024)
def policy_name(name: str) -> str:
    """Return a rule's name as clients see it: printable ASCII, as in a String of a structured field, and "?".

    >>> policy_name("café 100%")
    'caf? 100%'
    """
    return _NOT_IN_A_STRING.sub("?", name)


_Templates: TypeAlias = "tuple[bytes, Template, bytes]"
"""The value of RateLimit-Policy, the template of RateLimit, and the bytes of both lines up to that."""

_templates: dict[Hashable, _Templates] = {}
"""The templates of all decisions by the same rules and limits. Bounded."""


def rate_limit_template(decision: PolicyDecision) -> _Templates:
    """Return the templates of a decision. Without headers, the value of RateLimit-Policy is empty."""
    key = decision.combination
    return _templates.get(key) or _remember(key, decision)


def _remember(key: Hashable, decision: PolicyDecision) -> _Templates:
    """Make the templates for a combination of rules and limits, and keep them."""
    policies: list[str] = []
    template: list[bytes | None] = []
    text = ""
    for rule in decision.enforced:
        limit = rule.limit
        if limit.denies:
            template += [None, None]
            continue
        quoted = '"' + _TO_ESCAPE.sub(r"\\\g<0>", policy_name(rule.label)) + '"'
        most, window = min(limit.max_cost, LARGEST_INTEGER), limit.whole_seconds(limit.full)
        policies.append(f"{quoted};q=0" if limit.refuses_all else f"{quoted};q={most};w={window}")
        template += [f"{text}{quoted};r=".encode("ascii"), None if limit.refuses_all else b";t="]
        text = ", "
    policy = ", ".join(policies).encode("ascii")
    head = b"ratelimit-policy: %b\r\nratelimit: " % policy
    return keep(_templates, key, (policy, (*template, b""), head))


def keep(known: dict[Hashable, T], key: Hashable, value: T) -> T:
    """Keep a value that is made once for many responses, and return it. Their number is bounded."""
    if len(known) >= _MOST_KEPT:
        known.clear()
    known[key] = value
    return value

"""From a policy's decision to the headers that tell a client its limits. Pure functions; they know no framework.

`RateLimit-Policy` and `RateLimit` are those of draft-ietf-httpapi-ratelimit-headers-11, Lists of structured fields
(RFC 9651). `Retry-After` is that of RFC 9110 and RFC 6585. A client that gets both must obey `Retry-After`.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import ceil
from re import compile as pattern
from typing import TYPE_CHECKING, Literal, TypeAlias

from ratekeeper.decision import NEVER

if TYPE_CHECKING:
    from ratekeeper.decision import Decision
    from ratekeeper.limits import Limit
    from ratekeeper.policy.decision import PolicyDecision

LegacyReset: TypeAlias = Literal["epoch", "delta"]
"""The start of X-RateLimit-Reset: 1970, as at GitHub, or now."""

_LARGEST_INTEGER = 999_999_999_999_999  # a structured field's Integer has 15 digits; a capacity may have 17
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
    there if waiting helps. If no rule applies, the result is empty.
    """
    policies, states, waits = [], [], [0]
    for name, one, shadow in decision.rules:
        if not shadow:
            limit = one.limit
            quoted, policy_item = _policy_item(name, limit.max_cost, limit.whole_seconds(limit.full))
            policies.append(policy_item)
            states.append(_state_item(quoted, one, limit))
            if wait := one.retry_ticks:
                waits.append(wait if wait == NEVER else max(1, limit.whole_seconds(wait)))
    if not policies:
        return []
    headers = [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]
    # By each rule's own rate, so the longest in ticks need not be the longest in seconds.
    if 0 < (longest := max(waits)) < NEVER and decision.missing is None:
        headers.append(("Retry-After", str(longest)))
    return headers


def legacy_headers(decision: PolicyDecision, reset: LegacyReset, now: float) -> list[tuple[str, str]]:
    """Return the X-RateLimit headers of the most restrictive rule, for older clients.

    `X-RateLimit-Reset` is the time when the bucket is full again, in whole seconds, rounded up. `now` is in seconds
    since 1970.
    """
    rule = decision.rule
    if rule is None:
        return []
    one = rule.decision
    limit = one.limit
    if reset == "epoch":
        at = ceil(Fraction(now) + Fraction(one.debt_ticks, limit.interval) / limit.rate)
    else:
        at = limit.whole_seconds(one.debt_ticks)
    values = {"Limit": limit.max_cost, "Remaining": one.remaining, "Reset": at}
    return [(f"X-RateLimit-{name}", str(value)) for name, value in values.items()]


@lru_cache(maxsize=1024)
def policy_name(name: str) -> str:
    """Return a rule's name as clients see it: printable ASCII, as in a String of a structured field, and "?".

    >>> policy_name("café 100%")
    'caf? 100%'
    """
    return _NOT_IN_A_STRING.sub("?", name)


@lru_cache(maxsize=1024)
def _policy_item(name: str, most: int, window: int) -> tuple[str, str]:
    """Return a rule's name as a String, and its item, which is the same in each response.

    Cached by integers, as a limit's Fraction is slow to hash.
    """
    quoted = '"' + _TO_ESCAPE.sub(r"\\\g<0>", policy_name(name)) + '"'
    return quoted, f"{quoted};q={min(most, _LARGEST_INTEGER)};w={window}"


def _state_item(quoted: str, decision: Decision, limit: Limit) -> str:
    # The next token is there when the debt leaves room for it. For a full bucket this is one interval, which is the
    # draft's meaning of `t`: no client can take more than `remaining` within it.
    interval, left = limit.interval * decision.nodes, limit.full - decision.debt_ticks
    remaining, begun = divmod(left, interval) if left >= 0 else (0, left)
    if remaining > _LARGEST_INTEGER:
        remaining = _LARGEST_INTEGER
    return f"{quoted};r={remaining};t={limit.whole_seconds(interval - begun)}"

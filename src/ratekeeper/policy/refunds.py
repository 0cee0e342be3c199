"""The charges that a keeper's refund gives back. This module knows no store."""

from __future__ import annotations

from typing import TypeAlias

from ratekeeper.decision import Charge, scope_of
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.refund import claim_refund

Rewind: TypeAlias = tuple[str, str | bytes, int, int]
"""Scope and key of a leaky bucket, the TAT that it must have, and the TAT to give it back: arguments of `rewind`."""


def charges_to_refund(decision: PolicyDecision) -> tuple[list[Charge], list[Rewind], int]:
    """Return the token buckets' charges to refund, the leaky buckets' places to rewind, and when they were charged.

    Note on each rule's decision that it is given back, so that it is not given twice.
    """
    if not isinstance(decision, PolicyDecision):
        raise TypeError(f"refund takes a decision of this keeper, a PolicyDecision, not {type(decision).__name__}")
    tokens: list[Charge] = []
    places: list[Rewind] = []
    times: list[int] = []
    for name, one, _, _, place in decision.rules if decision.allowed else ():
        # A rule in shadow may have refused, and a store that did not answer has charged nothing.
        given = claim_refund(one) if one.allowed and one.source == "exact" else 0
        if not given:
            continue
        charge = Charge.of(scope_of(name, place), one.key, one.limit, given)
        times.append(one.at_ticks)
        if one.limit.queues:
            tat = one.at_ticks + one.debt_ticks
            places.append((charge.scope, one.key, tat, tat - charge.increment))
        else:
            tokens.append(charge)
    return tokens, places, min(times, default=0)

"""The decisions of the table in Python (pytable.py), and what all stores ask of charges. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from ratekeeper.decision import NEVER, Charge, Decision
from ratekeeper.gcra import decide


def possible_charge(charge: Charge) -> int:
    """Return the ticks that a charge can have added to a bucket's debt: 0 for a cost that can never pass."""
    return charge.increment if charge.cost <= charge.limit.max_cost else 0


def answer_to(charge: Charge, tat: int, blocked: bool, now: int, *, commit: bool) -> tuple[Decision, int]:
    """Return the decision on one charge; and the TAT after it if it is to be made, or 0."""
    _, key, limit, cost, increment, burst, tolerance, _, _ = charge
    allowed, new_tat, ahead, delay, retry_after = decide(tat, now, increment, burst, tolerance)
    if cost > limit.max_cost:
        allowed, delay, retry_after = False, NEVER, NEVER
    if allowed and commit and increment:
        return Decision(True, limit, key, cost, ahead, delay, retry_after, now, 0), new_tat
    owed = ahead if blocked and cost <= limit.max_cost else ahead - increment
    return Decision(allowed, limit, key, cost, owed, delay, retry_after, now, 0 if allowed and commit else -1), 0


def refused(it: Decision, full_for: int) -> Decision:
    """Return the decision on a new key when the table is full."""
    return Decision(False, it.limit, it.key, it.cost, 0, it.delay_ticks, full_for, it.at_ticks, -1)


def passes(charges: Sequence[Charge], decisions: Sequence[Decision]) -> bool:
    """Return whether the request goes ahead: whether all charges that are not in shadow are allowed."""
    if len(charges) == 1:  # as on the hot path
        return decisions[0].allowed or charges[0].shadow
    return all(decision.allowed or charge.shadow for charge, decision in zip(charges, decisions, strict=True))


def block_of(bucket: int) -> int:
    """Return the fingerprint of a bucket's block."""
    return hash(("block", bucket))

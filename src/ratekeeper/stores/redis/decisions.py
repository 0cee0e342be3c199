"""From what the script saw to decisions: the same rule on the same exact integers. Knows no script and no server."""

from __future__ import annotations

from collections.abc import Sequence

from ratekeeper.decision import NEVER, Charge, Decision
from ratekeeper.gcra import decide


def decisions_on(charges: Sequence[Charge], debts: Sequence[int], now: int, commit: bool) -> list[Decision]:
    """Return the decisions on charges whose buckets owed `debts` before them; made if all pass and `commit`."""
    if len(charges) == 1:
        return [_decision(charges[0], debts[0], now, commit)]
    decisions = [_decision(charge, debt, now, commit) for charge, debt in zip(charges, debts, strict=True)]
    if commit and not passes(charges, decisions):
        return [_decision(charge, debt, now, False) for charge, debt in zip(charges, debts, strict=True)]
    return decisions


def _decision(charge: Charge, debt: int, now: int, made: bool) -> Decision:
    """Return one charge's decision; `made`: it is made if it is allowed."""
    _, key, limit, cost, increment, burst, tolerance, _, _ = charge
    allowed, _, ahead, delay, retry_after = decide(now + debt, now, increment, burst, tolerance)
    if cost > limit.max_cost:
        allowed, delay, retry_after = False, NEVER, NEVER
    charged = bool(made and allowed and increment)
    return Decision(
        allowed, limit, key, cost, ahead if charged else debt, delay, retry_after, now, 0 if charged else -1
    )


def passes(charges: Sequence[Charge], decisions: Sequence[Decision]) -> bool:
    """Does the request go ahead: do all charges that are not in shadow allow it?"""
    if len(charges) == 1:
        return decisions[0].allowed or charges[0].shadow
    return all(decision.allowed or charge.shadow for charge, decision in zip(charges, decisions, strict=True))

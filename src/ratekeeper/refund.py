"""Refunds: how much of a decision may be given back, and nothing twice. Knows no store."""

from __future__ import annotations

import threading
from operator import index

from ratekeeper.decision import Decision
from ratekeeper.forks import forget_in_child


class _Guard:
    """A lock that a forked child has anew, as another thread of its parent may hold it."""

    def __init__(self) -> None:
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        self.lock = threading.RLock()


_guard = _Guard()


def claim_refund(decision: Decision, cost: int | None = None) -> int:
    """Note that `cost` tokens of a decision are given back, None for all that are left. Return how many to give back.

    Of several threads that ask for the same tokens, one gets them. Returns 0 if the decision has charged nothing.
    Raises ValueError for more than is left.
    """
    if decision._refunded < 0:
        return 0
    try:
        asked = None if cost is None else index(cost)
    except TypeError:
        raise TypeError(f"cost must be a whole number of tokens, not {cost!r}") from None
    while True:
        before = decision._refunded
        left = decision.cost - before
        given = left if asked is None else asked
        if not 0 <= given <= left:
            raise ValueError(f"cost must be from 0 to the {left} not yet given back of {decision.cost}, not {cost!r}")
        with _guard.lock:
            # Neither another thread nor a signal's handler comes between these two.
            if decision._refunded == before:
                decision._refunded = before + given
                return given

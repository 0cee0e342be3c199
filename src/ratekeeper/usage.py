"""Usage: how much of one limit a key has used. A value; it knows no store and no clock."""

from __future__ import annotations

from dataclasses import dataclass

from ratekeeper.decision import Decision
from ratekeeper.limits import Limit


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of one limit is used. Immutable.

    name         the rule's name, or the limit as a string
    limit        the limit
    used         tokens that have not refilled yet, rounded up; all, if requests wait or the key is blocked
    remaining    whole tokens that could be taken at once now
    reset_after  seconds until the bucket is full again
    retry_after  seconds until one token can be taken; 0.0 if it can be taken now
    waiting      how many requests of this process wait for the bucket

    >>> from ratekeeper import Limiter
    >>> limiter = Limiter("5/s")
    >>> decision = limiter.try_acquire("alice", 2)
    >>> limiter.usage("alice")[0].remaining
    3
    """

    name: str
    limit: Limit
    used: int
    remaining: int
    reset_after: float
    retry_after: float
    waiting: int = 0

    @classmethod
    def of(cls, name: str, look: Decision, waiting: int = 0) -> Usage:
        """Return the usage that a decision about one token shows, if nothing was charged."""
        used = min(max(0, look.limit.max_cost), -(-look.debt_ticks // look.limit.interval))
        return cls(name, look.limit, used, look.remaining, look.reset_after, look.retry_after, waiting)

    def __repr__(self) -> str:
        return (
            f"Usage({self.name!r}, used={self.used}, remaining={self.remaining}, reset_after={self.reset_after:.6g}, "
            f"retry_after={self.retry_after:.6g}, waiting={self.waiting}, limit='{self.limit}')"
        )

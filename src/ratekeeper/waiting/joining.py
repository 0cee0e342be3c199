"""A request that joins a wait queue: its questions to the store, and the meaning of the answers. Values; no store.

A charge that may delay the request is one that is enforced and costs something: nobody waits for a rule in shadow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from ratekeeper.core.answers import passes
from ratekeeper.decision import Charge, Decision, key_bytes
from ratekeeper.limits import MAX_AHEAD_TICKS
from ratekeeper.waiting.places import Need, Place, Range
from ratekeeper.waiting.waitlist import Buckets, Waiter

T = TypeVar("T")


class Joining(NamedTuple):
    """A request that joins: its waiter, all its charges, and of those that may delay it buckets and needs."""

    waiter: Waiter
    charges: Sequence[Charge]
    buckets: Buckets
    needs: tuple[Need, ...]
    for_departure: bool  # several limits on one key, charged for the time at which it leaves
    may_wait: bool
    max_wait: int  # ticks that each of its limits lets it wait

    @classmethod
    def of(cls, waiter: Waiter, charges: Sequence[Charge]) -> Joining:
        delaying = [charge for charge in charges if delays(charge)]
        buckets = tuple([(charge.scope, key_bytes(charge.key)) for charge in delaying])
        longest = [charge.tolerance - charge.burst for charge in delaying] or [0]
        return cls(
            waiter,
            charges,
            buckets,
            tuple([need_of(charge) for charge in delaying]),
            len(buckets) > 1 and len({key for _, key in buckets}) == 1,
            max(longest) > 0,
            min(longest),
        )

    def each(self, decisions: Sequence[Decision], what: Callable[[Charge, Decision], T]) -> list[T]:
        """Return something of each charge that may delay the request, with its decision."""
        return [what(*pair) for pair in zip(self.charges, decisions, strict=True) if delays(pair[0])]

    def passes(self, decisions: Sequence[Decision]) -> bool:
        """Return whether the request goes ahead: now, or later."""
        return passes(self.charges, decisions)

    def at_once(self) -> list[Charge]:
        """Return the charges of the same request, if it must not wait."""
        return [charge._replace(tolerance=charge.burst) if delays(charge) else charge for charge in self.charges]

    def due(self, looked: Sequence[Decision], delay: int) -> list[Charge]:
        """Return the charges of a request that leaves after `delay`, when its buckets owe what was looked at."""
        pairs = zip(self.charges, looked, strict=True)
        return [_due(charge, seen, delay) if delays(charge) else charge for charge, seen in pairs]

    def granted(self, decisions: Sequence[Decision], place: Place) -> list[Decision]:
        """Return the decisions on a request that was charged for later, with the place's turn for their delay."""
        pairs = zip(self.charges, decisions, strict=True)
        return [
            _granted(charge, made.at_ticks, made.debt_ticks, place.turn) if delays(charge) else made
            for charge, made in pairs
        ]

    def taken(self, place: Place, now: int) -> dict[int, Decision]:
        """Return the decisions on a request that has taken a place of spare ranges, by the charges' places."""
        ends = iter([owned[-1][1] for owned in place.owned])
        return {
            number: _granted(charge, now, next(ends) - now, place.turn)
            for number, charge in enumerate(self.charges)
            if delays(charge)
        }


def disown(waiter: Waiter, charges: Sequence[Charge], decisions: Sequence[Decision]) -> None:
    """Note that nothing of the charge can be given back, if the waiter has left on other ranges since.

    It has moved up: the range that its decision names is another's, and its own was charged at another time.
    """
    if waiter.place is None or waiter.place is waiter.charged or not waiter.place.owned:
        return
    owned = iter(waiter.place.owned)
    for charge, decision in zip(charges, decisions, strict=True):
        if delays(charge):
            ranges = next(owned)
            if not ranges or ranges[-1][1] != decision.at_ticks + decision.debt_ticks:
                decision._refunded = -1


def delays(charge: Charge) -> bool:
    """Return whether a request may have to wait for this charge."""
    return bool(charge.cost) and not charge.shadow


def need_of(charge: Charge) -> Need:
    """Return what a request needs of a bucket, for its charge."""
    increment = charge.cost * charge.limit.interval
    return Need(increment, increment if charge.limit.queues else charge.limit.full)


def range_of(charge: Charge, decision: Decision) -> Range:
    """Return the range that a charge has moved its bucket's TAT on by."""
    end = decision.at_ticks + decision.debt_ticks
    return end - charge.increment, end


def _due(charge: Charge, seen: Decision, delay: int) -> Charge:
    """Return a charge for a later departure: the time until then for which the bucket is free is charged too, and void.

    Its burst is nothing, so that the bucket is marked: somebody owns a range for a later departure.
    """
    idle = max(0, delay - seen.debt_ticks)
    tolerance = min(MAX_AHEAD_TICKS, charge.tolerance + idle)
    return charge._replace(increment=charge.increment + idle, burst=0, tolerance=tolerance)


def _granted(charge: Charge, at: int, debt: int, turn: int) -> Decision:
    return Decision(True, charge.limit, charge.key, charge.cost, debt, max(0, turn - at), 0, at)

"""The tallies of a replay: the requests and answers of each bucket of each rule. It knows no log, store or clock."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest
from math import ceil
from typing import NamedTuple, TypeAlias

from ratekeeper.decision import NEVER, Charge, Decision
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.policy.model import Rule
from ratekeeper.replay.demand import Demand, Remedy
from ratekeeper.replay.report import RuleReport, TimeSpan
from ratekeeper.replay.timeline import ADMITTED, DELAYED, REJECTED, Timeline

Values: TypeAlias = tuple[str | None, ...]
"""The values of some attributes, in an agreed order; None for a missing one."""


class Bucket:
    """The requests of one bucket. `tat` is the TAT that it would have if nothing had ever been refused.

    Most buckets are full at each of their requests, so `demand` is made for the others only.
    """

    __slots__ = ("admitted", "demand", "needed", "rejected", "tat")

    def __init__(self) -> None:
        self.admitted = self.rejected = self.needed = self.tat = 0
        self.demand: Demand | None = None

    def in_excess(self, span: int) -> Demand | None:
        """Return the demand, if it exceeds the rate all the time, in a log that is `span` ticks long."""
        demand = self.demand
        return demand if demand and self.rejected and demand.exceeds_all_the_time(self.needed, span) else None


class Tally:
    """The requests of one rule, by the values of its key. `shares` are by the values of `names`, which decide them."""

    __slots__ = ("buckets", "delayed", "keyless", "names", "rule", "shares", "timeline")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        others = [name for override in rule.overrides for name in override.match]
        cost = [rule.cost] if isinstance(rule.cost, str) else []
        self.names = tuple(dict.fromkeys([*rule.key, *others, *cost]))
        self.shares: dict[Values, Share] = {}
        self.delayed = self.keyless = 0
        self.buckets: dict[Values, Bucket] = {}
        self.timeline = Timeline()

    def bucket(self, values: Values) -> Bucket:
        bucket = self.buckets.get(values)
        if bucket is None:
            bucket = self.buckets[values] = Bucket()
        return bucket

    def report(self, span: TimeSpan | None) -> RuleReport:
        # A bucket that another rule kept a request from was never asked.
        buckets = [bucket for bucket in self.buckets.values() if bucket.admitted or bucket.rejected]
        needed = sorted(bucket.needed for bucket in buckets) or [0]
        return RuleReport(
            self.rule, sum(bucket.admitted for bucket in buckets), sum(bucket.rejected for bucket in buckets),
            self.delayed, len(buckets), needed[-1], needed[ceil(len(needed) * 99 / 100) - 1], self.keyless,
            self.timeline.series(*span.seconds) if span and buckets else None,
            self._remedy(span.last - span.first) if span else None,
        )  # fmt: skip

    def _remedy(self, span: int) -> Remedy | None:
        """Return the rate for the buckets with the rule's own limit, if one of them exceeds that all the time."""
        found, capacity = [], 0
        for bucket in self.buckets.values():
            demand = bucket.in_excess(span)
            if demand is None:
                capacity = max(capacity, bucket.needed)
            elif demand.limit == self.rule.limit:
                found.append(demand)
        if not found:
            return None
        most = max(found, key=lambda it: it.mean)
        return Remedy(
            rate=max(it.rate for it in found),
            capacity=max(capacity, *(it.capacity for it in found)),
            asked=most.mean,
            seconds=(most.last - most.first) / TICKS_PER_SECOND,
            buckets=len(found),
        )


class Share(NamedTuple):
    """One rule's share in the decision of some requests: the charge, its tally and bucket, and the needed capacity.

    "Needed" is the capacity at which a bucket would never have refused. Then its debt would be `ahead = tat - now`
    after each request. The limit's tolerance is `capacity * interval + slack`, so the needed capacity is
    `(ahead - slack) / interval`, rounded up. No capacity under `least` ever admits the request's cost. The maximum
    over all requests is exact, and needs one number for each bucket.
    """

    charge: Charge
    tally: Tally
    bucket: Bucket
    shadow: bool
    keyless: bool
    increment: int
    interval: int
    slack: int
    least: int
    wait: int

    @classmethod
    def of(cls, charge: Charge, tally: Tally, values: Values) -> Share:
        limit = charge.limit
        if limit.refuses_all:  # no capacity would do without a rate
            return cls(charge, tally, tally.bucket(values), charge.shadow, None in values, 0, 1, NEVER, 0, 0)
        in_service = limit.full - limit.capacity * limit.interval  # a leaky bucket's one more place
        wait = max(0, charge.tolerance - limit.full)
        least = max(0, charge.cost - in_service // limit.interval)
        return cls(
            charge, tally, tally.bucket(values), charge.shadow, None in values,
            charge.increment, limit.interval, in_service + wait, least, wait,
        )  # fmt: skip


def count(shares: Iterable[Share], decisions: Iterable[Decision], now: int, second: int) -> tuple[bool, int]:
    """Count each rule's decision of a request. Return whether the request passes, and its delay in ticks.

    Note for each bucket the capacity that it would have needed to admit the request.
    """
    all_allow, longest = True, 0
    for share, decision in zip(shares, decisions, strict=True):
        charge, tally, bucket, shadow, keyless, increment, interval, slack, least, wait = share
        delay = decision.delay_ticks
        if decision.allowed:
            bucket.admitted += 1
            if delay:
                tally.delayed += 1
                if delay > longest and not shadow:
                    longest = delay
            tally.timeline.add(second, DELAYED if delay else ADMITTED)
        else:
            bucket.rejected += 1
            all_allow = all_allow and shadow
            tally.timeline.add(second, REJECTED)
        if keyless:
            tally.keyless += 1
        tat = bucket.tat
        if tat > now and bucket.demand is None:
            bucket.demand = Demand(charge.limit, now, -((now - tat) // interval), wait)
        if bucket.demand is not None:
            bucket.demand.add(now, charge.cost)
        bucket.tat = tat = (tat if tat > now else now) + increment
        needed = -((now + slack - tat) // interval)
        if needed > bucket.needed or least > bucket.needed:
            bucket.needed = max(needed, least)
    return all_allow, longest


class Refusing(NamedTuple):
    """A bucket that refused requests."""

    rule: Rule
    values: Values
    bucket: Bucket


def most_refusing(tallies: Iterable[Tally], count: int) -> list[Refusing]:
    """Return the buckets that refused the most requests, most first."""
    refusing = (
        Refusing(tally.rule, values, bucket)
        for tally in tallies
        for values, bucket in tally.buckets.items()
        if bucket.rejected
    )
    return nlargest(count, refusing, key=lambda it: it.bucket.rejected)

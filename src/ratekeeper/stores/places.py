"""Waiters and their places at buckets: values of the waiting order, which is in `waiting`. They know no store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

from ratekeeper.decision import Charge, key_bytes

Bucket: TypeAlias = tuple[str, bytes]


@dataclass(slots=True, eq=False)
class Place:
    """A waiter's place at one bucket: what its cost comes to there, and the bucket's TAT before and after it."""

    charge: Charge
    own: int
    before: int
    tat: int

    @property
    def bucket(self) -> Bucket:
        return bucket_of(self.charge)

    def turn_after(self, tat: int) -> int:
        """When this bucket lets the waiter go, if `tat` is the bucket's before this charge."""
        return tat if self.charge.limit.queues else tat + self.own - self.charge.limit.full


@dataclass(slots=True, eq=False)
class Waiter:
    """One who waits at one or several buckets, until the last of them lets it go."""

    wake: Callable[[], None]
    places: list[Place] = field(default_factory=list)
    leaves_at: int = 0
    at: int = 0

    @property
    def buckets(self) -> list[Bucket]:
        return [place.bucket for place in self.places]

    def tat_at(self, bucket: Bucket) -> int:
        """Return the TAT after this waiter's charge at a bucket, one of those that it waits at."""
        return next(place.tat for place in self.places if place.bucket == bucket)


def unbroken(line: Sequence[Waiter]) -> bool:
    """Does each charge follow from the one before it (or find an idle bucket), so that nobody unknown is between?"""
    return all(
        after.before in (before.tat, second.at)
        for first, second in pairwise(line)
        for before, after in zip(first.places, second.places, strict=True)
    )


def bucket_of(charge: Charge) -> Bucket:
    """Return which bucket a charge is for: a str key is the same as its UTF-8 bytes."""
    return charge.scope, key_bytes(charge.key)

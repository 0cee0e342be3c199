"""KnownLimits: the limits that were looked up for a bucket. The C core has its own, which also keeps their numbers."""

from __future__ import annotations

from typing import NamedTuple

from ratekeeper.limits import Limit


class KnownLimits(NamedTuple):
    """The limits of a bucket, and the time, in ticks of the store's clock, when they are to be looked up again.

    Without limits the bucket's requests are denied: its look-up has failed.
    """

    limits: tuple[Limit, ...]
    stale_at: int

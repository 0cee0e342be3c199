"""Adjustments: changes of a bucket by hand, as ticks for a store. Values; they know no key and no store.

A block is not a debt: it stands beside the bucket's debt. So it holds whatever the limit is, and ends by itself.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil, isfinite
from operator import index
from typing import NamedTuple, TypeAlias

from ratekeeper.limits import MAX_AHEAD_TICKS, TICKS_PER_NS, TICKS_PER_SECOND, Limit

Until: TypeAlias = datetime | float
"""The end of a block: a datetime with a time zone, or seconds since 1970 as `time.time()` returns them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NOT_A_TIME = MAX_AHEAD_TICKS // TICKS_PER_SECOND
"""Seconds since 1970, in 1979: a lesser number is meant as a length of time."""


class Adjustment(NamedTuple):
    """The ticks by which a TAT goes back, and those of a block: 0 ends it, None leaves it as it is."""

    back_ticks: int
    block_ticks: int | None


def forget(_: Limit) -> Adjustment:
    """Return the adjustment that leaves a full bucket without a block."""
    return Adjustment(MAX_AHEAD_TICKS, 0)


def grant(limit: Limit, tokens: int) -> Adjustment:
    """Return the adjustment that gives a bucket `tokens` tokens, up to a full bucket. Raise for a bad number."""
    try:
        whole = index(tokens)
    except TypeError:
        raise TypeError(f"tokens must be a whole number, not {tokens!r}") from None
    if whole < 1:
        raise ValueError(f"tokens must be 1 or more, not {tokens}")
    if limit.refuses_all:
        raise ValueError(f"the limit {limit} refuses every request, so it has no tokens to give")
    return Adjustment(min(whole * limit.interval, MAX_AHEAD_TICKS), None)


def block(_: Limit, ticks: int) -> Adjustment:
    """Return the adjustment that lets nothing pass for `ticks`, whatever the limit."""
    return Adjustment(0, ticks)


def unblock(_: Limit) -> Adjustment:
    """Return the adjustment that ends a block. The bucket's debt stays."""
    return Adjustment(0, 0)


def ticks_until(until: Until) -> int:
    """Return the ticks from now, by this machine's wall clock, to the end of a block. Raise for a time that is none."""
    now = time.time_ns() * TICKS_PER_NS
    ticks = _since_1970(until) - now
    if ticks <= 0:
        hint = f": for {until} seconds from now write time.time() + {until}"
        raise ValueError(f"until must not be past, and {until!r} is" + hint * (_length_of_time(until)))
    if ticks > MAX_AHEAD_TICKS:
        raise ValueError(f"until must be within nine years, in seconds since 1970 or as a datetime, not {until!r}")
    return ticks


def _since_1970(until: Until) -> int:
    if isinstance(until, datetime):
        if until.utcoffset() is None:
            raise ValueError(f"until must have a time zone, such as datetime.now(UTC) has, not {until!r}")
        return (until - _EPOCH) // _MICROSECOND * 1000 * TICKS_PER_NS
    if not isinstance(until, int | float) or isinstance(until, bool):
        hint = ": write datetime.now(UTC) + it" if isinstance(until, timedelta) else ""
        raise TypeError(f"until must be a datetime or a number as of time.time(), not {until!r}{hint}")
    if isinstance(until, float) and not isfinite(until):
        raise ValueError(f"until must be a time within nine years, not {until!r}")
    return ceil(Fraction(until) * TICKS_PER_SECOND)


def _length_of_time(until: Until) -> bool:
    return isinstance(until, int | float) and 0 < until < _NOT_A_TIME

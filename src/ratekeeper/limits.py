"""Limits: the capacity of a bucket and how fast it refills, validated once, then trusted.

A limit turns a cost into the three integers of the rule (see `gcra`). It knows no clock, no key and no store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from functools import cached_property
from math import ceil
from operator import index
from typing import ClassVar, TypeAlias

from ratekeeper.errors import LimitError
from ratekeeper.rates import Rate, count_of, match_of, parse_rate, rate_text, rate_within, trimmed, window_of

TICKS_PER_SECOND = 16_000_000_000
"""The unit of all time inside: a tick is 1/16 ns, so 64 bits hold 18 years and 1,000,000 tokens/s stay exact."""
TICKS_PER_NS = TICKS_PER_SECOND // 10**9

MAX_REFILL_TICKS = 5 * 365 * 86_400 * TICKS_PER_SECOND
MAX_AHEAD_TICKS = 2**62 - 1
"""The furthest a TAT may be ahead of the clock: nine years, which is what "wait as long as it takes" means."""
MOST_COST = 2**63 - 1
"""A larger cost is told as this one: no limit can admit either."""


class Unset(Enum):
    """Stands for a timeout where the caller gives none."""

    DEFAULT_WAIT = "as the limit is meant: a token bucket's callers do not wait, a leaky bucket's take their turn"


DEFAULT_WAIT = Unset.DEFAULT_WAIT
Timeout: TypeAlias = float | Unset | None
"""Seconds that a caller is willing to wait; None: as long as it takes."""

_NOTHING = "to refuse every request, use the limit '0/s'"

_BURST = re.compile(r"\s*[,;]?\s*\bburst\s*=?\s*(\d+(?:_\d+)*)", re.IGNORECASE | re.ASCII)
_BETWEEN_LIMITS = re.compile(r"[;,|](?!\s*burst\b)", re.IGNORECASE)


Terms: TypeAlias = tuple[int, int, int]
"""One request's demand on one bucket, in ticks: the `increment`, `burst` and `tolerance` of `gcra.decide`."""


@dataclass(frozen=True)
class Limit:
    """The common part of the two algorithms. Use `TokenBucket` or `LeakyBucket`.

    `interval` is the ticks a token takes to refill; `full` the ticks of debt at which nothing more fits; `max_cost` the
    largest cost that can ever be admitted at once: negative if not even a cost of 0 is.

    >>> isinstance(TokenBucket(20, 5), Limit), TokenBucket(20, 5).max_cost
    (True, 20)
    """

    algorithm: ClassVar[str]
    queues: ClassVar[bool]  # requests wait their turn, rather than pass in a burst
    denies: ClassVar[bool] = False  # a refusal is not about a quota
    _OF_NOTHING: ClassVar[int] = -1  # `max_cost` of a limit that refuses all: its numbers tell it from all others
    capacity: int
    rate: Fraction = field(init=False, repr=False)
    interval: int = field(init=False, repr=False, compare=False)
    full: int = field(init=False, repr=False, compare=False)
    max_cost: int = field(init=False, repr=False, compare=False)
    _exact_second: tuple[int, int] = field(init=False, repr=False, compare=False)  # the ticks that it refills: a ratio

    @property
    def window(self) -> Fraction:
        """Return the seconds from a bucket without a token to a full one, exactly: the capacity by the rate."""
        return Fraction(0) if self.refuses_all else self.max_cost / self.rate

    @property
    def refuses_all(self) -> bool:
        """Return whether no request can ever pass, whatever it costs. Then no store needs to be asked.

        >>> TokenBucket(0, 0).refuses_all
        True
        """
        return self.max_cost < 0

    def whole_seconds(self, ticks: int) -> int:
        """Return the seconds in which the tokens refill that `ticks` stand for, by the exact rate, rounded up.

        For people and headers. `interval` is rounded up to a tick, so 60 tokens of "60/second" are some ticks more than
        a second, but they are one second here. The result is at most one tick a token less than the ticks' own time.

        >>> limit = TokenBucket(60, "60/second")
        >>> limit.full > TICKS_PER_SECOND, limit.whole_seconds(limit.full)
        (True, 1)
        """
        per_second, parts = self._exact_second
        return -(-ticks * parts // per_second)

    def terms(self, cost: int, timeout: Timeout = DEFAULT_WAIT) -> Terms:
        """Return the demand of `cost` tokens on a bucket, for a caller willing to wait `timeout` seconds.

        Raises TypeError or ValueError for a cost that is not a whole number, 0 or more, and for a negative timeout.
        """
        raise NotImplementedError

    def __post_init__(self) -> None:
        raise TypeError("a limit is a TokenBucket or a LeakyBucket")

    def _settle(self, rate: Rate, rate_name: str, least_capacity: int, places_in_service: int) -> None:
        """Check the numbers and derive the integers. Called once, by the subclass's `__post_init__`."""
        name = f"{type(self).__name__}: "
        if not isinstance(self.capacity, int) or isinstance(self.capacity, bool):
            raise LimitError(f"{name}capacity must be a whole number of tokens, not {self.capacity!r}")
        try:
            exact = parse_rate(rate)
        except LimitError as error:
            raise LimitError(f"{name}{rate_name}: {error}") from None
        nothing = exact == 0 == self.capacity and not self.queues
        if self.capacity < least_capacity and not nothing:
            hint = f": {_NOTHING}" if self.capacity == 0 else ""
            raise LimitError(f"{name}capacity must be at least {least_capacity}, not {self.capacity}{hint}")
        if exact == 0 and not nothing:
            raise LimitError(f"{name}{rate_name}: a rate must be positive, not {rate!r}: {_NOTHING}")
        pace = exact or Fraction(1)  # nothing refills at no pace; a bucket's old debt runs out at any
        interval = ceil(TICKS_PER_SECOND / pace)
        max_cost = self._OF_NOTHING if nothing else self.capacity + places_in_service
        full = max(0, max_cost) * interval
        if full > MAX_REFILL_TICKS:
            raise LimitError(
                f"{name}a full refill would take more than the 5 years allowed: "
                f"lower the capacity ({self.capacity}) or raise the {rate_name} ({rate!r})"
            )
        derived = {
            "rate": exact, "interval": interval, "full": full, "max_cost": max_cost,
            "_exact_second": (interval * pace.numerator, pace.denominator),
        }  # fmt: skip
        for attribute, value in derived.items():
            object.__setattr__(self, attribute, value)

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        return f"{self.algorithm} of {self.capacity} at {rate_text(self.rate)}"


@dataclass(frozen=True)
class TokenBucket(Limit):
    """Admit bursts up to `capacity` tokens, refilled at `refill_rate` tokens a second.

    `refill_rate` is a number (tokens per second) or a string such as "300/minute". In any time t at most
    `capacity + refill_rate * t` is admitted. With both 0, or "0/s", every request is refused. Raises `LimitError`.
    Algorithm: GCRA (ITU-T I.371), see `gcra`.

    >>> TokenBucket(capacity=20, refill_rate=5).window
    Fraction(4, 1)
    """

    algorithm = "token_bucket"
    queues = False
    refill_rate: Rate = field(compare=False)

    @staticmethod
    def within(most: int, seconds: float | Fraction, *, burst: int) -> TokenBucket:
        """Return the bucket that admits at most `most` tokens in every window of so many seconds, `burst` at once.

        Its rate is `(most - burst) / seconds`: the smaller the burst, the more pass in all. Raises `LimitError`.

        >>> TokenBucket.within(100, 60, burst=10)
        TokenBucket(capacity=10, refill_rate=Fraction(3, 2))
        """
        return TokenBucket(burst, rate_within(most, seconds, burst))

    def __post_init__(self) -> None:
        self._settle(self.refill_rate, "refill_rate", least_capacity=1, places_in_service=0)

    def terms(self, cost: int, timeout: Timeout = DEFAULT_WAIT) -> Terms:
        full = self.full
        tolerance = full if timeout is DEFAULT_WAIT else min(MAX_AHEAD_TICKS, full + wait_ticks(timeout))
        return checked_cost(cost) * self.interval, full, tolerance


@dataclass(frozen=True)
class Deny(TokenBucket):
    """Refuse every request, as "0/s" does, but not for its rate: an HTTP response is 403, and has no limit's headers.

    In a policy file, `deny = true`.

    >>> from ratekeeper import Limiter
    >>> Limiter(Deny()).try_acquire("alice").allowed
    False
    """

    algorithm = "deny"
    denies = True
    _OF_NOTHING = -2
    capacity: int = field(default=0, init=False, repr=False)
    refill_rate: Rate = field(default=0, init=False, repr=False, compare=False)

    def __str__(self) -> str:
        return self.algorithm


@dataclass(frozen=True)
class LeakyBucket(Limit):
    """Let requests leave one by one at `leak_rate` a second; up to `capacity` wait their turn, more are refused.

    One more request is being served, so an idle bucket takes `capacity + 1` at once. `leak_rate` is a number
    (requests per second) or a string such as "300/minute". Raises `LimitError`.

    >>> LeakyBucket(capacity=50, leak_rate="10/s").max_cost
    51
    """

    algorithm = "leaky_bucket"
    queues = True
    leak_rate: Rate = field(compare=False)

    def __post_init__(self) -> None:
        self._settle(self.leak_rate, "leak_rate", least_capacity=0, places_in_service=1)

    def terms(self, cost: int, timeout: Timeout = DEFAULT_WAIT) -> Terms:
        increment = checked_cost(cost) * self.interval
        tolerance = self.full if timeout is DEFAULT_WAIT else min(self.full, increment + wait_ticks(timeout))
        return increment, increment, tolerance


def checked_cost(cost: int) -> int:
    """Return `cost` as an int. Raises TypeError if it is not a whole number, ValueError if it is negative."""
    try:
        whole = index(cost)
    except TypeError:
        raise TypeError(f"cost must be a whole number of tokens, not {cost!r}") from None
    if whole < 0:
        raise ValueError(f"cost must be 0 or more tokens, not {cost}: to give tokens back, use refund")
    return whole


def wait_ticks(timeout: float | None) -> int:
    """Return `timeout` seconds in whole ticks, rounded down. Raises ValueError for a negative one or NaN."""
    if timeout is None:
        return MAX_AHEAD_TICKS
    if not isinstance(timeout, int | float):  # the same on both cores, whether or not the caller must wait
        raise TypeError(f"timeout must be a number of seconds, or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be 0 or more seconds, or None to wait as long as it takes, not {timeout!r}")
    return int(min(timeout * TICKS_PER_SECOND, MAX_AHEAD_TICKS))


def parse_limit(text: str) -> TokenBucket:
    """Return the token bucket that a string describes: a count, a period and, optionally, a burst.

    The capacity is the burst, or else the count. Periods: ms, s, m, h, d, w, their words and plurals. "requests" or
    "req" may follow the count. "at most 100 in 60s burst 10" holds for every window: see `TokenBucket.within`. Raises
    `LimitError`. For a typo it names the nearest right word, and for a string of several limits `parse_limits`.

    >>> parse_limit("100 per minute burst 20")
    TokenBucket(capacity=20, refill_rate='100 per minute')
    """
    if not isinstance(text, str):
        raise LimitError(f"a limit is a string such as '100/minute', not {text!r}")
    text = trimmed(text)
    match = match_of(text)
    if _BETWEEN_LIMITS.search(text):
        raise LimitError(f"{text!r} is several limits where one is meant: write each by itself, or use parse_limits")
    window = window_of(match)
    if window is None:
        parse_rate(match[0])
    burst = _BURST.fullmatch(text, match.end())
    if burst is None and match.end() != len(text):
        rest = text[match.end() :].strip()
        raise LimitError(f"limit {text!r}: {rest!r} is not understood after the rate; only 'burst N' may follow")
    count = count_of(match)
    if burst is None and (window is not None or count.denominator != 1):
        why = f"a capacity of {match[1]} is not whole" if window is None else "say how many may come at once"
        raise LimitError(f"limit {text!r}: {why}: add a burst, '{text} burst 1'")
    capacity = int(count) if burst is None else int(burst[1].replace("_", ""))
    return TokenBucket(capacity, match[0]) if window is None else TokenBucket.within(*window, burst=capacity)


def parse_limits(text: str) -> tuple[TokenBucket, ...]:
    """Return the token buckets that a string of one or more limits describes, separated by `;`, `,` or `|`.

    Each is as for `parse_limit`. Raises `LimitError`.

    >>> parse_limits("10 per second; 100/minute burst 20")
    (TokenBucket(capacity=10, refill_rate='10 per second'), TokenBucket(capacity=20, refill_rate='100/minute'))
    """
    if not isinstance(text, str):
        raise LimitError(f"limits are a string such as '10/second; 100/minute', not {text!r}")
    return tuple(parse_limit(part) for part in _BETWEEN_LIMITS.split(text))

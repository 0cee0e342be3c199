"""Charge and Decision: what a store is asked, and what it answers. Values; they know no store and no clock.

The C core makes decisions of its own type, which inherits everything here and adds only where the numbers are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf, nextafter
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias, get_args

from ratekeeper.errors import did_you_mean
from ratekeeper.limits import DEFAULT_WAIT, TICKS_PER_SECOND, Limit, Timeout, checked_cost

NEVER = 2**63 - 1
"""The `retry_ticks` of a request that can never pass."""

Outcome: TypeAlias = Literal["allowed", "delayed", "refused", "shadow_refused"]
"""What a rule made of a request, in a word: for those who count."""

OnError: TypeAlias = Literal["raise", "deny", "local", "allow"]
"""What becomes of a request when the store does not answer: the strictest first."""

ON_ERROR: tuple[OnError, ...] = get_args(OnError)


def key_bytes(key: str | bytes) -> bytes:
    """Return a key's bytes; of a str, its UTF-8. A lone surrogate, which an attacker may send, is as good as any.

    Raises TypeError for another type.
    """
    if isinstance(key, str):
        return key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return key
    raise TypeError(f"a key must be str or bytes, not {type(key).__name__}")


def scope_of(name: str, place: int = 0) -> str:
    """Return the scope of the `place`-th limit of the limiter or rule `name`: with a key, it names a bucket."""
    return f"{name}/{place}"


class Charge(NamedTuple):
    """What one limit asks of one bucket on behalf of one request.

    The bucket is (`scope`, `key`): the limiter's or rule's name with the limit's place in it, and who asks. A str key
    is the same as its UTF-8 bytes. A `shadow` charge is decided like any other, but refuses nothing. `on_error` is what
    becomes of the request if the store does not answer; None is what the store is set to.
    """

    scope: str
    key: str | bytes
    limit: Limit
    cost: int
    increment: int
    burst: int
    tolerance: int
    shadow: bool = False
    on_error: str | None = None

    @classmethod
    def of(
        cls,
        scope: str,
        key: str | bytes,
        limit: Limit,
        cost: int = 1,
        timeout: Timeout = DEFAULT_WAIT,
        shadow: bool = False,
        on_error: str | None = None,
    ) -> Charge:
        """Build the charge of a caller who is willing to wait `timeout` seconds (see `Limit.terms`)."""
        if on_error is not None:
            checked_on_error(on_error)
        return cls(scope, key, limit, checked_cost(cost), *limit.terms(cost, timeout), shadow, on_error)


def checked_on_error(on_error: str) -> str:
    """Return what to do when a store does not answer. Raises ValueError for a word that says nothing of it."""
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error cannot be {on_error!r}{did_you_mean(str(on_error), ON_ERROR)}")
    return on_error


class Decision:
    """May the request go ahead, when, and what is left. Immutable; true when allowed.

    allowed      the request passes: now, or after `delay`
    remaining    whole tokens that could be taken at once now, after this request
    retry_after  seconds after which the same request would pass; 0.0 when allowed, `inf` for never
    reset_after  seconds until the bucket is full again
    delay        seconds to wait before going ahead; for a refused request, what the wait would have been
    limit        the most binding limit: the one to wait longest for, or else the one with least left
    key, cost    what was asked
    source       "exact", or "fallback" if the store did not answer; `on_error` then says by which rule it was decided

    `retry_ticks`, `delay_ticks`, `debt_ticks` and `at_ticks` are the same exactly, in ticks of 1/16 ns: `debt_ticks` is
    how far the bucket is from full, `at_ticks` the store's clock when it decided.
    """

    __slots__ = ()

    allowed: bool
    limit: Limit
    key: str | bytes
    cost: int
    debt_ticks: int
    delay_ticks: int
    retry_ticks: int
    at_ticks: int
    _refunded: int  # the cost already given back, -1 when there is nothing to give back; not part of the value

    source: ClassVar[str] = "exact"
    missing: str | None = None
    on_error: str | None = None
    nodes: int = 1  # of how many like this one the limit is shared, while none can ask the store

    @property
    def remaining(self) -> int:
        return max(0, self.limit.full - self.debt_ticks) // self.limit.interval

    @property
    def retry_after(self) -> float:
        return seconds(self.retry_ticks)

    @property
    def retry_after_seconds(self) -> int | None:
        """Return `retry_after` as whole seconds, rounded up, at least 1; None if it is allowed, and for never."""
        return None if self.allowed or self.never else max(1, self.limit.whole_seconds(self.retry_ticks))

    @property
    def reset_after(self) -> float:
        return seconds(self.debt_ticks)

    @property
    def delay(self) -> float:
        return seconds(self.delay_ticks)

    @property
    def never(self) -> bool:
        """The cost is more than the limit can ever admit at once."""
        return self.retry_ticks == NEVER

    @property
    def refusal(self) -> str:
        """Why a refused request was refused, in a sentence without the key."""
        if self.never:
            return f"{self.limit} can never admit a cost of {self.cost}"
        return f"over the limit of {self.limit}: retry after {self.retry_after:.3f} s"

    @property
    def rules(self) -> tuple[RuleDecision, ...]:
        """The decision as that of a rule, which the limit's text names: what a response tells of it."""
        return (RuleDecision(str(self.limit), self),)

    def __bool__(self) -> bool:
        return self.allowed

    def _value(self) -> tuple[object, ...]:
        return (
            self.allowed, self.limit, self.key, self.cost,
            self.debt_ticks, self.delay_ticks, self.retry_ticks, self.at_ticks,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, Decision) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        wait = f"delay={self.delay:.6g}" if self.allowed else f"retry_after={self.retry_after:.6g}"
        return (
            f"Decision(allowed={self.allowed}, remaining={self.remaining}, {wait}, "
            f"reset_after={self.reset_after:.6g}, limit='{self.limit}', cost={self.cost})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return PlainDecision, (*self._value(), self._refunded)


@dataclass(slots=True, eq=False, repr=False, frozen=True)
class PlainDecision(Decision):
    """A decision made in Python."""

    allowed: bool
    limit: Limit
    key: str | bytes
    cost: int
    debt_ticks: int
    delay_ticks: int
    retry_ticks: int
    at_ticks: int
    _refunded: int = field(default=0)


@dataclass(slots=True, eq=False, repr=False, frozen=True)
class FallbackDecision(PlainDecision):
    """A decision made without the store, which did not answer. `remaining` is what this node's share has left."""

    source: ClassVar[str] = "fallback"
    on_error: str | None = field(default="local")
    nodes: int = field(default=1)

    @property
    def remaining(self) -> int:
        return max(0, self.limit.full - self.debt_ticks) // (self.limit.interval * self.nodes)

    def _value(self) -> tuple[object, ...]:
        return (*PlainDecision._value(self), self.on_error, self.nodes)

    def __reduce__(self) -> tuple[object, ...]:
        return FallbackDecision, (*PlainDecision._value(self), self._refunded, self.on_error, self.nodes)


class RuleDecision(NamedTuple):
    """One rule's own decision. `decision.allowed` is what this rule alone says, also when another rule refuses."""

    name: str
    decision: Decision
    shadow: bool = False

    @property
    def limit(self) -> Limit:
        return self.decision.limit

    @property
    def outcome(self) -> Outcome:
        """Return what this rule alone says. Nobody waits for one in shadow, so it never delays."""
        if not self.decision.allowed:
            return "shadow_refused" if self.shadow else "refused"
        return "delayed" if self.decision.delay_ticks and not self.shadow else "allowed"


class AnyDecision(Protocol):
    """What a `RateLimitExceeded` carries: a limiter's `Decision`, or a keeper's `PolicyDecision`.

    `rules` are the decisions of each rule, `missing` the attribute for want of which a policy refused.
    """

    @property
    def allowed(self) -> bool: ...
    @property
    def missing(self) -> str | None: ...
    @property
    def rules(self) -> tuple[RuleDecision, ...]: ...
    @property
    def limit(self) -> Limit | None: ...
    @property
    def remaining(self) -> float: ...
    @property
    def retry_after(self) -> float: ...
    @property
    def retry_after_seconds(self) -> int | None: ...
    @property
    def reset_after(self) -> float: ...
    @property
    def delay(self) -> float: ...
    @property
    def refusal(self) -> str: ...


def seconds(ticks: int) -> float:
    """Return ticks as float seconds, `inf` for never; rounded up, so that who waits so long has not come too early."""
    if ticks == NEVER:
        return inf
    nearest = ticks / TICKS_PER_SECOND
    # Up to 2**53 ticks (six days) a float tells ticks apart, and comes back as the same tick.
    early = ticks >= 2**53 and Fraction(nearest) * TICKS_PER_SECOND < ticks
    return nextafter(nearest, inf) if early else nearest


def most_restrictive(decisions: Sequence[Decision]) -> Decision:
    """Return the decision that speaks for all: the longest to wait for when refused, or else the least left."""
    refused = [decision for decision in decisions if not decision.allowed]
    if refused:
        return max(refused, key=lambda decision: decision.retry_ticks)
    return min(decisions, key=lambda decision: decision.remaining)


def combine(decisions: Sequence[Decision]) -> Decision:
    """Return one decision for several limits on one request: the most binding one, with the longest delay of all.

    Its time is the earliest: a refund must give back nothing that has refilled since any of the charges. If one was
    made without the store, so was the whole.
    """
    binding = most_restrictive(decisions)
    delay = max(decision.delay_ticks for decision in decisions)
    at = min(decision.at_ticks for decision in decisions)
    fallback = next((decision for decision in (binding, *decisions) if decision.on_error is not None), None)
    if delay == binding.delay_ticks and at == binding.at_ticks and (fallback is None or fallback is binding):
        return binding
    values = (
        binding.allowed, binding.limit, binding.key, binding.cost,
        binding.debt_ticks, delay, binding.retry_ticks, at, binding._refunded,
    )  # fmt: skip
    return PlainDecision(*values) if fallback is None else FallbackDecision(*values, fallback.on_error, binding.nodes)

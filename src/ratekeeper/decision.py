"""Charge and Decision: a question to a store, and its answer. Values; they know no store and no clock.

The C core's decisions have another type, which inherits everything here and keeps the same numbers in C.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import inf, nextafter
from typing import Literal, NamedTuple, TypeAlias, get_args

from ratekeeper.errors import did_you_mean
from ratekeeper.limits import DEFAULT_WAIT, MOST_COST, TICKS_PER_SECOND, Limit, Timeout, checked_cost

NEVER = 2**63 - 1
"""The `retry_ticks` of a request that can never pass."""

Outcome: TypeAlias = Literal["allowed", "delayed", "refused", "shadow_refused"]
"""A rule's part in a request, in a word, for counters."""

OnError: TypeAlias = Literal["raise", "deny", "local", "allow"]
"""The answer to a request when the store does not answer: the strictest first."""
ON_ERROR: tuple[OnError, ...] = get_args(OnError)


def key_bytes(key: str | bytes) -> bytes:
    """Return a key's bytes; of a str, its UTF-8, also of lone surrogates. Raises TypeError for another type."""
    if isinstance(key, str):
        return str.encode(key, "utf-8", "surrogatepass")  # a subclass may have another method: C does not ask it either
    if isinstance(key, bytes):
        return key if type(key) is bytes else bytes.__getitem__(key, slice(None))
    raise TypeError(f"a key must be str or bytes, not {type(key).__name__}" + ": write str(key)" * isinstance(key, int))


def scope_of(name: str, place: int = 0) -> str:
    """Return the scope of the limit at `place` of the limiter or rule `name`. With a key, it names a bucket."""
    return f"{name}/{place}"


class Charge(NamedTuple):
    """The demand of one limit on one bucket, for one request.

    The bucket is (`scope`, `key`): the limiter's or rule's name with the limit's number in it, and the caller's
    key. A str key is the same as its UTF-8 bytes. A `shadow` charge is decided like any other, but refuses nothing.
    `on_error` decides the request if the store does not answer; None is the store's own setting.

    >>> from ratekeeper import TokenBucket
    >>> Charge.of("search/0", "alice", TokenBucket(5, 1), cost=2)[:4]
    ('search/0', 'alice', TokenBucket(capacity=5, refill_rate=1), 2)
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
        cls, scope: str, key: str | bytes, limit: Limit, cost: int = 1, timeout: Timeout = DEFAULT_WAIT,
        shadow: bool = False, on_error: str | None = None,
    ) -> Charge:  # fmt: skip
        """Build the charge of a caller who is willing to wait `timeout` seconds (see `Limit.terms`)."""
        if on_error is not None:
            checked_on_error(on_error)
        whole = min(cost if type(cost) is int else checked_cost(cost), MOST_COST)
        return tuple.__new__(cls, (scope, key, limit, whole, *limit.terms(whole, timeout), shadow, on_error))


def checked_on_error(on_error: str) -> str:
    """Return what to do when a store does not answer. Raises ValueError for a word that says nothing of it."""
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error cannot be {on_error!r}{did_you_mean(str(on_error), ON_ERROR)}")
    return on_error


class Decision:
    """The answer to a request: whether and when it may go ahead, and what is left. Immutable; true when allowed.

    Everything follows from a few exact integers, in ticks of 1/16 ns. The C core's type keeps them in C.

    >>> from ratekeeper import Limiter
    >>> Limiter("5/s").try_acquire("alice", 3)
    Decision(allowed=True, remaining=2, delay=0, reset_after=0.6, limit='token_bucket of 5 at 5/s', cost=3)
    """

    __slots__ = ("_refunded", "_values")
    _values: tuple[bool, Limit, str | bytes, int, int, int, int, int, str | None, int]
    _refunded: int  # the cost already given back, -1 when nothing was charged; not part of the value

    missing: str | None = None

    def __init__(
        self, allowed: bool, limit: Limit, key: str | bytes, cost: int,
        debt_ticks: int, delay_ticks: int, retry_ticks: int, at_ticks: int,
        refunded: int = 0, on_error: str | None = None, nodes: int = 1,
    ) -> None:  # fmt: skip
        # One tuple: the C core's type, which keeps numbers, inherits a place for each slot, and must clear it.
        self._values = (
            allowed, limit, key, cost, debt_ticks, delay_ticks, retry_ticks, at_ticks, on_error, nodes,
        )  # fmt: skip
        self._refunded = refunded

    @property
    def allowed(self) -> bool:
        """Whether the request may go ahead: now, or after `delay` seconds."""
        return self._values[0]

    @property
    def remaining(self) -> int:
        """Whole tokens that could be taken at once now, after this request."""
        return max(0, self.limit.full - self.debt_ticks) // (self.limit.interval * self.nodes)

    @property
    def retry_after(self) -> float:
        """Seconds after which the same request would be allowed: 0.0 if it is, `inf` if it never will be."""
        return seconds(self.retry_ticks)

    @property
    def retry_after_seconds(self) -> int | None:
        """`retry_after` in whole seconds, rounded up, at least 1; None if the request is allowed or impossible."""
        return None if self.allowed or self.impossible else max(1, self.limit.whole_seconds(self.retry_ticks))

    @property
    def reset_after(self) -> float:
        """Seconds until the bucket is full again, if nobody else takes from it."""
        return seconds(self.debt_ticks)

    @property
    def delay(self) -> float:
        """Seconds to wait before going ahead; if the request was refused, what the wait would have been."""
        return seconds(self.delay_ticks)

    @property
    def limit(self) -> Limit:
        """The limit that decided: of several the one to wait longest for, or else the one with least left."""
        return self._values[1]

    @property
    def key(self) -> str | bytes:
        """The key that the request was counted under, as the caller gave it."""
        return self._values[2]

    @property
    def cost(self) -> int:
        """The tokens that the request asked for."""
        return self._values[3]

    @property
    def source(self) -> str:
        """Where the decision was made: "exact" by the store; "fallback" without it, as it did not answer."""
        return "exact" if self.on_error is None else "fallback"

    @property
    def on_error(self) -> str | None:
        """The rule by which a request was decided without the store: "deny", "local" or "allow"; else None."""
        return self._values[8]

    @property
    def nodes(self) -> int:
        """Of how many nodes this one has an equal share of the limit, while the store does not answer; else 1."""
        return self._values[9]

    @property
    def impossible(self) -> bool:
        """Whether the cost is more than the limit can ever admit at once, so that no wait would help."""
        return self.retry_ticks == NEVER

    @property
    def debt_ticks(self) -> int:
        """Ticks (1/16 ns) until the bucket is full again: `reset_after`, exactly."""
        return self._values[4]

    @property
    def delay_ticks(self) -> int:
        """Ticks (1/16 ns) to wait before going ahead: `delay`, exactly."""
        return self._values[5]

    @property
    def retry_ticks(self) -> int:
        """Ticks (1/16 ns) after which the same request would be allowed: `retry_after`, exactly."""
        return self._values[6]

    @property
    def at_ticks(self) -> int:
        """The time on the store's clock, in ticks (1/16 ns), when it decided."""
        return self._values[7]

    @property
    def refusal(self) -> str:
        """Why a refused request was refused: a sentence without the key."""
        if self.limit.refuses_all:
            return "every request is denied" if self.limit.denies else f"the limit {self.limit} refuses every request"
        if self.impossible:
            return f"{self.limit} can never admit a cost of {self.cost}"
        return f"over the limit of {self.limit}: retry after {self.retry_after:.3f} s"

    @property
    def rules(self) -> tuple[RuleDecision, ...]:
        """The decision as that of one rule, named by the limit's text: what a response tells of it."""
        return (RuleDecision(str(self.limit), self),)

    def __bool__(self) -> bool:
        return self.allowed

    def _value(self) -> tuple[object, ...]:
        return (
            self.allowed, self.limit, self.key, self.cost, self.debt_ticks, self.delay_ticks, self.retry_ticks,
            self.at_ticks, self.on_error, self.nodes,
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
        *exact, on_error, nodes = self._value()
        return Decision, (*exact, self._refunded, on_error, nodes)


class RuleDecision(NamedTuple):
    """One rule's own decision. `decision.allowed` is what this rule alone says, also when another rule refuses.
    >>> from ratekeeper import Limiter
    >>> RuleDecision("each user", Limiter("5/s").try_acquire("alice")).outcome
    'allowed'
    """

    name: str
    decision: Decision
    shadow: bool = False
    message: str | None = None  # the rule's own text for people whose request it refuses
    place: int = 0  # of the limit in its rule, if several were looked up

    @property
    def limit(self) -> Limit:
        return self.decision.limit

    @property
    def label(self) -> str:
        """The rule's name; of a further limit of the rule, with its place, such as "each user/1"."""
        return f"{self.name}/{self.place}" if self.place else self.name

    @property
    def outcome(self) -> Outcome:
        """Return what this rule alone says. Nobody waits for one in shadow, so it never delays."""
        if not self.decision.allowed:
            return "shadow_refused" if self.shadow else "refused"
        return "delayed" if self.decision.delay_ticks and not self.shadow else "allowed"


def seconds(ticks: int) -> float:
    """Return ticks as float seconds, `inf` for never. Rounded up, so a caller that waits so long is not too early."""
    if ticks == NEVER:
        return inf
    nearest = ticks / TICKS_PER_SECOND
    # Up to 2**53 ticks (six days) a float tells ticks apart, and comes back as the same tick.
    early = ticks >= 2**53 and Fraction(nearest) * TICKS_PER_SECOND < ticks
    return nextafter(nearest, inf) if early else nearest


def most_restrictive(decisions: Sequence[Decision]) -> Decision:
    """Return the refusal with the longest wait; if none refuses, the decision with the least left."""
    refused = [decision for decision in decisions if not decision.allowed]
    if not refused:
        return min(decisions, key=lambda decision: decision.remaining)
    return max(refused, key=lambda decision: decision.retry_ticks)


def combine(decisions: Sequence[Decision]) -> Decision:
    """Return one decision for several limits on one request: the most binding one, with the longest delay of all.

    Its time is the earliest: a refund must give back nothing that has refilled since any of the charges. If one was
    made without the store, so was the whole.
    """
    if len(decisions) == 1:
        return decisions[0]
    binding = most_restrictive(decisions)
    delay = max(decision.delay_ticks for decision in decisions)
    at = min(decision.at_ticks for decision in decisions)
    fallback = next((decision for decision in (binding, *decisions) if decision.on_error is not None), None)
    if delay == binding.delay_ticks and at == binding.at_ticks and (fallback is None or fallback is binding):
        return binding
    return Decision(
        binding.allowed, binding.limit, binding.key, binding.cost, binding.debt_ticks, delay, binding.retry_ticks, at,
        binding._refunded, None if fallback is None else fallback.on_error, binding.nodes,
    )  # fmt: skip

"""CL.THROTTLE, as redis-cell and Dragonfly have it: the caller says the limit, and the store decides. Knows no wire.

A key's bucket holds max_burst + 1 tokens, and gets count of them in each period. It is the same bucket whatever the
limit: a key keeps its debt when its limit changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from ratekeeper.decision import Decision
from ratekeeper.errors import LimitError, StoreUnavailable
from ratekeeper.limits import TokenBucket
from ratekeeper.policy.decision import is_nearly_used
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.resp.replies import error
from ratekeeper.service.resp.session import Answer
from ratekeeper.stores.base import AsyncChargeGate, AsyncStore, Store, is_async

SCOPE = "CL.THROTTLE"
"""The scope of all its buckets, and its name in metrics. It has no slash, so it is not a rule's scope."""

MOST_LIMITS = 4096
"""Limits that are kept. A client that names ever new ones costs time, and not memory."""

_NOT_AN_INTEGER = error("value is not an integer or out of range")
_MOST = 2**63 - 1
_is_number = re.compile(rb"0|[1-9][0-9]{0,18}").fullmatch


class _Bound(NamedTuple):
    """A limit and a quantity, bound to the store, with the numbers of `Limit.whole_seconds`."""

    take: Callable[[bytes, int], Decision]
    quantity: int
    full: int
    interval: int
    ticks: int
    parts: int
    allowed: bytes  # the beginning of an answer
    refused: bytes


class Throttles:
    """Answers CL.THROTTLE on one store."""

    def __init__(self, store: Store | AsyncStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._counts = metrics.protocols["resp"]
        self._awaits = is_async(store)
        self._add = metrics.slot.add
        self._admitted: dict[bool, tuple[int, ...]] = {}  # the cells that count an admission, by whether it is near
        self._kept: dict[tuple[bytes, ...], _Bound] = {}

    def answer(self, _session: object, request: list[bytes]) -> Answer:
        """Return the answer: a coroutine of it if the store must be awaited."""
        bound = self._kept.get(tuple(request[2:]))
        if bound is None:
            found = self._bind(request)
            if isinstance(found, bytes):
                self._counts.failed(0)
                return found
            bound = found
        began = self._counts.begin()
        if self._awaits:
            return self._awaited(bound, request[1], began)
        # Written out, as a call of `remaining` or `whole_seconds` costs as much as the decision.
        take, quantity, full, interval, ticks, parts, allowed, _ = bound
        decision = take(request[1], quantity)
        if decision.allowed:
            debt = decision.debt_ticks
            nearly_used = debt > full // 5 * 4
            self._add(self._admitted.get(nearly_used) or self._learn(nearly_used))
            if began:
                self._counts.timed(began, "allowed", decision)
            return b"%b%d\r\n:-1\r\n:%d\r\n" % (allowed, (full - debt) // interval, -(-debt * parts // ticks))
        return self._answer(bound, decision, began)

    def _learn(self, nearly_used: bool) -> tuple[int, ...]:
        """Return the cells that count an admission, and keep them."""
        cells = self._counts.allowed_cells(*self._metrics.cells_of(SCOPE, "allowed", nearly_used))
        self._admitted[nearly_used] = cells
        return cells

    def _bind(self, request: list[bytes]) -> _Bound | bytes:
        """Return what a request asks for, bound to the store; or the error in its arguments."""
        if len(request) not in (5, 6):
            return error("wrong number of arguments for 'cl.throttle' command: it is CL.THROTTLE key max_burst count "
                         "period [quantity]")  # fmt: skip
        stated = tuple(request[2:])
        if not all(map(_is_number, stated)):
            return _NOT_AN_INTEGER
        max_burst, count, period, quantity = map(int, (*stated, b"1")[:4])
        if max(max_burst + 1, count, period, quantity) > _MOST:
            return _NOT_AN_INTEGER
        if not count or not period:
            return error("zero rates are not supported")
        try:
            limit = TokenBucket(max_burst + 1, Fraction(count, period))
        except LimitError as wrong:
            return error(f"value is out of range: {wrong}".replace("TokenBucket: ", ""))
        heads = [b"*5\r\n:%d\r\n:%d\r\n:" % (limited, max_burst + 1) for limited in (0, 1)]
        least = min(quantity, limit.max_cost + 1)
        bound = _Bound(self._take(limit), least, limit.full, limit.interval, *limit._exact_second, *heads)
        if len(self._kept) >= MOST_LIMITS:
            del self._kept[next(iter(self._kept))]
        self._kept[stated] = bound
        return bound

    async def _awaited(self, bound: _Bound, key: bytes, began: int) -> bytes:
        take: Any = bound.take
        try:
            decision = await take(key, bound.quantity)
        except StoreUnavailable:
            self._counts.failed(began)
            raise
        return self._answer(bound, decision, began)

    def _answer(self, bound: _Bound, decision: Decision, began: int) -> bytes:
        """Return the five integers of a decision. Seconds are rounded up, so that nobody comes back too early."""
        whole, retry, head = decision.limit.whole_seconds, -1, bound.refused
        if decision.allowed:
            self._counts.allowed(began, decision)
            self._metrics.count(SCOPE, "allowed", is_nearly_used(decision))
            head = bound.allowed
        else:
            self._counts.refused(began, decision)
            self._metrics.count(SCOPE, "refused")
            if not decision.impossible:
                retry = whole(decision.retry_ticks)
        return b"%b%d\r\n:%d\r\n:%d\r\n" % (head, decision.remaining, retry, whole(decision.debt_ticks))

    def _take(self, limit: TokenBucket) -> Any:
        if is_async(self._store):
            return AsyncChargeGate(self._store, (SCOPE,), (limit,), _nobody_waits).try_acquire
        store: Any = self._store
        return store.bind((SCOPE,), (limit,), _nobody_waits).try_acquire


def _nobody_waits(*_: object) -> Any:
    raise AssertionError("CL.THROTTLE decides at once")

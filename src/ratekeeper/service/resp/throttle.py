"""CL.THROTTLE, as redis-cell and Dragonfly have it: the caller says the limit, and the store decides. Knows no wire.

A key's bucket holds max_burst + 1 tokens, and gets count of them in each period. It is the same bucket whatever the
limit: a key keeps its debt when its limit changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple, cast

from ratekeeper.decision import Decision
from ratekeeper.errors import LimitError, StoreUnavailable
from ratekeeper.limits import TokenBucket
from ratekeeper.policy.decision import is_nearly_used
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.resp.replies import error
from ratekeeper.service.resp.session import Answer
from ratekeeper.stores.base import AsyncChargeGate, AsyncStore, Store, is_async, nobody_waits

SCOPE = "CL.THROTTLE"
"""The scope of all its buckets, and its name in metrics. It has no slash, so it is not a rule's scope."""

MOST_LIMITS = 4096
"""Limits that are kept. A client that names ever new ones costs time, and not memory."""

_NOT_AN_INTEGER = error("value is not an integer or out of range")
_MOST = 2**63 - 1
_is_number = re.compile(rb"0|[1-9][0-9]{0,18}").fullmatch


class _Bound(NamedTuple):
    """A limit and a quantity, bound to the store.

    heads       the beginning of an answer that allows, and of one that refuses
    answer_now  decides, counts and answers in C; None where that cannot be done
    """

    take: Callable[[bytes, int], Decision]
    quantity: int
    heads: tuple[bytes, bytes]
    answer_now: Callable[[bytes], bytes] | None


class Throttles:
    """Answers CL.THROTTLE on one store."""

    def __init__(self, store: Store | AsyncStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._counts = metrics.protocols["resp"]
        self._kept: dict[tuple[bytes, ...], _Bound] = {}

    def answer(self, _session: object, request: list[bytes]) -> Answer:
        """Return the answer: a coroutine of it if the store must be awaited."""
        bound = self._kept.get(tuple(request[2:]))
        if bound is None:
            found = self._read(request)
            if isinstance(found, bytes):
                self._counts.failed(0)
                return found
            bound = found
        answer_now, began = bound.answer_now, self._counts.begin()
        if answer_now is not None and not began:
            return answer_now(request[1])
        if is_async(self._store):
            return self._awaited(bound, request[1], began)
        return self._answer(bound, bound.take(request[1], bound.quantity), began)

    def _read(self, request: list[bytes]) -> _Bound | bytes:
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
        allowed, refused = [b"*5\r\n:%d\r\n:%d\r\n:" % (limited, max_burst + 1) for limited in (0, 1)]
        bound = self._bind(limit, min(quantity, limit.max_cost + 1), (allowed, refused))
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
        whole, retry, head = decision.limit.whole_seconds, -1, bound.heads[not decision.allowed]
        if decision.allowed:
            self._counts.allowed(began, decision)
            self._metrics.count(SCOPE, "allowed", is_nearly_used(decision))
        else:
            self._counts.refused(began, decision)
            self._metrics.count(SCOPE, "refused")
            if not decision.impossible:
                retry = whole(decision.retry_ticks)
        return b"%b%d\r\n:%d\r\n:%d\r\n" % (head, decision.remaining, retry, whole(decision.debt_ticks))

    def _bind(self, limit: TokenBucket, quantity: int, heads: tuple[bytes, bytes]) -> _Bound:
        """Bind a limit to the store. The C core's gate can answer by itself."""
        if is_async(self._store):
            gate: Any = AsyncChargeGate(self._store, (SCOPE,), (limit,), nobody_waits)
        else:
            gate = cast("Store", self._store).bind((SCOPE,), (limit,), nobody_waits)
        throttle = None
        if hasattr(gate, "throttle"):
            cells, allowed = self._metrics.cells_of, self._counts.cells(True)
            places = (
                allowed + cells(SCOPE, "allowed"),
                allowed + cells(SCOPE, "allowed", nearly_used=True),
                self._counts.cells(False) + cells(SCOPE, "refused"),
            )
            throttle = gate.throttle(quantity, heads, self._metrics.slot.counts, places)
        return _Bound(gate.try_acquire, quantity, heads, throttle and throttle.answer)

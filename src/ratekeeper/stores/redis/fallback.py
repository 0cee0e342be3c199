"""Fallback: the answers when the server does not answer, in the place of `questions`.

A request that could not be decided is answered by the strictest of its charges' `on_error`. Shadow charges have no say,
as they must refuse nothing: if there are no others, what would raise is reported as refused, and passes.

Nothing that is decided here goes to the server later. So the fleet admits, over any time, at most what the server
admits, and besides what is admitted here: nothing by "deny", anything by "allow", and by "local" at most the limit
once more, for all nodes together. "local" is the rule on a table of this store's own, with increments `nodes` times as
large: each node has that part of the rate and of the burst, or of the places in a leaky bucket's queue. The table is
kept over outages: a server that comes and goes does not refill it.

A cost that is more than this node's part of a burst is refused, also if its caller would wait.

A leaky bucket has no burst: a request's turn has come if nobody is before it. So what may be before a request stays as
it was, while its own part is larger: burst and tolerance grow with the increment, up to a full queue.

No I/O. This file does not know why the server did not answer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ratekeeper.core.pytable import Table
from ratekeeper.decision import NEVER, ON_ERROR, Charge, Decision, checked_on_error
from ratekeeper.errors import StoreError, StoreUnavailable
from ratekeeper.forks import forget_in_child
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores.base import checked_adjustment
from ratekeeper.stores.redis.questions import Questions

MAX_KEYS = 100_000
"""Live buckets in the local table; beyond, those with the least debt are forgotten. At most 25 MB, and only if used."""

MAX_SPANS = 64
"""Spans of time in which charges were made here."""

NODES_NEEDED = (
    'on_error="local" divides each limit among the processes that use it: '
    "write expected_nodes, the number of stores like this one in the whole fleet (1 if it is the only one)"
)


class Fallback:
    """Asks by a store's `questions`, and answers by `on_error` what the server does not."""

    def __init__(self, questions: Questions, ticks: Callable[[], int], on_error: str, nodes: int | None) -> None:
        if nodes is not None and (not isinstance(nodes, int) or isinstance(nodes, bool) or nodes < 1):
            raise ValueError(f"expected_nodes must be a whole number of 1 or more, not {nodes!r}")
        self._questions = questions
        self._ticks = ticks
        self._on_error = checked_on_error(on_error)
        if nodes is None and on_error == "local":
            raise ValueError(NODES_NEEDED)
        self._nodes = nodes or 1
        self._shares_unknown = nodes is None
        self._spans = Spans()
        self.forget()
        forget_in_child(self)
        self.count = 0

    def forget(self) -> None:
        """Have an empty table: a forked child is another node."""
        self._lock = threading.RLock()
        self._table = Table(MAX_KEYS, False, os.urandom(16), self._ticks)

    def checked(self, charges: Sequence[Charge]) -> tuple[Charge, ...]:
        """Return charges that can be answered also in an outage. Raises `StoreError` now rather than then."""
        charges = tuple(charges)
        if self._shares_unknown:
            for charge in charges:
                if charge.on_error == "local":
                    raise StoreError(NODES_NEEDED)
        return charges

    async def decide(self, charges: Sequence[Charge], commit: bool) -> list[Decision]:
        """Return the decisions on the charges of one request."""
        charges, questions = self.checked(charges), self._questions
        question = questions.question(charges, commit)
        if isinstance(question, list):
            return question
        try:
            if question.slots:
                return await questions.over_slots(question)
            [reply] = await questions.send([question.request()])
        except StoreUnavailable as error:
            return self.instead(error, charges, commit)
        return questions.answer(question, reply)

    def instead(self, error: StoreUnavailable, charges: Sequence[Charge], commit: bool) -> list[Decision]:
        """Return the decisions on a request that ended with this error; or raise it."""
        mode = self._mode(charges)
        if mode == "raise":
            raise error
        self._counted()
        wait = max(1, round(error.retry_after * TICKS_PER_SECOND))
        if mode == "local":
            return self._decide_here(charges, commit, wait)
        now = self._ticks()
        return [self._answer(charge, mode, now, wait) for charge in charges]

    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        """Give charges back, but not those that were made here, nor any while the server does not answer."""
        charges = tuple(charges)
        if at_ticks in self._spans:
            return
        try:
            await self._questions.refund(charges, at_ticks)
        except StoreUnavailable:
            if self._mode(charges) == "raise":
                raise
            self._counted()

    async def rewind(self, scope: str, key: str | bytes, expected: int, tat: int) -> bool:
        """Set a TAT back. Without an answer it counts as done, as it may be: the ranges are free in either case."""
        try:
            return await self._questions.rewind(scope, key, expected, tat)
        except StoreUnavailable:
            if self._on_error == "raise":
                raise
            self._counted()
            return True

    async def adjust(self, scope: str, key: str | bytes, back: int, block: int | None) -> None:
        """Change a bucket, here and there. Nothing can stand for that: the caller must know that it was done."""
        ticks = checked_adjustment(back, block)
        self._table.adjust(scope, key, *ticks)
        await self._questions.adjust(scope, key, *ticks)

    async def reset_scope(self, scope: str, ask: Callable[..., Awaitable[Any]], nodes: Sequence[Any]) -> None:
        """Forget all buckets of a scope, here and there. As for `adjust`, nothing can stand for that."""
        self._table.reset_scope(scope)
        await self._questions.reset_scope(scope, ask, nodes)

    def _mode(self, charges: Sequence[Charge]) -> str:
        """Return the strictest `on_error` of these charges."""
        enforced = [charge for charge in charges if not charge.shadow]
        mode = min((charge.on_error or self._on_error for charge in enforced or charges), key=ON_ERROR.index)
        return "deny" if mode == "raise" and not enforced else mode

    def _counted(self) -> None:
        with self._lock:
            self.count += 1

    def _decide_here(self, charges: Sequence[Charge], commit: bool, wait: int) -> list[Decision]:
        mine = [self._part(charge) for charge in charges]
        decisions = self._table.decide(mine, commit=commit)
        if commit:
            self._spans.add(decisions[0].at_ticks)
        return [self._own(*both, wait) for both in zip(mine, decisions, strict=True)]

    def _part(self, charge: Charge) -> Charge:
        """Return what a charge asks of this node's part of the limit."""
        more = charge.increment * (self._nodes - 1)
        if not charge.limit.queues:
            increment = charge.increment + more
            # No wait helps: a waiter leaves with all its tokens at once, and other nodes have the rest of the burst.
            tolerance = charge.burst if increment > charge.burst else charge.tolerance
            return charge._replace(increment=increment, tolerance=tolerance)
        return charge._replace(
            increment=charge.increment + more,
            burst=charge.burst + more,
            tolerance=max(charge.tolerance, min(charge.tolerance + more, charge.limit.full)),
        )

    def _own(self, charge: Charge, made: Decision, wait: int) -> Decision:
        """Return the table's decision as one of a fallback, of which nothing can be given back."""
        retry, delay = made.retry_ticks, made.delay_ticks
        if retry != NEVER and charge.increment > charge.tolerance:  # more than this node's share ever holds
            retry = delay = wait
        return Decision(
            made.allowed, made.limit, made.key, made.cost,
            made.debt_ticks, delay, retry, made.at_ticks, -1, "local", self._nodes,
        )  # fmt: skip

    def _answer(self, charge: Charge, mode: str, now: int, wait: int) -> Decision:
        """Return what `mode` says, without a look at any bucket. A cost that can never pass is refused."""
        _, key, limit, cost, *_ = charge
        if cost > limit.max_cost:
            return Decision(False, limit, key, cost, 0, NEVER, NEVER, now, -1, mode)
        if mode == "allow":
            return Decision(True, limit, key, cost, 0, 0, 0, now, -1, mode)
        return Decision(False, limit, key, cost, limit.full, wait, wait, now, -1, mode)


class Spans:
    """When charges were made here. A refund says only when its charge was made; these must not reach the server.

    Times less than a second apart are one span, and of MAX_SPANS the two oldest become one. So what is remembered is
    never too little; a charge that the server made within a span is not given back.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have a free lock. Charges from before a fork are remembered after it."""
        self._lock = threading.RLock()

    def add(self, at_ticks: int) -> None:
        with self._lock:
            spans = self._spans
            if spans and abs(at_ticks - spans[-1][1]) < TICKS_PER_SECOND:
                first, last = spans[-1]
                self._spans = [*spans[:-1], (min(first, at_ticks), max(last, at_ticks))]
                return
            if len(spans) == MAX_SPANS:
                oldest, next_oldest = spans[:2]
                spans = [(min(oldest[0], next_oldest[0]), max(oldest[1], next_oldest[1])), *spans[2:]]
            self._spans = [*spans, (at_ticks, at_ticks)]

    def __contains__(self, at_ticks: int) -> bool:
        return any(first <= at_ticks <= last for first, last in self._spans)

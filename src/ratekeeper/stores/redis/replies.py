"""The meaning of the script's replies: the server's time, decisions, and denials that need not be asked for again.

Decisions are made here by the rule in Python, on the exact integers that the script saw. So whole decisions are the
same, bit for bit, in a process and on a server.

No I/O. This file must not know how requests are sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from ratekeeper.clock import SystemClock
from ratekeeper.core.answers import passes
from ratekeeper.decision import NEVER, Charge, Decision
from ratekeeper.gcra import blocked_debt, decide
from ratekeeper.limits import TICKS_PER_NS, TICKS_PER_SECOND
from ratekeeper.stores.redis.script import Request

LEARN_EVERY = TICKS_PER_SECOND // 100
"""In so many ticks two clocks do not drift apart by anything that counts."""

MAX_REMEMBERED = 10_000
"""Buckets that are remembered. With more they are all forgotten, which costs each of them a round trip."""

REMEMBERED = TICKS_PER_SECOND
"""How long, in ticks: a caller that repeats a denied request costs a round trip a second, and sees a reset in one."""


class Reply(NamedTuple):
    """The script's answer to one request: the time, and for each charge the debt of its bucket before it.

    Below 0 it is the time that is left of a block, which refuses the charge for longer than the debt does.
    """

    now: int
    ticks: list[int]
    sent: int  # the local time just before


_reply: Callable[[tuple[int, list[int], int]], Reply] = partial(tuple.__new__, Reply)  # half the price


def own_answer(answer: Any, arguments: Sequence[bytes]) -> bytes:
    """Return what follows the number in the answer to a call. Raise ConnectionError for the answer to another call."""
    number = arguments[-1]
    if isinstance(answer, str):
        answer = answer.encode()
    if not isinstance(answer, bytes) or not answer.startswith(number):
        raise ConnectionError("the answer belongs to another call")
    return answer[len(number) :]


def read_replies(text: str | bytes, requests: Sequence[Request], sent: int) -> list[Reply]:
    """Return what the script says to each of these requests, which were sent at the local time `sent`."""
    numbers = [*map(int, text.split())]
    if len(numbers) == 4 and len(requests) == 1:  # of one charge: the hot path
        seconds, part, debt_seconds, debt_part = numbers
        return [_reply((seconds * TICKS_PER_SECOND + part, [debt_seconds * TICKS_PER_SECOND + debt_part], sent))]
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    now, *ticks = [seconds * TICKS_PER_SECOND + part for seconds, part in pairs]
    replies, first = [], 0
    for request in requests:
        replies.append(_reply((now, ticks[first : first + request.times], sent)))
        first += request.times
    return replies


class ServerClock(SystemClock):
    """The server's time in a recent reply, and the local time that has passed since. Only waiting uses it.

    It is late by the reply's way back, so a waiter does not go too early. It is never before the last reply that came.
    Before any reply it is this machine's wall clock.
    """

    def __init__(self) -> None:
        self._lead: int | None = None
        self._learn_at = 0
        self._latest = 0

    local = SystemClock.ticks
    """Return this machine's monotonic time."""

    def learn(self, now: int, sent: int) -> None:
        """Note the server's time from a reply that has just come, to a call that was sent at the local time `sent`."""
        if now > self._latest or now < self._latest - TICKS_PER_SECOND:  # overtaken, or it steps back
            self._latest = now
        if sent >= self._learn_at:
            self._lead = now - super().ticks()
            self._learn_at = sent + LEARN_EVERY

    def ticks(self) -> int:
        """Return the server's time, as far as it is known here."""
        if self._lead is None:
            wall = time.time_ns() * TICKS_PER_NS
            if self.held is None:
                return wall
            self._lead = wall - super().ticks()  # from here on it is held
        return max(super().ticks() + self._lead, self._latest)


# ---- decisions ----


def decisions_on(charges: Sequence[Charge], debts: Sequence[int], now: int, commit: bool) -> list[Decision]:
    """Return the decisions on charges whose buckets owed `debts` before; made if all pass and `commit`."""
    if len(charges) == 1:
        return [_decision(charges[0], debts[0], now, commit)]
    decisions = [_decision(charge, debt, now, commit) for charge, debt in zip(charges, debts, strict=True)]
    if commit and not passes(charges, decisions):
        return [_decision(charge, debt, now, False) for charge, debt in zip(charges, debts, strict=True)]
    return decisions


def _decision(charge: Charge, debt: int, now: int, made: bool) -> Decision:
    """Return one charge's decision; `made`: it is made if it is allowed."""
    _, key, limit, cost, increment, burst, tolerance, _, _ = charge
    blocked = debt < 0
    if blocked:
        debt = blocked_debt(-debt, increment, tolerance if cost <= limit.max_cost else 0)
    allowed, _, ahead, delay, retry_after = decide(now + debt, now, increment, burst, tolerance)
    if cost > limit.max_cost:
        allowed, delay, retry_after = False, NEVER, NEVER
    elif blocked:
        debt = ahead
    charged = made and allowed  # of nothing too: then `ahead` is the debt
    return Decision(
        allowed, limit, key, cost, ahead if charged else debt, delay, retry_after, now, 0 if charged else -1
    )


# ---- denials ----


class _Owed(NamedTuple):
    tat: int  # or the block's end
    blocked: bool
    lead: int  # the most that the server's clock is ahead of the local one
    until: int  # on the local clock


class DenialCache:
    """Lower bounds of the TATs of buckets that lately refused, so that a repeated request costs no round trip.

    Only time, refunds and resets lessen a bucket's debt. So a bucket owes at least what it is remembered to owe, less
    the time since: a request that even that refuses, the server would refuse too. The time since is counted from before
    the request was sent, so it is never too short, whatever the round trip took.

    It costs exactness in two ways. Another process's refund, reset or step of the server's clock is seen late, by
    REMEMBERED at most; this process's own is seen at once. And what has been charged since makes `retry_after` later
    than is said here.

    Safe for threads: each step is one operation of a dict.
    """

    def __init__(self, local: Callable[[], int]) -> None:
        self._local = local
        self._owed: dict[bytes, _Owed] = {}
        self.recalled = 0
        self._numbers = count(1)
        self.changes = 0
        """The number of the last refund or reset. An answer from before one is not to be remembered after it."""

    def recall(self, names: Sequence[bytes], charges: Sequence[Charge]) -> list[Decision] | None:
        """Return the decisions on a request that is sure to be refused, or None if only the server can tell."""
        if not self._owed:
            return None
        local = self._local()
        owed = [self._owed.get(name) for name in names]
        known = [bucket for bucket in owed if bucket is not None and local < bucket.until]
        if len(known) < len(names):
            return None
        now = local + max(bucket.lead for bucket in known)
        left = [max(0, bucket.tat - now) for bucket in known]
        debts = [-ticks if bucket.blocked else ticks for bucket, ticks in zip(known, left, strict=True)]
        decisions = decisions_on(charges, debts, now, commit=False)
        if passes(charges, decisions):
            return None
        self.recalled += 1
        return decisions

    def remember(self, names: Sequence[bytes], reply: Reply, changes: int) -> None:
        """Keep what the buckets of a refused request owed. `changes` is what it was before the request was sent.

        Of two charges of one bucket, the second's debt has the first in it, which was not
        made: such a request is not remembered.
        """
        if changes != self.changes or len(set(names)) < len(names):
            return
        if len(self._owed) + len(names) > MAX_REMEMBERED:
            self._owed.clear()
        for name, debt in zip(names, reply.ticks, strict=True):
            self._owed[name] = _Owed(reply.now + abs(debt), debt < 0, reply.now - reply.sent, reply.sent + REMEMBERED)
        if changes != self.changes:  # another thread's, which may have come before that was written
            self._drop(names)

    def forget(self, names: Sequence[bytes]) -> None:
        """Ask the server about these buckets again: they may owe less than they did."""
        self.changes = next(self._numbers)
        self._drop(names)

    def forget_all(self) -> None:
        """Ask the server about all buckets again."""
        self.changes = next(self._numbers)
        self._owed.clear()

    def _drop(self, names: Sequence[bytes]) -> None:
        for name in names:
            self._owed.pop(name, None)

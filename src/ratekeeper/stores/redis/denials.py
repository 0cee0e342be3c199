"""Denials: what lately refused a caller, kept here, so that who asks again too early costs no round trip. No I/O.

Kept is what each bucket of a refused request owed. Only time, refunds and resets lessen that, so a bucket owes at least
what it is remembered to owe, less the time since: a request that even that refuses, the server would refuse too. The
time since is counted from before the request was sent, so it is never too short, whatever the round trip took.

What costs exactness: another process's refund, reset or step of the server's clock is seen late, by REMEMBERED at most
(this process's own is seen at once), and what has been charged since makes `retry_after` later than is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

from ratekeeper.decision import Charge, Decision
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores.redis.decisions import decisions_on, passes
from ratekeeper.stores.redis.script import Reply

MOST = 10_000
"""Buckets that are remembered. With more they are all forgotten, which costs each of them a round trip."""

REMEMBERED = TICKS_PER_SECOND
"""How long, in ticks: who hammers for an hour costs a round trip a second, and a reset elsewhere is seen in one."""


class _Owed(NamedTuple):
    tat: int
    lead: int  # the most that the server's clock is ahead of the local one
    until: int  # on the local clock


class Denials:
    """Lower bounds of the TATs of buckets that lately refused. Safe for threads: each step is one of dict's own."""

    def __init__(self, local: Callable[[], int]) -> None:
        self._local = local
        self._owed: dict[bytes, _Owed] = {}
        self.recalled = 0
        self._numbers = count(1)
        self.changes = 0
        """The number of the last refund or reset: an answer from before one is not to be remembered after it."""

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
        decisions = decisions_on(charges, [max(0, bucket.tat - now) for bucket in known], now, commit=False)
        if passes(charges, decisions):
            return None
        self.recalled += 1
        return decisions

    def remember(self, names: Sequence[bytes], reply: Reply, changes: int) -> None:
        """Keep what the buckets of a refused request owed. `changes` is what it was before it was sent.

        Of two charges of one bucket the second's debt has the first in it, which was not
        made: such a request is not remembered.
        """
        if changes != self.changes or len(set(names)) < len(names):
            return
        if len(self._owed) + len(names) > MOST:
            self._owed.clear()
        for name, debt in zip(names, reply.ticks, strict=True):
            self._owed[name] = _Owed(reply.now + debt, reply.now - reply.sent, reply.sent + REMEMBERED)
        if changes != self.changes:  # another thread's, which may have come before that was written
            self._drop(names)

    def forget(self, names: Sequence[bytes]) -> None:
        """Ask the server about these buckets again: they may owe less than they did."""
        self.changes = next(self._numbers)
        self._drop(names)

    def _drop(self, names: Sequence[bytes]) -> None:
        for name in names:
            self._owed.pop(name, None)

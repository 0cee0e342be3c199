"""RESP wires without a socket, requests for them, and their answers as Python's values."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import hiredis
from collecting_channel import CollectingChannel

from ratekeeper import ManualClock, MemoryStore, Policy
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.resp.wire import RespWire

POLICY = """
[attributes]
api_key = "header:x-api-key"
path = "path"

[[rules]]
name = "each key"
match = { path = "/api/*" }
key = ["api_key"]
limit = "3/hour"
missing = "reject"

[[rules]]
name = "one by one"
match = { path = "/reports" }
algorithm = "leaky_bucket"
capacity = 2
leak_rate = 2
"""


def request(*arguments: str | bytes | int) -> bytes:
    """Return a request as clients send it."""
    parts = [one if isinstance(one, bytes) else str(one).encode() for one in arguments]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def answers_in(data: bytes) -> list[Any]:
    """Return answers as values; errors as exceptions."""
    reader = hiredis.Reader(notEnoughData=...)
    reader.feed(data)
    answers = []
    while (answer := reader.gets()) is not ...:
        answers.append(answer)
    assert not reader.has_data(), "half an answer"
    return answers


class Client:
    """A wire on a core, and a channel that collects its answers."""

    def __init__(self, core: Core | None = None, bounds: Bounds | None = None) -> None:
        self.core = core or make_core()
        self.channel = CollectingChannel()
        self.wire = RespWire(self.core, self.channel, bounds or Bounds())

    def send(self, data: bytes) -> list[Any]:
        """Send bytes; return the answers that come at once."""
        self.wire.receive(data)
        return answers_in(self.channel.taken())

    def ask(self, *arguments: str | bytes | int) -> Any:
        """Return the answer to one request."""
        [answer] = self.send(request(*arguments))
        return answer


def make_core(clock: ManualClock | None = None, store: Any = None, password: bytes | None = None) -> Core:
    """Return a core with the policy above, on a manual clock."""
    clock = clock or ManualClock()
    return Core(Policy.parse(POLICY), store or MemoryStore(1000, clock=clock), password=password)


class ThrottleOracle:
    """CL.THROTTLE in exact fractions: the full tokens of each key are worked out anew at each request."""

    def __init__(self) -> None:
        self._debts: dict[bytes, tuple[Fraction, Fraction]] = {}  # the seconds to a full bucket, and when

    def ask(self, now: Fraction, key: bytes, *limit: int) -> list[int]:
        max_burst, count, period, quantity = limit
        each = Fraction(period, count)
        debt, since = self._debts.get(key, (Fraction(0), now))
        debt = max(Fraction(0), debt - (now - since))
        tolerance = (max_burst + 1) * each
        wanted = debt + quantity * each
        limited = wanted > tolerance
        retry = -1
        if limited and quantity * each <= tolerance:
            retry = _up(wanted - tolerance)
        debt = debt if limited else wanted
        self._debts[key] = debt, now
        return [int(limited), max_burst + 1, max(0, int((tolerance - debt) / each)), retry, _up(debt)]


def _up(seconds: Fraction) -> int:
    return -(-seconds.numerator // seconds.denominator)


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return bytes cut at these places."""
    places = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places) if start < end]

"""A gateway's usual question is answered in fewer steps, and noted as all others: the long way is the oracle."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest
from wire_client import WireClient, answers_in

from ratekeeper import ManualClock, MemoryStore, Policy, core
from ratekeeper.http import header_styles
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.wire import HttpWire
from ratekeeper.service.metrics.cells import FIXED_CELLS, histogram_cells
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.operator_options import OperatorOptions

pytestmark = pytest.mark.skipif(core.read_head is None, reason="the C core is not in use")

POLICY = """
exempt = [{ path = "/healthz" }]
[attributes]
user = "header:x-user"
size = "header:x-size"
host = "header:x-forwarded-host"
[tiers]
by = "user"
default = "free"
pro = ["ann"]
[[rules]]
name = "each"
match = { tier = "free", path = "/items/*" }
key = ["user"]
limit = "2/hour"
[[rules]]
name = "sized"
match = { path = "/sized" }
key = ["client"]
capacity = 9
refill_rate = "1/hour"
cost = "size"
[[rules]]
name = "queue"
match = { method = "POST" }
key = ["user"]
algorithm = "leaky_bucket"
capacity = 4
leak_rate = "1/s"
max_wait = 2
[[rules]]
name = "blocked"
match = { user = "mallory" }
deny = true
[[rules]]
name = "watched"
key = ["host"]
limit = "3/day"
shadow = true
[[rules]]
name = "known"
match = { path = "/known" }
key = ["user"]
missing = "reject"
limit = "9/hour"
"""


def question(chance: random.Random) -> bytes:
    """Return a question of a gateway. Most are usual, and some lack what they need or repeat it."""
    lines = [
        b"X-Forwarded-For: 192.0.2.%d" % chance.randrange(3),
        b"X-Forwarded-Uri: /" + chance.choice([b"items/7", b"items/%2e/7", b"sized", b"known", b"healthz", b"a?b"]),
        b"X-Forwarded-Method: " + chance.choice([b"GET", b"GET", b"POST", b"get"]),
        b"X-User: " + chance.choice([b"ann", b"bob", b"mallory", b"x" * 80]),
        b"X-Size: " + chance.choice([b"1", b"3", b"0", b"many", b"9" * 30]),
        b"X-Forwarded-Host: " + chance.choice([b"A.example", b"a.example:80"]),
        b"X-Ratekeeper-Timeout: " + chance.choice([b"0", b"1.5"]),
    ]
    if chance.random() < 0.3:
        lines.pop(chance.randrange(len(lines)))
    if chance.random() < 0.1:
        lines.append(chance.choice(lines))
    path = chance.choice([b"/check", b"/check", b"/check/403", b"/check/", b"/healthz"])
    return b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (path, b"\r\n".join(lines))


class Side:
    """A service, its client, and all that it noted."""

    def __init__(self, slots: Slots, number: int, text: str, **options: Any) -> None:
        self.clock = ManualClock(1_800_000_000)
        store = MemoryStore(100, clock=self.clock)
        self.core = Core(Policy.parse(text), store, metrics=Metrics(slots, number), **options)
        self.core.operate(OperatorOptions(page=True, recording_bytes=1 << 17))
        self.client = WireClient(lambda channel: HttpWire(self.core, channel, Bounds()))

    async def ask(self, *pieces: bytes) -> Any:
        sent = self.client.send(*pieces)
        before = len(self.client.sent) - len(sent)
        await self.client.answered()
        [answer] = answers_in(self.client.sent[before:])
        return answer._replace(headers={name: value for name, value in answer.headers.items() if name != "date"})

    @property
    def noted(self) -> tuple[Any, ...]:
        """The counts; the number of timed answers, and not their times; the recording; and the most limited keys."""
        assert self.core.hitters is not None
        slot = self.core.metrics.slot
        *times, took = histogram_cells("http")
        cells = [count for cell, count in enumerate(slot.cells[: FIXED_CELLS + 200]) if cell not in (*times, took)]
        timed = sum(slot.cells[cell] for cell in times)
        return cells, timed, bytes(slot.ring), self.core.hitters.published(), self.clock.ticks()


def decided_now(monkeypatch: pytest.MonkeyPatch) -> list[PolicyDecision | None]:
    """Return the list to which all answers of `decide_now` will be added."""
    answers: list[PolicyDecision | None] = []
    decide_now = Core.decide_now

    def decide(*arguments: Any) -> PolicyDecision | None:
        answers.append(decide_now(*arguments))
        return answers[-1]

    monkeypatch.setattr(Core, "decide_now", decide)
    return answers


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"headers": ("ietf", "x-delta")}, {"headers": "x-epoch"}], ids=str)
def test_a_question_is_answered_and_noted_as_one_that_comes_in_pieces(
    seed: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, now = random.Random(seed), decided_now(monkeypatch)
    wall = 1_800_000_000.25  # x-epoch tells it: a second must not begin between the answers of the two sides
    monkeypatch.setattr(header_styles, "time", SimpleNamespace(time=lambda: wall))
    slots = Slots.make(2, 1 << 17)  # with one secret, so that their hashes are the same

    async def ask_all() -> None:
        whole, split = Side(slots, 0, POLICY, **options), Side(slots, 1, POLICY, **options)
        for _ in range(200):
            asked, at = question(chance), chance.randrange(1, 20)
            answer = await whole.ask(asked)
            assert answer == await split.ask(asked[:at], asked[at:]), asked
            assert whole.noted == split.noted, asked
            for side in (whole, split):
                side.clock.advance(0.1)

    asyncio.run(ask_all())
    assert sum(decision is not None and decision.allowed for decision in now) > 20
    assert sum(decision is not None and not decision.allowed for decision in now) > 10
    assert None in now

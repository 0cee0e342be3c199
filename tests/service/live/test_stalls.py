"""The status and the counts of a table are told again for a while. After a stall they are made anew as soon as ever."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from ratekeeper import Limiter, MemoryStore, Policy
from ratekeeper.service.core import Core
from ratekeeper.service.live import events
from ratekeeper.service.metrics import table


class Stalling:
    """A clock of a machine that stands still for an hour each time that `stall` is called."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.stalls = 0

    def stall(self) -> None:
        self.stalls += 1
        self.now += 3600


def test_the_counts_of_a_table_are_taken_anew_soon_after_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Stalling()
    monkeypatch.setattr(table, "monotonic", lambda: clock.now)

    class Stalled(MemoryStore):
        def stats(self) -> object:  # type: ignore[override]
            clock.stall()
            return super().stats()

    store = Stalled(100)
    counts = table.TableCounts(store)
    assert counts.read().live == 0
    Limiter("1/day", store=store).try_acquire("a")
    assert counts.read().live == 0, "it is told again"
    clock.now += 60
    assert counts.read().live == 1


def test_the_status_is_made_anew_soon_after_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Stalling()
    live = Core(Policy.parse('[[rules]]\nname = "r"\nlimit = "1/day"'), MemoryStore(100)).live
    monkeypatch.setattr(
        events, "time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time, thread_time=time.thread_time)
    )
    monkeypatch.setattr(live._core.metrics, "refresh", clock.stall)
    told = live.status()
    assert live.status() is told
    clock.now += 60
    assert live.status() is not told
    assert clock.stalls == 2

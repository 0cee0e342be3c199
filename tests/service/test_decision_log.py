"""The access log: which decisions it shows, without a key, never in the way of one."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from service_process import poll

from ratekeeper import Limiter, ManualClock, MemoryStore, Policy, StoreUnavailable
from ratekeeper.errors import RatekeeperError
from ratekeeper.service.access_log import MOST_LINES, AccessLog, AccessLogSpec
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange
from ratekeeper.service.metrics.counters import SAMPLE, Metrics
from ratekeeper.service.metrics.exposition import Exposition

POLICY = Policy.parse("""
[[rules]]
name = "each user"
match = { path = "/api/*" }
key = ["user"]
limit = "2/minute"

[[rules]]
name = "tenants"
match = { path = "/tenants" }
key = ["tenant"]
missing = "reject"
limit = "2/minute"
""")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def ask(path: Path) -> Callable[..., AccessLog]:
    log = AccessLog(AccessLogSpec(str(path), 1.0, b"secret"))
    core = Core(POLICY, MemoryStore(100, clock=ManualClock()), access_log=log)

    def ask(**attributes: str) -> AccessLog:
        core.charge(ProgramExchange(core.limiter, CheckRequest(attributes)), "resp")
        return log

    return ask


def test_a_line_tells_the_decision_and_no_key(ask: Callable[..., AccessLog], path: Path) -> None:
    for user in ("alice", "alice", "alice", "bob"):
        ask(user=user, path="/api/x")
    ask(user="alice", path="/static")
    log = ask(user="alice", path="/tenants")
    log.close()
    first, second, third, other, free, missing = lines(path)
    assert list(first) == [
        "time", "protocol", "result", "rule", "key", "outcomes", "cost", "remaining", "retry_after", "source",
        "duration_us",
    ]  # fmt: skip
    assert (first["protocol"], first["result"], first["rule"]) == ("resp", "allowed", "each user")
    assert (first["outcomes"], first["cost"], first["remaining"]) == ({"each user": "allowed"}, 1, 1)
    assert (first["retry_after"], first["source"]) == (0, "exact")
    assert first["duration_us"] >= 0
    assert second["remaining"] == 0
    assert (third["result"], third["outcomes"], third["retry_after"]) == ("refused", {"each user": "refused"}, 30)
    assert first["key"] == third["key"] != other["key"], "a hash tells whether two keys are the same"
    assert (free["result"], free["rule"], free["key"], free["outcomes"]) == ("allowed", None, None, {})
    assert (missing["result"], missing["outcomes"], missing["retry_after"]) == ("refused", {"": "refused"}, None)
    assert "alice" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_other_secrets_give_other_hashes(tmp_path: Path) -> None:
    seen = set()
    for name in ("a", "b"):
        log = AccessLog(AccessLogSpec(str(tmp_path / name)))
        log.note("resp", "allowed", Limiter("5/s").try_acquire("alice"), 1000)
        log.close()
        [line] = lines(tmp_path / name)
        seen.add(line["key"])
    assert len(seen) == 2


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_a_share_of_the_decisions_is_shown(path: Path, share: float) -> None:
    log, metrics = AccessLog(AccessLogSpec(str(path), share)), Metrics()
    metrics.log_to(log)
    http, asked = metrics.protocols["http"], 40_000
    timed = 0
    for _ in range(asked):
        began = http.begin()
        timed += began > 0
        http.allowed(began)
    assert timed == (asked if share * SAMPLE > 1 else asked / SAMPLE)
    log.close()
    assert 0.7 * share < (len(lines(path)) + log.dropped) / asked < 1.3 * share


def test_a_question_that_failed_has_no_decision(path: Path) -> None:
    log, metrics = AccessLog(AccessLogSpec(str(path), 1.0)), Metrics()
    metrics.log_to(log)
    http = metrics.protocols["http"]
    http.answered(StoreUnavailable("away"), http.begin())
    log.close()
    [line] = lines(path)
    assert (line["result"], line["rule"], line["remaining"]) == ("failed", None, None)


def test_lines_that_cannot_be_written_are_dropped_and_counted_and_nobody_waits() -> None:
    reading, writing = os.pipe()
    path = f"/proc/self/fd/{writing}"  # a pipe that nobody reads
    log, metrics = AccessLog(AccessLogSpec(path, 1.0)), Metrics()
    metrics.log_to(log)
    decision = Limiter("5/s").try_acquire("alice")
    for _ in range(3 * MOST_LINES):
        log.note("http", "allowed", decision, 1)
    poll(lambda: log.dropped > MOST_LINES and not log._lines)
    log.close()
    written = os.read(reading, 2**20).count(b"\n")
    assert 0 < written < MOST_LINES
    text = Exposition(metrics, None).scrape().body.decode()
    assert f"ratekeeper_access_log_dropped_total {float(log.dropped)}" in text
    os.close(reading)
    os.close(writing)


def test_half_a_line_on_a_full_disk_takes_no_other_line_with_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, room = os.write, iter([9, 0])

    def write_what_fits(descriptor: int, line: bytes) -> int:
        left = next(room, len(line))
        if not left:
            raise OSError(28, "No space left on device")
        return write(descriptor, line[:left])

    monkeypatch.setattr("ratekeeper.service.access_log.os.write", write_what_fits)
    log = AccessLog(AccessLogSpec(str(path), 1.0))
    for _ in range(4):
        log.note("http", "failed", None, 1)
    log.close()
    cut, *whole = path.read_text().splitlines()
    assert (len(cut), log.dropped) == (9, 2)
    assert [json.loads(line)["result"] for line in whole] == ["failed", "failed"]


def test_a_file_that_is_renamed_is_followed_by_a_new_one(ask: Callable[..., AccessLog], path: Path) -> None:
    ask(user="alice", path="/api/x")
    poll(path.read_text)
    path.rename(path.with_suffix(".1"))
    asked = 1

    def begun() -> bool:
        nonlocal asked
        ask(user="bob", path="/api/x")
        asked += 1
        return path.exists()

    poll(begun)  # a line that comes while the one before it is written goes where that went
    ask(user="bob", path="/api/x").close()
    before, after = lines(path.with_suffix(".1")), lines(path)
    assert len(before) + len(after) == asked + 1
    assert before
    assert after


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RatekeeperError, match=r"--access-log .*: Is a directory"):
        AccessLogSpec(str(tmp_path)).check()

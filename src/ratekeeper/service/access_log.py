"""AccessLog: a sample of decisions, each as a line of JSON, without a key in clear. Knows no protocol and no policy.

A decision never waits for the log. Lines go through a bounded queue to a thread, which writes them. If the queue is
full, the line is dropped and counted. All workers append to one file, each line by one write. The file may be renamed
at any time, as logrotate does: a new one is made.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isfinite
from random import Random
from typing import Any

from ratekeeper.decision import key_bytes
from ratekeeper.errors import RatekeeperError
from ratekeeper.exceeded import AnyDecision
from ratekeeper.policy.decision import PolicyDecision

STDOUT = "-"
SHARE = 0.01
"""The share of decisions that a log shows, unless its owner says another."""

MOST_LINES = 10_000
"""The lines that wait to be written. Further ones are dropped."""

_EVERY = 0.2
_LAST_MOMENT = 1.0


@dataclass(frozen=True, slots=True)
class AccessLogSpec:
    """Where a log is, the share of decisions that it shows, and the secret of its hashes, the same in all workers."""

    path: str
    share: float = SHARE
    secret: bytes = field(default_factory=lambda: os.urandom(16), repr=False)

    def check(self) -> None:
        """Raise `RatekeeperError` if the file cannot be written."""
        if self.path != STDOUT:
            os.close(_open(self.path))


class AccessLog:
    """Writes one line for a share of decisions. `note` is called by one thread; `close` writes what still waits."""

    def __init__(self, spec: AccessLogSpec) -> None:
        self.share = spec.share
        self.dropped = 0
        self._path, self._secret = spec.path, spec.secret
        self._fd = sys.stdout.fileno() if spec.path == STDOUT else _open(spec.path)
        self._cut = False  # the disk was full in the middle of the last line
        self._random = Random().random
        self._lines: deque[bytes] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ratekeeper access log", daemon=True)
        self._thread.start()

    def draws(self, share: float) -> bool:
        """Return whether to note this decision: true for a share of the calls."""
        return self._random() < share

    def note(self, protocol: str, result: str, decision: AnyDecision | None, nanoseconds: int) -> None:
        """Note a decision, unless too many lines wait. It is None if the question could not be decided."""
        if len(self._lines) >= MOST_LINES:
            self.dropped += 1
            return
        now = time.time()
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z",
            "protocol": protocol,
            "result": result,
            **(_NOTHING if decision is None else self._facts(decision)),
            "duration_us": nanoseconds // 1000,
        }
        self._lines.append(json.dumps(line, ensure_ascii=True).encode("ascii") + b"\n")

    def close(self) -> None:
        """Write the lines that wait, and end."""
        self._closing.set()
        self._thread.join(_LAST_MOMENT)
        if self._path != STDOUT:
            os.close(self._fd)

    def _facts(self, decision: AnyDecision) -> dict[str, Any]:
        rule = decision.rule if isinstance(decision, PolicyDecision) else decision.rules[0]
        retry_after = decision.retry_after
        return {
            "rule": None if rule is None else rule.label,
            "key": None if rule is None else self._hashed(rule.decision.key),
            "outcomes": dict(decision.outcomes) if isinstance(decision, PolicyDecision) else None,
            "cost": None if rule is None else rule.decision.cost,
            "remaining": None if rule is None else rule.decision.remaining,
            "retry_after": round(retry_after, 3) if isfinite(retry_after) else None,
            "source": None if rule is None else rule.decision.source,
        }

    def _hashed(self, key: str | bytes) -> str:
        return blake2b(key_bytes(key), digest_size=8, key=self._secret).hexdigest()

    # The thread

    def _run(self) -> None:
        while not self._closing.wait(_EVERY):
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        if self._lines and self._path != STDOUT:
            self._follow()
        while self._lines:
            line = self._lines.popleft()
            if self._cut:
                line = b"\n" + line
            try:
                self._cut = os.write(self._fd, line) < len(line)
            except OSError:  # no room, or nobody reads: requests go on
                self.dropped += 1
            else:
                self.dropped += self._cut

    def _follow(self) -> None:
        """Open the file anew if it was renamed or removed."""
        try:
            there, ours = os.stat(self._path), os.fstat(self._fd)
            if (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev):
                return
        except OSError:
            pass
        try:
            new = _open(self._path)
        except RatekeeperError:
            return
        os.close(self._fd)
        self._fd, self._cut = new, False


_NOTHING: dict[str, Any] = dict.fromkeys(["rule", "key", "outcomes", "cost", "remaining", "retry_after", "source"])


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    except OSError as error:
        raise RatekeeperError(f"--access-log {path}: {error.strerror}") from None

"""What RedisStore and AsyncRedisStore share: all but the waiting for answers. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ratekeeper.clock import Clock
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores.redis.attempts import Attempts
from ratekeeper.stores.redis.clock import ServerClock
from ratekeeper.stores.redis.connect import link
from ratekeeper.stores.redis.denials import Denials
from ratekeeper.stores.redis.fallback import Fallback
from ratekeeper.stores.redis.faults import Faults
from ratekeeper.stores.redis.names import BucketNames
from ratekeeper.stores.redis.plans import Plans
from ratekeeper.stores.redis.script import SERVER_TIME, Ask, Reply, arguments, clock_at, load_script, read_replies


class RedisStats(NamedTuple):
    """What a store has done. `calls` are round trips, of which each carries one or more `requests`.

    `remembered` are refusals that cost no round trip. `scripts_sent` counts how often a server had not the script.
    `failures` are calls that a server did not answer, `opened` counts how often it was then asked no more, but for a
    probe now and then. `fallbacks` are requests that were answered by `on_error`, without the server.
    """

    calls: int
    requests: int
    remembered: int
    scripts_sent: int
    failures: int = 0
    fallbacks: int = 0
    opened: int = 0


class Shared:
    """The parts of a store, made from its arguments."""

    def __init__(
        self,
        where: Any,
        *,
        asynchronous: bool,
        prefix: str,
        secret: str | bytes | None,
        timeout: float,
        remember_denials: bool,
        clock: Clock | None,
        on_error: str,
        expected_nodes: int,
        retry: float,
    ) -> None:
        if not isinstance(retry, int | float) or isinstance(retry, bool) or not 0 < retry < float("inf"):
            raise ValueError(f"retry must be more than 0 seconds, not {retry!r}")
        self.link = link(where, timeout, asynchronous)
        self.script = load_script()
        self.faults = Faults(self.link.library)
        self._server_clock = ServerClock()
        self._given_clock = clock
        self.clock: Clock = self._server_clock if clock is None else clock
        local = self._server_clock.local if clock is None else clock.ticks
        self.local = local
        self.denials = Denials(local) if remember_denials else None
        self.plans = Plans(BucketNames(prefix, secret), self.denials, self.link.clustered)
        self.attempts = Attempts(self.faults, max(1, round(retry * TICKS_PER_SECOND)), local)
        self.fallback = Fallback(self.plans, self.clock.ticks, on_error, expected_nodes)
        self._calls = self._requests = self._scripts_sent = 0

    def arguments(self, asks: Sequence[Ask]) -> list[bytes | int]:
        """Return what a script call is sent, for requests that travel together."""
        clock = SERVER_TIME if self._given_clock is None else clock_at(self._given_clock.ticks())
        return arguments(asks, clock)

    def read(self, text: str | bytes, asks: Sequence[Ask], sent: int) -> list[Reply]:
        """Read what a script call says, and learn the time from it."""
        replies = read_replies(text, asks, sent)
        if replies:
            self._server_clock.learn(replies[0].now, sent)
        self._calls += 1
        self._requests += len(asks)
        return replies

    def script_was_missing(self) -> None:
        self._scripts_sent += 1

    def stats(self) -> RedisStats:
        remembered = self.denials.recalled if self.denials else 0
        return RedisStats(
            self._calls, self._requests, remembered, self._scripts_sent,
            self.attempts.failures, self.fallback.count, self.attempts.opened,
        )  # fmt: skip

"""What RedisStore and AsyncRedisStore share: all but the waiting for answers. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from ratekeeper.clock import Clock, SystemClock
from ratekeeper.decision import OnError
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores.redis.attempts import Attempts
from ratekeeper.stores.redis.clock import ServerClock
from ratekeeper.stores.redis.connect import link
from ratekeeper.stores.redis.denials import Denials
from ratekeeper.stores.redis.fallback import Fallback
from ratekeeper.stores.redis.faults import Faults
from ratekeeper.stores.redis.names import BucketNames
from ratekeeper.stores.redis.plans import Plans
from ratekeeper.stores.redis.redirects import Redirects
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


class OnServer:
    """A store whose buckets are on a server: its parts, made from its arguments. What differs is who waits for answers.

    `RedisStore` documents the arguments. A store says by `_asynchronous` which kind of client it takes, and sets up in
    `_begin` what is its own.
    """

    _asynchronous: ClassVar[bool]

    def __init__(
        self,
        where: Any,
        *,
        prefix: str = "ratekeeper:",
        secret: str | bytes | None = None,
        timeout: float = 0.05,
        remember_denials: bool = True,
        clock: Clock | None = None,
        on_error: OnError = "raise",
        expected_nodes: int | None = None,
        retry: float = 0.5,
    ) -> None:
        if not isinstance(retry, int | float) or isinstance(retry, bool) or not 0 < retry < float("inf"):
            raise ValueError(f"retry must be more than 0 seconds, not {retry!r}")
        self._link = link(where, timeout, self._asynchronous)
        self._script = load_script()
        self._faults = Faults(self._link.library, self._link.clustered)
        self._redirects = Redirects(self._link, self._faults)
        self._server_clock = ServerClock()
        self._given_clock = clock
        self.clock: Clock = self._server_clock if clock is None else clock
        local = self._server_clock.local if clock is None else clock.ticks
        self._denials = Denials(local) if remember_denials else None
        self._plans = Plans(BucketNames(prefix, secret), self._denials, self._link.clustered)
        self._attempts = Attempts(self._faults, max(1, round(retry * TICKS_PER_SECOND)), local)
        self._fallback = Fallback(self._plans, self.clock.ticks, on_error, expected_nodes)
        self._calls = self._requests = self._scripts_sent = 0
        self._begin()

    def _begin(self) -> None:
        raise NotImplementedError

    def stats(self) -> RedisStats:
        """Count what this store has done, in this process."""
        remembered = self._denials.recalled if self._denials else 0
        return RedisStats(
            self._calls, self._requests, remembered, self._scripts_sent,
            self._attempts.failures, self._fallback.count, self._attempts.opened,
        )  # fmt: skip

    def _arguments(self, asks: Sequence[Ask]) -> list[bytes]:
        """Return what a script call is sent, for requests that travel together."""
        by_server = self._given_clock is None and SystemClock.held is None
        return arguments(asks, SERVER_TIME if by_server else clock_at(self.clock.ticks()))

    def _read(self, text: str | bytes, asks: Sequence[Ask], sent: int) -> list[Reply]:
        """Read what a script call says, and learn the time from it."""
        replies = read_replies(text, asks, sent)
        if replies:
            self._server_clock.learn(replies[0].now, sent)
        self._calls += 1
        self._requests += len(asks)
        return replies

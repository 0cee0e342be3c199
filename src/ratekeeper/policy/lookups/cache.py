"""LookupCache: the known limits of each bucket of a rule whose limit is looked up.

A bucket is looked up once at a time. A known answer is used at once; when it is older than its ttl, it is looked up
again meanwhile. The C core (policy_gate_object.c) reads `entries` and counts in `hits`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import islice
from time import monotonic
from typing import NamedTuple

from ratekeeper import core
from ratekeeper.core.known_limits import KnownLimits
from ratekeeper.forks import forget_in_child
from ratekeeper.limits import TICKS_PER_SECOND, Limit
from ratekeeper.policy.lookups.lookup import Lookup
from ratekeeper.policy.lookups.source import LookupSource, Search, TooManyLookups

RETRY_SECONDS = 1.0
"""Seconds until a look-up that failed, or that takes longer, is looked at again; at most the ttl."""


class LookupCache:
    """The known limits by bucket. `ticks` tells the time by which they grow stale. Thread-safe."""

    def __init__(self, source: LookupSource, lookup: Lookup, default: Limit, ticks: Callable[[], int]) -> None:
        self.source, self.lookup, self.default = source, lookup, default
        self.entries: dict[str, KnownLimits] = {}
        self.hits = source.hits
        self._ticks = ticks
        self._searches: dict[str, Search] = {}
        self._ttl = int(lookup.ttl * TICKS_PER_SECOND)
        self._retry = min(self._ttl, int(RETRY_SECONDS * TICKS_PER_SECOND))
        forget_in_child(self)

    def forget(self) -> None:
        """Begin anew, as a forked child must: the look-ups that are under way are its parent's."""
        self._searches = {}

    def fresh(self, bucket: str) -> KnownLimits | None:
        """Return the known limits of a bucket, if they need not be looked up again."""
        known = self.entries.get(bucket)
        if known is None or not known.limits or self._ticks() >= known.stale_at:
            return None
        with self.source.lock:
            self.hits[0] += 1
        return known

    def begin(self, bucket: str, attributes: Mapping[str, str]) -> KnownLimits | Search:
        """Return the known limits of a bucket, or the look-up that will tell them. Begin it if it is time to."""
        try:
            return self._begin_if_due(bucket, attributes)
        except (TooManyLookups, RuntimeError) as error:  # RuntimeError: no thread can start, or no event loop runs
            self.source.failed(error)  # without the lock: handlers of the log may do anything
            return self.failure(bucket)

    def _begin_if_due(self, bucket: str, attributes: Mapping[str, str]) -> KnownLimits | Search:
        source = self.source
        with source.lock:
            known, now = self.entries.get(bucket), self._ticks()
            if known is not None and now < known.stale_at:
                source.hits[0] += 1
                return known
            search = self._searches.get(bucket)
            if search is not None and search.is_lost(source.given.timeout):
                self._drop(search)
                search = None
            if search is None:
                search = self._begin(bucket, attributes)
            # For the time being: so a look-up that takes long costs the requests of a known bucket nothing.
            return search if known is None else self._keep(bucket, known.limits, self._retry)

    def given_up(self, search: Search) -> KnownLimits | None:
        """Return the limits of a bucket after its look-up was waited for. None if it must begin again."""
        source = self.source
        with source.lock:
            known = self.entries.get(search.bucket)
            if known is not None:
                return known
            if search.done.is_set():
                return None
            source.timeouts += 1
            return self.failure(search.bucket)

    def failure(self, bucket: str) -> KnownLimits:
        """Return what counts after a failed look-up, and keep it for a while."""
        with self.source.lock:
            known, on_error = self.entries.get(bucket), self.lookup.on_error
            if on_error == "deny":
                limits: tuple[Limit, ...] = ()
            elif on_error == "last known" and known is not None:
                limits = known.limits
            else:
                limits = (self.default,)
            return self._keep(bucket, limits, self._retry)

    @property
    def under_way(self) -> int:
        """The number of look-ups that are not done."""
        return len(self._searches)

    def _begin(self, bucket: str, attributes: Mapping[str, str]) -> Search:
        search = Search(bucket, attributes, self.default, self._ended)
        self.source.begin(search, len(self._searches))
        self._searches[bucket] = search  # it cannot have ended, as that needs the lock
        return search

    def _ended(self, search: Search, limits: tuple[Limit, ...] | None) -> None:
        bucket = search.bucket
        with self.source.lock:
            if self._searches.get(bucket) is search:
                del self._searches[bucket]
            if limits is None:
                self.failure(bucket)
            else:
                self._keep(bucket, limits, self._ttl)

    def _drop(self, search: Search) -> None:
        """Forget a look-up that is lost. Its late answer still counts."""
        del self._searches[search.bucket]
        if search.task is not None and search.loop is not None and not search.loop.is_closed():
            search.loop.call_soon_threadsafe(search.task.cancel)

    def _keep(self, bucket: str, limits: tuple[Limit, ...], ticks: int) -> KnownLimits:
        entries = self.entries
        entries.pop(bucket, None)  # so the order is that of the answers' age
        most = self.source.given.max_keys
        if (
            len(entries) >= most
        ):  # many at once: the first key of a dictionary is found by passing all that were removed
            for old in list(islice(entries, max(1, most // 16))):
                entries.pop(old, None)
        known = entries[bucket] = core.known_limits(limits, self._ticks() + ticks)
        return known


class LookupNeeded(Exception):
    """A request must await look-ups before it can be decided."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__()
        self.wanted = wanted


class Wanted:
    """The limits of one request that are not all known yet, and the look-ups that it waits for."""

    def __init__(self) -> None:
        self.known: dict[tuple[LookupCache, str], KnownLimits] = {}
        self._waits: list[_Wait] = []

    def add(self, cache: LookupCache, bucket: str, attributes: Mapping[str, str]) -> None:
        """Want the limits of one more bucket."""
        self._begin(cache, bucket, attributes, monotonic() + cache.source.given.timeout)

    @property
    def complete(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self._waits

    def wait(self) -> None:
        """Block until all limits are known, or the time is up. Then what counts after a failure is known."""
        while self._waits:
            for one in self._waits:
                one.search.done.wait(max(0.0, one.until - monotonic()))
            self._take()

    async def wait_async(self) -> None:
        """As `wait`, while the event loop goes on."""
        while self._waits:
            futures = [one.search.awaited() for one in self._waits]
            until = min(one.until for one in self._waits)
            await asyncio.wait(futures, timeout=max(0.0, until - monotonic()))
            self._take()

    def _begin(self, cache: LookupCache, bucket: str, attributes: Mapping[str, str], until: float) -> None:
        found = cache.begin(bucket, attributes)
        if isinstance(found, Search):
            self._waits.append(_Wait(cache, found, attributes, until))
        else:
            self.known[cache, bucket] = found

    def _take(self) -> None:
        waits, self._waits = self._waits, []
        for one in waits:
            cache, bucket, ended, late = (
                one.cache,
                one.search.bucket,
                one.search.done.is_set(),
                monotonic() >= one.until,
            )
            known = cache.given_up(one.search) if ended or late else None
            if known is not None:
                self.known[cache, bucket] = known
            elif not ended:
                self._waits.append(one)
            elif late:
                self.known[cache, bucket] = cache.failure(bucket)
            else:  # its loop ended, or its answer was forgotten already
                self._begin(cache, bucket, one.attributes, one.until)


class _Wait(NamedTuple):
    cache: LookupCache
    search: Search
    attributes: Mapping[str, str]
    until: float

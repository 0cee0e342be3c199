"""Recording: the last minutes of requests, kept as hashes in the memory that all processes of the service share.

Of each request it keeps the time, the cost, the outcome, a keyed hash of each attribute that the policy looks at, and
the rules whose tests it passes: no value of an attribute, but for the numbers of tokens in attributes that have a cost.
The key of the hash is made when the service starts, and is in no file. So a recording does not tell who asked,
and what-if can still tell requests apart. The oldest requests make room for new ones. A recording outlives the
worker that wrote it, and a reload: each segment has the schema of the policy that its requests were decided by.

Questions that Envoy asks of envoyproxy/ratelimit's files are not recorded: they are decided by those files, and a
what-if edits a policy. This module knows no page and no what-if.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ratekeeper import core
from ratekeeper.clock import local_ticks
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.service.metrics.slots import Slot
from ratekeeper.service.recording.fingerprints import Fingerprints
from ratekeeper.service.recording.recorder import PythonRecorder
from ratekeeper.service.recording.ring import (
    ADMITTED,
    COUNT,
    DELAYED,
    END,
    FIRST,
    NUMBER,
    REJECTED,
    fitting_schema,
    heads,
    ring_for,
)
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.table_store import TableStore

_log = logging.getLogger("ratekeeper")


class Schema(NamedTuple):
    """The meaning of the records of one policy.

    names     the attribute in each slot, and how it was read: two policies may read one name differently
    costs     the slots of the attributes that have a cost
    rules     of each rule its name, and fingerprints of its tests and of the tests of its overrides
    exempt    the fingerprint of the exemptions
    """

    names: tuple[tuple[str, str], ...]
    costs: tuple[int, ...]
    rules: tuple[tuple[str, str, str], ...]
    exempt: str

    @classmethod
    def of(cls, keeper: AsyncKeeper) -> Schema:
        """Return the schema of the records of a keeper's policy."""
        policy, names = keeper.policy, keeper.compiled.slot_names
        of = Fingerprints(policy)
        costs = {rule.cost for rule in policy.rules if isinstance(rule.cost, str)}
        return cls(
            tuple((name, of.name(name)) for name in names),
            tuple(slot for slot, name in enumerate(names) if name in costs),
            tuple((rule.name, of.match(rule.match), of.overrides(rule)) for rule in policy.rules),
            of.exempt(),
        )

    @classmethod
    def read(cls, text: bytes) -> Schema:
        """Return a schema that `written` has written."""
        names, costs, rules, exempt = json.loads(text)
        return cls(tuple(map(tuple, names)), tuple(costs), tuple(map(tuple, rules)), exempt)

    def written(self) -> bytes:
        """Return its JSON, for a segment."""
        return json.dumps(self).encode()


class _Beginning(NamedTuple):
    """The arguments of a recorder's `begin`, for one keeper."""

    matcher: object
    schema: bytes
    costs: tuple[int, ...]
    optional: tuple[int, ...]

    @classmethod
    def of(cls, keeper: AsyncKeeper) -> _Beginning:
        compiled, schema = keeper.compiled, Schema.of(keeper)
        optional = {slot for rule in compiled.rules if rule.missing for slot in rule.slots}
        return cls(compiled.matcher, schema.written(), schema.costs, tuple(sorted(optional)))


class Recording:
    """The recording of this process, in its slot's ring. `decided` is an observer of decisions.

    Its times are those of the store's clock, or of this machine's clock if the store is elsewhere. `keeper` is the
    first one that decides: if its policy is too long to be recorded, the log says so at the start.
    """

    def __init__(self, slot: Slot, secret: bytes, store: Store | AsyncStore, keeper: AsyncKeeper) -> None:
        self.now = local_ticks(store.clock)
        self._slot = slot
        self._known = WeakKeyDictionary[AsyncKeeper, _Beginning]()
        self._schema = self._learn(keeper).schema
        self._offset = None if isinstance(store, TableStore) else 0
        self._recorder = (core.recorder or PythonRecorder)(slot.ring, secret, self._changed, self._told, self.now)
        self.decided = self._recorder.decided
        self.reading = asyncio.Lock()
        """Held while the recordings of all processes are read, which takes seconds: so one reads at a time."""

    @property
    def left_out(self) -> int:
        """The requests of this process that could not be recorded: they, or their policy, are too long for it."""
        left_out: int = self._recorder.left_out
        return left_out

    def state(self) -> dict[str, Any]:
        """Return what this process's recording holds, for the status."""
        return {**recording_state([self._slot], self.now(), time.time()), "left_out": self.left_out}

    def _changed(self, keeper: AsyncKeeper) -> None:
        """Record by another policy from now on. One with the same schema goes on in the segment.

        A request that has waited since before a reload to another schema is left out: else it and those after it would
        take turns, and each turn takes a segment.
        """
        known = self._known.get(keeper)
        if known is None:
            known = self._learn(keeper)
            self._schema = known.schema
        if known.schema == self._schema:
            self._recorder.begin(keeper, *known)

    def _learn(self, keeper: AsyncKeeper) -> _Beginning:
        """Return what a recorder needs of a keeper. Log if its policy is too long."""
        known = self._known[keeper] = _Beginning.of(keeper)
        if len(known.schema) > fitting_schema(len(self._slot.ring)):
            enough = -(-ring_for(len(known.schema)) // 2**20)
            _log.error("no request is recorded, as the policy is too long for it: start with --recording %dM", enough)
        return known

    def _told(self, decision: PolicyDecision) -> tuple[int, int]:
        """Return the time at which a request came, and its outcome."""
        delayed = any(rule.decision.delay_ticks for rule in decision.enforced) if decision.allowed else False
        outcome = REJECTED if not decision.allowed else DELAYED if delayed else ADMITTED
        at = min((rule.decision.at_ticks for rule in decision.rules if rule.decision.at_ticks), default=0)
        if not at:
            return self.now(), outcome
        if self._offset is not None:  # another machine's time, which differs as the last request without a wait shows
            if not delayed:
                self._offset = self.now() - at
            at += self._offset
        return at, outcome


def recording_state(slots: Iterable[Slot], now: int, wall: float) -> dict[str, Any]:
    """Return what recordings hold, for the status. `now` is the time in ticks of their clock, and `wall` since 1970.

    `since` is the time of the oldest request, in seconds since 1970. It reads the heads of the segments only.
    """
    requests = used = capacity = 0
    first: int | None = None
    for slot in slots:
        capacity += len(slot.ring)
        for _, head in heads(slot.ring):
            if head[NUMBER] and head[COUNT]:
                requests += head[COUNT]
                used += head[END]
                first = head[FIRST] if first is None else min(first, head[FIRST])
    since = None if first is None else round(wall - max(0, now - first) / TICKS_PER_SECOND, 3)
    return {"requests": requests, "since": since, "bytes": used, "capacity_bytes": capacity}

"""Pauses: the rules that refuse nothing until a time. Each is kept in the store, so all processes and a restart see it.

A pause is a block of a bucket that no rule has. It ends by itself, also if the process that began it is gone. Each
process looks once a second, by one question to the store. Meanwhile a paused rule is in shadow.

A full table may forget a block, as clients with many keys make it forget. So a process holds the pauses that it has
seen until they end. A pause that an admin ends is marked, by one more block, which the next pause ends. So a process
tells a pause that was ended from a pause that was forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ratekeeper.adjustment import Until, ticks_until
from ratekeeper.decision import Charge, Decision
from ratekeeper.errors import StoreError
from ratekeeper.limits import MAX_AHEAD_TICKS, TICKS_PER_SECOND, TokenBucket
from ratekeeper.policy.model import Policy
from ratekeeper.stores.as_async import as_async
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.memory import MemoryStore

PAUSED = "ratekeeper-admin:paused:{}:"
"""The scope of a rule's pause. That of a rule's bucket ends with "/" and a number."""
RESUMED = "ratekeeper-admin:resumed:{}:"
"""The scope of the mark of a rule whose pause was ended. The mark is stronger than the pause."""

_KEY = "all"
"""The key of all pauses: so they are in one slot of a cluster, and one question tells all."""

EVERY = 1.0
"""Seconds between two looks."""

_SAME = 0.5
"""Seconds: two looks at one pause may differ by so much in its end, as clocks are read at other moments."""

_ANY = TokenBucket(1, 1)
_log = logging.getLogger("ratekeeper.admin")


def block_probe(scope: str, key: str | bytes) -> Charge:
    """Return a charge that only a block refuses, to be asked without committing: its wait is what the block has left.

    It asks for no token, so a full table does not refuse it, and with a wait of up to nine years, so no debt does.
    """
    return Charge.of(scope, key, _ANY, 0, None, on_error="raise")


def end_of_block(probe: Decision, now: float) -> float | None:
    """Return the end of a block in seconds since 1970, by the decision of a `block_probe`; None without a block."""
    return None if probe.allowed else now + probe.retry_after


class _Pause(NamedTuple):
    """The end of a pause: in seconds since 1970, and in ticks of the store's clock."""

    until: float
    ends_at: int


class Pauses:
    """The pauses that this process knows. `apply` is called when they have changed, to decide by them."""

    def __init__(self, policy: Policy, store: Store | AsyncStore, apply: Callable[[Policy], None]) -> None:
        self.policy = policy
        """The policy as it was loaded, without pauses."""
        self.until: dict[str, float] = {}
        """The end of each pause in seconds since 1970, by the rule's name."""
        self._known: dict[str, _Pause] = {}
        self._store = as_async(store)
        self._private = isinstance(store, MemoryStore)
        self._apply = apply
        self._applied: frozenset[str] = frozenset()
        self._begun = self._noted = 0  # looks, by their numbers

    def replace(self, policy: Policy) -> None:
        """Decide by another policy, with the pauses that are known."""
        self._decide_by(policy, self._now_paused(policy))

    async def begin(self, rule: str, until: Until) -> None:
        """Pause a rule until a time. Raise ValueError for a time that cannot be."""
        ticks = ticks_until(until)
        await self.look()
        await self._block(RESUMED, rule, 0)  # before the pause: see `end`
        known = self.until.get(rule)
        if known is None or known > time.time() + ticks / TICKS_PER_SECOND:  # a block only ever gets longer
            await self._block(PAUSED, rule, 0)
        await self._block(PAUSED, rule, ticks)
        await self.look()

    async def end(self, rule: str) -> bool:
        """End the pause of a rule, which may have left the policy. Return whether there was one.

        Another process may hold a pause that the store has forgotten, so a rule that is not paused here is marked too.
        The mark comes last, and `begin` ends it first. So whatever the order of both, the store is not left without a
        pause and without a mark: then those that know the pause would go on with it, and others would not have it.
        """
        pause = (await self._see([rule])).get(rule)
        if pause is not None or any(rule == own.name for own in self.policy.rules):
            await self._block(PAUSED, rule, 0)
            await self._block(RESUMED, rule, MAX_AHEAD_TICKS)
        await self.look()
        return pause is not None

    async def look(self) -> None:
        """See which rules are paused now, and decide by that. Raise `StoreError` if the store does not answer.

        An answer that comes after that to a later look is out of date.
        """
        self._begun += 1
        number = self._begun
        seen = await self._see([rule.name for rule in self.policy.rules])
        if number > self._noted:
            self._noted = number
            self._note(seen)

    async def watch(self, admin: bool) -> None:
        """Look once a second. While the store does not answer, the pauses that are known go on to their ends.

        Without an `admin` API here, nobody can have paused a rule in this process's own memory: return at once.
        """
        if self._private and not admin:
            return
        failed = False
        while True:
            try:
                await self.look()
                failed = False
            except StoreError as error:
                if not failed:
                    _log.warning("the pauses of rules cannot be read, as the store does not answer: %s", error)
                failed = True
                self._note(self._known)
            await asyncio.sleep(EVERY)

    async def _see(self, rules: Sequence[str]) -> dict[str, _Pause]:
        """Return the pauses of some rules by their names: those of the store, and those that it has forgotten."""
        probes = [block_probe(scope.format(rule), _KEY) for scope in (PAUSED, RESUMED) for rule in rules]
        found = await self._store.decide(probes, commit=False)
        seen = {}
        for rule, probe, mark in zip(rules, found[: len(rules)], found[len(rules) :], strict=True):
            pause = self._known.get(rule) if probe.allowed else self._pause_of(probe)
            if pause is not None and mark.allowed:
                seen[rule] = pause
        return seen

    def _pause_of(self, probe: Decision) -> _Pause:
        return _Pause(
            time.time() + probe.retry_after, self._store.clock.ticks() + int(probe.retry_after * TICKS_PER_SECOND)
        )

    async def _block(self, scope: str, rule: str, ticks: int) -> None:
        await self._store.adjust(scope.format(rule), _KEY, 0, ticks)

    def _note(self, seen: Mapping[str, _Pause]) -> None:
        """Decide by these pauses, but for those that have ended."""
        now, ticks, known = time.time(), self._store.clock.ticks(), self._known
        self._known = {}
        for rule, pause in seen.items():
            if pause.until > now and pause.ends_at > ticks:
                before = known.get(rule, pause)
                self._known[rule] = before if abs(before.until - pause.until) < _SAME else pause
        self.until = {rule: pause.until for rule, pause in self._known.items()}
        paused = self._now_paused(self.policy)
        if paused != self._applied:
            self._decide_by(self.policy, paused)

    def _now_paused(self, policy: Policy) -> frozenset[str]:
        return frozenset(self.until.keys() & {rule.name for rule in policy.rules if not rule.shadow})

    def _decide_by(self, policy: Policy, paused: frozenset[str]) -> None:
        """Decide by a policy with these rules in shadow. Raise `PolicyError`, and change nothing, if it cannot be."""
        rules = tuple(replace(rule, shadow=True) if rule.name in paused else rule for rule in policy.rules)
        self._apply(replace(policy, rules=rules) if paused else policy)
        self.policy, self._applied = policy, paused

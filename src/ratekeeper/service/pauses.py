"""Pauses: the rules that refuse nothing until a time. Each is kept in the store, so all processes and a restart see it.

A pause is a block of a bucket that no rule has. It ends by itself, also if the process that began it is gone. Each
process looks once a second, by one question to the store. Meanwhile a paused rule is in shadow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from ratekeeper.adjustment import Until, ticks_until
from ratekeeper.decision import Charge, Decision
from ratekeeper.errors import StoreError
from ratekeeper.limits import TICKS_PER_SECOND, TokenBucket
from ratekeeper.policy.model import Policy
from ratekeeper.stores.as_async import as_async
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.memory import MemoryStore

PAUSED = "ratekeeper-admin:paused:{}:"
"""The scope of a rule's pause. That of a rule's bucket ends with "/" and a number."""

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

    It asks for one token, with a wait of up to nine years, so a debt does not refuse it.
    """
    return Charge.of(scope, key, _ANY, 1, None, on_error="raise")


def end_of_block(probe: Decision, now: float) -> float | None:
    """Return the end of a block in seconds since 1970, by the decision of a `block_probe`; None without a block."""
    return None if probe.allowed else now + probe.retry_after


def _probe(rule: str) -> Charge:
    return block_probe(PAUSED.format(rule), _KEY)


class Pauses:
    """The pauses that this process knows. `apply` is called when they have changed, to decide by them."""

    def __init__(self, policy: Policy, store: Store | AsyncStore, apply: Callable[[Policy], None]) -> None:
        self.policy = policy
        """The policy as it was loaded, without pauses."""
        self.until: dict[str, float] = {}
        """The end of each pause in seconds since 1970, by the rule's name."""
        self._store = as_async(store)
        self._private = isinstance(store, MemoryStore)
        self._apply = apply
        self._applied: frozenset[str] = frozenset()

    def replace(self, policy: Policy) -> None:
        """Decide by another policy, with the pauses that are known."""
        self._decide_by(policy, self._now_paused(policy))

    async def begin(self, rule: str, until: Until) -> None:
        """Pause a rule until a time. Raise ValueError for a time that cannot be."""
        ticks = ticks_until(until)
        await self.look()
        if self.until.get(rule, 0) > time.time() + ticks / TICKS_PER_SECOND:  # a block only ever gets longer
            await self._store.adjust(PAUSED.format(rule), _KEY, 0, 0)
        await self._store.adjust(PAUSED.format(rule), _KEY, 0, ticks)
        await self.look()

    async def end(self, rule: str) -> bool:
        """End the pause of a rule, which may have left the policy. Return whether there was one."""
        [probe] = await self._store.decide([_probe(rule)], commit=False)
        await self._store.adjust(PAUSED.format(rule), _KEY, 0, 0)
        await self.look()
        return not probe.allowed

    async def look(self) -> None:
        """See which rules are paused now, and decide by that. Raise `StoreError` if the store does not answer."""
        policy = self.policy
        names = [rule.name for rule in policy.rules]
        probes = await self._store.decide([_probe(name) for name in names], commit=False)
        now = time.time()
        ends = {name: end_of_block(probe, now) for name, probe in zip(names, probes, strict=True)}
        self._note({name: end for name, end in ends.items() if end is not None})

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
                    _log.warning("paused rules are not known anew, as the store does not answer: %s", error)
                failed = True
                self._note(self.until)
            await asyncio.sleep(EVERY)

    def _note(self, until: Mapping[str, float]) -> None:
        now = time.time()
        known, self.until = self.until, {name: end for name, end in until.items() if end > now}
        for name, end in known.items():
            if name in self.until and abs(self.until[name] - end) < _SAME:
                self.until[name] = end
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

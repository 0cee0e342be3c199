"""Status: the state of the whole service, as one value of JSON. Numbers are sums over all processes.

It has no key of a request: a limited key is shown by its keyed hash. `docs/operating.md` defines each number. Knows no
route and no page.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import ratekeeper
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.policy.reports import limit_report
from ratekeeper.service.live.board import Boards
from ratekeeper.service.live.history import History
from ratekeeper.service.live.hitters import Hitter, hashed, merged
from ratekeeper.service.live.latency import durations, grown, quantile
from ratekeeper.service.metrics.cells import OUTCOMES, PROTOCOLS, RELOADED_CELL, RESULTS, cell_of
from ratekeeper.service.metrics.slots import shown_name
from ratekeeper.service.metrics.table import TableCounts
from ratekeeper.service.metrics.totals import Totals
from ratekeeper.stores.shared_memory import SharedMemoryStore

if TYPE_CHECKING:
    from ratekeeper.service.core import Core

MOST_RULES = 256
"""The rules that are shown: those with the most decisions. So a status is at most some 200 kB."""

SHOWN_KEYS = 20
"""The limited keys that are shown."""

_NO_COUNTS = [0] * (len(OUTCOMES) + 1)
_UNKNOWN = {"limit": None, "algorithm": None, "capacity": None, "per_second": None, "shadow": False}


class Status:
    """Tells the status of a core, and of all processes beside it."""

    def __init__(self, core: Core, history: History) -> None:
        self._core = core
        self._history = history
        self._boards = Boards(core.metrics.slots)
        self._table = TableCounts(core.store)
        self._described: tuple[Policy, dict[str, dict[str, Any]]] | None = None

    def read(self, totals: Totals) -> dict[str, Any]:
        """Return the status by these counts."""
        core, fixed = self._core, totals.fixed
        now = time.time()
        names, left_out = self._rule_names(totals.rules)
        return {
            "at": round(now, 3),
            "version": ratekeeper.__version__,
            "demo": core.operator.demo,
            "processes": fixed[cell_of("ratekeeper_processes")],
            "admin": bool(core.operator.tokens),
            "rules": self._rules(names, totals.rules, now),
            "rules_left_out": left_out,
            "requests": {
                protocol: {result: fixed[cell_of("ratekeeper_requests", protocol, result)] for result in RESULTS}
                for protocol in PROTOCOLS
            },
            "connections": {protocol: fixed[cell_of("ratekeeper_connections", protocol)] for protocol in PROTOCOLS},
            "waiting": fixed[cell_of("ratekeeper_waiting_requests")],
            "latency": self._latency(fixed),
            "store": self._store(fixed),
            "policy": self._policy(totals),
            "limited_keys": [self._hashed(hitter) for hitter in self.limited_keys(SHOWN_KEYS)],
            "recording": recording(self._boards.part("recording")),
        }

    def limited_keys(self, most: int) -> list[Hitter]:
        """Return the keys that all processes have refused most. They are for admins only."""
        return merged(self._boards.part("limited_keys"), most)

    def _hashed(self, hitter: Hitter) -> dict[str, Any]:
        key = hashed(self._core.metrics.slots.secret, hitter)
        return {"rule": shown_name(hitter.rule), "key": key, "rejected": hitter.rejected, "error": hitter.error}

    def _rule_names(self, counted: Mapping[str, list[int]]) -> tuple[list[str], int]:
        """Return the rules to show, those of the policy first and in its order, and the number of others."""
        names = list(dict.fromkeys((*self._described_rules(), *counted)))
        if len(names) <= MOST_RULES:
            return names, 0
        busiest = set(nlargest(MOST_RULES, names, key=lambda name: sum(counted.get(name, _NO_COUNTS)[:-1])))
        return [name for name in names if name in busiest], len(names) - MOST_RULES

    def _rules(self, names: Sequence[str], counted: Mapping[str, list[int]], now: float) -> list[dict[str, Any]]:
        described = self._described_rules()
        paused = {shown_name(name): until for name, until in self._core.pauses.until.items() if until > now}
        return [
            _rule(described.get(name, _UNKNOWN), name, paused.get(name), counted.get(name, _NO_COUNTS))
            for name in names
        ]

    def _described_rules(self) -> dict[str, dict[str, Any]]:
        policy = self._core.loaded
        if self._described is None or self._described[0] is not policy:
            self._described = policy, {shown_name(rule.name): _described(rule) for rule in policy.rules}
        return self._described[1]

    def _latency(self, fixed: list[int]) -> dict[str, Any]:
        before, now = self._history.before(), durations(fixed)
        recent = grown(now, now if before is None else before.durations)
        quantiles = {f"p{share}": quantile(recent, share / 100) for share in (50, 90, 99)}
        return {**quantiles, "count": sum(recent)}

    def _store(self, fixed: list[int]) -> dict[str, Any]:
        table, before = self._table.read(), self._history.before()
        failures, fallbacks, circuits_open = (
            fixed[cell_of(f"ratekeeper_store_{name}")] for name in ("failures", "fallbacks", "circuits_open")
        )
        failed_lately = before is not None and failures > before.failures
        return {
            **_place(self._core.store),
            "ok": not circuits_open and not failed_lately,
            "failures": failures,
            "fallbacks": fallbacks,
            "circuits_open": circuits_open,
            "buckets": None if table is None else table.live,
            "slots": None if table is None else table.max_keys,
        }

    def _policy(self, totals: Totals) -> dict[str, Any]:
        policy, fixed = self._core.loaded, totals.fixed
        loaded = max(cells[RELOADED_CELL] for cells in totals.processes)
        return {
            "version": policy.version,
            "source": PurePath(policy.source).name,
            "rules": len(policy.rules),
            "loaded_at": loaded / 1000,
            "reloads": {
                result: fixed[cell_of("ratekeeper_policy_reloads", result)] for result in ("success", "failure")
            },
            "last_reload_ok": bool(fixed[cell_of("ratekeeper_policy_last_reload_successful")]),
        }


def recording(parts: Iterable[Any]) -> dict[str, Any]:
    """Return the size of all recordings together."""
    found = list(parts)
    since = [one["since"] for one in found if one["since"] is not None]
    return {
        "requests": sum(one["requests"] for one in found),
        "since": min(since, default=None),
        "bytes": sum(one["bytes"] for one in found),
        "capacity_bytes": sum(one["capacity_bytes"] for one in found),
        "left_out": sum(one["left_out"] for one in found),
    }


def _described(rule: Rule) -> dict[str, Any]:
    """Return what is known of a rule of the policy; of one whose limit is looked up, its default."""
    looked_up = {"algorithm": "lookup"} if rule.lookup is not None else {}
    return {**limit_report(rule.limit), **looked_up, "shadow": rule.shadow}


def _rule(described: Mapping[str, Any], name: str, paused_until: float | None, counts: list[int]) -> dict[str, Any]:
    *outcomes, near = counts
    return {
        "name": name,
        **described,
        "paused_until": paused_until,
        "counts": dict(zip(OUTCOMES, outcomes, strict=True)),
        "near_limit": near,
    }


def _place(store: Any) -> dict[str, str]:
    """Return the kind of a store, and where it is."""
    if isinstance(store, SharedMemoryStore):
        return {"kind": "shared memory", "where": str(store.path)}
    where = getattr(store, "where", None)
    if where is None:
        return {"kind": "memory", "where": "this process"}
    return {"kind": where.partition(":")[0], "where": where}

"""Metrics: the counts of one process. To count is to add to a cell, which is shared memory. Knows no wire and no text.

A decision costs one look-up and a few additions, far less than a microsecond: decisions that count alike have one
`tally`, and the cells of each tally are looked up once. One question of `SAMPLE` is timed, which takes two readings of
the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from time import perf_counter_ns
from typing import Any

from ratekeeper.decision import Decision, Outcome, RuleDecision
from ratekeeper.errors import RatekeeperError
from ratekeeper.exceeded import AnyDecision, RateLimitExceeded
from ratekeeper.policy.decision import PolicyDecision, is_nearly_used
from ratekeeper.service.access_log import AccessLog
from ratekeeper.service.metrics.cells import OUTCOMES, PROTOCOLS, RESULTS, Protocol, bucket_of, cell_of, histogram_cells
from ratekeeper.service.metrics.slots import Slots

SAMPLE = 16
"""One question of so many of each protocol is timed, beginning with the first. A log may want more of them."""

MOST_TALLIES = 4096
"""The tallies whose cells are remembered. Further ones begin anew."""


class Metrics:
    """The counts of this process, in the slot of its number. Not thread-safe: it belongs to one event loop."""

    def __init__(self, slots: Slots | None = None, number: int = 0) -> None:
        self.slots = slots or Slots.alone()
        self.number = number
        self.slot = self.slots[number]
        self._cells, self._add = self.slot.cells, self.slot.add
        self._tallies: dict[Hashable, tuple[int, ...]] = {}
        self._rows: dict[str, int] = {}
        self._sources: list[tuple[int, int, Callable[[], int]]] = []
        self.protocols: dict[str, ProtocolMetrics] = {name: ProtocolMetrics(self, name) for name in PROTOCOLS}
        self._cells[cell_of("ratekeeper_processes")] = 1

    def decided(self, request: object, decision: PolicyDecision) -> None:
        """Count a policy's decision for each rule. It is an observer, as `on_decision` takes them."""
        tally = decision.tally
        counted = self._tallies.get(tally)
        if counted is None:
            counted = _remember(self._tallies, tally, self.cells_of_rules(decision))
        self._add(counted)

    def count(self, rule: str, outcome: Outcome, nearly_used: bool = False) -> None:
        """Count one decision of a rule that is in no policy."""
        tally = rule, outcome, nearly_used
        counted = self._tallies.get(tally)
        if counted is None:
            counted = _remember(self._tallies, tally, self.cells_of(rule, outcome, nearly_used))
        self._add(counted)

    def cells_of(self, rule: str, outcome: Outcome, nearly_used: bool = False) -> tuple[int, ...]:
        """Return the cells of `count`, so that a caller may add to them together with others."""
        first = self._row(rule)
        return first + OUTCOMES.index(outcome), *([first + len(OUTCOMES)] if nearly_used else ())

    def watch(self, family: str, read: Callable[[], int]) -> None:
        """Have `refresh` read a number that is kept elsewhere. A counter goes on from the counts before."""
        cell = cell_of(family)
        self._sources.append((cell, self._cells[cell], read))

    def refresh(self) -> None:
        """Copy the numbers that are kept elsewhere: to be called a few times a second, and before a scrape."""
        for cell, base, read in self._sources:
            self._cells[cell] = base + read()

    def log_to(self, log: AccessLog) -> None:
        """Note a share of the decisions in a log."""
        self.watch("ratekeeper_access_log_dropped", lambda: log.dropped)
        for protocol in self.protocols.values():
            protocol.log_to(log)

    def cells_of_rules(self, decision: PolicyDecision) -> tuple[int, ...]:
        """Return the cells of `decided`, which are those of all decisions with the same tally."""
        nearly_used = decision.nearly_used
        counted = []
        for rule, outcome in decision.outcomes:
            first = self._row(rule)
            counted.append(first + OUTCOMES.index(outcome))
            if rule in nearly_used:
                counted.append(first + len(OUTCOMES))
        return tuple(counted)

    def _row(self, rule: str) -> int:
        """Return the first count of a rule's row."""
        first = self._rows.get(rule)
        if first is None:
            row = self.slot.take_row(rule)
            first = self.slot.first_cell(row) + 1
            if row:  # those that share a row may be any number, so they are not remembered
                self._rows[rule] = first
        return first


def _remember(tallies: dict[Hashable, tuple[int, ...]], tally: Hashable, cells: tuple[int, ...]) -> tuple[int, ...]:
    """Keep the cells of a tally, and return them."""
    if len(tallies) >= MOST_TALLIES:
        tallies.clear()
    tallies[tally] = cells
    return cells


class ProtocolMetrics:
    """The counts of one protocol."""

    __slots__ = (
        "_add", "_allowed", "_cells", "_connections", "_every", "_failed", "_histogram", "_log", "_name", "_of_rule",
        "_of_rules", "_opened", "_refused", "_tallies", "_turn",
    )  # fmt: skip

    def __init__(self, metrics: Metrics, protocol: Protocol) -> None:
        self._cells, self._add = metrics.slot.cells, metrics.slot.add
        self._of_rules, self._of_rule = metrics.cells_of_rules, metrics.cells_of
        self._tallies: dict[Hashable, tuple[int, ...]] = {}
        self._allowed, self._refused, self._failed = (
            cell_of("ratekeeper_requests", protocol, result) for result in RESULTS
        )
        self._connections = cell_of("ratekeeper_connections", protocol)
        self._opened = cell_of("ratekeeper_connections_opened", protocol)
        self._histogram = histogram_cells(protocol)
        self._name = protocol
        self._turn = 0
        self._every = SAMPLE
        self._log: AccessLog | None = None

    def begin(self) -> int:
        """Return the time at which a question begins, in nanoseconds; 0 if this one is not timed."""
        if self._turn:
            self._turn -= 1
            return 0
        self._turn = self._every - 1
        return perf_counter_ns()

    def take_back(self, began: int) -> None:
        """Undo `begin` for the question that began last: it begins again, and would take two turns."""
        self._turn = 0 if began else self._turn + 1

    def decided(self, decision: PolicyDecision, began: int) -> None:
        """Count a question that was answered by a policy's decision, and the decision for each rule, in one step."""
        tally = decision.tally
        counted = self._tallies.get(tally)
        if counted is None:
            cell = self._allowed if decision.allowed else self._refused
            counted = _remember(self._tallies, tally, (cell, *self._of_rules(decision)))
        self._add(counted)
        if began:
            self.timed(began, "allowed" if decision.allowed else "refused", decision)

    def decided_by_rule(self, rule: str, decision: Decision, began: int) -> None:
        """As `decided`, of the only decision, by a rule that is in no policy."""
        result: Outcome = "allowed" if decision.allowed else "refused"
        tally = rule, result, is_nearly_used(decision)
        counted = self._tallies.get(tally)
        if counted is None:
            counted = _remember(self._tallies, tally, self.cells(decision.allowed) + self._of_rule(*tally))
        self._add(counted)
        if began:
            self.timed(began, result, PolicyDecision((RuleDecision(rule, decision),)))

    def answered(self, refusal: RatekeeperError | None, began: int, decisions: Sequence[AnyDecision] = ()) -> None:
        """Count a question that was answered, by its last decision. `began` is what `begin` returned."""
        if refusal is None:
            cell, result = self._allowed, "allowed"
        elif isinstance(refusal, RateLimitExceeded):
            cell, result = self._refused, "refused"
        else:
            cell, result = self._failed, "failed"
        self._add(cell)
        if began:
            self.timed(began, result, decisions[-1] if decisions and result != "failed" else None)

    def allowed(self, began: int, decision: AnyDecision | None = None) -> None:
        """Count a question that was answered with a yes."""
        self._add(self._allowed)
        if began:
            self.timed(began, "allowed", decision)

    def cells(self, allowed: bool) -> tuple[int, ...]:
        """Return the cells of `allowed` or `refused`, for a caller that counts by itself what is not timed."""
        return (self._allowed if allowed else self._refused,)

    def refused(self, began: int, decision: AnyDecision | None = None) -> None:
        """Count a question that was answered with a no, as a limit is exceeded."""
        self._add(self._refused)
        if began:
            self.timed(began, "refused", decision)

    def failed(self, began: int) -> None:
        """Count a question that could not be decided."""
        self._add(self._failed)
        if began:
            self.timed(began, "failed", None)

    def log_to(self, log: AccessLog) -> None:
        """Note decisions in a log, a share of those that are timed. If it wants more of them, time all."""
        self._log = log
        self._every = SAMPLE if log.share * SAMPLE <= 1 else 1

    def opened(self) -> None:
        """Count a connection that was accepted."""
        self._add((self._connections, self._opened))

    def closed(self) -> None:
        """Count a connection that is closed."""
        self._cells[self._connections] -= 1

    def timed(self, began: int, result: str, decision: AnyDecision | None) -> None:
        """Note the time that a question took, which is not 0, and maybe its decision."""
        nanoseconds = perf_counter_ns() - began
        self._add(self._histogram[bucket_of(nanoseconds)])
        self._cells[self._histogram[-1]] += nanoseconds
        if self._log is not None and self._log.draws(self._log.share * self._every):
            self._log.note(self._name, result, decision, nanoseconds)


def watch_store(metrics: Metrics, store: Any) -> None:
    """Have the counts of a store on a server read by `refresh`. A local table is looked at only by a scrape."""
    if not hasattr(store, "stats") or not hasattr(store.stats(), "calls"):
        return
    for family, field in _OF_SERVER.items():
        metrics.watch(family, lambda field=field: getattr(store.stats(), field))  # type: ignore[misc]


_OF_SERVER = {
    "ratekeeper_store_calls": "calls",
    "ratekeeper_store_failures": "failures",
    "ratekeeper_store_fallbacks": "fallbacks",
    "ratekeeper_store_circuits_opened": "opened",
    "ratekeeper_store_circuits_open": "open",
}

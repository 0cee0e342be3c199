"""Totals: the counts of all processes together. Knows the place of each count, and no text that shows it."""

from __future__ import annotations

from typing import NamedTuple

from ratekeeper.policy.model import OTHERS
from ratekeeper.service.metrics.cells import FIXED_CELLS, RULE_CELLS
from ratekeeper.service.metrics.slots import Slot, Slots, told_name


class Totals(NamedTuple):
    """The counts at one moment.

    processes  the fixed cells of each process
    fixed      their sums
    rules      the sums of each rule's counts, by the rule's name: by outcome, then those near the limit
    """

    processes: list[list[int]]
    fixed: list[int]
    rules: dict[str, list[int]]


class TotalsReader:
    """Reads the cells of all processes. It keeps the names of their rules, which never change."""

    def __init__(self, slots: Slots) -> None:
        self._slots: list[tuple[Slot, list[str]]] = [(slot, []) for slot in slots]

    def read(self) -> Totals:
        """Return the sums over all processes."""
        processes = [slot.cells[:FIXED_CELLS].tolist() for slot, _ in self._slots]
        fixed = [sum(column) for column in zip(*processes, strict=True)]
        rules: dict[str, list[int]] = {}
        for slot, names in self._slots:
            names.extend(slot.rule_names(len(names)))
            cells = slot.cells[FIXED_CELLS : FIXED_CELLS + RULE_CELLS * len(names)].tolist()
            for row, name in enumerate(told_name(name) for name in names):
                counts = cells[row * RULE_CELLS + 1 : (row + 1) * RULE_CELLS]
                others = rules.get(name)
                rules[name] = counts if others is None else [sum(both) for both in zip(others, counts, strict=True)]
        if not any(rules.get(OTHERS, ())):
            rules.pop(OTHERS, None)
        return Totals(processes, fixed, rules)

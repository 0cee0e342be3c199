"""`python -m benchmarks.recording`: the cost of the recording and the page, beside the same service without them.

A decision in this process is `Core.charge`, without any protocol. A question over HTTP is measured as by
`benchmarks.service`. With and without are interleaved in each round, and refusals count the most limited keys too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import results
from benchmarks.policy import EXAMPLE, REQUEST
from benchmarks.results import Row, Table, ratio, table_of, target
from benchmarks.service import NONE, ONE, PLENTY, HttpCase, get, with_limits
from benchmarks.serving import Case, measured, ratekeeper_serve, served
from ratekeeper import MemoryStore, Policy
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.operator_options import RECORDING_BYTES, OperatorOptions

ROUNDS, CALLS = 60, 1_000
MOST = 1.05
WITH, WITHOUT = "with", "without"
POLICIES = {"one limit": ONE, "examples/policy.toml": EXAMPLE.read_text()}
LIMITS = {"": PLENTY, ", refused": NONE}
KINDS = [f"{policy}{limits}" for policy in POLICIES for limits in LIMITS]


def text_of(kind: str) -> str:
    """Return the policy of a kind of question, such as "one limit, refused"."""
    policy, _, refused = kind.partition(", ")
    return with_limits(POLICIES[policy], *LIMITS[f", {refused}" if refused else ""])


class CoreCase(Case):
    """A decision of a core in this process, and its processor time in each round, in us."""

    def __init__(self, kind: str, how: str) -> None:
        super().__init__(f"a decision, {kind}, {how}")
        size = RECORDING_BYTES if how == WITH else 0
        slots = Slots.make(1, size)
        slots[0].ring[:] = bytes(len(slots[0].ring))  # its pages are there, as in a service that has run for minutes
        self._core = Core(Policy.parse(text_of(kind)), MemoryStore(1000), metrics=Metrics(slots))
        self._core.operate(OperatorOptions(page=how == WITH, recording_bytes=size))
        self._asked = CheckRequest(dict(REQUEST))

    def run(self) -> None:
        core, asked = self._core, self._asked
        began = time.process_time_ns()
        for _ in range(CALLS):
            core.charge(ProgramExchange(core.limiter, asked))
        self.times.append((time.process_time_ns() - began) / CALLS / 1e3)


def cases(stack: ExitStack, folder: Path) -> Iterator[Case]:
    """Start the servers; yields all questions, each with and without."""
    for place, kind in enumerate(KINDS):
        path = folder / f"{place}.toml"
        path.write_text(text_of(kind))
        for how, options in ((WITHOUT, ("--no-page", "--recording", "0")), (WITH, ())):
            yield CoreCase(kind, how)
            server = stack.enter_context(served(*ratekeeper_serve(path, *options)))
            yield HttpCase(f"/check, {kind}, {how}", server, get(b"/check"), 429 if kind.endswith("refused") else 200)


def measure(quick: bool) -> list[Table]:
    by_name = measured("recording", 5 if quick else ROUNDS, cases)
    promises: list[Row] = []
    for what in ("a decision", "/check"):
        for kind in KINDS:
            times = ratio(by_name[f"{what}, {kind}, {WITH}"], by_name[f"{what}, {kind}, {WITHOUT}"])
            promises.append(target(f"{what}, {kind}, x without: at most {MOST}", times, most=MOST))
    return [
        table_of("With the recording and the page, and without", "us of the processor", list(by_name.values()), {}),
        Table("Targets of the recording", "measured", promises),
    ]


if __name__ == "__main__":
    results.main("recording", measure, ("httptools", "uvloop"))

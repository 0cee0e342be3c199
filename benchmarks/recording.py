"""`python -m benchmarks.recording`: the cost of the recording and the page, beside the same service without them.

A decision in this process is `Core.charge`, without any protocol. A question over HTTP is measured as by
`benchmarks.service`. Refusals count the most limited keys too. With and without are measured back to back, and the
median is that of the ratios of each round: so it is the same on a machine whose speed changes from second to second.
Two servers with the same options differ by up to a twentieth for as long as they live, as each has its own layout of
memory. That is all that the target allows. So each question has several servers, or cores, alike, which take turns.
A recording is full, as that of a service that has run for minutes: the first request on each page of memory costs more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path

from benchmarks import results
from benchmarks.policy import EXAMPLE, REQUEST
from benchmarks.results import Row, Table, table_of, target
from benchmarks.service import CONNECTIONS, NONE, ONE, PLENTY, HttpCase, get, with_limits
from benchmarks.serving import Case, HttpConnections, Served, measured, ratekeeper_serve, served
from ratekeeper import MemoryStore, Policy
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.operator_options import RECORDING_BYTES, OperatorOptions

ROUNDS, CALLS, ALIKE = 60, 1_000, 3
FILLING = RECORDING_BYTES // 40  # so many of the shortest records fill a recording
MOST = 1.05
WITH, WITHOUT = "with", "without"
POLICIES = {"one limit": ONE, "examples/policy.toml": EXAMPLE.read_text()}
LIMITS = {"": PLENTY, ", refused": NONE}
KINDS = [f"{policy}{limits}" for policy in POLICIES for limits in LIMITS]


def text_of(kind: str) -> str:
    """Return the policy of a kind of question, such as "one limit, refused"."""
    policy, _, refused = kind.partition(", ")
    return with_limits(POLICIES[policy], *LIMITS[f", {refused}" if refused else ""])


def core_of(kind: str, how: str) -> Core:
    """Return a core for a kind of question, with the recording and the page or without."""
    size = RECORDING_BYTES if how == WITH else 0
    slots = Slots.make(1, size)
    slots[0].ring[:] = bytes(len(slots[0].ring))  # its pages are there
    core = Core(Policy.parse(text_of(kind)), MemoryStore(1000), metrics=Metrics(slots))
    core.operate(OperatorOptions(page=how == WITH, recording_bytes=size))
    return core


class CoreCase(Case):
    """A decision of cores in this process, which take turns, and its processor time in each round, in us."""

    def __init__(self, kind: str, how: str) -> None:
        super().__init__(f"a decision, {kind}, {how}")
        self._turns = cycle([core_of(kind, how) for _ in range(ALIKE)])
        self._asked = CheckRequest(dict(REQUEST))

    def run(self) -> None:
        core, asked = next(self._turns), self._asked
        began = time.process_time_ns()
        for _ in range(CALLS):
            core.charge(ProgramExchange(core.limiter, asked))
        self.times.append((time.process_time_ns() - began) / CALLS / 1e3)


class Pair(Case):
    """A question without and with, back to back in each round, and the ratio of their times."""

    def __init__(self, without: Case, with_: Case) -> None:
        super().__init__(without.name.removesuffix(f", {WITHOUT}"))
        self.without, self.with_ = without, with_

    def run(self) -> None:
        for case in (self.without, self.with_, self.with_, self.without):
            case.run()
        self.times.append(sum(self.with_.times[-2:]) / sum(self.without.times[-2:]))

    def forget(self) -> None:
        for case in (self, self.without, self.with_):
            case.times.clear()


class ServersCase(HttpCase):
    """A question to several servers alike, of which each round asks the next one."""

    def __init__(self, name: str, servers: Sequence[Served], question: bytes, status: int) -> None:
        super().__init__(name, servers[0], question, status)
        self._turns = cycle(servers)

    def run(self) -> None:
        self._server = next(self._turns)
        super().run()


def fill(server: Served) -> None:
    """Ask until the server's recording is full."""
    connections = HttpConnections(server.port, CONNECTIONS, get(b"/check"))
    connections.ask(FILLING // CONNECTIONS)
    connections.close()


def cases(stack: ExitStack, folder: Path, filled: bool) -> Iterator[Pair]:
    """Start the servers; yields all questions, each without and with."""
    for place, kind in enumerate(KINDS):
        path = folder / f"{place}.toml"
        path.write_text(text_of(kind))
        status = 429 if kind.endswith("refused") else 200
        asked = []
        for how, options in ((WITHOUT, ("--no-page", "--recording", "0")), (WITH, ())):
            alike = [stack.enter_context(served(*ratekeeper_serve(path, *options))) for _ in range(ALIKE)]
            for server in alike if filled and how == WITH else ():
                fill(server)
            asked.append(ServersCase(f"/check, {kind}, {how}", alike, get(b"/check"), status))
        yield Pair(*asked)
        yield Pair(CoreCase(kind, WITHOUT), CoreCase(kind, WITH))


def measure(quick: bool) -> list[Table]:
    by_name = measured("recording", 5 if quick else ROUNDS, partial(cases, filled=not quick))
    promises: list[Row] = []
    for what in ("a decision", "/check"):
        for kind in KINDS:
            pair = by_name[f"{what}, {kind}"]
            times = pair.with_.best / pair.without.best, pair.median
            promises.append(target(f"{pair.name}, x without: at most {MOST}", times, most=MOST))
    each = [case for pair in by_name.values() for case in (pair.without, pair.with_)]
    return [
        table_of("With the recording and the page, and without", "us of the processor", each, {}),
        Table("Targets of the recording", "measured", promises),
    ]


if __name__ == "__main__":
    results.main("recording", measure, ("httptools", "uvloop"))

"""Real processes whose callers have little patience: each limit holds, each turn is used, in order of arrival.

All stores and limits are tried at once, as a run takes ten seconds. Every cost is 1: a range that is given up may be
too small for a larger one.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections import defaultdict
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from impatient_callers import Departure
from needs import need
from redis_servers import redis_server
from test_waiting_bound import Left, keeps

from ratekeeper import IMPLEMENTATION, LeakyBucket, SharedMemoryStore, TokenBucket
from ratekeeper.limits import TICKS_PER_SECOND, Limit

pytestmark = pytest.mark.slow

PROCESSES, RATE, SECONDS = 3, 5, 10.0
USED = 0.95  # of the turns
ENOUGH = 0.6 * SECONDS * RATE  # turns, to judge by
ATTEMPTS = 6  # a machine that is busy with other work asks late, and so loses some
GAP = PROCESSES / (2 * RATE)  # between two callers of a process: together they ask for twice the rate
LIMITS: dict[str, tuple[Limit, ...]] = {
    "leaky": (LeakyBucket(1000, RATE),),
    "token and leaky": (TokenBucket(4, RATE), LeakyBucket(1000, 8)),
    "three": (TokenBucket(4, RATE), TokenBucket(40, 6), LeakyBucket(1000, 8)),
}
STORES = ["shared memory", "a server"]


class History(NamedTuple):
    """The departures of each process, and the time in which all of them asked for more than there was."""

    left: list[list[Departure]]
    begin: int
    end: int

    @classmethod
    def of(cls, left: list[list[Departure]]) -> Self:
        begin = max(min(process).turn for process in left) + TICKS_PER_SECOND
        return cls(left, begin, min(max(process).turn for process in left))

    def turns(self) -> int:
        """Return the number of turns that there were."""
        return (self.end - self.begin) * RATE // TICKS_PER_SECOND

    def use(self) -> float:
        """Return the part of the turns that somebody used."""
        return sum(self.begin < one.turn <= self.end for process in self.left for one in process) / self.turns()

    def fitness(self) -> tuple[bool, float]:
        """Return whether there were enough turns to judge by, and the part that was used."""
        return (enough := self.turns() > ENOUGH), self.use() if enough else 0.0


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[History]]:
    """Return the histories of each limiter: of one attempt, or of several if too few turns were used."""
    need("the C core", IMPLEMENTATION == "c")
    folder = tmp_path_factory.mktemp("shared")
    histories: defaultdict[str, list[History]] = defaultdict(list)
    with redis_server() as server:
        for attempt in range(ATTEMPTS):
            table = folder / f"table {attempt}"
            SharedMemoryStore(table, 1000).close()
            where = {"shared memory": str(table), "a server": server.url}
            prefix = uuid.uuid4().hex
            found = run([(f"{kind}: {name}", where[kind], prefix, LIMITS[name]) for kind in STORES for name in LIMITS])
            for name, history in found.items():
                histories[name].append(history)
            if all(best(attempts).fitness() >= (True, USED) for attempts in histories.values()):
                break
    return histories


def best(attempts: list[History]) -> History:
    return max(attempts, key=History.fitness)


def run(limiters: list[tuple[str, str, str, tuple[Limit, ...]]]) -> dict[str, History]:
    """Let processes run until one is killed after SECONDS, and the others for a second more."""
    program = Path(__file__).parents[1] / "support" / "waiting_process.py"
    commands = [[sys.executable, str(program), str(seed), str(GAP), repr(limiters)] for seed in range(PROCESSES)]
    with ExitStack() as stack:
        children = [stack.enter_context(Child(command)) for command in commands]
        victim, survivor = children[0], children[-1]
        clock = limiters[0][0]
        begin = max(child.read_until(clock, 0) for child in children)
        victim.read_until(clock, begin + round(SECONDS * TICKS_PER_SECOND))
        victim.process.kill()
        survivor.read_until(clock, begin + round((SECONDS + 1) * TICKS_PER_SECOND))
        for child in children:
            child.finish(-signal.SIGKILL if child is victim else 0)
        return {name: History.of([child.left[name] for child in children]) for name, *_ in limiters}


class Child:
    """A process of callers. Its pipe is not buffered, so that no line is lost between two ways of reading it."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.left: defaultdict[str, list[Departure]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.__exit__(None, None, None)

    def read_until(self, limiter: str, turn: int) -> int:
        """Read until a caller of this limiter left at `turn` or later. Returns when it left."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self._note(line)
            if json.loads(line)[0] == limiter and self.left[limiter][-1].turn >= turn:
                return self.left[limiter][-1].turn
        raise AssertionError("the process ended")

    def finish(self, status: int) -> None:
        for line in self.process.communicate(timeout=60)[0].splitlines():
            if line.endswith(b"]"):  # the last of one that was killed may be cut
                self._note(line)
        assert self.process.returncode == status

    def _note(self, line: bytes) -> None:
        limiter, *departure = json.loads(line)
        self.left[limiter].append(Departure(*departure))


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("kind", STORES)
def test_processes_keep_each_limit_whoever_gives_up_or_is_killed(
    histories: dict[str, list[History]], kind: str, limits: str
) -> None:
    for history in histories[f"{kind}: {limits}"]:
        counting = [Left(one.turn, 1, 0, one.number) for process in history.left for one in process if one.counts]
        for limit in LIMITS[limits]:
            keeps(limit, counting)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("kind", STORES)
def test_processes_use_the_turns_that_there_are(histories: dict[str, list[History]], kind: str, limits: str) -> None:
    """Callers of little patience left the axis full of dead places: of 600 turns, two processes used 7."""
    history = best(histories[f"{kind}: {limits}"])
    assert history.turns() > ENOUGH
    assert history.use() >= USED


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("kind", STORES)
def test_each_process_serves_its_callers_in_order_of_arrival(
    histories: dict[str, list[History]], kind: str, limits: str
) -> None:
    attempts = histories[f"{kind}: {limits}"]
    assert all(len(process) > 10 for process in best(attempts).left)
    for process in chain(*(history.left for history in attempts)):
        numbers = [one.number for one in sorted(process)]
        assert numbers == sorted(numbers)

"""How many requests each contender admits when threads are switched as often as can be: the limit, or it is broken.

Each contender runs in its own process, `python -m benchmarks.exactness CONTENDER`, which prints a line for each trial.
Under this load, limits starts a thread twice, which raises, and now and then hangs or crashes the interpreter.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Contender, Rate, our_entrants
from benchmarks.peers import peer_entrants

LIMIT = 100
THREADS = 8
TRIALS = 20
SWITCH_INTERVAL = 1e-6
PATIENCE = 15
"""Seconds that a process may take; all do in one or two, unless they hang."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The admitted requests of LIMIT in each trial, the number of exceptions, and how the process ended."""

    contender: str
    counts: list[int]
    raised: int
    end: str


def count_admitted(names: Iterable[str]) -> list[Admitted]:
    """Let 8 threads ask for 8 times the limit of one key, some times with new keys, each contender apart."""
    return [_count_apart(name) for name in names]


def _count_apart(name: str) -> Admitted:
    command = [sys.executable, "-m", "benchmarks.exactness", name]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=Path(__file__).parent.parent
    )
    try:
        output, _ = process.communicate(timeout=PATIENCE)
        end = "" if process.returncode == 0 else f"crashed ({process.returncode})"
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        end = "hung"
    trials = [[int(number) for number in line.split()] for line in output.splitlines()]
    return Admitted(name, [count for count, _ in trials], sum(raised for _, raised in trials), end)


def main(name: str) -> None:
    contender = {**our_entrants(), **peer_entrants()}[name].build(Rate(LIMIT))
    sys.setswitchinterval(SWITCH_INTERVAL)
    for trial in range(TRIALS):
        answers = _one_trial(contender, f"client:{trial}")
        print(answers.count(True), answers.count(None), flush=True)


def _one_trial(contender: Contender, key: str) -> list[bool | None]:
    """Return whether each call was admitted, None where it raised an exception."""
    barrier = threading.Barrier(THREADS)
    answers: list[bool | None] = []

    def work() -> None:
        barrier.wait()
        for _ in range(LIMIT):
            try:
                answers.append(contender.allowed(contender.ask(key)))
            except Exception:
                answers.append(None)

    workers = [threading.Thread(target=work) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return answers


if __name__ == "__main__":
    main(sys.argv[1])

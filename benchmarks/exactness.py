"""`python -m benchmarks.exactness`: how many requests each contender admits when threads switch all the time.

Each contender runs in its own process, which prints a line for each trial. More than the limit is a broken limit.
Under this load, limits starts a thread twice, which raises, and now and then hangs or crashes the interpreter.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from benchmarks import results
from benchmarks.contenders import Contender, Rate, our_entrants
from benchmarks.peers import DISTRIBUTIONS, peer_entrants
from benchmarks.results import Row, Table

LIMIT = 100
THREADS = 8
TRIALS = 20
SWITCH_INTERVAL = 1e-6
PATIENCE = 15
"""Seconds that a process may take; all do in one or two, unless they hang."""


def count_admitted(name: str) -> Row:
    """Let 8 threads ask for 8 times the limit of one key, some times with new keys, and count what is admitted."""
    command = [sys.executable, "-c", f"from benchmarks.exactness import try_out; try_out({name!r})"]
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
    counts = [count for count, _ in trials] or [0]
    most, raised = max(counts), sum(raised for _, raised in trials)
    held = "?" if not trials else "yes" if most <= LIMIT else f"no: {most / LIMIT:.2f} x"
    notes = {"least": f"{min(counts)}", "exceptions": f"{raised}", "end": end or "well", "limit held": held}
    return Row(name, most, most, notes)


def try_out(name: str) -> None:
    """Print a line for each trial: how many were admitted, and how many exceptions were raised."""
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


def measure(quick: bool) -> list[Table]:
    names = [*our_entrants(), *peer_entrants()]
    rows = []
    for number, name in enumerate(names[:2] if quick else names, 1):
        results.say(f"exactness: {number} of {len(names)}")
        rows.append(count_admitted(name))
    title = f"Admitted of {LIMIT}: 8 threads ask 800 times, switched every {SWITCH_INTERVAL * 1e6:.0f} us"
    return [Table(title, f"most of {TRIALS} trials", rows)]


if __name__ == "__main__":
    results.main("exactness", measure, DISTRIBUTIONS)

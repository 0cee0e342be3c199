"""`python -m benchmarks`: time everything in one run and print tables. See README.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import exactness, memory, report, speed
from benchmarks.contenders import Entrant, our_entrants
from benchmarks.peers import DISTRIBUTIONS, peer_entrants
from benchmarks.timing import run_rounds


class _Progress:
    """One line on stderr that shows the present step and the progress."""

    WIDTH = 24

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._live = sys.stderr.isatty()

    def say(self, text: str) -> None:
        self._write(text, done=not self._live)

    def bar(self, name: str, at: int, of: int) -> None:
        if not self._live and at * 4 // of == (at - 1) * 4 // of:
            return  # where lines cannot be written over, four of each kind are enough
        full = self.WIDTH * at // of
        self._write(f"[{'#' * full}{'.' * (self.WIDTH - full)}] {name} {at}/{of}", done=at == of or not self._live)

    def _write(self, text: str, done: bool) -> None:
        line = f"{time.monotonic() - self._begin:5.0f} s  {text}"
        sys.stderr.write(f"\r{line:<79}" if self._live else line)
        sys.stderr.write("\n" if done else "")
        sys.stderr.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time ratekeeper and its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and keys: a look, not a measurement")
    parser.add_argument("--full", action="store_true", help="a million expired keys for every library, not 250,000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also keep the raw numbers of every round")
    parser.add_argument("--no-memory", action="store_true", help="leave out memory, the longer half of the run")
    return parser.parse_args()


def _run(entrants: dict[str, Entrant], arguments: argparse.Namespace, progress: _Progress) -> report.Results:
    quick = arguments.quick
    key_count = 10_000 if quick else 100_000
    cases = speed.all_cases(entrants, key_count, progress.say)
    run_rounds(cases, 8 if quick else 40, lambda at, of: progress.bar("rounds", at, of))
    progress.say("exactness")
    admitted = exactness.count_admitted(entrants)
    sizes = memory.Sizes(20_000, 20_000, 100_000) if quick else memory.Sizes()
    if arguments.full:
        sizes = replace(sizes, expired=sizes.table)
    grown = [] if arguments.no_memory else memory.measure_all(
        entrants, sizes, lambda at, of: progress.bar("memory", at, of)
    )  # fmt: skip
    return report.Results(cases, grown, admitted, entrants, key_count)


def main() -> None:
    arguments = _arguments()
    progress = _Progress()
    peers = peer_entrants()
    if not peers:
        progress.say(f"no peers to compare with: pip install {' '.join(DISTRIBUTIONS)}")
    results = _run({**our_entrants(), **peers}, arguments, progress)
    if arguments.json:
        arguments.json.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    print(report.report(results))


if __name__ == "__main__":
    main()

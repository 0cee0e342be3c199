"""`python -m benchmarks`: run every benchmark, each in its own process. See README.md."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from benchmarks import pages, plots
from benchmarks.results import say

BENCHMARKS = (
    "speed", "policy", "lookups", "live_keys", "frameworks", "calls", "parts", "load", "waiting", "crowds", "shared",
    "fleet", "exactness", "memory", "service", "recording", "open_pages", "envoy_service", "resp", "soak",
)  # fmt: skip
MOST_SECONDS = 600
"""How long one of them may take. On a quiet machine none takes a third of it."""


def run(name: str, options: Sequence[str]) -> bool:
    """Return whether a benchmark ran to its end."""
    process = subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}", *options], start_new_session=True)
    try:
        return process.wait(MOST_SECONDS) == 0
    except subprocess.TimeoutExpired:
        say(f"{name} took more than {MOST_SECONDS} s")
        return False
    finally:
        with suppress(ProcessLookupError):  # with the servers that it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time ratekeeper and its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(BENCHMARKS)}")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="fewer rounds and keys: a look, not a measurement")
    how.add_argument("--record", action="store_true", help="write the results, and all tables, figures and plots")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(BENCHMARKS)):
        parser.error(f"no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    names = arguments.names or BENCHMARKS
    options = ["--quick"] if arguments.quick else ["--record"] if arguments.record else []
    failed = []
    for number, name in enumerate(names, 1):
        say(f"==> {name}, {number} of {len(names)}")
        if not run(name, options):
            failed.append(name)
    if arguments.record:
        for path in (*pages.write_all(), *plots.write_all()):
            say(f"wrote {path}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""`ratekeeper replay POLICY ACCESS_LOG`: what a policy would have done to the requests of a log, before it does it.

Opens the log, shows how far it is, prints the report. How a replay works is in `engine`.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import IO, cast

from ratekeeper.cli.parser import add_policy, whole_number
from ratekeeper.cli.replay.access_log import UNDERSTOOD
from ratekeeper.cli.replay.engine import replay
from ratekeeper.cli.replay.report import Report
from ratekeeper.errors import MissingExtraError, PolicyError
from ratekeeper.policy.model import Policy

EXAMPLES = (
    ("replay policy.toml access.log", "what the policy would have done to the requests of a log"),
    ("replay policy.toml access.log.gz --top 50 --show-keys", "the 50 most rejected buckets, with their keys"),
)
NOTES = f"""\
Understands {UNDERSTOOD}.
Memory grows with the number of distinct buckets, not with the log."""

_LONGEST_LINE = 2**16
"""A longer line is read as several, none of which is a request: memory stays bounded whatever the file is."""

_WIDTH_OF_A_FILE = 120
_GZIP = b"\x1f\x8b"


class _LogError(Exception):
    """The log cannot be replayed. The text says which and why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_policy(parser)
    parser.add_argument("log", metavar="ACCESS_LOG", help="the log, plain or gzip; - for standard input")
    parser.add_argument(
        "--top",
        type=whole_number(0),
        default=10,
        metavar="N",
        help="how many of the most rejected buckets to list (10)",
    )
    parser.add_argument("--show-keys", action="store_true", help="show the keys of buckets; they may be secrets")
    parser.add_argument(
        "--max-keys", type=whole_number(1), default=1_000_000, metavar="N", help="live buckets to hold (1,000,000)"
    )


def run(args: argparse.Namespace) -> int:
    """Replay and print. Returns 0, or 2 if there was nothing to replay. Raises `MissingExtraError` without rich."""
    try:
        from rich.console import Console  # noqa: PLC0415  an extra

        from ratekeeper.cli.replay.tables import print_report  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("ratekeeper replay", "service") from None
    name = "standard input" if args.log == "-" else args.log
    try:
        policy = Policy.load(args.policy)
        report = _replay_file(policy, args, name)
    except (PolicyError, _LogError) as error:
        print(f"ratekeeper: {error}", file=sys.stderr)
        return 2
    # Where there is no terminal to fit, tables take the room they need.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_A_FILE
    print_report(Console(width=width, highlight=False), report, args.policy, name, args.show_keys)
    return 0


def _replay_file(policy: Policy, args: argparse.Namespace, name: str) -> Report:
    try:
        with ExitStack() as stack:
            raw = sys.stdin.buffer if args.log == "-" else stack.enter_context(open(args.log, "rb"))
            text = _text(raw)
            stack.callback(text.detach)  # or else it would close standard input with itself
            progress = stack.enter_context(_progress_bar(raw, name))
            lines = iter(partial(text.readline, _LONGEST_LINE), "")
            stack.enter_context(_no_cycle_collection())
            report = replay(policy, lines, progress, top=args.top, max_keys=args.max_keys, show_keys=args.show_keys)
    except (OSError, EOFError, zlib.error) as error:  # a gzip file that is damaged or cut off is among these
        raise _LogError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if report.requests:
        return report
    if not report.bad_lines:
        raise _LogError(f"{name}: there is nothing in it")
    bad = report.bad_lines[0]
    raise _LogError(f"{name}: no line of it is a request: line {bad.line}: {bad.reason}. Understood are {UNDERSTOOD}")


@contextmanager
def _no_cycle_collection() -> Iterator[None]:
    """Spare a replay the search for cycles, of which it makes none: a tenth of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _text(raw: IO[bytes]) -> io.TextIOWrapper:
    """Return a log's text, of which no byte is an error. A log in gzip is known by its first bytes, not by its name."""
    zipped = isinstance(raw, io.BufferedReader) and raw.peek(2)[:2] == _GZIP
    plain = gzip.GzipFile(fileobj=raw, mode="rb") if zipped else raw
    return io.TextIOWrapper(cast("IO[bytes]", plain), encoding="utf-8", errors="replace", newline="\n")


@contextmanager
def _progress_bar(raw: IO[bytes], name: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how much of the log is read: by bytes, or by lines where its size is not known."""
    from rich.console import Console  # noqa: PLC0415  an extra
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    status = os.fstat(raw.fileno()) if sys.stderr.isatty() else None
    if status is None:
        yield lambda lines: None
        return
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[lines]:,} lines"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=size, lines=0)
        yield lambda lines: bar.update(task, completed=raw.tell() if size is not None else 0, lines=lines)

"""`ratekeeper replay POLICY ACCESS_LOG`: what a policy would have done to the requests of a log, before it does it.

Opens the log, shows how far it is, prints the report. How a replay works is in `engine`.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import io
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import IO, cast

from ratekeeper.cli.parser import add_policy, whole_number
from ratekeeper.cli.replay.access_log import UNDERSTOOD
from ratekeeper.cli.replay.as_json import as_json
from ratekeeper.cli.replay.engine import replay
from ratekeeper.cli.replay.html import page
from ratekeeper.cli.replay.tables import lines_of
from ratekeeper.cli.style import Style, safe
from ratekeeper.errors import RatekeeperError
from ratekeeper.policy.model import Policy
from ratekeeper.replay.report import Report

EXAMPLES = (
    ("replay policy.toml access.log", "what the policy would have done to the requests of a log"),
    ("replay policy.toml access.log --html report.html", "the same with charts, as one file for a browser"),
    ("replay policy.toml access.log.gz --top 50 --show-keys", "the 50 most rejected buckets, with their keys"),
)
NOTES = f"""\
Understands {UNDERSTOOD}.
Memory grows with the number of distinct buckets, not with the log."""

_LONGEST_LINE = 2**16
"""A longer line is read as several, none of which is a request: memory stays bounded whatever the file is."""

_GZIP = b"\x1f\x8b"


class _LogError(RatekeeperError):
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
    parser.add_argument("--html", metavar="FILE", help="write the report with charts too, as one HTML file")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(args: argparse.Namespace) -> int:
    """Replay and print. Raise `RatekeeperError` if there is nothing to replay."""
    name = "standard input" if args.log == "-" else args.log
    policy = Policy.load(args.policy)
    if args.html is not None and any(_is_same(args.html, path) for path in (args.policy, args.log)):
        raise RatekeeperError(f"--html {args.html} would overwrite what is read: name another file")
    with _ready_to_write(args.html):
        report = _replay_file(policy, args, name)
        if args.html is not None:
            with open(args.html, "w", encoding="utf-8") as file:
                file.write(page(report, args.policy, name, args.show_keys))
    if args.json:
        print(json.dumps(as_json(report), indent=2))
    else:
        print("\n".join(lines_of(report, Style.of(sys.stdout), args.policy, name, args.show_keys)))
    return 0


@contextmanager
def _ready_to_write(path: str | None) -> Iterator[None]:
    """Open a file to write, as a mistake in its name must not cost a whole replay. A replay that fails leaves no file.

    A file that was there before stays as it is.
    """
    if path is None:
        yield
        return
    is_new = not os.path.exists(path)
    with open(path, "a"):
        pass
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):
                os.unlink(path)
        raise


def _is_same(one: str, other: str) -> bool:
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def _replay_file(policy: Policy, args: argparse.Namespace, name: str) -> Report:
    try:
        with ExitStack() as stack:
            raw = sys.stdin.buffer if args.log == "-" else stack.enter_context(open(args.log, "rb"))
            text = _text(raw)
            stack.callback(text.detach)  # or else it would close standard input with itself
            progress = stack.enter_context(_progress(raw, safe(name)))
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
    """Return a log's text, of which no byte is an error. A log in gzip is known by its first bytes, not by its name.

    A byte order mark, which programs on Windows put first, is not in the text.
    """
    zipped = isinstance(raw, io.BufferedReader) and raw.peek(2)[:2] == _GZIP
    plain = gzip.GzipFile(fileobj=raw, mode="rb") if zipped else raw
    return io.TextIOWrapper(cast("IO[bytes]", plain), encoding="utf-8-sig", errors="replace", newline="\n")


@contextmanager
def _progress(raw: IO[bytes], name: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how much of the log is read: lines, and the share of bytes if the size is known."""
    if not sys.stderr.isatty():
        yield lambda lines: None
        return
    status = os.fstat(raw.fileno())
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0

    def show(lines: int) -> None:
        part = f", {100 * raw.tell() // size} %" if size else ""
        print(f"\r{name}: {lines:,} lines read{part}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # erase the line

"""replay(): a log's lines through a policy. Knows no file and no terminal. `ratekeeper.replay` decides the requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ratekeeper.cli.replay.access_log import LineReader
from ratekeeper.policy.model import Policy
from ratekeeper.replay.engine import Replay
from ratekeeper.replay.entries import LogEntry, UnreadableLine
from ratekeeper.replay.report import Report

LINES_PER_PROGRESS = 2048


def replay(
    policy: Policy,
    lines: Iterable[str],
    progress: Callable[[int], object] | None = None,
    *,
    top: int = 10,
    max_keys: int = 1_000_000,
    show_keys: bool = False,
) -> Report:
    """Run the lines of an access log through a policy, and return a report of its decisions.

    `progress` is called now and then with the number of lines read. The report names the `top` buckets with the most
    rejections: by a keyed hash, which differs from run to run, unless `show_keys`. `max_keys` is the size of the
    store. Lines that are not requests are counted, and raise nothing.

    >>> policy = Policy.parse('[[rules]]\\nname = "all"\\nlimit = "1/minute"')
    >>> report = replay(policy, ['{"ts": 0, "path": "/"}', '{"ts": 9, "path": "/"}'])
    >>> report.admitted, report.rejected, report.rules[0].needed
    (1, 1, 2)
    """
    state = Replay(policy, max_keys)
    progress = progress or (lambda lines: None)
    state.run(_entries(state, LineReader(policy), lines, progress))
    progress(state.lines)
    return state.report(top, show_keys)


def _entries(
    state: Replay, reader: LineReader, lines: Iterable[str], progress: Callable[[int], object]
) -> Iterator[LogEntry]:
    """Yield the requests of a log. Have the replay count its lines, and those that are not requests."""
    read = reader.read
    for number, line in enumerate(lines, 1):
        if number % LINES_PER_PROGRESS == 0:
            progress(number)
        if not line or line.isspace():
            continue
        state.lines += 1
        try:
            entry = read(line, number)
        except UnreadableLine as error:
            state.note(number, error)
            continue
        yield entry

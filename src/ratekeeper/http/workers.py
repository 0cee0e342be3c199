"""Warns if this process is one of several workers, and each has its own limits in its own memory."""

from __future__ import annotations

import logging
import os
import re
import sys
from multiprocessing import parent_process

from ratekeeper.stores.memory import MemoryStore

_SERVERS = {"gunicorn", "uvicorn", "hypercorn", "granian", "daphne", "fastapi"}
_WORKERS = re.compile(r"(?:-w|--workers|--processes)(?:=(\d+))?|-w(\d+)")

_log = logging.getLogger("ratekeeper")
_warned = False


def warn_if_limits_multiply(store: object, several: bool | None = None) -> None:
    """Log a warning, once in a process, if there are several workers and they do not share their limits.

    `several` says whether there are other workers, if the server tells. Without it, the process's arguments and
    environment are a guess.
    """
    global _warned  # noqa: PLW0603  once in a process
    if not isinstance(store, MemoryStore) or _warned or not (_has_siblings() if several is None else several):
        return
    _warned = True
    _log.warning(
        "each worker process has its own rate limits, in its memory, so together they admit several times as much: "
        'write store="shared:NAME" for one limit across the workers of a host, or the URL of a server'
    )


def _has_siblings() -> bool:
    """Return whether the server that runs this process seems to run several."""
    program = sys.argv[0].removesuffix("/__main__.py").rpartition("/")[2]
    if program not in _SERVERS and (parent_process() is None or _SERVERS.isdisjoint(sys.modules)):
        return False
    return max(_count_in(sys.argv[1:]), _count(os.environ.get("WEB_CONCURRENCY", ""))) > 1


def _count_in(arguments: list[str]) -> int:
    """Return the number of workers in a server's arguments; 0 if they have none."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if found := _WORKERS.fullmatch(argument):
            return _count(found[1] or found[2] or following)
    return 0


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0

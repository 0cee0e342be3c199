"""The table of buckets: the C core where it was built, else its twin in Python.

The environment variable RATEKEEPER_CORE chooses: `auto` (the default, which logs a warning where the C core could have
been built), `require` (no C core is an error), `python`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from ratekeeper.clock import SystemClock
from ratekeeper.core import pytable
from ratekeeper.core.counts import Counts
from ratekeeper.core.known_limits import KnownLimits
from ratekeeper.limits import Limit

if TYPE_CHECKING:
    from ratekeeper.core import _table

    Table: TypeAlias = _table.Table | pytable.Table

LOAD = 0.7
"""How full the C table is with `max_keys` live buckets. Filled once up to here, about one key in a million finds no
free cell; where keys steadily come and go at this load, about one newcomer in a thousand."""
CELL_BYTES = 16
CELLS_PER_LINE = 8
LINE_BYTES = CELL_BYTES * CELLS_PER_LINE
SEED_BYTES = 16
RESETS_BYTES = 8 * (pytable.MAX_RESETS + 2)  # with the word on blocks

IMPLEMENTATION: Literal["c", "python"] = "python"
"""Which core is in use."""

BUILD = (
    "install a C compiler and Python's headers (on Debian gcc and python3-dev), then "
    "pip install --force-reinstall --no-cache-dir ratekeeper"
)
"""How to get the C core. pip keeps a wheel that it has built without it, and would install that one again."""

matcher: Callable[[Any], Any] | None = None
"""Makes the C matcher of a policy's program; None where the C core is not in use."""

known_limits: Callable[[tuple[Limit, ...], int], KnownLimits] = KnownLimits
"""Makes the limits that are known of a bucket."""

counts: type[Counts] = Counts
"""Raises numbers in shared memory."""

recorder: Callable[..., Any] | None = None
"""Makes the C recorder of requests; None where the C core is not in use. See service/recording/recorder.py."""

sketch: Callable[..., Any] | None = None
"""Makes the C sketch of the most limited keys; None where the C core is not in use. See service/live/sketch.py."""

find_header: Callable[[Any, str, bool], Any] | None = None
"""Finds the value of a header in C; None where the C core is not in use. See http/header_lines.py."""

read_head: Callable[[bytes, int], Any] | None = None
"""Reads the head of a usual request in C; None where the C core is not in use. See service/http/parser.py."""

line_reader: Callable[[tuple[Any, ...]], Any] | None = None
"""Makes a C reader of attributes; None where the C core is not in use. See http/line_steps.py."""

read_requests: Callable[[bytes], tuple[list[list[bytes]], int]] | None = None
"""Reads a Redis client's requests in C; None where the C core is not in use. See service/resp/requests.py."""

write_envoy_answer: Callable[..., bytes] | None = None
"""Writes an answer to Envoy in C; None where the C core is not in use. See service/grpc/codec.py."""

fill_envoy_answer: Callable[..., bytes | int | None] | None = None
"""Writes the answer to Envoy for one decision; None where the C core is not in use. See service/grpc/answers.py."""

_wanted = os.environ.get("RATEKEEPER_CORE", "auto")
if _wanted not in ("auto", "require", "python"):
    raise ImportError(f"RATEKEEPER_CORE must be auto, require or python, not {_wanted!r}")

if _wanted != "python":
    try:
        import ratekeeper.core._table as _table
    except ModuleNotFoundError as error:
        if _wanted == "require":
            raise ImportError(f"RATEKEEPER_CORE=require, but the C core was not built: {BUILD}") from error
        if sys.platform != "win32":  # there the C core cannot be built
            logging.getLogger("ratekeeper").warning(  # not in `warnings`: where these are errors, nothing would work
                "ratekeeper uses its slower Python core, because the C core was not built: "
                f"{BUILD}. To keep the Python core, set RATEKEEPER_CORE=python"
            )
    else:
        IMPLEMENTATION = "c"
        matcher = _table.Matcher
        known_limits = cast("Any", _table.KnownLimits)
        counts = cast("Any", _table.Counts)
        recorder = _table.Recorder
        sketch = _table.Sketch
        find_header = _table.find_header
        read_head = _table.read_head
        line_reader = _table.LineReader
        read_requests = _table.read_requests
        write_envoy_answer = _table.write_envoy_answer
        fill_envoy_answer = _table.fill_envoy_answer


def lines_for(max_keys: int) -> int:
    """Return how many lines of cells the C table has for `max_keys` live buckets."""
    return max(2, ceil(max_keys / LOAD / CELLS_PER_LINE))


def make_table(
    max_keys: int, deny_when_full: bool, clock: Callable[[], int] | None, implementation: str = IMPLEMENTATION
) -> Table:
    """Return an empty table for `max_keys` live buckets. `clock` None is the system's clock, which C reads itself."""
    seed = os.urandom(SEED_BYTES)
    if implementation not in ("c", "python"):
        raise ValueError(f"implementation must be 'c' or 'python', not {implementation!r}")
    if implementation == "python":
        return pytable.Table(max_keys, deny_when_full, seed, SystemClock().ticks if clock is None else clock)
    if IMPLEMENTATION != "c":
        raise RuntimeError("the C core is not in use here: see ratekeeper.IMPLEMENTATION")
    return _table.Table(None, lines_for(max_keys), deny_when_full, seed, clock)


def attach_table(
    memory: memoryview, deny_when_full: bool, seed: bytes, clock: Callable[[], int] | None
) -> _table.Table:
    """Return the C table in memory that processes share: zeros at first.

    It is a line of counters, the word on blocks and the log of resets, and `lines_for(max_keys)` lines.
    """
    return _table.Table(memory, (len(memory) - RESETS_BYTES) // LINE_BYTES - 1, deny_when_full, seed, clock)


def is_native(matcher: object) -> bool:
    """Return whether a policy's matcher is in C."""
    return IMPLEMENTATION == "c" and isinstance(matcher, _table.Matcher)


def hold_time(held: int | None, ahead: int) -> None:
    """Have the C core tell the time `held`; or, with None, the machine's and `ahead` ticks more. See `SystemClock`."""
    if IMPLEMENTATION == "c":
        _table.hold_time(-1 if held is None else held, ahead)

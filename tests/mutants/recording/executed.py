"""The lines of src that this process has run: a byte for each, in a file. Each costs one call, once a test.

The file is mapped into memory. So a killed process leaves its lines, and a forked process adds its lines to its
parent's. At the end of the file is the test that ran when the process began.
"""

from __future__ import annotations

import os
import re
import sys
import time
from importlib.machinery import SourceFileLoader
from mmap import mmap
from types import CodeType

FOLDER = os.path.join(__file__.rpartition("/tree/")[0], "recorded")
"""Where the processes of one copy of the tree leave their files: no variable, as tests choose their environment."""
assert sys.version_info >= (3, 12)  # for the type checker
TOOL = sys.monitoring.COVERAGE_ID

FILE = f"{FOLDER}/process.{os.getpid()}.{time.monotonic_ns()}"

_first: dict[str, int] = {}  # where in the file the lines of a module begin
_get_code = SourceFileLoader.get_code


def _begin() -> mmap:
    size = 0
    with open(f"{FOLDER}/modules") as modules:
        for entry in modules:
            lines, _, name = entry.rstrip("\n").partition(" ")
            _first[name] = size
            size += int(lines)
    with open(FILE, "wb+") as file:
        file.write(bytes(size) + os.environ.get("PYTEST_CURRENT_TEST", "").encode())
        file.flush()
        return mmap(file.fileno(), size)


_ran = _begin()


def watch_imports() -> None:
    """Watch the functions of each module of src when it is imported."""
    sys.monitoring.use_tool_id(TOOL, "mutants")
    sys.monitoring.register_callback(TOOL, sys.monitoring.events.LINE, _note)
    SourceFileLoader.get_code = _watched  # type: ignore[method-assign]


def _watched(loader: SourceFileLoader, fullname: str) -> CodeType | None:
    code = _get_code(loader, fullname)
    if code is not None and code.co_filename in _first:
        _watch(code)
    return code


def _watch(code: CodeType) -> None:
    sys.monitoring.set_local_events(TOOL, code, sys.monitoring.events.LINE)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _watch(constant)


def _note(code: CodeType, line: int) -> object:
    _ran[_first[code.co_filename] + line - 1] = 1
    return sys.monitoring.DISABLE


def forget() -> None:
    """Forget the lines so far: each is noted again when it runs."""
    _ran[:] = bytes(len(_ran))
    sys.monitoring.restart_events()


def places() -> list[int]:
    """Return the places of the lines in the file that ran."""
    return [found.start() for found in re.finditer(b"\1", _ran)]

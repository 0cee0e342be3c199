"""A program in a terminal: its screen, its keys, its size."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from needs import need_program
from servers import PATIENCE
from service_process import poll

_CODES = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


class Terminal:
    """A program that runs in a pseudo-terminal, whose settings were `before`."""

    def __init__(self, process: subprocess.Popen[bytes], end: int, before: list[Any]) -> None:
        self.process = process
        self._end = end
        self.before = before
        self._written = b""
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        with suppress(OSError):  # the program has ended
            while piece := os.read(self._end, 65_536):
                self._written += piece

    @property
    def raw(self) -> str:
        """All that it has written."""
        return self._written.decode("utf-8", "replace")

    @property
    def screen(self) -> list[str]:
        """The lines that it has drawn last, without codes."""
        last = self.raw.rpartition("\x1b[H")[2]
        return _CODES.sub("", last).replace("\r", "").split("\n")

    def press(self, keys: bytes) -> None:
        os.write(self._end, keys)

    def resize(self, columns: int, rows: int) -> None:
        _resize(self._end, columns, rows)

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._end)

    def shows(self, text: str) -> None:
        """Wait until the screen has a string."""
        poll(lambda: text in "\n".join(self.screen))

    def ended(self) -> int:
        """Wait for the end of the program, and return its exit code."""
        return self.process.wait(PATIENCE)


def _resize(end: int, columns: int, rows: int) -> None:
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextmanager
def terminal(
    *command: str, columns: int = 80, rows: int = 24, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Run a program in its own terminal meanwhile."""
    ours, theirs = pty.openpty()
    _resize(ours, columns, rows)
    before = termios.tcgetattr(ours)
    without = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [need_program("setsid"), "--ctty", *command],  # so that its keys are signals
        stdin=theirs, stdout=theirs, stderr=theirs,
        env={**without, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})},
    )  # fmt: skip
    shown = Terminal(process, ours, before)
    try:
        yield shown
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        shown._reading.join(PATIENCE)
        os.close(ours)

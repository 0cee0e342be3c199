"""The standard streams of a command, which may be closed, full, or of an encoding that lacks most characters."""

from __future__ import annotations

import io
import os
import sys


def prepare() -> None:
    """Open the streams that the caller has closed, on nothing, and have stdout print any name.

    Else the next file or socket would get the number of a closed one, and with it what a child or a library writes
    there. A rule's name may be in any script: as in stderr, what the encoding lacks is escaped.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8"))  # noqa: SIM115  it stays open
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Send to nothing all that is printed, and has not been written. Else the program would end with an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""open_for_writing(): ask Linux, by a lease, whether any process has a file open for writing.

A lease for reading (`F_SETLEASE`, fcntl(2)) is granted only while nobody has the file open for writing. It is taken and
given back at once. A process that opens the file for writing in between waits those microseconds, and the kernel sends
the holder of the lease a signal, by default SIGIO, which would end the process. SIGURG does nothing by default.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys


def open_for_writing(path: str) -> bool | None:
    """Return whether any process has a regular file open for writing; None if the system cannot tell.

    It can tell of files on Linux's own file systems, to their owner and to a process with CAP_LEASE, such as root's.
    """
    if sys.platform != "linux":
        return None
    import fcntl  # noqa: PLC0415  not on every system

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False  # nothing can be read there anyway
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    finally:
        os.close(descriptor)
    return False

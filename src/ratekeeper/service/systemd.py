"""systemd: the sockets that it hands over, and the word that the service is ready. Knows no protocol and no server.

See sd_listen_fds(3) and sd_notify(3). Without systemd, `take_sockets` returns no sockets, and `notify` does nothing.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from ratekeeper.errors import RatekeeperError

_FIRST = 3
"""The descriptor of the first socket."""


def take_sockets() -> dict[str, list[socket.socket]]:
    """Return the sockets that systemd has handed to this process, by their names. They are handed over once.

    Raise `RatekeeperError` for one that does not listen for streams.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "0")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    taken: dict[str, list[socket.socket]] = {}
    if pid != str(os.getpid()):
        return taken
    for place in range(int(count)):
        name = names[place] if place < len(names) else ""
        if (one := _listening(_FIRST + place)) is None:
            raise RatekeeperError(f"systemd's socket {name!r} does not listen: write ListenStream= and Accept=no")
        taken.setdefault(name, []).append(one)
    return taken


def _listening(descriptor: int) -> socket.socket | None:
    """Return the socket of a descriptor, which no child inherits by itself; None if it does not listen for streams."""
    try:
        one = socket.socket(fileno=descriptor)
        listens = one.type == socket.SOCK_STREAM and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return None
    one.set_inheritable(False)
    return one if listens else None


def notify(state: str) -> None:
    """Tell systemd the service's state, such as "READY=1", if it asks for that: `Type=notify`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.connect("\0" + address[1:] if address.startswith("@") else address)
        sending.sendall(state.encode())

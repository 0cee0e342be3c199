"""Make the server of a process: by its first order and its core. Each socket gets the wire of its protocol."""

from __future__ import annotations

from collections.abc import Iterable
from socket import socket

from ratekeeper.service.control import Start
from ratekeeper.service.core import Core
from ratekeeper.service.demo import demo_of
from ratekeeper.service.protocols import make_wire
from ratekeeper.service.server import Listening, Server


def make_server(start: Start, core: Core, sockets: Iterable[tuple[str, socket]]) -> Server:
    """Return a server of a core on listening sockets, each after the name of its protocol. Needs a running loop."""
    listening = [Listening(kind, one, make_wire(kind, core, start.bounds)) for kind, one in sockets]
    beside = [*core.beside, *demo_of(core)]
    return Server(listening, start.bounds, start.grace, core.metrics, start.tls, beside)

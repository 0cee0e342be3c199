"""A worker: one process of several. It obeys its parent, and ends when the parent ends.

Run as `python -m ratekeeper.service.worker CONTROL LISTENING`, which are descriptors that it inherits.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys

from ratekeeper.errors import PolicyError
from ratekeeper.policy.model import Policy
from ratekeeper.service.control import SERVE, Control, Start
from ratekeeper.service.log import log_to_stderr
from ratekeeper.service.loop import run_loop
from ratekeeper.service.served import Served
from ratekeeper.service.server import Server

_log = logging.getLogger("ratekeeper")


async def work(control: Control, listening: socket.socket) -> int:
    """Make the application, serve it when told to, and replace its policy whenever told to. Return the exit code."""
    start = await control.receive()
    assert isinstance(start, Start)
    try:
        served = start.make(start.policy, start.open_store)
    except Exception as error:  # the parent logs any failure, in one line
        await control.send(f"{type(error).__name__}: {error}" if type(error).__module__ == "builtins" else str(error))
        return 1
    await control.send(None)
    while (order := await control.receive()) != SERVE:
        await control.send(_replace(served, order))
    server = Server(served, listening, start.bounds, start.grace)
    # A signal may come twice, as to a whole group and from the parent. To end at once, the parent kills.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await control.send(None)
    obeying = asyncio.get_running_loop().create_task(_obey(control, served, server))
    await server.run()
    obeying.cancel()
    return 0


async def _obey(control: Control, served: Served, server: Server) -> None:
    try:
        while True:
            await control.send(_replace(served, await control.receive()))
    except (EOFError, OSError):
        _log.error("the parent process is gone: this worker stops")
        server.stop()


def _replace(served: Served, policy: object) -> str | None:
    assert isinstance(policy, Policy)
    try:
        served.replace(policy)
    except PolicyError as error:
        return str(error)
    return None


async def _main(control: socket.socket, listening: socket.socket) -> int:
    try:
        return await work(await Control.over(control), listening)
    except (EOFError, OSError):  # the parent ended before this worker began
        return 1


def main() -> int:
    """Work on the descriptors that the command line names."""
    for ignored in (signal.SIGINT, signal.SIGHUP):  # these are for the parent
        signal.signal(ignored, signal.SIG_IGN)
    log_to_stderr()
    control, listening = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    for inherited in (control, listening):
        inherited.setblocking(False)
    return run_loop(_main(control, listening))


if __name__ == "__main__":
    sys.exit(main())

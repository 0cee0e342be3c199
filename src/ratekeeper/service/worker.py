"""A worker: one process of several. It obeys its parent, and ends when the parent ends.

Run as `python -m ratekeeper.service.worker CONTROL METRICS SLOT KIND=SOCKET...`: numbers of descriptors that it
inherits, and that of its slot for metrics.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial

from ratekeeper.errors import PolicyError
from ratekeeper.policy.model import Policy
from ratekeeper.service.control import SERVE, Control, Start
from ratekeeper.service.core import Core
from ratekeeper.service.envoy.model import EnvoyConfig
from ratekeeper.service.log import log_to_stderr
from ratekeeper.service.loop import run_loop
from ratekeeper.service.make_server import make_server
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.policy_news import PolicyNews
from ratekeeper.service.server import Server, close

_log = logging.getLogger("ratekeeper")


async def work(control: Control, metrics: Metrics, sockets: Sequence[tuple[str, socket.socket]]) -> int:
    """Make the core, serve it when told to, and replace its policy whenever told to. Return the exit code."""
    parent = os.getppid()
    start = await control.receive()
    assert isinstance(start, Start)
    try:
        core = start.make_core(metrics)
        core.reload = partial(_reload, parent)
        server = make_server(start, core, sockets)
    except Exception as error:  # the parent logs any failure, in one line
        await control.send(_shown(error))
        return 1
    await control.send(None)
    while (order := await control.receive()) != SERVE:
        await control.send(_replace(core, order))
    # A signal may come twice, as to a whole group and from the parent. To end at once, the parent kills.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await control.send(None)
    obeying = asyncio.get_running_loop().create_task(_obey(control, core, server))
    await server.run()
    obeying.cancel()
    await close(core)
    return 0


async def _obey(control: Control, core: Core, server: Server) -> None:
    try:
        while True:
            await control.send(_replace(core, await control.receive()))
    except (EOFError, OSError):
        _log.error("the parent process is gone: this worker stops")
        server.stop()
    except Exception:  # such as an order of another version of this package
        _log.exception("this worker cannot read an order of its parent, and stops")
        server.stop()


def _replace(core: Core, new: object) -> str | None:
    if isinstance(new, PolicyNews):
        core.news = new
        return None
    assert isinstance(new, Policy | EnvoyConfig)
    try:
        core.replace(new)
    except PolicyError as error:
        return str(error)
    except Exception as error:  # of a mistake here, or in the user's functions
        _log.exception("a change was not taken")
        return _shown(error)
    return None


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if type(error).__module__ == "builtins" else str(error)


def _reload(parent: int) -> None:
    """Have the parent read the policy's file, unless it is gone: then this process has another parent."""
    if os.getppid() == parent:
        os.kill(parent, signal.SIGHUP)


async def _main(control: socket.socket, metrics: Metrics, sockets: Sequence[tuple[str, socket.socket]]) -> int:
    try:
        return await work(await Control.over(control), metrics, sockets)
    except (EOFError, OSError):  # the parent ended before this worker began
        return 1


def main() -> int:
    """Work on the descriptors that the command line names."""
    for ignored in (signal.SIGINT, signal.SIGHUP):  # these are for the parent
        signal.signal(ignored, signal.SIG_IGN)
    log_to_stderr()
    control = _inherited(sys.argv[1])
    metrics = Metrics(Slots.attach(int(sys.argv[2])), int(sys.argv[3]))
    named = [argument.split("=") for argument in sys.argv[4:]]
    return run_loop(_main(control, metrics, [(kind, _inherited(number)) for kind, number in named]))


def _inherited(number: str) -> socket.socket:
    inherited = socket.socket(fileno=int(number))
    inherited.setblocking(False)
    return inherited


if __name__ == "__main__":
    sys.exit(main())

"""Serve the service on one socket, from one process or several, until a signal stops it.

It knows a policy and its file, a store, a host and a port. A single process is its own parent: the server is the same.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from threading import TIMEOUT_MAX

from ratekeeper.errors import MissingExtraError, RatekeeperError
from ratekeeper.policy.model import Policy
from ratekeeper.policy.reload import Replace, watch_policy
from ratekeeper.service.bounds import Bounds, connections_allowed
from ratekeeper.service.control import Start
from ratekeeper.service.log import log_to_stderr
from ratekeeper.service.loop import StopSignals, run_loop
from ratekeeper.service.served import MakeService, OpenStore, make_service
from ratekeeper.service.supervisor import Supervisor

EVERY = 0.25
"""Seconds between two looks at a policy file."""

NEVER = TIMEOUT_MAX / 2
"""Seconds between two looks at a file that is not watched."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The policy to serve, and the options of the service.

    file, watched    the policy's file, read again on SIGHUP, and whether also when it changes
    grace            seconds from the signal to stop until requests that still wait are cut off
    """

    policy: Policy
    open_store: OpenStore
    file: str
    watched: bool = True
    workers: int = 1
    grace: float = 10.0
    bounds: Bounds = field(default_factory=Bounds)
    make: MakeService = make_service


def serve(serving: Serving, host: str, port: int, announce: Callable[[str], None]) -> int:
    """Serve until a signal stops it, and return the exit code: 0, or 128 and the number of the signal that hurried it.

    `announce` gets the URL once connections are accepted. Port 0 takes a free one. Raise `RatekeeperError` or OSError
    if the address cannot be had, `MissingExtraError` without uvicorn.
    """
    try:
        import uvicorn  # noqa: PLC0415, F401  an extra, which only serving needs
    except ImportError:
        raise MissingExtraError("ratekeeper serve", "service") from None
    bounds = replace(serving.bounds, connections=connections_allowed(serving.bounds.connections))
    start = Start(serving.make, serving.open_store, serving.policy, bounds, serving.grace)
    listening = _listen(host, port)
    url = _url(listening)
    log_to_stderr()
    if serving.workers == 1:
        return run_loop(_alone(serving, start, listening, lambda: announce(url)))
    return asyncio.run(_with_workers(serving, start, listening, lambda: announce(url)))


async def _alone(serving: Serving, start: Start, listening: socket.socket, announce: Callable[[], None]) -> int:
    from ratekeeper.service.server import Server  # noqa: PLC0415  needs the extra

    served = start.make(start.policy, start.open_store)
    server = Server(served, listening, start.bounds, start.grace)
    signals = StopSignals(server.stop)
    async with _watched(serving, served.replace):
        await server.run(announce)
    return signals.exit_code


async def _with_workers(serving: Serving, start: Start, listening: socket.socket, announce: Callable[[], None]) -> int:
    supervisor = Supervisor(start, listening, serving.workers)
    async with _watched(serving, supervisor.replace):
        return await supervisor.run(announce)


@asynccontextmanager
async def _watched(serving: Serving, take: Replace) -> AsyncIterator[None]:
    """Hand the file's policy over when it changes, if it is watched, and when a SIGHUP comes."""
    every = EVERY if serving.watched else NEVER
    watch = await asyncio.to_thread(watch_policy, serving.file, take, in_use=serving.policy, every=every)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watch.reload)
    try:
        yield
    finally:
        await asyncio.to_thread(watch.stop)  # its thread may wait for this loop


def _listen(host: str, port: int) -> socket.socket:
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        another = port + 1 if port < 65_535 else 8080
        how = f"make run PORT={another}" if "MAKELEVEL" in os.environ else f"--port {another}"
        raise RatekeeperError(f"{host} port {port} is in use: choose another one, as with {how}") from None
    listening.setblocking(False)
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

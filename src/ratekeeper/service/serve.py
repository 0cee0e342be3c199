"""Serves the service by uvicorn on one socket, from one process or several.

Knows a policy and its file, a store, a host and a port.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import TypeAlias

from ratekeeper.errors import MissingExtraError
from ratekeeper.policy.model import Policy
from ratekeeper.policy.reload import watch_policy
from ratekeeper.service.app import Service
from ratekeeper.stores.base import AsyncStore, Store

OpenStore: TypeAlias = Callable[[], Store | AsyncStore]
MakeService: TypeAlias = Callable[[], Service]


def serve(make_service: MakeService, host: str, port: int, workers: int, announce: Callable[[str], None]) -> None:
    """Serve until a signal stops the process. `announce` gets the URL once connections are accepted.

    With several `workers`, each a process, a worker that dies is replaced. Each has a service of its own, by
    `make_service`, which is pickled for it. Port 0 takes a free one. Raises OSError if the address cannot be had,
    MissingExtraError without uvicorn.
    """
    try:
        import uvicorn  # noqa: PLC0415  an extra: only who serves needs it
        from uvicorn.supervisors import Multiprocess  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("ratekeeper serve", "service") from None
    listening = _listen(host, port)
    # Forwarding headers are evidence, which the policy weighs: uvicorn must not rewrite the peer by them.
    config = uvicorn.Config(
        make_service, factory=True, workers=workers,
        log_level="warning", access_log=False, proxy_headers=False, server_header=False, ws="none",
    )  # fmt: skip
    announce(_url(listening))
    if workers == 1:
        uvicorn.Server(config).run(sockets=[listening])
    else:
        Multiprocess(config, sockets=[listening]).run()


def make_service(policy: Policy, open_store: OpenStore, file: str | None = None) -> Service:
    """Make a worker's service, which takes the policy of `file` whenever it changes, and tells of it on stderr.

    `open_store` should lead every worker to the same buckets.
    """
    store = open_store()
    service = Service(policy, store, close=getattr(store, "close", None))
    if file is not None:
        _log_to_stderr()
        watch_policy(file, service.replace, in_use=policy)
    return service


def _log_to_stderr() -> None:
    """Show what the library logs; the process's number tells the workers apart."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"ratekeeper[{os.getpid()}]: %(message)s"))
    log = logging.getLogger("ratekeeper")
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def _listen(host: str, port: int) -> socket.socket:
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.create_server((host, port), family=family, backlog=2048)
    listening.setblocking(False)
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

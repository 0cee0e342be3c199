"""Serves the service by uvicorn on one socket. Knows a policy file, a host and a port."""

from __future__ import annotations

import socket
from collections.abc import Callable

from ratekeeper.errors import MissingExtraError
from ratekeeper.policy.keeper import AsyncKeeper
from ratekeeper.policy.model import Policy
from ratekeeper.service.app import Service


def serve(policy: Policy, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until a signal stops the process. `announce` gets the URL once connections are accepted.

    Port 0 takes a free one. Raises OSError if the address cannot be had, MissingExtraError without uvicorn.
    """
    try:
        import uvicorn  # noqa: PLC0415  an extra: only who serves needs it
    except ImportError:
        raise MissingExtraError("ratekeeper serve", "service") from None
    listening = _listen(host, port)
    # Forwarding headers are evidence, which the policy weighs: uvicorn must not rewrite the peer by them.
    config = uvicorn.Config(
        Service(AsyncKeeper(policy)), log_level="warning", access_log=False, proxy_headers=False, server_header=False
    )
    announce(_url(listening))
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.create_server((host, port), family=family, backlog=2048)
    listening.setblocking(False)
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""HTTP by uvicorn's protocol, as a wire."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from ratekeeper.service.app import Service
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http_protocol import BoundedHttp
from ratekeeper.service.wire import Channel


class UvicornWire:
    """One connection."""

    def __init__(self, core: Core, channel: Channel, bounds: Bounds, app: Any = None) -> None:
        # Forwarding headers are evidence, which the policy weighs: uvicorn must not rewrite the peer by them.
        config = uvicorn.Config(
            cast("Any", app or Service.of(core)), interface="asgi3", lifespan="off", ws="none", log_config=None,
            log_level="error", access_log=False, proxy_headers=False, server_header=False,
        )  # fmt: skip
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        self._channel = channel
        self._http = BoundedHttp(config, state, bounds)
        self._http.connection_made(_Transport(channel))

    @property
    def deadline(self) -> float:
        return self._http._deadline

    @property
    def unanswered(self) -> int:
        return int(self._http._unanswered())

    def receive(self, data: bytes) -> None:
        self._http.data_received(data)

    def expire(self) -> None:
        self._http.expire(self._channel.now())

    def finish(self) -> None:
        self._http.end()

    def cut_off(self) -> None:
        self._http.cut_off()

    def lost(self) -> None:
        self._http.connection_lost(None)


class _Transport(asyncio.Transport):
    def __init__(self, channel: Channel) -> None:
        super().__init__({"peername": (channel.peer, 0) if channel.peer else None})
        self._channel = channel
        self._closed = False

    def write(self, data: Any) -> None:
        self._channel.write(data)

    def write_eof(self) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        self._channel.close()

    def abort(self) -> None:
        self._closed = True
        self._channel.abort()

    def is_closing(self) -> bool:
        return self._closed

    def pause_reading(self) -> None:
        self._channel.pause()

    def resume_reading(self) -> None:
        self._channel.resume()

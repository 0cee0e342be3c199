"""HealthService: gRPC's health service, `grpc.health.v1.Health/Check`. Knows no connection.

The service is healthy while its store answers, and until the server stops. `Watch` is not there: gRPC's own clients
take a service without it for healthy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ratekeeper.coroutines import run_sync
from ratekeeper.errors import StoreUnavailable
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.call import Answer, Call, Method
from ratekeeper.service.grpc.codec import NOT_SERVING, SERVING, read_health, write_health
from ratekeeper.service.grpc.protobuf import WireFormatError
from ratekeeper.service.grpc.status import INVALID_ARGUMENT, NOT_FOUND, CallError
from ratekeeper.stores.base import is_async

_SERVICES = ("", "envoy.service.ratelimit.v3.RateLimitService", "grpc.health.v1.Health")


class HealthService:
    """Answers whether the service, or the whole server (""), can decide."""

    def __init__(self, core: Core, is_stopping: Callable[[], bool]) -> None:
        self._core = core
        self._is_stopping = is_stopping
        self.methods: Mapping[bytes, Method] = {b"/grpc.health.v1.Health/Check": self.check}

    def check(self, message: bytes, call: Call) -> Answer:
        """Return the health of a service, or a coroutine of it."""
        try:
            service = read_health(message)
        except WireFormatError as error:
            raise CallError(INVALID_ARGUMENT, str(error)) from None
        if service not in _SERVICES:
            raise CallError(NOT_FOUND, f"unknown service: use {' or '.join(_SERVICES[1:])}")
        if self._is_stopping():
            return write_health(NOT_SERVING)
        return self._health() if is_async(self._core.store) else run_sync(self._health())

    async def _health(self) -> bytes:
        try:
            await self._core.ready()
        except StoreUnavailable:
            return write_health(NOT_SERVING)
        return write_health(SERVING)

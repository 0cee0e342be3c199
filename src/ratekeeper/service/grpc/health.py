"""HealthService: gRPC's health service, `grpc.health.v1.Health`. Knows no connection.

The service is healthy while its store answers, and until the server stops. `Watch` looks at the store now and then for
each of its streams, whose number is bounded, in a connection and in a process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from ratekeeper.coroutines import run_sync
from ratekeeper.errors import StoreUnavailable
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.call import Answer, Call, Method
from ratekeeper.service.grpc.codec import NOT_SERVING, SERVICE_UNKNOWN, SERVING, read_health, write_health
from ratekeeper.service.grpc.protobuf import WireFormatError
from ratekeeper.service.grpc.status import (
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    CallError,
    message_of,
)
from ratekeeper.stores.base import is_async

MOST_WATCHES, MOST_WATCHES_OF_CONNECTION = 128, 8
"""The streams of `Watch` of a process, and of a connection."""

_EVERY = 1.0
_SERVICES = ("", "envoy.service.ratelimit.v3.RateLimitService", "grpc.health.v1.Health")


class HealthService:
    """Answers one connection whether the service, or the whole server (""), can decide.

    `every` is the number of seconds between two looks at the store for a stream of `Watch`.
    """

    def __init__(self, core: Core, is_stopping: Callable[[], bool], every: float = _EVERY) -> None:
        self._core = core
        self._is_stopping = is_stopping
        self._every = every
        self._watches = 0
        self.methods: Mapping[bytes, Method] = {
            b"/grpc.health.v1.Health/Check": self.check,
            b"/grpc.health.v1.Health/Watch": self.watch,
        }

    def check(self, body: bytes, call: Call) -> Answer:
        """Return the health of a service, or a coroutine of it."""
        if _service_in(message_of(body, call.head.encoding)) not in _SERVICES:
            raise CallError(NOT_FOUND, f"unknown service: use {' or '.join(_SERVICES[1:])}")
        health = self._health()
        return health if is_async(self._core.store) else run_sync(health)

    async def _health(self) -> bytes:
        return write_health(await self._status())

    async def _status(self) -> int:
        if self._is_stopping():
            return NOT_SERVING
        try:
            await self._core.ready()
        except StoreUnavailable:
            return NOT_SERVING
        return SERVING

    def watch(self, body: bytes, call: Call) -> AsyncIterator[bytes]:
        """Return the health of a service, and then each change, until the client gives up or the server stops.

        The health of an unknown service is `SERVICE_UNKNOWN`, as the protocol has it, and not an error.
        """
        return self._watch(message_of(body, call.head.encoding), call)

    async def _watch(self, message: bytes, call: Call) -> AsyncIterator[bytes]:
        known = _service_in(message) in _SERVICES
        core = self._core
        if self._watches >= MOST_WATCHES_OF_CONNECTION or core.health_watches >= MOST_WATCHES:
            raise CallError(RESOURCE_EXHAUSTED, "too many streams watch the health: ask Health/Check now and then")
        self._watches += 1
        core.health_watches += 1
        try:
            told = None
            while True:
                status = await self._status() if known or self._is_stopping() else SERVICE_UNKNOWN
                if status != told:
                    yield write_health(status)
                told = status
                if self._is_stopping():
                    raise CallError(UNAVAILABLE, "the service stops: ask again")
                if await call.given_up_within(self._every) and not self._is_stopping():
                    return
        finally:
            self._watches -= 1
            core.health_watches -= 1


def _service_in(message: bytes) -> str:
    """Return the name of the service that a request asks about. Raise `CallError` if it is malformed."""
    try:
        return read_health(message)
    except WireFormatError as error:
        raise CallError(INVALID_ARGUMENT, str(error)) from None

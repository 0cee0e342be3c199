"""RateLimitService: Envoy's rate limit service, `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`.

Reads a request and asks a source of limits. Knows no connection, and no source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ratekeeper.service.core import Core
from ratekeeper.service.grpc.by_config import ConfiguredLimits
from ratekeeper.service.grpc.by_policy import PolicyLimits
from ratekeeper.service.grpc.call import Answer, Call, Method
from ratekeeper.service.grpc.codec import RateLimitRequest, read_request
from ratekeeper.service.grpc.protobuf import WireFormatError
from ratekeeper.service.grpc.status import INVALID_ARGUMENT, CallError


class LimitSource(Protocol):
    """Decides what Envoy asks."""

    def answer(self, request: RateLimitRequest, call: Call) -> Answer:
        """Return the response, or a coroutine of it. Raise `CallError` if the request cannot be decided."""
        ...


class RateLimitService:
    """Answers by the configuration of envoyproxy/ratelimit, if the service has one, else by the policy."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._policy: LimitSource = PolicyLimits(core)
        self._envoy: LimitSource = ConfiguredLimits(core)
        self.methods: Mapping[bytes, Method] = {
            b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit": self.should_rate_limit
        }

    def should_rate_limit(self, message: bytes, call: Call) -> Answer:
        """Return the answer to a `RateLimitRequest`, or a coroutine of it."""
        try:
            request = read_request(message)
        except WireFormatError as error:
            self._core.metrics.protocols["grpc"].failed(0)
            raise CallError(INVALID_ARGUMENT, str(error)) from None
        source = self._policy if self._core.envoy is None else self._envoy
        return source.answer(request, call)

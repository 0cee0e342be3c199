"""RateLimitService: Envoy's rate limit service, `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`.

Reads a request and asks a source of limits. Knows no connection, and no source.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol, TypeVar

from ratekeeper.http.headers import keep
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.by_config import ConfiguredLimits
from ratekeeper.service.grpc.by_policy import PolicyLimits
from ratekeeper.service.grpc.call import Answer, Call, Method
from ratekeeper.service.grpc.codec import RateLimitRequest, read_request
from ratekeeper.service.grpc.protobuf import WireFormatError
from ratekeeper.service.grpc.status import INVALID_ARGUMENT, CallError, message_of

Q = TypeVar("Q")

_SHORT = 512
"""Bytes of the longest call whose question is kept."""


class LimitSource(Protocol[Q]):
    """Decides what Envoy asks."""

    def read(self, request: RateLimitRequest) -> Q:
        """Return the question of a request, which may be asked many times. Raise `CallError` if it is wrong."""
        ...

    def answer(self, question: Q, call: Call) -> Answer:
        """Return the response, or a coroutine of it. Raise `CallError` if the question cannot be decided."""
        ...


class RateLimitService:
    """Answers by the configuration of envoyproxy/ratelimit, if the service has one, else by the policy.

    The questions of short calls are kept by their bytes, as a gateway asks again and again. Their number is bounded.
    They refer to the limits that they were read for. So they are forgotten when others are in use: a policy that was
    replaced would live on with them. They also refer to the store, and belong to one core.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._kept: dict[Hashable, Any] = {}
        self._kept_for: object = None
        self._policy: LimitSource[Any] = PolicyLimits(core)
        self._envoy: LimitSource[Any] = ConfiguredLimits(core)
        self.methods: Mapping[bytes, Method] = {
            b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit": self.should_rate_limit
        }

    def should_rate_limit(self, body: bytes, call: Call) -> Answer:
        """Return the answer to a `RateLimitRequest`, or a coroutine of it."""
        limits: object = self._core.envoy
        source = self._envoy
        if limits is None:
            limits, source = self._core.limiter.in_use, self._policy
        if limits is not self._kept_for:
            self._kept_for = limits
            self._kept.clear()
        question = self._kept.get(body)
        if question is None:
            question = self._read(source, message_of(body, call.head.encoding))
            if len(body) <= _SHORT:
                keep(self._kept, body, question)
        return source.answer(question, call)

    def _read(self, source: LimitSource[Q], message: bytes) -> Q:
        try:
            return source.read(read_request(message))
        except (WireFormatError, CallError) as error:
            self._core.metrics.protocols["grpc"].failed(0)
            raise CallError(INVALID_ARGUMENT, str(error)) from None

"""PolicyLimits: answers Envoy by the service's policy. Each descriptor's entries are attributes of a request.

The descriptors of one request are charged all or nothing. A descriptor that stands alone may wait for its turn, if the
policy's rules let it, for as long as Envoy waits. Knows no connection.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from ratekeeper.errors import BadRequestError, RatekeeperError
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http.request_policy import RequestPolicy
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.answers import answer, refused_or_error
from ratekeeper.service.grpc.call import Answer, Call
from ratekeeper.service.grpc.codec import Descriptor, RateLimitRequest
from ratekeeper.service.grpc.status import INVALID_ARGUMENT, CallError
from ratekeeper.service.limiter import CheckRequest, ProgramExchange, ServiceLimiter

ALIASES = {
    "remote_address": "client",
    "PATH": "path",
    ":path": "path",
    "METHOD": "method",
    ":method": "method",
}
"""Entries that are also an attribute of another name: those of Envoy's actions, and of headers in its examples."""

DOMAIN = "domain"
"""The attribute that has the domain of a request."""

_MOST_TOLD = 100
_told: set[str] = set()

_log = logging.getLogger("ratekeeper")


class Question:
    """A request's descriptors as attributes and hits, for one policy. It is kept for many calls.

    `spelled` has the attributes of a descriptor that stands alone, as a request has them; None if only a charge tells
    what is wrong about them.
    """

    __slots__ = ("asked", "hits", "policy", "spelled")

    def __init__(self, asked: list[tuple[dict[str, str], int]], policy: RequestPolicy[AsyncKeeper]) -> None:
        self.asked = asked
        attributes, self.hits = asked[0]
        self.policy = policy
        self.spelled: dict[str, str] | None = None
        if len(asked) == 1:
            with suppress(BadRequestError):
                self.spelled = policy.reader.respell(attributes)


class CallExchange(ProgramExchange):
    """A request that a call describes. A call that is given up leaves its place in the queue."""

    def __init__(self, limiter: ServiceLimiter, asked: CheckRequest, call: Call, question: Question) -> None:
        super().__init__(limiter, asked)
        self._call = call
        self.question = question

    def hung_up(self) -> Coroutine[Any, Any, None]:
        return self._call.given_up()


class PolicyLimits:
    """A source of limits: see `LimitSource`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def read(self, request: RateLimitRequest) -> Question:
        """Return the question of a request."""
        policy = self._core.policy
        return Question([_attributes(request, one, policy) for one in request.descriptors], policy)

    def answer(self, question: Question, call: Call) -> Answer:
        """Return the response, or a coroutine of it."""
        core = self._core
        if question.spelled is not None:
            decision = core.decide_now(question.policy, question.spelled, "grpc", question.hits)
            if decision is not None:
                return answer([decision], not decision.allowed, core.limiter.styles)
        asked = [CheckRequest(attributes, hits, call.head.timeout) for attributes, hits in question.asked]
        exchange = CallExchange(core.limiter, asked[0], call, question)
        charging = core.charge(exchange, "grpc") if len(asked) == 1 else core.charge_together(exchange, asked, "grpc")
        if charging is None or isinstance(charging, RatekeeperError):
            return _response(exchange, charging)
        return _later(exchange, charging)


def _attributes(
    request: RateLimitRequest, descriptor: Descriptor, policy: RequestPolicy[AsyncKeeper]
) -> tuple[dict[str, str], int]:
    """Return the attributes of a descriptor, and its hits."""
    attributes = dict(descriptor.entries)
    if DOMAIN in attributes or len(attributes) < len(descriptor.entries):
        repeated = next(name for name, _ in descriptor.entries if name == DOMAIN or _count(descriptor, name) > 1)
        what = f"the entry {repeated[:40]!r} has two values: give each its own descriptor_key in Envoy's route"
        _tell(what)
        raise CallError(INVALID_ARGUMENT, what)
    for alias, name in ALIASES.items():  # in this order, the same in all processes
        if alias in attributes:
            attributes.setdefault(name, attributes[alias])
    attributes[DOMAIN] = request.domain
    names = policy.names
    if names is not None:
        for name, _ in descriptor.entries:
            if name not in names and ALIASES.get(name) not in names:
                _tell(f"the policy knows no attribute {name[:40]!r}: this entry is ignored")
    for name in policy.of_each_request:
        if name not in attributes:
            _tell(f"it has no entry for {name!r}, so rules that look at it may not apply")
    return attributes, request.hits if descriptor.hits is None else descriptor.hits


def _tell(what: str) -> None:
    """Log once what is wrong about a descriptor."""
    if what not in _told and len(_told) < _MOST_TOLD:
        _told.add(what)
        _log.warning("a descriptor of Envoy: %s", what)


def _count(descriptor: Descriptor, name: str) -> int:
    return sum(name == other for other, _ in descriptor.entries)


async def _later(exchange: CallExchange, charging: Coroutine[Any, Any, RatekeeperError | None]) -> bytes:
    return _response(exchange, await charging)


def _response(exchange: CallExchange, refusal: RatekeeperError | None) -> bytes:
    if refusal is not None and not isinstance(refusal, RateLimitExceeded):
        return refused_or_error(refusal, len(exchange.question.asked))
    return answer(exchange.decisions, refusal is not None, exchange.limiter.styles)

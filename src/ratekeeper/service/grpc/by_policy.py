"""PolicyLimits: answers Envoy by the service's policy. Each descriptor's entries are attributes of a request.

The descriptors of one request are charged all or nothing. A descriptor that stands alone may wait for its turn, if the
policy's rules let it, for as long as Envoy waits. Knows no connection.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Coroutine, Hashable
from typing import Any

from ratekeeper.errors import RatekeeperError
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.http.headers import keep
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.answers import lines_and_body, refused_or_error, status_of, together
from ratekeeper.service.grpc.call import Answer, Call
from ratekeeper.service.grpc.codec import Descriptor, RateLimitRequest, write_response
from ratekeeper.service.grpc.status import INVALID_ARGUMENT, CallError
from ratekeeper.service.limiter import CheckRequest, ProgramExchange

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
_SHORT = 512
_told: set[str] = set()
_questions: dict[Hashable, Question] = {}
"""The questions of short requests by the policy that they were read for. Bounded."""

_new = tuple.__new__
_log = logging.getLogger("ratekeeper")


class Question:
    """A request's descriptors as attributes and hits, and the first one's spelling. It is kept for many calls."""

    __slots__ = ("_reader", "_spelled", "asked")

    def __init__(self, asked: list[tuple[dict[str, str], int]]) -> None:
        self.asked = asked
        self._reader: AttributeReader | None = None
        self._spelled: dict[str, str] = {}

    def spelled(self, reader: AttributeReader) -> dict[str, str]:
        """Return the attributes of the first descriptor as a policy reads them."""
        if self._reader is not reader:
            self._spelled = reader.respell(self.asked[0][0])
            self._reader = reader
        return self._spelled.copy()


class CallExchange(ProgramExchange):
    """A request that a call describes. A call that is given up leaves its place in the queue."""

    def __init__(self, core: Core, asked: CheckRequest, call: Call, question: Question) -> None:
        super().__init__(core.limiter, asked)
        self._call = call
        self.question = question

    def read(self, reader: AttributeReader) -> dict[str, str]:
        return self.question.spelled(reader)

    def hung_up(self) -> Coroutine[Any, Any, None]:
        return self._call.given_up()


class PolicyLimits:
    """A source of limits: see `LimitSource`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def answer(self, request: RateLimitRequest, call: Call) -> Answer:
        """Return the response, or a coroutine of it."""
        core = self._core
        policy = core.policy
        key = policy, request
        question = _questions.get(key)
        if question is None:
            try:
                question = Question([_attributes(request, one, policy.names) for one in request.descriptors])
            except CallError:
                core.metrics.protocols["grpc"].failed(0)
                raise
            if _size(request) <= _SHORT:
                keep(_questions, key, question)
        asked = [_new(CheckRequest, (attributes, hits, call.timeout, True)) for attributes, hits in question.asked]
        exchange = CallExchange(core, asked[0], call, question)
        charging = core.charge(exchange, "grpc") if len(asked) == 1 else core.charge_together(exchange, asked, "grpc")
        if charging is None or isinstance(charging, RatekeeperError):
            return _response(exchange, charging)
        return _later(exchange, charging)


def _attributes(
    request: RateLimitRequest, descriptor: Descriptor, names: Collection[str] | None
) -> tuple[dict[str, str], int]:
    """Return the attributes of a descriptor, and its hits."""
    attributes = dict(descriptor.entries)
    if DOMAIN in attributes or len(attributes) < len(descriptor.entries):
        repeated = next(name for name, _ in descriptor.entries if name == DOMAIN or _count(descriptor, name) > 1)
        what = f"the entry {repeated[:40]!r} has two values: give each its own descriptor_key in Envoy's route"
        _tell(repeated, what)
        raise CallError(INVALID_ARGUMENT, what)
    for alias, name in ALIASES.items():  # in this order, the same in all processes
        if alias in attributes:
            attributes.setdefault(name, attributes[alias])
    attributes[DOMAIN] = request.domain
    if names is not None:
        for name, _ in descriptor.entries:
            if name not in names and ALIASES.get(name) not in names:
                _tell(name, f"the policy knows no attribute {name[:40]!r}: this entry is ignored")
    return attributes, request.hits if descriptor.hits is None else descriptor.hits


def _size(request: RateLimitRequest) -> int:
    return sum(len(name) + len(value) for descriptor in request.descriptors for name, value in descriptor.entries)


def _tell(name: str, what: str) -> None:
    """Log once what is wrong about an entry."""
    if name not in _told and len(_told) < _MOST_TOLD:
        _told.add(name)
        _log.warning("a descriptor of Envoy: %s", what)


def _count(descriptor: Descriptor, name: str) -> int:
    return sum(name == other for other, _ in descriptor.entries)


async def _later(exchange: CallExchange, charging: Coroutine[Any, Any, RatekeeperError | None]) -> bytes:
    return _response(exchange, await charging)


def _response(exchange: CallExchange, refusal: RatekeeperError | None) -> bytes:
    if refusal is not None and not isinstance(refusal, RateLimitExceeded):
        return refused_or_error(refusal, len(exchange.question.asked))
    decisions = exchange.decisions
    lines, body = lines_and_body(together(decisions), refusal is not None, exchange.limiter.styles)
    return write_response([status_of(one) for one in decisions], lines, body)

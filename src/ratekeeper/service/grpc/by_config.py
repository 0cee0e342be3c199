"""ConfiguredLimits: answers Envoy by the configuration of envoyproxy/ratelimit. Knows no file and no connection.

As there, each descriptor has at most one limit, a request's own limit wins, and a descriptor without a limit passes.
Unlike there, a request that is refused charges no descriptor.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

from ratekeeper.coroutines import run_sync
from ratekeeper.decision import Charge, Decision, RuleDecision
from ratekeeper.errors import LimitError
from ratekeeper.http.charging import REFUSALS
from ratekeeper.policy.decision import PolicyDecision, is_nearly_used, refused
from ratekeeper.service.core import Core
from ratekeeper.service.envoy.model import SECONDS_OF_UNIT, EnvoyConfig, EnvoyLimit, bucket, key_of
from ratekeeper.service.grpc.answers import call_error, lines_and_body, together
from ratekeeper.service.grpc.call import Answer, Call
from ratekeeper.service.grpc.codec import (
    OK,
    OVER_LIMIT,
    UNLIMITED,
    Descriptor,
    Json,
    RateLimitRequest,
    Status,
    rate_limit,
    write_response,
    write_struct,
)
from ratekeeper.service.grpc.status import INVALID_ARGUMENT, CallError
from ratekeeper.service.limiter import decide_async
from ratekeeper.stores.base import is_async

_MOST_TOLD = 100
_told: set[str] = set()
_NONE: Set[str] = frozenset()
_log = logging.getLogger("ratekeeper")


class _Asked(NamedTuple):
    """A descriptor, its limit, and its charge; or why there is none."""

    limit: EnvoyLimit | None = None
    charge: Charge | None = None

    @property
    def banned(self) -> bool:
        """Whether the limit refuses all, so that the store need not be asked."""
        return self.charge is not None and self.charge.limit.refuses_all


class ConfiguredLimits:
    """A source of limits: see `LimitSource`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._counts = core.metrics.protocols["grpc"]

    def answer(self, request: RateLimitRequest, call: Call) -> Answer:
        """Return the response, or a coroutine of it."""
        config = self._core.envoy
        assert config is not None
        try:
            asked = _asked(config, request)
        except CallError:
            self._counts.failed(0)
            raise
        answering = self._answer(request, asked)
        return answering if is_async(self._core.store) else run_sync(answering)

    async def _answer(self, request: RateLimitRequest, asked: Sequence[_Asked]) -> bytes:
        began = self._counts.begin()
        charges = [one.charge for one in asked if one.charge is not None and not one.banned]
        commit = not any(one.banned and one.charge and not one.charge.shadow for one in asked)
        try:
            decisions = await decide_async(self._core.store, charges, commit) if charges else []
        except REFUSALS as error:
            self._counts.failed(began)
            raise call_error(error) from None
        return self._response(request, asked, iter(decisions), began)

    def _response(self, request: RateLimitRequest, asked: Sequence[_Asked], decisions: Any, began: int) -> bytes:
        statuses: list[Status] = []
        rules: list[PolicyDecision] = []
        exceeded: list[int] = []
        for place, one in enumerate(asked):
            if one.limit is None or one.charge is None:
                statuses.append(Status(OK, remaining=0 if one.limit is None else UNLIMITED))
                continue
            made = refused(one.charge) if one.banned else next(decisions)
            statuses.append(_status(one.limit, made, one.charge.shadow))
            rule = RuleDecision(one.limit.label, made, one.charge.shadow)
            self._core.metrics.count(rule.name, rule.outcome, is_nearly_used(made))
            rules.append(PolicyDecision((rule,)))
            if one.limit.quota and not made.allowed:
                exceeded.append(place)
        decision = together(rules) if rules else PolicyDecision()
        count = self._counts.allowed if decision.allowed else self._counts.refused
        count(began, decision)
        lines, body = lines_and_body(decision, not decision.allowed, self._core.limiter.styles)
        quotas = any(one.limit is not None and one.limit.quota for one in asked)
        return write_response(statuses, lines, body, _metadata(request, exceeded) if quotas else b"")


def _asked(config: EnvoyConfig, request: RateLimitRequest) -> list[_Asked]:
    """Return the limit and the charge of each descriptor."""
    if request.domain not in config.domains:
        _tell(config, request.domain)
    found = [_find(config, request.domain, descriptor) for descriptor in request.descriptors]
    replaced: Set[str] = _NONE
    for one in found:
        if one is not None and one[0].replaces:
            replaced = replaced | set(one[0].replaces)
    return [
        _Asked() if one is None or one[0].name in replaced else _charged(request, descriptor, *one)
        for one, descriptor in zip(found, request.descriptors, strict=True)
    ]


def _find(config: EnvoyConfig, domain: str, descriptor: Descriptor) -> tuple[EnvoyLimit, str] | None:
    if descriptor.limit is None:
        return config.find(domain, descriptor.entries)
    requests, unit = descriptor.limit
    if unit not in SECONDS_OF_UNIT:
        raise CallError(INVALID_ARGUMENT, f"a descriptor's own limit has the unit {unit}, which is unknown")
    label = ".".join([domain, *(name for name, _ in descriptor.entries)])
    try:
        own = bucket(requests, unit)
    except LimitError as error:
        raise CallError(INVALID_ARGUMENT, f"a descriptor's own limit: {error}") from None
    return EnvoyLimit(label, own, requests, unit), key_of(descriptor.entries)


def _charged(request: RateLimitRequest, descriptor: Descriptor, limit: EnvoyLimit, key: str) -> _Asked:
    if limit.limit is None:
        return _Asked(limit)
    hits = request.hits if descriptor.hits is None else descriptor.hits
    # A rule's scope ends with the number of its limit, so no rule of the policy has these buckets.
    charge = Charge.of(f"{request.domain}/envoy", key, limit.limit, hits, 0, limit.shadow or limit.quota)
    return _Asked(limit, charge)


def _status(limit: EnvoyLimit, made: Decision, passes: bool) -> Status:
    code = OK if made.allowed or passes else OVER_LIMIT
    written = rate_limit(limit.requests_per_unit, limit.unit, limit.name)
    return Status(code, written, made.remaining, made.limit.whole_seconds(made.debt_ticks))


def _metadata(request: RateLimitRequest, exceeded: Sequence[int]) -> bytes:
    """Return the descriptors, and which of those with a quota have exceeded it, as Envoy's dynamic metadata."""
    told: dict[str, Json] = {
        "domain": request.domain,
        "descriptors": [
            {"entries": [f"{name}={value}" for name, value in descriptor.entries]} for descriptor in request.descriptors
        ],
        "quotaModeEnabled": True,
    }
    if exceeded:
        told["quotaModeViolations"] = exceeded
    return write_struct(told)


def _tell(config: EnvoyConfig, domain: str) -> None:
    """Log once that a domain has no limits."""
    if domain not in _told and len(_told) < _MOST_TOLD:
        _told.add(domain)
        _log.warning(
            "Envoy asks about the domain %r, which no file in %s has: it is not limited", domain[:100], config.source
        )

"""ConfigQuestion: what Envoy asks, by the configuration of envoyproxy/ratelimit. Values: they know no store.

As there, each descriptor has at most one limit, a request's own limit wins, and a descriptor without a limit passes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from functools import cached_property, lru_cache
from typing import NamedTuple

from ratekeeper.decision import Charge, Decision, RuleDecision
from ratekeeper.errors import LimitError
from ratekeeper.http.headers import rate_limit_lines, rate_limit_template
from ratekeeper.policy.decision import PolicyDecision, Template, refused
from ratekeeper.service.envoy.model import SECONDS_OF_UNIT, EnvoyConfig, EnvoyLimit, bucket, key_of
from ratekeeper.service.grpc.answers import merged
from ratekeeper.service.grpc.codec import (
    OK,
    UNLIMITED,
    Descriptor,
    Json,
    RateLimitRequest,
    Status,
    dynamic_metadata,
    rate_limit,
)
from ratekeeper.service.grpc.status import INVALID_ARGUMENT, CallError

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


class _Limited(NamedTuple):
    """A descriptor with a limit.

    place    of the descriptor in the request
    written  the limit in protobuf's form
    ban      the decision that needs no store; None if there is one to be asked
    """

    place: int
    limit: EnvoyLimit
    written: bytes
    shadow: bool
    ban: Decision | None


class ConfigQuestion:
    """A request's descriptors and their limits. It is kept for many calls.

    charges    what the store is asked
    commit     whether it may charge: a ban refuses the whole request
    statuses   those of the descriptors without a limit; the others are to be set
    limited    the other descriptors
    distinct   whether no two of them have one limit
    quotas     whether one has a quota
    """

    def __init__(self, request: RateLimitRequest, asked: Sequence[_Asked]) -> None:
        self.request = request
        self.charges = [one.charge for one in asked if one.charge is not None and not one.banned]
        self.commit = not any(one.banned and one.charge and not one.charge.shadow for one in asked)
        self.statuses = [Status(OK, remaining=0 if one.limit is None else UNLIMITED) for one in asked]
        self.limited = [
            _limited(place, one.limit, one.charge)
            for place, one in enumerate(asked)
            if one.limit is not None and one.charge is not None
        ]
        self.distinct = len({one.limit.label for one in self.limited}) == len(self.limited)
        self.quotas = any(one.limit is not None and one.limit.quota for one in asked)

    def decision(self, rules: list[RuleDecision]) -> PolicyDecision:
        """Return the decision of all limits."""
        return PolicyDecision(tuple(rules)) if self.distinct else merged(rules)

    def lines(self, rules: list[RuleDecision], states: list[int]) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer that allows, in the default style, as `rate_limit_lines` does."""
        if not self.distinct:
            return rate_limit_lines(merged(rules))
        policies, form = self._forms
        return [(b"ratelimit-policy", policies), (b"ratelimit", form % tuple(states))] if states else []

    @cached_property
    def _forms(self) -> tuple[bytes, bytes]:
        """The value of RateLimit-Policy, and that of RateLimit as a format. Made at their first use: C has its own."""
        templates = [templates_of(*one.shown) for _, one, _, shadow, _ in self.limited if not shadow]
        return b", ".join([policy for policy, _ in templates]), b", ".join([_form_of(form) for _, form in templates])

    def metadata(self, exceeded: Sequence[int]) -> bytes:
        """Return Envoy's dynamic metadata if there is a quota: the descriptors, and which have exceeded theirs."""
        if not self.quotas:
            return b""
        told: dict[str, Json] = {
            "domain": self.request.domain,
            "descriptors": [
                {"entries": [f"{name}={value}" for name, value in one.entries]} for one in self.request.descriptors
            ],
            "quotaModeEnabled": True,
        }
        if exceeded:
            told["quotaModeViolations"] = exceeded
        return dynamic_metadata(told)


def read_question(config: EnvoyConfig, request: RateLimitRequest) -> ConfigQuestion:
    """Return the question of a request: the limit and the charge of each descriptor."""
    if request.domain not in config.domains:
        _tell(config, request.domain)
    found = [_find(config, request.domain, descriptor) for descriptor in request.descriptors]
    replaced: Set[str] = _NONE
    for one in found:
        if one is not None and one[0].replaces:
            replaced = replaced | set(one[0].replaces)
    asked = [
        _Asked() if one is None or one[0].name in replaced else _charged(request, descriptor, *one)
        for one, descriptor in zip(found, request.descriptors, strict=True)
    ]
    return ConfigQuestion(request, asked)


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
    # A debt is a time, so limits of a day and of a second must not share a bucket: the first would block the second. A
    # rule's scope ends with the number of its limit, so no rule of the policy has these buckets.
    charge = Charge.of(f"{request.domain}/{limit.unit}/envoy", key, limit.limit, hits, 0, limit.shadow or limit.quota)
    return _Asked(limit, charge)


def _limited(place: int, limit: EnvoyLimit, charge: Charge) -> _Limited:
    written = rate_limit(limit.requests_per_unit, limit.unit, limit.name)
    return _Limited(place, limit, written, charge.shadow, refused(charge) if charge.limit.refuses_all else None)


@lru_cache(maxsize=1024)
def templates_of(label: str, requests_per_unit: int, unit: int) -> tuple[bytes, Template]:
    """Return a limit's part of RateLimit-Policy, and the template of that of RateLimit."""
    one = Decision(True, bucket(requests_per_unit, unit), "", 0, 0, 0, 0, 0)
    return rate_limit_template(PolicyDecision((RuleDecision(label, one),)))[:2]


def _form_of(template: Template) -> bytes:
    """Return a template as a format of states."""
    return b"%d".join([piece.replace(b"%", b"%%") for piece in template if piece is not None])


def _tell(config: EnvoyConfig, domain: str) -> None:
    """Log once that a domain has no limits."""
    if domain not in _told and len(_told) < _MOST_TOLD:
        _told.add(domain)
        _log.warning(
            "Envoy asks about the domain %r, which no file in %s has: it is not limited", domain[:100], config.source
        )

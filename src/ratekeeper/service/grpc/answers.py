"""From decisions to Envoy's answer: a status for each descriptor, the headers, and the body of a refusal.

Pure functions. Know no source of limits and no connection.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import TypeAlias

from ratekeeper.decision import RuleDecision
from ratekeeper.errors import BadRequestError, CostError, RatekeeperError, StoreUnavailable
from ratekeeper.http.header_styles import styled_lines
from ratekeeper.http.headers import keep, policy_name
from ratekeeper.http.responses import problem, response_to
from ratekeeper.limits import Limit
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.service.envoy.model import SECONDS_OF_UNIT
from ratekeeper.service.grpc.codec import OK, OVER_LIMIT, Status, rate_limit, write_response
from ratekeeper.service.grpc.status import INVALID_ARGUMENT, UNAVAILABLE, CallError

UNKNOWN_UNIT = 0
_LARGEST = 2**32 - 1
_TOO_MANY_REQUESTS = 429

_new = tuple.__new__

AnswerParts: TypeAlias = tuple[list[tuple[bytes, bytes]], bytes]
"""Headers, and a body."""

_refusals: dict[Hashable, AnswerParts] = {}
"""The parts of refusals by the same rules that must wait equally long. Bounded."""

_limits: dict[Hashable, bytes] = {}
"""The limits of answers in protobuf's form. Bounded."""


def status_of(decision: PolicyDecision) -> Status:
    """Return the status of a descriptor: that of the most restrictive rule."""
    code = OK if decision.allowed else OVER_LIMIT
    rules = decision.rules
    rule = rules[0] if len(rules) == 1 and not rules[0].shadow else decision.rule
    if rule is None:
        return Status(code)
    one = rule.decision
    limit = one.limit
    key = rule.name, rule.place, limit.max_cost, limit.interval, limit._exact_second
    written = _limits.get(key)
    if written is None:
        written = b"" if limit.denies else rate_limit(*per_unit(limit), policy_name(rule.label))
        keep(_limits, key, written)
    return _new(Status, (code, written, min(one.remaining, _LARGEST), limit.whole_seconds(one.debt_ticks)))


def per_unit(limit: Limit) -> tuple[int, int]:
    """Return a limit as requests per unit. The unit is that of the time to fill a bucket, or else that of the rate.

    If neither is a whole number, it is the capacity, and the unit is unknown.
    """
    if limit.refuses_all:
        return 0, 1
    for unit, seconds in SECONDS_OF_UNIT.items():
        if limit.window == seconds:
            return min(limit.max_cost, _LARGEST), unit
    for unit, seconds in SECONDS_OF_UNIT.items():
        if (requests := limit.rate * seconds).denominator == 1:
            return min(requests.numerator, _LARGEST), unit
    return min(limit.max_cost, _LARGEST), UNKNOWN_UNIT


def together(decisions: Sequence[PolicyDecision]) -> PolicyDecision:
    """Return one decision for several descriptors: of each rule the most restrictive one."""
    if len(decisions) == 1:
        return decisions[0]
    rules: dict[str, RuleDecision] = {}
    for decision in decisions:
        for rule in decision.rules:
            known = rules.get(rule.label)
            if known is None or _strictness(rule) < _strictness(known):
                rules[rule.label] = rule
    missing = next((one.missing for one in decisions if one.missing is not None), None)
    return PolicyDecision(tuple(rules.values()), missing)


def _strictness(rule: RuleDecision) -> tuple[bool, int, int]:
    one = rule.decision
    return one.allowed, -one.retry_ticks, one.remaining


def lines_and_body(decision: PolicyDecision, is_refused: bool, styles: frozenset[str] | None) -> AnswerParts:
    """Return the headers of an answer, those about limits too, and its body, which only a refusal has."""
    lines = styled_lines(decision, styles)
    if not is_refused:
        return lines, b""
    more, body = _refusal_parts(decision)
    return [*lines, *more], body


def _refusal_parts(decision: PolicyDecision) -> AnswerParts:
    """Return the headers and the body of a refusal, beside the headers about limits."""
    wait = decision.retry_after_seconds
    if wait is None or decision.source != "exact":  # its body may tell more than the rules and the wait
        return _make_parts(decision)
    key = decision.combination, wait
    return _refusals.get(key) or keep(_refusals, key, _make_parts(decision))


def _make_parts(decision: PolicyDecision) -> AnswerParts:
    response = problem(decision, _TOO_MANY_REQUESTS)
    return _lines(tuple(response.headers)), response.body


@lru_cache(maxsize=64)
def _lines(headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers]


def refused_or_error(error: RatekeeperError, descriptors: int) -> bytes:
    """Return the answer to a client's request that is wrong in itself. Raise `CallError` for another error.

    It is refused: at an error Envoy lets the request pass, unless `failure_mode_deny` is true, and the client could
    choose that by a path that is too long.
    """
    if not isinstance(error, BadRequestError | CostError):
        raise call_error(error)
    response = response_to(error)
    return write_response([Status(OVER_LIMIT)] * descriptors, _lines(tuple(response.headers)), response.body)


def call_error(error: RatekeeperError) -> CallError:
    """Return the status of a call that could not be decided. Envoy's `failure_mode_deny` says what happens then."""
    if isinstance(error, StoreUnavailable):
        return CallError(UNAVAILABLE, "the store does not answer")
    return CallError(INVALID_ARGUMENT, str(error))

"""From decisions to Envoy's answer: a status for each descriptor, the headers, and the body of a refusal.

Pure functions. Know no source of limits and no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeAlias

from ratekeeper import core
from ratekeeper.decision import Decision, RuleDecision
from ratekeeper.errors import BadRequestError, CostError, RatekeeperError, StoreUnavailable
from ratekeeper.http.header_styles import styled_lines
from ratekeeper.http.headers import LARGEST_INTEGER, keep, policy_name, rate_limit_template
from ratekeeper.http.responses import Response, problem, response_to
from ratekeeper.limits import Limit
from ratekeeper.policy.decision import PolicyDecision, Template, state_of
from ratekeeper.service.envoy.model import SECONDS_OF_UNIT
from ratekeeper.service.grpc.codec import OK, OVER_LIMIT, Status, headers_to_add, rate_limit, raw_body, write_response
from ratekeeper.service.grpc.status import INVALID_ARGUMENT, UNAVAILABLE, CallError

UNKNOWN_UNIT = 0
_LARGEST = 2**32 - 1
_TOO_MANY_REQUESTS = 429

_fill = core.fill_envoy_answer

_refusals: dict[Hashable, bytes] = {}
"""The ends of refusals by the same rules that must wait equally long. Bounded."""

ENDS: dict[Hashable, bytes] = {}
"""The same, with the header Retry-After before each. `fill_envoy_answer` looks into it. Bounded."""

Known: TypeAlias = tuple[tuple[bytes, ...], bytes, Template]
"""Of each rule its limit in protobuf's form; the header RateLimit-Policy, as a field; and the template of RateLimit."""

_known: dict[Hashable, Known] = {}
"""The parts that answers to decisions of one combination have in common. Bounded."""


def answer(decisions: Sequence[PolicyDecision], is_refused: bool, styles: frozenset[str] | None) -> bytes:
    """Return the response to a request that was decided, one decision for each descriptor."""
    decision = decisions[0]
    if _fill is None or len(decisions) > 1 or styles is not None or type(decision) is PolicyDecision:  # made in Python
        return python_answer(decisions, is_refused, styles)
    key = decision.combination
    known = _known.get(key) or keep(_known, key, _parts_of(decision))
    filled = _fill(decision, *known, LARGEST_INTEGER, ENDS, key) if known[1] else None
    if isinstance(filled, int):
        filled = fill_again(_fill, decision, known, key, filled, decision)
    return python_answer(decisions, is_refused, styles) if filled is None else filled


def fill_again(
    fill: Callable[..., bytes | int | None],
    decision: Decision | PolicyDecision,
    known: Known,
    key: Hashable,
    wait: int,
    as_policy: PolicyDecision,
) -> bytes:
    """Return the answer of a refusal whose end was missing, as `fill_envoy_answer` told by its `wait`. Keep the end.

    `key` is equal for decisions that have all but numbers in common. `as_policy` is the decision as a policy's.
    """
    keep(ENDS, (key, wait), headers_to_add([(b"retry-after", b"%d" % wait)]) + end_of(as_policy))
    filled = fill(decision, *known, LARGEST_INTEGER, ENDS, key)
    assert isinstance(filled, bytes)
    return filled


def python_answer(decisions: Sequence[PolicyDecision], is_refused: bool, styles: frozenset[str] | None) -> bytes:
    """As `answer`, for all decisions."""
    one = decisions[0] if len(decisions) == 1 else together(decisions)
    end = end_of(one) if is_refused else b""
    return write_response([_status_of(each) for each in decisions], styled_lines(one, styles), end)


def _parts_of(decision: PolicyDecision) -> Known:
    policies, states, _ = rate_limit_template(decision)
    header = headers_to_add([(b"ratelimit-policy", policies)]) if policies else b""
    return tuple(map(_limit_of, decision.rules)), header, states


def _status_of(decision: PolicyDecision) -> Status:
    """Return the status of a descriptor: that of the most restrictive rule."""
    code = OK if decision.allowed else OVER_LIMIT
    rule = decision.rule
    if rule is None:
        return Status(code)
    remaining, _, seconds = state_of(rule.decision)
    return Status(code, _limit_of(rule), min(remaining, _LARGEST), seconds)


def _limit_of(rule: RuleDecision) -> bytes:
    """Return a rule's limit in protobuf's form; nothing for a rule that denies."""
    return b"" if rule.limit.denies else rate_limit(*per_unit(rule.limit), policy_name(rule.label))


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
    missing = next((one.missing for one in decisions if one.missing is not None), None)
    return merged([rule for one in decisions for rule in one.rules], missing)


def merged(rules: Iterable[RuleDecision], missing: str | None = None) -> PolicyDecision:
    """Return the decision of these rules: of each rule the most restrictive one.

    A limit that a request brings along may have the name of one in shadow. These are two: one in shadow hides no other.
    """
    kept: dict[tuple[str, bool], RuleDecision] = {}
    for rule in rules:
        key = rule.label, rule.shadow
        known = kept.get(key)
        if known is None or _strictness(rule) < _strictness(known):
            kept[key] = rule
    return PolicyDecision(tuple(kept.values()), missing)


def _strictness(rule: RuleDecision) -> tuple[bool, int, int]:
    one = rule.decision
    return one.allowed, -one.retry_ticks, one.remaining


def end_of(decision: PolicyDecision) -> bytes:
    """Return the fields of a refusal after the headers about limits: other headers, and the body."""
    wait = decision.retry_after_seconds
    if wait is None or decision.source != "exact":  # its body may tell more than the rules and the wait
        return _end_by(problem(decision, _TOO_MANY_REQUESTS))
    key = decision.combination, wait
    return _refusals.get(key) or keep(_refusals, key, _end_by(problem(decision, _TOO_MANY_REQUESTS)))


def _end_by(response: Response) -> bytes:
    lines = [(name.lower().encode(), value.encode()) for name, value in response.headers]
    return headers_to_add(lines) + raw_body(response.body)


def refused_or_error(error: RatekeeperError, descriptors: int) -> bytes:
    """Return the answer to a client's request that is wrong in itself. Raise `CallError` for another error.

    It is refused: at an error Envoy lets the request pass, unless `failure_mode_deny` is true, and the client could
    choose that by a path that is too long.
    """
    if not isinstance(error, BadRequestError | CostError):
        raise call_error(error)
    return write_response([Status(OVER_LIMIT)] * descriptors, [], _end_by(response_to(error)))


def call_error(error: RatekeeperError) -> CallError:
    """Return the status of a call that could not be decided. Envoy's `failure_mode_deny` says what happens then."""
    if isinstance(error, StoreUnavailable):
        return CallError(UNAVAILABLE, "the store does not answer")
    return CallError(INVALID_ARGUMENT, str(error))

"""From a refusal to its response, whose body explains it: problem details (RFC 9457). Pure functions.

Knows no framework. The headers about limits are in `headers`, as allowed responses have them too. Here are only the
headers that every refusal needs, and no other response.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from math import ceil
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ratekeeper.errors import (
    BadRequestError,
    ClientDisconnected,
    CostError,
    RatekeeperError,
    StoreUnavailable,
)
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http.headers import keep, policy_name
from ratekeeper.policy.decision import PolicyDecision, as_policy_decision

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from ratekeeper.decision import RuleDecision

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
REDUCED_CAPACITY = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"

CLIENT_CLOSED_REQUEST = 499
"""The status of a request whose client has hung up, in access logs, as in nginx. No client gets it."""

# Here and not in `rate_limit_headers`: a cache must not store a 429 (RFC 6585, section 4), nor a 403 in its place. The
# application decides whether a cache may store an allowed response.
_HEADERS = (("Content-Type", "application/problem+json"), ("Cache-Control", "no-store"))


_Body: TypeAlias = tuple[bytes, bytes | None]
"""The parts of a body before and after the seconds to wait. If it does not tell them, the whole body, and None."""

_bodies: dict[Hashable, _Body] = {}
"""The bodies of refusals by the same rules. Bounded."""


class Response(NamedTuple):
    """An HTTP response that every framework can send. The sender adds its length."""

    status: int
    """The status code."""
    headers: Iterable[tuple[str, str]] = ()
    """The headers, without Content-Length."""
    body: bytes = b""
    """The whole body."""


def problem(decision: PolicyDecision, status: int | None = None) -> Response:
    """Return the response to a refused request, without the headers about limits: see `rate_limit_headers`.

    The status is 429; 403 if a rule denies, or if an attribute is missing; 503 if the store did not answer and
    `on_error` is "deny". `status` replaces it: nginx's `auth_request` understands only 403. Raises ValueError if the
    request is allowed, or if HTTP has no such status.
    """
    if decision.allowed:
        raise ValueError("the request is allowed: there is no problem to describe")
    if decision.missing is not None:
        return _missing_attribute(decision.missing, HTTPStatus(403 if status is None else status))
    if decision.denied:
        return _denied(decision, HTTPStatus(403 if status is None else status))
    if decision.undecided:
        return unavailable(status)
    return _quota_exceeded(decision, HTTPStatus.TOO_MANY_REQUESTS if status is None else HTTPStatus(status))


def unavailable(status: int | None = None, retry_after: float | None = None) -> Response:
    """Return the response to a request that could not be decided. No quota is exceeded.

    `retry_after` is in seconds. The cause is in the log, and not in the response.
    """
    chosen = HTTPStatus(503 if status is None else status)
    details = {
        "type": REDUCED_CAPACITY,
        "title": "Request cannot be satisfied due to temporary server capacity constraints",
        "status": chosen.value,
        "detail": "The rate limiter cannot tell at the moment if the request is within its limits: try again soon.",
    }
    wait = () if retry_after is None else (("Retry-After", str(max(1, ceil(retry_after)))),)
    return Response(chosen.value, (*wait, *_HEADERS), json.dumps(details).encode("ascii"))


def explained(status: int, detail: str, *headers: tuple[str, str]) -> Response:
    """Return the response to a request that cannot be decided, as it is wrong in itself."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(status, (*headers, *_HEADERS), json.dumps(body).encode("ascii"))


def detail_of(answer: Response) -> str:
    """Return the detail of a response made here, for protocols that send no body."""
    detail: str = json.loads(answer.body)["detail"] if answer.body else "the client has gone"
    return detail


def response_to(refusal: RatekeeperError) -> Response:
    """Return the response to a refusal, without the headers about limits. Raises an error that is not a refusal."""
    if isinstance(refusal, RateLimitExceeded):
        return problem(as_policy_decision(refusal.decision))
    if isinstance(refusal, StoreUnavailable):
        return unavailable(retry_after=refusal.retry_after)
    if isinstance(refusal, CostError):
        return explained(400, str(refusal))
    if isinstance(refusal, BadRequestError):
        return explained(refusal.status, str(refusal))
    if isinstance(refusal, ClientDisconnected):
        return Response(CLIENT_CLOSED_REQUEST)
    raise refusal


def _quota_exceeded(decision: PolicyDecision, status: HTTPStatus) -> Response:
    wait = decision.retry_after_seconds
    if wait is None and any(  # it may tell the cost
        not rule.decision.allowed and not rule.limit.refuses_all for rule in decision.enforced
    ):
        return Response(int(status), _HEADERS, _quota_body(decision, status, None)[0])
    key = decision.combination, status, None if wait is None else wait == 1
    body = _bodies.get(key)
    if body is None:
        body = keep(_bodies, key, _quota_body(decision, status, wait))
    before, after = body
    if after is None or wait is None:
        return Response(int(status), _HEADERS, before)
    return Response(int(status), _HEADERS, b"%b%d%b" % (before, wait, after))


def _quota_body(decision: PolicyDecision, status: HTTPStatus, wait: int | None) -> _Body:
    """Return the body. Without a `wait`, no wait would help."""
    refusing = [rule for rule in decision.enforced if not rule.decision.allowed]
    before, after = _explanation(refusing, wait)
    head = {
        "type": QUOTA_EXCEEDED,
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": status.value,
        "detail": before,
    }
    # Spelt as in the headers, so that a client finds them there. `detail` has the names as they are.
    tail = {"": after or "", "violated-policies": [policy_name(rule.label) for rule in refusing]}
    first, last = json.dumps(head).encode("ascii")[: -len('"}')], json.dumps(tail).encode("ascii")[len('{"": "') :]
    return (first + last, None) if after is None else (first, last)


def _denied(decision: PolicyDecision, status: HTTPStatus) -> Response:
    """Return the response to a request that a rule denies. It is forbidden, and no quota was exceeded."""
    key = decision.combination, status
    body = _bodies.get(key)
    if body is None:
        rule = next(rule for rule in decision.enforced if rule.limit.denies)
        detail = rule.message or f"Rule {rule.label!r} denies this request: waiting will not help."
        details = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
        body = keep(_bodies, key, (json.dumps(details).encode("ascii"), None))
    return Response(status.value, _HEADERS, body[0])


def _missing_attribute(attribute: str, status: HTTPStatus) -> Response:
    """Return the response to a request without a required attribute.

    No quota was exceeded, so a client must not wait. The type is "about:blank", as the status says all that a program
    needs (RFC 9457, 4.2.1); the title is then the status's own phrase.
    """
    details = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": f"The request has no {attribute!r}, which names the quota to charge.",
    }
    return Response(status.value, _HEADERS, json.dumps(details).encode("ascii"))


def _explanation(refusing: list[RuleDecision], wait: int | None) -> tuple[str, str | None]:
    """Return what was exceeded, and what helps: before and after the seconds to wait; None after it if it is not told.

    Rules that have a message are told by it, as they may be in another language. Without a `wait`, only a smaller cost
    helps, or nothing.
    """
    told = list(dict.fromkeys([rule.message for rule in refusing if rule.message]))
    others = [rule for rule in refusing if not rule.message and (wait is not None or rule.decision.impossible)]
    if not others:
        return " ".join(told), None
    if wait is None:
        rule = next((rule for rule in others if rule.limit.refuses_all), others[0])
        return " ".join([*told, _why_impossible(rule)]), None
    names = " and ".join(f"{rule.label!r} ({rule.limit})" for rule in others)
    return (
        " ".join([*told, f"Over the limit of {names}: try again in "]),
        f" second{'s' if wait > 1 else ''}.",
    )


def _why_impossible(rule: RuleDecision) -> str:
    if rule.limit.refuses_all:
        return f"{rule.label!r} refuses every request: waiting will not help."
    return (
        f"The request costs {rule.decision.cost}, and {rule.label!r} never admits more than {rule.limit.max_cost} "
        "at once: waiting will not help, asking for less will."
    )

"""From a refusal to the body that explains it: problem details for people and programs (RFC 9457). Pure functions.

Knows no framework. The headers about limits are in `headers`, as allowed responses carry them too; here are only those
that every refusal needs and no other response does.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from math import ceil
from typing import TYPE_CHECKING

from ratekeeper.errors import (
    BadRequestError,
    ClientDisconnected,
    CostError,
    RatekeeperError,
    StoreUnavailable,
)
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http.headers import policy_name
from ratekeeper.http.response import Response
from ratekeeper.policy.decision import PolicyDecision

if TYPE_CHECKING:
    from ratekeeper.decision import RuleDecision

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
REDUCED_CAPACITY = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"

CLIENT_CLOSED_REQUEST = 499
"""What access logs say, as nginx has it, of a request whose client has gone. Nobody gets it."""

# Here and not in `rate_limit_headers`: a 429 must not be stored by a cache (RFC 6585, section 4), nor a 403 that stands
# for one, while how an allowed response may be cached is the application's own affair.
_HEADERS = (("Content-Type", "application/problem+json"), ("Cache-Control", "no-store"))


def problem(decision: PolicyDecision, status: int | None = None) -> Response:
    """Return the response to a refused request, but for the headers about limits: see `rate_limit_headers`.

    The status is 429, 403 if an attribute is missing, or 503 if the store did not answer and is set to "deny"; unless
    given: nginx's `auth_request` understands only 403.
    Raises ValueError if the decision is no refusal, or the status none of HTTP's.
    """
    if decision.allowed:
        raise ValueError("the request is allowed: there is no problem to describe")
    if decision.missing is not None:
        return _missing_attribute(decision.missing, HTTPStatus(403 if status is None else status))
    decisions = [rule.decision for rule in decision.enforced]
    if any(one.on_error == "deny" for one in decisions) and not any(one.impossible for one in decisions):
        return unavailable(status)
    return _quota_exceeded(decision, HTTPStatus(429 if status is None else status))


def unavailable(status: int | None = None, retry_after: float | None = None) -> Response:
    """Return the response to a request that nobody could decide: no quota is exceeded, and all may be well soon.

    `retry_after` is in seconds. What is wrong is the log's, and no client's affair.
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
    """Return the response to a request that cannot be judged, as it is wrong in itself."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(status, (*headers, *_HEADERS), json.dumps(body).encode("ascii"))


def response_to(refusal: RatekeeperError) -> Response:
    """Return the response to a refused request, but for the headers about limits. Raises what is not a refusal."""
    if isinstance(refusal, RateLimitExceeded):
        return problem(PolicyDecision(refusal.decision.rules, refusal.decision.missing))
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
    refusing = [rule for rule in decision.enforced if not rule.decision.allowed]
    details = {
        "type": QUOTA_EXCEEDED,
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": status.value,
        "detail": _explanation(refusing, decision.retry_after_seconds),
        # As spelt in the headers, so that a client finds them there; `detail` has the names as they are.
        "violated-policies": [policy_name(rule.name) for rule in refusing],
    }
    return Response(status.value, _HEADERS, json.dumps(details).encode("ascii"))


def _missing_attribute(attribute: str, status: HTTPStatus) -> Response:
    """Describe a refusal for want of an attribute.

    No quota was exceeded, and a client that waited for one would wait for ever. RFC 9457 (4.2.1) has "about:blank" for
    a problem of which the status says all that a program needs to know; its title is then the status's own phrase.
    """
    details = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": f"The request has no {attribute!r}, without which it cannot be told whose quota to charge.",
    }
    return Response(status.value, _HEADERS, json.dumps(details).encode("ascii"))


def _explanation(refusing: list[RuleDecision], wait: int | None) -> str:
    """Say in a sentence what was exceeded, and what helps. Without a `wait` nothing but a smaller cost does."""
    if wait is None:
        rule = next(rule for rule in refusing if rule.decision.impossible)
        return (
            f"The request costs {rule.decision.cost}, and {rule.name!r} never admits more than {rule.limit.max_cost} "
            "at once: waiting will not help, asking for less will."
        )
    names = " and ".join(f"{rule.name!r} ({rule.limit})" for rule in refusing)
    return f"Over the limit of {names}: try again in {wait} second{'s' if wait > 1 else ''}."

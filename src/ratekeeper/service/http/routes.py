"""The questions of the HTTP service, by path: gateways ask `/check`, programs ask `/v1/check`. Knows no connection."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Hashable
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from ratekeeper.errors import BadRequestError, RatekeeperError, StoreUnavailable
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http.header_styles import styled_lines
from ratekeeper.http.headers import LARGEST_INTEGER, keep, rate_limit_block, refusal_block
from ratekeeper.http.responses import Response, explained, problem
from ratekeeper.policy.decision import PolicyDecision, Template
from ratekeeper.service.core import Core
from ratekeeper.service.http import page_routes
from ratekeeper.service.http.admin_routes import ROUTES as ADMIN_ROUTES
from ratekeeper.service.http.answer import JSON_LINES, Answer, answer_of, encoded
from ratekeeper.service.http.exchange import GatewayExchange, path_of
from ratekeeper.service.http.json_check import parse_checks, report
from ratekeeper.service.http.openapi import openapi
from ratekeeper.service.http.route import Answering, Route, to_read
from ratekeeper.service.limiter import CheckRequest, ProgramExchange

_PLAIN = ("Content-Type", "text/plain")
_NO_STORE = ("Cache-Control", "no-store")

_new = tuple.__new__
"""Makes a named tuple without its own constructor, which is written in Python. Use it for each request."""


class _Refusal(NamedTuple):
    """The common parts of the answers to refusals by the same rules that must wait equally long.

    block   of the headers about limits: see `refusal_block`
    answer  the rest
    """

    block: tuple[bytes, Template, bytes]
    answer: Answer


_refusals: dict[Hashable, _Refusal] = {}
"""Those that are kept. Bounded."""


def check(core: Core, request: GatewayExchange, deny_status: int | None = None) -> Answering:
    """Answer a gateway: may the client's request pass?"""
    policy = core.policy
    if policy.lacking:
        what = f"the policy looks at {policy.lacking[0]!r}, which nothing in a gateway's request tells"
        return _not_asked(core, explained(500, f"{what}: say in [attributes] which header does, or ask /v1/check"))
    try:
        if not request.is_usual(policy.reader):
            for needed in policy.gateway_headers:
                if not request.header(needed):
                    what = f"the gateway must say what the request is for, but sent no {needed}"
                    return _not_asked(core, explained(400, what))
    except BadRequestError as error:
        return _not_asked(core, core.limiter.response_to(error))
    charged = core.charge(request)
    if charged is None or isinstance(charged, RatekeeperError):
        return _answer(core, request, charged, deny_status)
    return _answer_later(core, request, charged, deny_status)


def check_now(core: Core, head: Any, peer: str | None, deny_status: int | None = None) -> Answer | None:
    """Answer a gateway's usual question as `check` does; None if `check` must, and nothing has been charged."""
    policy = core.policy
    read = policy.reader.read_lines
    attributes = None if read is None or policy.lacking or policy.plain is None else read(head, peer)
    decision = None if attributes is None else core.decide_now(policy, attributes, "http")
    if decision is None:
        return None
    if decision.allowed:
        return _new(Answer, (200, _limits(core, decision), b"", None))
    return _refused(core, decision, deny_status)


def _not_asked(core: Core, response: Response) -> Answer:
    """Answer a question that is wrong in itself, and count it."""
    core.metrics.protocols["http"].failed(0)
    return answer_of(response)


async def _answer_later(
    core: Core,
    request: GatewayExchange,
    charging: Coroutine[Any, Any, RatekeeperError | None],
    deny_status: int | None,
) -> Answer:
    return _answer(core, request, await charging, deny_status)


def _answer(core: Core, request: GatewayExchange, refusal: RatekeeperError | None, deny_status: int | None) -> Answer:
    if refusal is None:
        return Answer(200, _limits(core, request.decisions[-1]))
    if not isinstance(refusal, RateLimitExceeded):
        return answer_of(core.limiter.response_to(refusal))
    return _refused(core, request.decisions[-1], deny_status)


def _limits(core: Core, decision: PolicyDecision) -> bytes:
    """Return the header lines about limits of an answer."""
    styles = core.limiter.styles
    return rate_limit_block(decision) if styles is None else encoded(styled_lines(decision, styles))


def _refused(core: Core, decision: PolicyDecision, deny_status: int | None) -> Answer:
    wait = decision.retry_after_seconds
    if wait is None or core.policy.at_once is None:  # another store may not have answered
        return answer_of(problem(decision, deny_status), _limits(core, decision))
    key = decision.combination, deny_status, wait
    known = _refusals.get(key)
    if known is None:
        rest = answer_of(problem(decision, deny_status))
        known = keep(_refusals, key, _Refusal(refusal_block(decision), rest))
    (head, states, end), (status, lines, body, _) = known
    styles = core.limiter.styles
    if styles is None:
        limits = head + decision.fill(states, LARGEST_INTEGER) + end
    else:
        limits = encoded(styled_lines(decision, styles))
    return _new(Answer, (status, limits + lines, body, None))


def check_json(core: Core, request: GatewayExchange) -> Answering:
    """Answer a program's question, or its list of questions."""
    if request.verb != b"POST":
        return answer_of(explained(405, "ask by POST, with a JSON body", ("Allow", "POST")))
    try:
        asked = parse_checks(request.body, core.policy.names)
    except BadRequestError as error:
        return _not_asked(core, core.limiter.response_to(error))
    return _check_one(core, asked) if isinstance(asked, CheckRequest) else _check_many(core, asked)


async def _check_one(core: Core, asked: CheckRequest) -> Answer:
    answer, limits = await _decided(core, asked)
    if isinstance(answer, Response):
        return answer_of(answer)
    return Answer(200, limits + JSON_LINES, json.dumps(answer).encode())


async def _check_many(core: Core, questions: list[CheckRequest]) -> Answer:
    """Decide each question by itself, in order. One that cannot be decided is answered by its problem details."""
    parts = []
    for asked in questions:
        answer, _ = await _decided(core, asked)
        parts.append(answer.body if isinstance(answer, Response) else json.dumps(answer).encode())
    return Answer(200, JSON_LINES, b"[" + b", ".join(parts) + b"]")


async def _decided(core: Core, asked: CheckRequest) -> tuple[Response | dict[str, Any], bytes]:
    """Return the report on a decision and the lines about its limits, or the response if it cannot be decided."""
    decision = core.decide_question_now(asked, "http")
    if decision is None:
        exchange = ProgramExchange(core.limiter, asked)
        charged = core.charge(exchange)
        refusal = charged if charged is None or isinstance(charged, RatekeeperError) else await charged
        if refusal is not None and not isinstance(refusal, RateLimitExceeded):
            return core.limiter.response_to(refusal), b""
        decision = exchange.decisions[-1]
    return report(decision, asked.wait), _limits(core, decision)


def healthy(core: Core, request: GatewayExchange) -> Answer:
    """Answer that the process answers."""
    return answer_of(Response(200, [_PLAIN], b"ok\n"))


async def ready(core: Core, request: GatewayExchange) -> Answer:
    """Answer whether the store answers."""
    try:
        await core.ready()
    except StoreUnavailable:
        return answer_of(Response(503, [_PLAIN, _NO_STORE], b"the store does not answer\n"))
    return answer_of(Response(200, [_PLAIN, _NO_STORE], b"ready\n"))


def metrics(core: Core, request: GatewayExchange) -> Answer:
    """Answer a scrape of Prometheus: the sum over all processes."""
    try:
        accept = request.header("accept")
    except BadRequestError:  # it is repeated: any format will do
        accept = None
    scraped = core.exposition.scrape(accept)
    return answer_of(Response(200, [("Content-Type", scraped.content_type), _NO_STORE], scraped.body))


def not_found(core: Core, request: GatewayExchange) -> Answer:
    """Answer a question at a path that there is not."""
    path = unquote_to_bytes(path_of(request.target)).decode("utf-8", "replace")
    status = path.removeprefix("/check/")
    if status != path and "/" not in status:
        what = f"a request can be denied with a status from 400 to 499, not with {status[:20]!r}"
        return answer_of(explained(404, what))
    *others, last = _ASKED
    paths = b", ".join(others).decode("ascii")
    return answer_of(explained(404, f"there is no {path[:100]!r}: ask {paths} or {last.decode('ascii')}"))


_ASKED: dict[bytes, Route] = {
    b"/check": Route(check, answer_now=check_now),
    b"/v1/check": Route(check_json, reads_body=True),
    b"/healthz": Route(healthy),
    b"/readyz": Route(ready),
    b"/metrics": Route(to_read(metrics)),
}
ROUTES: dict[bytes, Route] = {**_ASKED, **page_routes.ROUTES, b"/openapi.json": Route(to_read(openapi))}
"""The routes that programs ask."""

# A status to deny with is a part of the path: a client's own query goes through some gateways to here.
_STATUSES = [status.value for status in HTTPStatus if 400 <= status.value < 500]
_ALL = ROUTES | page_routes.FILES | ADMIN_ROUTES | {b"/check/": Route(check)}
_ALL |= {
    b"/check/%d" % status: Route(partial(check, deny_status=status), answer_now=partial(check_now, deny_status=status))
    for status in _STATUSES
}
_NOT_FOUND = Route(not_found)


def route_of(target: bytes) -> Route:
    """Return the route of a request's target, which begins with its path."""
    route = _ALL.get(target)
    if route is None:
        route = _ALL.get(unquote_to_bytes(path_of(target)), _NOT_FOUND)
    return route

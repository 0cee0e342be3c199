"""RK.CHECK, RK.USAGE and RK.RESET: the policy's answers about a request with these attributes. Knows no wire.

All arguments are pairs. A name in capitals that a command knows is an option, any other an attribute.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

from ratekeeper.coroutines import begin
from ratekeeper.errors import BadRequestError, RatekeeperError, did_you_mean
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http.request_policy import RequestPolicy
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.reports import decision_report, finite
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange
from ratekeeper.service.resp.replies import encode, real, simple
from ratekeeper.service.resp.session import Answer, Session
from ratekeeper.usage import Usage

MOST_NAMES, LONGEST_NAMES = 256, 1000
"""The lists of names that are remembered, and the bytes of one. Programs send the same few names again and again."""

_CHECK = "RK.CHECK attribute value [attribute value ...] [COST n] [TIMEOUT seconds] [WAIT yes|no]"
_PARTS = (
    "allowed", "rule", "missing", "denied", "undecided", "message", "remaining", "retry_after", "reset_after", "delay",
)  # fmt: skip
_HEADS = b"*%d\r\n" % (2 * len(_PARTS)), b"%%%d\r\n" % len(_PARTS)
"""The beginning of the answer to a check, in RESP2 and RESP3."""

_USAGE = "RK.USAGE attribute value [attribute value ...]"
_RESET = "RK.RESET attribute value [attribute value ...] [RULE name]"


class _Names(NamedTuple):
    """The names of a request's arguments.

    places    of each name, in their order, where its value is in the request
    options   the names that are options
    """

    places: tuple[tuple[str, int], ...]
    options: tuple[str, ...]


class Checks:
    """Answers by the core's policy."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._policy = core.policy  # that `_kept` is of
        self._kept: dict[tuple[tuple[bytes, ...], tuple[str, ...]], _Names] = {}

    def check(self, session: Session, request: list[bytes]) -> Answer:
        """Decide a request with these attributes."""
        core = self._core
        try:
            asked = self._parse_check(request)
        except BadRequestError:
            core.metrics.protocols["resp"].failed(0)
            raise
        decision = core.decide_question_now(asked, "resp")
        if decision is not None:
            return _report(decision, True, session.resp3)
        return self._begun(self._checked(ProgramExchange(core.limiter, asked), session.resp3))

    def usage(self, session: Session, request: list[bytes]) -> Answer:
        """Return how much a request with these attributes has used of each limit."""
        attributes, _ = self._pairs(request, _USAGE)
        return self._begun(self._used(self._spelled(attributes), session.resp3))

    def reset(self, _session: Session, request: list[bytes]) -> Answer:
        """Forget what a request with these attributes owes."""
        attributes, options = self._pairs(request, _RESET, ("RULE",))
        return self._begun(self._reset(self._spelled(attributes), options.get("RULE")))

    def _begun(self, answer: Coroutine[Any, Any, bytes]) -> Answer:
        """Return an answer, or a coroutine of it: not begun if the store or a look-up needs a task."""
        return answer if self._core.policy.at_once is None else begin(answer)

    async def _checked(self, exchange: ProgramExchange, resp3: bool) -> bytes:
        charged = self._core.charge(exchange, "resp")
        refusal = charged if charged is None or isinstance(charged, RatekeeperError) else await charged
        if refusal is not None and not isinstance(refusal, RateLimitExceeded):
            raise refusal
        return _report(exchange.decisions[-1], exchange.waits, resp3)

    async def _used(self, attributes: dict[str, str], resp3: bool) -> bytes:
        used = await self._core.policy.keeper.usage(attributes)
        return encode([_usage(one) for one in used], resp3)

    async def _reset(self, attributes: dict[str, str], rule: str | None) -> bytes:
        try:
            await self._core.policy.keeper.reset(attributes, rule)
        except ValueError as unclear:  # no such rule, or not one of this request's
            raise BadRequestError(str(unclear)) from None
        return simple("OK")

    def _spelled(self, attributes: dict[str, str]) -> dict[str, str]:
        return self._core.policy.reader.respell(attributes)

    def _parse_check(self, request: list[bytes]) -> CheckRequest:
        attributes, options = self._pairs(request, _CHECK, ("COST", "TIMEOUT", "WAIT"))
        if not options:
            return CheckRequest(attributes)
        cost, timeout, wait = options.get("COST", "1"), options.get("TIMEOUT", "0"), options.get("WAIT", "yes")
        if not (cost.isascii() and cost.isdigit() and len(cost) < 19):
            raise BadRequestError("COST must be a whole number, 0 or more")
        if wait not in ("yes", "no"):
            raise BadRequestError("WAIT must be yes, to be answered at the turn, or no, to be answered at once")
        return CheckRequest(attributes, int(cost), _seconds(timeout), wait == "yes")

    def _pairs(
        self, request: list[bytes], form: str, known: tuple[str, ...] = ()
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return the attributes and the options. Raise `BadRequestError`, which says what would be right."""
        if len(request) % 2 == 0:
            raise BadRequestError(f"each attribute needs a value: {form}")
        policy = self._core.policy
        if policy is not self._policy:
            self._policy = policy
            self._kept.clear()
        stated = tuple(request[1::2])
        names = self._kept.get((stated, known)) or self._learn(stated, known)
        try:
            attributes = {name: request[place].decode() for name, place in names.places}
        except UnicodeDecodeError:
            attributes = {name: _text(request[place]) for name, place in names.places}
        return attributes, {name: attributes.pop(name) for name in names.options} if names.options else {}

    def _learn(self, stated: tuple[bytes, ...], known: tuple[str, ...]) -> _Names:
        """Return the names of arguments, and keep them unless they are long. Raise `BadRequestError`."""
        seen: dict[str, int] = {}
        for name in map(_text, stated):
            if name in seen:
                raise BadRequestError(f"{name[:40]!r} is there twice")
            if name not in known:
                _check_name(name, self._policy, known)
            seen[name] = 2 + 2 * len(seen)
        found = _Names(tuple(seen.items()), tuple([name for name in seen if name in known]))
        if sum(map(len, stated)) <= LONGEST_NAMES:
            if len(self._kept) >= MOST_NAMES:
                del self._kept[next(iter(self._kept))]
            self._kept[stated, known] = found
        return found


def _check_name(name: str, policy: RequestPolicy[AsyncKeeper], options: Sequence[str]) -> None:
    """Raise `BadRequestError` for an attribute that no rule would look at, though the client means one."""
    names = policy.names
    if name.upper() in options and name not in policy.keeper.policy.names():
        raise BadRequestError(f"write the option {name.upper()} in capitals: the policy reads no attribute {name!r}")
    if names is not None and name not in names:
        raise BadRequestError(f"the policy knows no attribute {name[:40]!r}{did_you_mean(name[:40], names)}")


def _report(decision: PolicyDecision, held: bool, resp3: bool) -> bytes:
    """Return the decision by the names that /v1/check has for its parts, but for the rules: RK.USAGE tells them."""
    if decision.allowed and held and (rule := decision.rule) is not None:  # as most
        own = rule.decision
        return _allowed_by(rule.label, resp3) % (own.remaining, real(own.reset_after, resp3))
    told = decision_report(decision, held)
    return _HEADS[resp3] + b"".join([encode(name, resp3) + encode(told[name], resp3) for name in _PARTS])


@lru_cache(maxsize=256)
def _allowed_by(rule: str, resp3: bool) -> bytes:
    """Return the answer that a limit allows, to be filled with the tokens left and the time until all are back."""
    told = {**dict.fromkeys(_PARTS), "allowed": True, "rule": rule, "denied": False, "undecided": False}
    told |= {"retry_after": 0.0, "delay": 0.0}
    values = {name: encode(value, resp3).replace(b"%", b"%%") for name, value in told.items()}
    values |= {"remaining": b":%d\r\n", "reset_after": b"%b"}
    return _HEADS[resp3].replace(b"%", b"%%") + b"".join([encode(name, resp3) + values[name] for name in _PARTS])


def _usage(one: Usage) -> dict[str, Any]:
    return {
        "name": one.name,
        "limit": str(one.limit),
        "used": one.used,
        "remaining": one.remaining,
        "reset_after": one.reset_after,
        "retry_after": finite(one.retry_after),
        "waiting": one.waiting,
    }


def _seconds(text: str) -> float | None:
    """Return seconds; None for "inf", to wait as long as the rules allow."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not seconds >= 0:
        raise BadRequestError("TIMEOUT must be 0 or more seconds, or inf to wait as long as the rules allow")
    return None if seconds == inf else seconds


def _text(value: bytes) -> str:
    """Return the characters of an argument: UTF-8 if they are valid, else latin-1, as in a header."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")

"""RK.CHECK, RK.USAGE and RK.RESET: the policy's answers about a request with these attributes. Knows no wire.

All arguments are pairs. A name in capitals that a command knows is an option, any other an attribute.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from math import inf
from typing import Any

from ratekeeper.coroutines import begin
from ratekeeper.errors import BadRequestError, RatekeeperError, did_you_mean
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.http.request_policy import RequestPolicy
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.policy.reports import decision_report, finite
from ratekeeper.service.core import Core
from ratekeeper.service.limiter import CheckRequest, ProgramExchange
from ratekeeper.service.resp.replies import encode, simple
from ratekeeper.service.resp.session import Answer, Session
from ratekeeper.usage import Usage

_CHECK = "RK.CHECK attribute value [attribute value ...] [COST n] [TIMEOUT seconds] [WAIT yes|no]"
_PARTS = ("allowed", "rule", "missing", "denied", "message", "remaining", "retry_after", "reset_after", "delay")
_VALUES = b"".join([encode(name, False) + b"%b" for name in _PARTS])
_FORMS = b"*%d\r\n" % (2 * len(_PARTS)) + _VALUES, b"%%%%%d\r\n" % len(_PARTS) + _VALUES
"""The answer to a check, but for its values, in RESP2 and RESP3."""

_USAGE = "RK.USAGE attribute value [attribute value ...]"
_RESET = "RK.RESET attribute value [attribute value ...] [RULE name]"


class Checks:
    """Answers by the core's policy."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def check(self, session: Session, request: list[bytes]) -> Answer:
        """Decide a request with these attributes."""
        try:
            asked = self._parse_check(request)
        except BadRequestError:
            self._core.metrics.protocols["resp"].failed(0)
            raise
        exchange = ProgramExchange(self._core.limiter, asked)
        return self._begun(self._checked(exchange, session.resp3))

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
        refusal = self._core.charge(exchange, "resp")
        return _report(await refusal if isinstance(refusal, Coroutine) else refusal, exchange, resp3)

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
        cost, timeout, wait = options.get("COST", "1"), options.get("TIMEOUT", "0"), options.get("WAIT", "yes")
        if not (cost.isascii() and cost.isdigit() and len(cost) < 19):
            raise BadRequestError("COST must be a whole number, 0 or more")
        if wait not in ("yes", "no"):
            raise BadRequestError("WAIT must be yes, to be answered at the turn, or no, to be answered at once")
        return CheckRequest(attributes, int(cost), _seconds(timeout), wait == "yes")

    def _pairs(
        self, request: list[bytes], form: str, known: Sequence[str] = ()
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return the attributes and the options. Raise `BadRequestError`, which says what would be right."""
        if len(request) % 2 == 0:
            raise BadRequestError(f"each attribute needs a value: {form}")
        attributes: dict[str, str] = {}
        options: dict[str, str] = {}
        policy = self._core.policy
        for name, value in zip(map(_text, request[1::2]), map(_text, request[2::2]), strict=True):
            found = options if name in known else attributes
            if name in found:
                raise BadRequestError(f"{name[:40]!r} is there twice")
            if found is attributes:
                _check_name(name, policy, known)
            found[name] = value
        return attributes, options


def _check_name(name: str, policy: RequestPolicy[AsyncKeeper], options: Sequence[str]) -> None:
    """Raise `BadRequestError` for an attribute that no rule would look at, though the client means one."""
    names = policy.names
    if name.upper() in options and name not in policy.keeper.policy.names():
        raise BadRequestError(f"write the option {name.upper()} in capitals: the policy reads no attribute {name!r}")
    if names is not None and name not in names:
        raise BadRequestError(f"the policy knows no attribute {name[:40]!r}{did_you_mean(name[:40], names)}")


def _report(refusal: RatekeeperError | None, exchange: ProgramExchange, resp3: bool) -> bytes:
    """Return the decision by the names that /v1/check has for its parts, but for the rules: RK.USAGE tells them."""
    if refusal is not None and not isinstance(refusal, RateLimitExceeded):
        raise refusal
    told = decision_report(exchange.decisions[-1], exchange.waits)
    return _FORMS[resp3] % tuple([encode(told[name], resp3) for name in _PARTS])


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

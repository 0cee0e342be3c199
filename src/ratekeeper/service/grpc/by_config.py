"""ConfiguredLimits: answers Envoy by the configuration of envoyproxy/ratelimit. Knows no file and no connection.

Unlike there, a request that is refused charges no descriptor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from ratekeeper.decision import Decision, RuleDecision
from ratekeeper.errors import RatekeeperError
from ratekeeper.http.charging import REFUSALS
from ratekeeper.http.header_styles import styled_lines
from ratekeeper.http.headers import LARGEST_INTEGER
from ratekeeper.policy.decision import PolicyDecision, is_nearly_used, state_of
from ratekeeper.service.core import Core
from ratekeeper.service.grpc.answers import ENDS, Known, call_error, end_of, fill_again
from ratekeeper.service.grpc.call import Answer, Call
from ratekeeper.service.grpc.codec import (
    OK,
    OVER_LIMIT,
    RateLimitRequest,
    Status,
    headers_to_add,
    write_response,
)
from ratekeeper.service.grpc.config_question import ConfigQuestion, read_question, templates_of
from ratekeeper.service.grpc.status import CallError
from ratekeeper.stores.base import is_async, nobody_waits
from ratekeeper.stores.table_store import TableStore

_new = tuple.__new__


class _UsualQuestion(NamedTuple):
    """A question about one descriptor, bound to a table in C: it is decided and answered in few steps.

    question  the definition
    take      asks for so many tokens of a key
    fill      writes the answer: see `fill_envoy_answer`, which also takes what is `known`
    shown     the limit, as it is told to clients: its label, its requests per unit, and the unit
    """

    question: ConfigQuestion
    take: Callable[[str | bytes, int], Decision]
    key: str | bytes
    hits: int
    fill: Callable[..., bytes | int | None]
    known: Known
    shown: tuple[str, int, int]


_Question: TypeAlias = ConfigQuestion | _UsualQuestion


class ConfiguredLimits:
    """A source of limits: see `LimitSource`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._store = core.store
        self._is_async = is_async(core.store)
        self._counts = core.metrics.protocols["grpc"]

    def read(self, request: RateLimitRequest) -> _Question:
        """Return the question of a request."""
        assert self._core.envoy is not None
        question = read_question(self._core.envoy, request)
        if len(question.statuses) != 1 or not question.charges or self._core.limiter.styles is not None:
            return question
        charge, (limited,) = question.charges[0], question.limited
        if charge.shadow or charge.cost < 1 or not isinstance(self._store, TableStore):
            return question
        gate: Any = self._store.bind((charge.scope,), (charge.limit,), nobody_waits)
        if not hasattr(gate, "fill_envoy_answer"):
            return question
        policy, template = templates_of(*limited.limit.shown)
        head = headers_to_add([(b"ratelimit-policy", policy)])
        return _UsualQuestion(
            question, gate.try_acquire, charge.key, charge.cost,
            gate.fill_envoy_answer, ((limited.written,), head, template), limited.limit.shown,
        )  # fmt: skip

    def answer(self, question: _Question, call: Call) -> Answer:
        """Return the response, or a coroutine of it."""
        began = self._counts.begin()
        if isinstance(question, _UsualQuestion):
            return self._answer_now(question, began)
        charges = question.charges
        try:
            deciding: Any = self._store.decide(charges, commit=question.commit) if charges else ()
        except REFUSALS as error:
            raise self._failed(error, began) from None
        if self._is_async and charges:
            return self._later(question, deciding, began)
        return self._response(question, iter(deciding), began)

    def _answer_now(self, usual: _UsualQuestion, began: int) -> bytes:
        try:
            made = usual.take(usual.key, usual.hits)
        except REFUSALS as error:
            raise self._failed(error, began) from None
        label = usual.shown[0]
        answer = usual.fill(made, *usual.known, LARGEST_INTEGER, ENDS, usual.shown)
        if answer is None:  # it can never pass
            return self._response(usual.question, iter([made]), began)
        if isinstance(answer, int):
            as_policy = PolicyDecision((RuleDecision(label, made),))
            answer = fill_again(usual.fill, made, usual.known, usual.shown, answer, as_policy)
        self._counts.decided_by_rule(label, made, began)
        return answer

    async def _later(self, question: ConfigQuestion, deciding: Awaitable[list[Decision]], began: int) -> bytes:
        try:
            decisions = await deciding
        except REFUSALS as error:
            raise self._failed(error, began) from None
        return self._response(question, iter(decisions), began)

    def _failed(self, error: RatekeeperError, began: int) -> CallError:
        self._counts.failed(began)
        return call_error(error)

    def _response(self, question: ConfigQuestion, decisions: Iterator[Decision], began: int) -> bytes:
        statuses = question.statuses.copy()
        rules: list[RuleDecision] = []
        states: list[int] = []
        exceeded: list[int] = []
        is_refused = False
        for place, limit, written, shadow, ban in question.limited:
            made = next(decisions) if ban is None else ban
            remaining, one_more, full = state_of(made)
            passes = made.allowed or shadow
            statuses[place] = _new(Status, (OK if passes else OVER_LIMIT, written, remaining, full))
            rule = _new(RuleDecision, (limit.label, made, shadow, None, 0))
            rules.append(rule)
            self._core.metrics.count(limit.label, rule.outcome, is_nearly_used(made))
            if not passes:
                is_refused = True
            elif not shadow:
                states += remaining, one_more
            elif limit.quota and not made.allowed:
                exceeded.append(place)
        end = b""
        styles = self._core.limiter.styles
        if is_refused:
            decision = question.decision(rules)
            self._counts.refused(began, decision)
            lines, end = styled_lines(decision, styles), end_of(decision)
        else:
            self._counts.allowed(began, question.decision(rules) if began else None)
            lines = question.lines(rules, states) if styles is None else styled_lines(question.decision(rules), styles)
        return write_response(statuses, lines, end + question.metadata(exceeded))

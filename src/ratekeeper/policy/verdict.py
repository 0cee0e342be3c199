"""What a policy says of one request: each matching rule's own decision, and the one that speaks for all."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Literal, NamedTuple, TypeAlias

from ratekeeper.decision import Decision, most_binding
from ratekeeper.limits import Limit

Outcome: TypeAlias = Literal["allowed", "delayed", "refused", "shadow_refused"]
"""What a rule made of a request, in a word: for those who count."""


class RuleDecision(NamedTuple):
    """One rule's own decision. `decision.allowed` is what this rule alone says, also when another rule refuses."""

    name: str
    decision: Decision
    shadow: bool = False

    @property
    def limit(self) -> Limit:
        return self.decision.limit

    @property
    def outcome(self) -> Outcome:
        """What this rule alone says. Nobody waits for one in shadow, so it never delays."""
        if not self.decision.allowed:
            return "shadow_refused" if self.shadow else "refused"
        return "delayed" if self.decision.delay_ticks and not self.shadow else "allowed"


class PolicyDecision(NamedTuple):
    """May the request go ahead: true if every rule that is not in shadow allows it. Immutable.

    rules       every rule that matched, in the file's order, shadow rules too; empty if none did
    missing     the attribute for want of which a rule with `missing = "reject"` refused, or else None

    The other attributes are those of `Decision`, for the most binding rule. If no rule matched, nothing limits the
    request: allowed, `rule` and `limit` None, `remaining` inf.
    """

    rules: tuple[RuleDecision, ...] = ()
    missing: str | None = None

    @property
    def enforced(self) -> tuple[RuleDecision, ...]:
        """The rules that are not in shadow."""
        return tuple([rule for rule in self.rules if not rule.shadow])

    @property
    def allowed(self) -> bool:
        if self.missing is not None:
            return False
        for rule in self.rules:  # noqa: SIM110  a generator for `all` costs more than all the rest of it
            if not (rule.decision.allowed or rule.shadow):
                return False
        return True

    @property
    def rule(self) -> RuleDecision | None:
        """The most binding rule."""
        enforced = self.enforced
        if not enforced:
            return None
        binding = most_binding([rule.decision for rule in enforced])
        return next(rule for rule in enforced if rule.decision is binding)

    @property
    def limit(self) -> Limit | None:
        rule = self.rule
        return rule.limit if rule else None

    @property
    def remaining(self) -> float:
        rule = self.rule
        return rule.decision.remaining if rule else inf

    @property
    def retry_after(self) -> float:
        if self.missing is not None:
            return inf
        return _longest([rule.decision.retry_after for rule in self.enforced])

    @property
    def outcomes(self) -> tuple[tuple[str, Outcome], ...]:
        """Each rule's name and outcome, for counters. No rule is named, "", if an attribute was missing."""
        if self.missing is not None:
            return (("", "refused"),)
        return tuple([(rule.name, rule.outcome) for rule in self.rules])

    @property
    def source(self) -> str:
        """Where it comes from: "exact", or "fallback" if a rule's store did not answer."""
        return "fallback" if any(rule.decision.source == "fallback" for rule in self.rules) else "exact"

    @property
    def reset_after(self) -> float:
        rule = self.rule
        return rule.decision.reset_after if rule else 0.0

    @property
    def delay(self) -> float:
        """Seconds to wait before going ahead: the longest of the rules'."""
        return _longest([rule.decision.delay for rule in self.enforced])

    @property
    def refusal(self) -> str:
        """Why a refused request was refused, in a sentence without any key."""
        rule = self.rule
        if self.missing is not None or rule is None:
            return f"the request has no {self.missing}"
        return f"rule {rule.name!r}: {rule.decision.refusal}"

    def __bool__(self) -> bool:
        return self.allowed


def _longest(waits: Sequence[float]) -> float:
    return max(waits, default=0.0)

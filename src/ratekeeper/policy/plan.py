"""Plan: the charges of one request, and how decisions about them become the policy's. Values, which know no store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ratekeeper.decision import Charge, Decision, RuleDecision
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.model import Rule

NONE_KNOWN: Mapping[int, Decision] = MappingProxyType({})

_new = tuple.__new__


class RuleExplanation(NamedTuple):
    """One rule's view of a request: the bucket and its decision now, or the reason why the rule does not apply."""

    rule: Rule
    reason: str | None
    bucket: str | None = None
    decision: Decision | None = None


class Match(NamedTuple):
    """A rule that charges a request: its place, that of its limit (see `CompiledRule`), the bucket and its own cost."""

    rule: int
    limit: int
    bucket: str
    cost: int


class Plan(NamedTuple):
    """The charges of one request, each with its rule, or the missing attribute that refuses it.

    `known` has the decisions of rules that refuse without a store, by the rule's place. These have no charge.
    `places` are the limits' places in their rules, if several were looked up for one.
    """

    rules: list[Rule]
    charges: list[Charge]
    missing: str | None = None
    known: Mapping[int, Decision] = NONE_KNOWN
    places: Sequence[int] = ()

    @property
    def refuses(self) -> bool:
        """Whether the request is refused already, whatever the store says."""
        return self.missing is not None or any(not self.rules[place].shadow for place in self.known)

    def answer(self, decisions: Iterable[Decision]) -> PolicyDecision:
        """Return the policy's decision, made of one decision for each charge."""
        if self.known:
            each = iter(decisions)
            decisions = [self.known[n] if n in self.known else next(each) for n in range(len(self.rules))]
        all_of = zip(self.rules, decisions, self.places or [0] * len(self.rules), strict=True)
        own = [_new(RuleDecision, (rule.name, one, rule.shadow, rule.message, place)) for rule, one, place in all_of]
        return PolicyDecision(tuple(own), self.missing)


class ExplanationPlan(NamedTuple):
    """An explanation without its decision for each rule, and the charges of those that apply."""

    explanations: list[RuleExplanation]
    charges: list[Charge]

    def answer(self, decisions: Iterable[Decision]) -> list[RuleExplanation]:
        """Return the explanations with their decisions."""
        each = iter(decisions)
        asked = [it.reason is None and it.decision is None for it in self.explanations]
        return [it._replace(decision=next(each)) if of else it for it, of in zip(self.explanations, asked, strict=True)]

"""PolicyDecision: each matching rule's own decision on a request, and the one that speaks for all."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import inf
from typing import TypeAlias, get_args

from ratekeeper.decision import NEVER, Charge, Decision, Outcome, RuleDecision, most_restrictive
from ratekeeper.exceeded import AnyDecision
from ratekeeper.limits import Limit

Template: TypeAlias = tuple[bytes | None, ...]
"""The piece before each number of a decision's `states`, None for a number that is not shown; and the last piece."""

_BY_STRICTNESS: tuple[Outcome, ...] = get_args(Outcome)


class PolicyDecision:
    """The decision of a policy on one request: true if every rule that is not in shadow allows it. Immutable.

    All else follows from `rules` and `missing`. The C core's type makes `rules` when they are asked for.

    rules       every rule that matched, in the file's order, shadow rules too; empty if none did
    missing     the missing attribute that made a rule with `missing = "reject"` refuse, or else None

    The other attributes are those of `Decision`, for the most binding rule. If no rule matched, nothing limits the
    request: allowed, `rule` and `limit` None, `remaining` inf.

    >>> from ratekeeper import Keeper, Policy
    >>> decision = Keeper(Policy.parse('rules = [{name = "all", limit = "2/s"}]')).try_acquire({})
    >>> decision.allowed, decision.remaining, [rule.name for rule in decision.rules]
    (True, 1, ['all'])
    """

    __slots__ = ("_missing", "_rules")

    def __init__(self, rules: tuple[RuleDecision, ...] = (), missing: str | None = None) -> None:
        self._rules = rules
        self._missing = missing

    @property
    def rules(self) -> tuple[RuleDecision, ...]:
        """The decision of every rule that matched."""
        return self._rules

    @property
    def missing(self) -> str | None:
        """The missing attribute that made a rule refuse, or None."""
        return self._missing

    @property
    def denied(self) -> bool:
        """Whether a rule that denies refused, so that the refusal is not about a quota."""
        if self.allowed or self.retry_after_seconds is not None:  # asked for first, as it makes no rules in C
            return False
        return any(rule.limit.denies and not rule.shadow for rule in self.rules)

    @property
    def undecided(self) -> bool:
        """Whether `on_error="deny"` refused, as the store did not answer: no limit is known to be exceeded."""
        decisions = [rule.decision for rule in self._refusing]
        return any(one.on_error == "deny" for one in decisions) and not any(one.impossible for one in decisions)

    @property
    def message(self) -> str | None:
        """The messages of the rules that refuse, for people; None if they have none."""
        return " ".join(dict.fromkeys([rule.message for rule in self._refusing if rule.message])) or None

    @property
    def _refusing(self) -> list[RuleDecision]:
        return [rule for rule in self.rules if not (rule.shadow or rule.decision.allowed)]

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
        binding = most_restrictive([rule.decision for rule in enforced])
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
    def retry_after_seconds(self) -> int | None:
        """Return `retry_after` as whole seconds, at least 1; None if it is allowed, or if no wait would help."""
        return self._retry_after_seconds()

    def _retry_after_seconds(self) -> int | None:
        waits = [rule.decision.retry_after_seconds for rule in self._refusing]
        known = [wait for wait in waits if wait is not None]
        return None if self.missing is not None or len(known) < len(waits) else max(known, default=None)

    @property
    def combination(self) -> Hashable:
        """A value that is equal for decisions by the same rules and limits, each allowed or refused alike."""
        return self._combination()

    def _combination(self) -> Hashable:
        rules = [(rule.label, rule.limit, rule.shadow, rule.message, rule.decision.allowed) for rule in self.rules]
        return tuple(
            [(name, it.algorithm, it.max_cost, it.interval, it._exact_second, *how) for name, it, *how in rules]
        )

    @property
    def states(self) -> tuple[int, ...]:
        """The tokens left for each enforced rule, and the whole seconds until there is one more: see `state_of`."""
        return self._states()

    def _states(self) -> tuple[int, ...]:
        states: list[int] = []
        for rule in self.enforced:
            states += state_of(rule.decision)[:2]
        return tuple(states)

    def fill(self, template: Template, most: int) -> bytes:
        """Return the pieces of a template with the numbers of `states`, each after its piece, and at most `most`."""
        return self._fill(template, most)

    def _fill(self, template: Template, most: int) -> bytes:
        *pieces, last = template
        parts = [
            b"%b%d" % (piece, min(one, most))
            for piece, one in zip(pieces, self.states, strict=True)
            if piece is not None
        ]
        return b"".join([*parts, last or b""])

    @property
    def outcomes(self) -> tuple[tuple[str, Outcome], ...]:
        """Each rule's name and outcome, for counters. No rule is named, "", if an attribute was missing."""
        if self.missing is not None:
            return (("", "refused"),)
        outcomes: list[tuple[str, Outcome]] = [(rule.name, rule.outcome) for rule in self.rules]
        if not any(rule.place for rule in self.rules):
            return tuple(outcomes)
        strictest: dict[str, Outcome] = {}  # of several limits of a rule
        for name, outcome in outcomes:
            before = strictest.get(name, outcome)
            strictest[name] = outcome if _BY_STRICTNESS.index(outcome) > _BY_STRICTNESS.index(before) else before
        return tuple(strictest.items())

    @property
    def nearly_used(self) -> frozenset[str]:
        """The names of the rules that allow the request, and have less than a fifth of their limit left after it."""
        return frozenset([rule.name for rule in self.rules if is_nearly_used(rule.decision)])

    @property
    def tally(self) -> Hashable:
        """A value that is equal for decisions with the same `outcomes` and `nearly_used`, for counters."""
        return self.outcomes, self.nearly_used

    @property
    def source(self) -> str:
        """The origin of the decision: "exact", or "fallback" if a rule's store did not answer."""
        return "fallback" if any(rule.decision.source == "fallback" for rule in self.rules) else "exact"

    @property
    def reset_after(self) -> float:
        rule = self.rule
        return rule.decision.reset_after if rule else 0.0

    @property
    def delay(self) -> float:
        """The seconds to wait before going ahead: the longest delay of the rules."""
        return _longest([rule.decision.delay for rule in self.enforced])

    def given_back(self) -> PolicyDecision:
        """Return the decision as it is reported after its charges were given back: nothing was taken."""
        return PolicyDecision(tuple(map(_given_back, self.rules)), self.missing)

    @property
    def refusal(self) -> str:
        """The reason of a refusal, in a sentence without any key."""
        rule = self.rule
        if self.missing is not None or rule is None:
            return f"the request has no {self.missing}"
        return f"rule {rule.label!r}: {rule.decision.refusal}"

    def __bool__(self) -> bool:
        return self.allowed

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PolicyDecision):
            return NotImplemented
        return self.rules == other.rules and self.missing == other.missing

    def __hash__(self) -> int:
        return hash((self.rules, self.missing))

    def __repr__(self) -> str:
        return f"PolicyDecision(rules={self.rules!r}, missing={self.missing!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return PolicyDecision, (self.rules, self.missing)


def state_of(decision: Decision) -> tuple[int, int, int]:
    """Return the tokens left, and the whole seconds until there is one more, and until the bucket is full.

    They are rounded up by the exact rate. A full bucket has them too: its next token comes that long after the first is
    taken.
    """
    limit, debt = decision.limit, decision.debt_ticks
    per_second, parts = limit._exact_second  # as Limit.whole_seconds, which is two calls more
    # The next token is there when the debt leaves room for it. For a full bucket this is one interval.
    interval, left = limit.interval * decision.nodes, limit.full - debt
    remaining, begun = divmod(left, interval) if left >= 0 else (0, left)
    return remaining, -((begun - interval) * parts // per_second), -(-debt * parts // per_second)


def is_nearly_used(decision: Decision) -> bool:
    """Return whether a request is allowed, and less than a fifth of the limit is left after it."""
    return decision.allowed and decision.debt_ticks > decision.limit.full // 5 * 4


def refused(charge: Charge) -> Decision:
    """Return the decision on a charge of a limit that refuses all: it needs no store, and no time."""
    return Decision(False, charge.limit, charge.key, charge.cost, 0, NEVER, NEVER, 0, -1)


def as_policy_decision(decision: AnyDecision) -> PolicyDecision:
    """Return a limiter's or a policy's decision as a policy's."""
    return decision if isinstance(decision, PolicyDecision) else PolicyDecision(decision.rules, decision.missing)


def _longest(waits: Sequence[float]) -> float:
    return max(waits, default=0.0)


def _given_back(rule: RuleDecision) -> RuleDecision:
    made = rule.decision
    if not made.allowed:
        return rule
    if made.on_error is not None:  # it was made without the store, which therefore has nothing to give back
        return rule
    debt = max(0, made.debt_ticks - made.cost * made.limit.interval)
    values = (made.allowed, made.limit, made.key, 0, debt, 0, made.retry_ticks, made.at_ticks)
    return rule._replace(decision=Decision(*values))

"""The charges of a policy for a request of a replay: the same as those of `Keeper.reserve`, but remembered.

The match of a rule depends on few attributes (a path, a method), and so does each charge (an address). The results for
recent values are looked up, so a million lines take seconds. This module knows no log and no time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from ratekeeper.policy.compiled import CompiledPolicy
from ratekeeper.policy.compiled_rule import CompiledRule
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.policy.sources import Readings
from ratekeeper.replay.entries import UnreadableLine
from ratekeeper.replay.tally import Share, Tally, Values

T = TypeVar("T")

_REMEMBERED = 50_000


class Lacking(Exception):
    """A rule with `missing = "reject"` refuses the request, because `attribute` is missing."""

    def __init__(self, attribute: str) -> None:
        super().__init__(attribute)
        self.attribute = attribute


def asked_for(policy: Policy) -> frozenset[str]:
    """Return the names of all attributes that can change the policy's decision of a request."""
    names: set[str] = set().union(*policy.exempt)
    for rule in policy.rules:
        names.update(rule.match, rule.key, *(override.match for override in rule.overrides))
        if isinstance(rule.cost, str):
            names.add(rule.cost)
    if policy.tiers is not None:
        names = names - {"tier"} | {policy.tiers.by}
    return frozenset(names)


class Planner:
    """Finds the shares of the rules in a request. It plans all requests, so it keeps the tallies, one for each rule."""

    __slots__ = ("_compiled", "_match_names", "_matching", "_tallies", "tallies")

    def __init__(self, compiled: CompiledPolicy, rules: Sequence[Rule]) -> None:
        self._compiled = compiled
        self.tallies = tuple(map(Tally, rules))
        self._tallies = tuple(zip(compiled.rules, self.tallies, strict=True))
        matches = [*compiled.policy.exempt, *(rule.rule.match for rule in compiled.rules)]
        self._match_names = tuple({name: None for match in matches for name in match})
        self._matching: dict[Values, tuple[tuple[CompiledRule, Tally], ...]] = {}

    def shares(self, attributes: Mapping[str, str], cost: int = 1) -> list[Share]:
        """Return the shares of the rules that match, in the file's order. `cost` multiplies each rule's own.

        Raise `Lacking`. Raise `UnreadableLine` if the attribute for a rule's cost is not a number: live, such a request
        is an error, not refused.
        """
        seen = self._compiled.seen(attributes)
        if any(
            isinstance(value, Readings) for value in seen.values()
        ):  # two of these are equal though their other readings differ
            return self._shares(self._find(seen), seen, cost, remembered=False)
        values = tuple(map(seen.get, self._match_names))
        matching = self._matching.get(values)
        if matching is None:
            matching = self._find(seen)
            _remember(self._matching, values, matching)
        return self._shares(matching, seen, cost, remembered=cost == 1)

    def _find(self, seen: Mapping[str, str]) -> tuple[tuple[CompiledRule, Tally], ...]:
        if self._compiled.exempting(seen) is not None:
            return ()
        return tuple(pair for pair in self._tallies if pair[0].matches(seen))

    def _shares(
        self, matching: tuple[tuple[CompiledRule, Tally], ...], seen: Mapping[str, str], cost: int, remembered: bool
    ) -> list[Share]:
        shares = []
        for rule, tally in matching:
            values = tuple(map(seen.get, tally.names))
            share = tally.shares.get(values) if remembered else None
            if share is None:
                share = self._share(rule, tally, seen, cost)
                if share is not None and remembered:
                    _remember(tally.shares, values, share)
            if share is not None:
                shares.append(share)
        return next(([it] for it in shares if it.charge.limit.refuses_all and not it.shadow), shares)

    def _share(self, rule: CompiledRule, tally: Tally, seen: Mapping[str, str], cost: int) -> Share | None:
        if (missing := rule.lacking(seen)) is not None:
            if rule.refuses_without_key:
                raise Lacking(missing)
            return None
        try:
            charge = rule.charge(seen, cost)
        except ValueError as error:
            raise UnreadableLine(str(error)) from None
        return Share.of(charge, tally, rule.key_values(seen))


def _remember(known: dict[Values, T], values: Values, value: T) -> None:
    if len(known) >= _REMEMBERED:
        known.clear()
    known[values] = value

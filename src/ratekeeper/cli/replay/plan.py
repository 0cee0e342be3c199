"""What a policy charges for a request of a replay: the same as `Keeper.check` does, remembered.

Which rules match depends on few attributes (a path, a method), and so does each charge (an address). What follows
from the values seen lately is looked up: that is what makes a million lines a matter of seconds. Knows no log, no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ratekeeper.cli.replay.log_time import UnreadableLine
from ratekeeper.cli.replay.tally import Share, Tally, Values
from ratekeeper.policy.model import Policy
from ratekeeper.policy.rulebook import Charger

T = TypeVar("T")

_REMEMBERED = 50_000


class Lacking(Exception):
    """A rule with `missing = "reject"` refuses the request, for want of `attribute`."""

    def __init__(self, attribute: str) -> None:
        super().__init__(attribute)
        self.attribute = attribute


class Planner:
    """Finds the shares that the rules have in a request. Of all requests, so it has the tallies, one for each rule."""

    __slots__ = ("_chargers", "_match_names", "_matching", "_policy", "tallies")

    def __init__(self, policy: Policy) -> None:
        rules = policy.rules
        self.tallies = tuple(Tally(rule) for rule in rules)
        self._policy = policy
        self._chargers = {rule.name: Charger(rule) for rule in rules}
        matches = [*policy.exempt, *(rule.match for rule in rules)]
        self._match_names = tuple({name: None for match in matches for name in match})
        self._matching: dict[Values, tuple[Tally, ...]] = {}

    def shares(self, attributes: Mapping[str, str]) -> list[Share]:
        """Return the shares of the rules that match, in the file's order.

        Raises `Lacking`, and `UnreadableLine` if the attribute that should be a rule's cost is no number: such a
        request is not refused live, but an error.
        """
        attributes = self._policy.complete(attributes)
        values = tuple(map(attributes.get, self._match_names))
        matching = self._matching.get(values)
        if matching is None:
            exempt = self._policy.exemption(attributes) is not None
            matching = () if exempt else tuple(it for it in self.tallies if it.rule.matches(attributes))
            _remember(self._matching, values, matching)
        shares = []
        for tally in matching:
            values = tuple(map(attributes.get, tally.names))
            share = tally.shares.get(values) or self._share(tally, values, attributes)
            if share is not None:
                shares.append(share)
        return shares

    def _share(self, tally: Tally, values: Values, attributes: Mapping[str, str]) -> Share | None:
        rule = tally.rule
        missing = rule.missing_attribute(attributes)
        if missing is not None and rule.missing != "shared":
            if rule.missing == "reject" and not rule.shadow:
                raise Lacking(missing)
            return None
        try:
            charge = self._chargers[rule.name].charge(attributes, 1)
        except ValueError as error:
            raise UnreadableLine(str(error)) from None
        share = Share.of(charge, tally, tuple(map(attributes.get, rule.key)))
        _remember(tally.shares, values, share)
        return share


def _remember(known: dict[Values, T], values: Values, value: T) -> None:
    if len(known) >= _REMEMBERED:
        known.clear()
    known[values] = value

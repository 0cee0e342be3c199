"""EnvoyConfig: the limits of envoyproxy/ratelimit's configuration, and the look-up of a descriptor's limit in them.

Values: checked when they are loaded. A level is looked up as there: the exact value, then the wildcards in the file's
order, then the bare key, and no way back. Keys and values are compared apart, not joined by "_". Knows no file, no
protocol and no store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from ratekeeper.limits import Limit, TokenBucket

SECONDS_OF_UNIT = {1: 1, 2: 60, 3: 3_600, 4: 86_400, 7: 604_800, 5: 30 * 86_400, 6: 365 * 86_400}
"""The seconds of each unit of Envoy's limits, by its number, the shortest first. A month has 30 days, a year 365."""


@lru_cache(maxsize=1024)
def bucket(requests_per_unit: int, unit: int) -> TokenBucket:
    """Return the bucket of so many requests per unit; of none, which is a ban, the limit of nothing."""
    return TokenBucket(requests_per_unit, Fraction(requests_per_unit, SECONDS_OF_UNIT[unit]))


class EnvoyLimit(NamedTuple):
    """The limit of a descriptor.

    label     its name, or else the domain and the keys that lead to it: no value, as clients see it
    limit     the bucket; None if the descriptor is unlimited
    shadow    it is counted, and refuses nothing
    quota     as shadow, and the answer tells that it was exceeded
    name      its name, by which another limit may replace it
    replaces  the names of the limits that do not count beside it
    """

    label: str
    limit: Limit | None
    requests_per_unit: int
    unit: int
    shadow: bool = False
    quota: bool = False
    name: str = ""
    replaces: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[str, int, int]:
        """The limit as clients see it: its label, its requests per unit, and the unit."""
        return self.label, self.requests_per_unit, self.unit


class Wildcard(NamedTuple):
    """A value with `*`, which stands for any run of characters."""

    key: str
    value: str
    node: Node
    shared: bool
    """Whether all values that match share one bucket."""

    def matches(self, value: str) -> bool:
        """Return whether a value matches. The work is linear in its length for each part of the pattern."""
        first, *middle, last = self.value.split("*")
        if len(value) < len(first) + len(last) or not (value.startswith(first) and value.endswith(last)):
            return False
        place, end = len(first), len(value) - len(last)
        for part in middle:
            found = value.find(part, place, end)
            if found < 0:
                return False
            place = found + len(part)
        return True


@dataclass(slots=True)
class Node:
    """A descriptor of the file, and those below it. The domain is one too."""

    limit: EnvoyLimit | None = None
    exact: dict[tuple[str, str], Node] = field(default_factory=dict)
    wildcards: list[Wildcard] = field(default_factory=list)
    bare: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnvoyConfig:
    """All domains, and the name of the folder that they are from."""

    domains: Mapping[str, Node]
    source: str

    def find(self, domain: str, entries: Sequence[tuple[str, str]]) -> tuple[EnvoyLimit, str] | None:
        """Return the limit of a descriptor and its bucket's key; None if no limit matches all of its entries."""
        node = self.domains.get(domain)
        key = ""
        for name, value in entries:
            if node is None:
                return None
            below = node.exact.get((name, value))
            shown = f"{len(value)}:{value}"
            if below is None:
                for wildcard in node.wildcards:
                    if wildcard.key == name and wildcard.matches(value):
                        below = wildcard.node
                        shown = f"*{len(wildcard.value)}:{wildcard.value}" if wildcard.shared else shown
                        break
                else:
                    below = node.bare.get(name)
            key += f"{len(name)}:{name}{shown}"
            node = below
        return None if node is None or node.limit is None else (node.limit, key)


def key_of(entries: Sequence[tuple[str, str]]) -> str:
    """Return the key of a descriptor's bucket, by its entries alone. Lengths make it one-to-one."""
    return "".join([f"{len(name)}:{name}{len(value)}:{value}" for name, value in entries])

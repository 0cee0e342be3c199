"""The attributes of a request on a command line, KEY=VALUE, and conditions on attributes for people."""

from __future__ import annotations

from ratekeeper.errors import RatekeeperError, did_you_mean
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.policy.addresses import UNKNOWN_CLIENT
from ratekeeper.policy.model import Policy
from ratekeeper.policy.patterns import PUBLIC, Globs
from ratekeeper.policy.sources import ClientIP
from ratekeeper.policy.spelling import source_of


def read_attributes(pairs: list[str], policy: Policy) -> dict[str, str]:
    """Read KEY=VALUE pairs. A name that no rule could ever see is an error: it would explain another request."""
    known = ({"method", "path", "client"} | policy.attributes.keys() | policy.names()) - (
        {"tier"} if policy.tiers else set()
    )
    given = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            hint = ": POLICY is one file, and comes first" if name.endswith(".toml") else ""
            raise RatekeeperError(f"{pair!r} is not KEY=VALUE, such as path=/api/search{hint}")
        if name not in known:
            raise RatekeeperError(f"the policy knows no attribute {name!r}{did_you_mean(name, known)}")
        given[name] = value
    attributes = AttributeReader(policy.attributes).respell(given)
    for name, value in attributes.items():
        if value == UNKNOWN_CLIENT != given[name] and isinstance(source_of(name, policy.attributes), ClientIP):
            raise RatekeeperError(f"{name}={given[name]} is not an address, such as 192.0.2.7, or {UNKNOWN_CLIENT}")
    return attributes


def conditions(match: Globs) -> str:
    """Return the values that must match, but only the number of values that may be secrets."""
    return ", ".join(
        f"{name} {' or '.join(globs) if name in PUBLIC else f'({len(globs)} given)'}" for name, globs in match.items()
    )

"""The attributes of a request on a command line, KEY=VALUE, and conditions on attributes for people."""

from __future__ import annotations

from ratekeeper.errors import RatekeeperError
from ratekeeper.http.stated import stated_attributes
from ratekeeper.policy.model import Policy
from ratekeeper.policy.patterns import PUBLIC, Globs


def read_attributes(pairs: list[str], policy: Policy) -> dict[str, str]:
    """Read KEY=VALUE pairs. A name that no rule could ever see is an error: it would explain another request."""
    stated = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            hint = ": POLICY is one file, and comes first" if name.endswith(".toml") else ""
            raise RatekeeperError(f"{pair!r} is not KEY=VALUE, such as path=/api/search{hint}")
        stated[name] = value
    return stated_attributes(stated, policy)


def conditions(match: Globs) -> str:
    """Return the values that must match, but only the number of values that may be secrets."""
    return ", ".join(
        f"{name} {' or '.join(globs) if name in PUBLIC else f'({len(globs)} given)'}" for name, globs in match.items()
    )

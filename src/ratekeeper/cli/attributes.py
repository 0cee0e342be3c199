"""The attributes of a request on a command line, KEY=VALUE, and conditions on attributes for people."""

from __future__ import annotations

import os
from collections.abc import Callable

from ratekeeper.errors import RatekeeperError
from ratekeeper.http.header_lines import decoded
from ratekeeper.http.stated import stated_attributes
from ratekeeper.policy.model import Policy
from ratekeeper.policy.patterns import PUBLIC, Globs

_POLICY_FIRST = ": POLICY is one file, and comes first"


def read_attributes(pairs: list[str], policy: Policy) -> dict[str, str]:
    """Read KEY=VALUE pairs. A name that no rule could ever see is an error: it would explain another request."""
    return stated_attributes(read_pairs(pairs, lambda name: _POLICY_FIRST if name.endswith(".toml") else ""), policy)


def read_pairs(pairs: list[str], hint: Callable[[str], str]) -> dict[str, str]:
    """Read KEY=VALUE pairs. Raise `RatekeeperError` for another word, with a hint, and for a key that is repeated."""
    stated: dict[str, str] = {}
    for pair in map(decoded, map(os.fsencode, pairs)):
        name, equals, value = pair.partition("=")
        if not equals:
            raise RatekeeperError(f"{pair!r} is not KEY=VALUE, such as path=/api/search{hint(name)}")
        if name in stated:  # the last would count without a word, and a change would be of its bucket
            raise RatekeeperError(f"{name!r} is given twice: give it once")
        stated[name] = value
    return stated


def conditions(match: Globs) -> str:
    """Return the values that must match, but only the number of values that may be secrets."""
    return ", ".join(
        f"{name} {' or '.join(globs) if name in PUBLIC else f'({len(globs)} given)'}" for name, globs in match.items()
    )

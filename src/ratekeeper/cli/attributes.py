"""The attributes of a request on a command line, KEY=VALUE, and conditions on attributes for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches

from ratekeeper.cli.style import safe
from ratekeeper.errors import RatekeeperError
from ratekeeper.http.header_lines import decoded
from ratekeeper.http.stated import stated_attributes
from ratekeeper.policy.model import Policy
from ratekeeper.policy.patterns import PUBLIC, Globs
from ratekeeper.policy.sources import METHODS, OTHER
from ratekeeper.policy.spelling import is_method

_POLICY_FIRST = ": POLICY is one file, and comes first"


def read_attributes(pairs: list[str], policy: Policy) -> dict[str, str]:
    """Read KEY=VALUE pairs. A name that no rule could ever see is an error: it would explain another request.

    A method may be any word, so a mistyped one is not an error. But it gets a note on standard error.
    """
    stated = read_pairs(pairs, lambda name: _POLICY_FIRST if name.endswith(".toml") else "")
    attributes = stated_attributes(stated, policy)
    if is_method("method", policy.attributes) and attributes.get("method") == OTHER != stated["method"].upper():
        near = get_close_matches(stated["method"].upper(), sorted(METHODS), n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        shown = safe(stated["method"], 40)
        print(f"note: method={shown} is not registered, and counts as {OTHER}{hint}", file=sys.stderr)
    return attributes


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

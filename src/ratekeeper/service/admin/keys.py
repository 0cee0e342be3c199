"""The most limited keys as they are, for admins. Knows no HTTP, and not how keys are counted."""

from __future__ import annotations

from ratekeeper.service.admin.operation import Given, Operation, Report
from ratekeeper.service.core import Core
from ratekeeper.service.live.hitters import MOST_CHARACTERS, Hitter

MOST_KEYS = 100
"""The keys that are told."""


async def limited_keys(core: Core, given: Given) -> Report:
    """Return the keys that all processes have refused most, most first."""
    return {"limited_keys": [_report(hitter) for hitter in core.live.limited_keys(MOST_KEYS)]}


def _report(hitter: Hitter) -> Report:
    return {
        "rule": hitter.rule,
        "key": hitter.key,
        "attributes": _attributes(hitter),
        "rejected": hitter.rejected,
        "error": hitter.error,
    }


def _attributes(hitter: Hitter) -> dict[str, str] | None:
    """Return the attributes of a key; None if a value was too long to be kept whole."""
    pairs = zip(hitter.names, hitter.values, strict=True)
    attributes = {name: value for name, value in pairs if value is not None}
    return None if any(len(value) > MOST_CHARACTERS for value in attributes.values()) else attributes


OPERATIONS = {"limited-keys": Operation(limited_keys)}

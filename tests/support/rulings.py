"""The rule's answer by names, for tests. `gcra.decide` itself returns a plain tuple, as it is on the hot path."""

from __future__ import annotations

from typing import NamedTuple

from ratekeeper import gcra


class Ruling(NamedTuple):
    allowed: bool
    new_tat: int
    ahead: int
    delay: int
    retry_after: int


def decide(tat: int, now: int, increment: int, burst: int, tolerance: int) -> Ruling:
    return Ruling(*gcra.decide(tat, now, increment, burst, tolerance))

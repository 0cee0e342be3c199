"""The counts about a policy: its version, and how its file was last read. Knows no file and no rule."""

from __future__ import annotations

import time

from ratekeeper.errors import PolicyError
from ratekeeper.policy.model import Policy
from ratekeeper.service.metrics.cells import RELOADED_CELL, VERSION_CELL, cell_of
from ratekeeper.service.metrics.slots import Slot

_SUCCESSFUL = cell_of("ratekeeper_policy_last_reload_successful")


def note_policy(slot: Slot, policy: Policy) -> None:
    """Note that a process decides by a policy from now on."""
    slot.cells[VERSION_CELL] = int.from_bytes(bytes.fromhex(policy.version), "big", signed=True)


def note_reload(slot: Slot, mistakes: PolicyError | None) -> None:
    """Note that the policy file was read, by the process that watches it. See `watch_policy`."""
    slot.add(cell_of("ratekeeper_policy_reloads", "success" if mistakes is None else "failure"))
    slot.cells[_SUCCESSFUL] = int(mistakes is None)
    if mistakes is None:
        slot.cells[RELOADED_CELL] = time.time_ns() // 1_000_000

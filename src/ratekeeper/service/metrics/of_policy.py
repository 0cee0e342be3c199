"""The counts about a policy and Envoy's limits: its version, and how files were read. Knows no file and no rule."""

from __future__ import annotations

import time

from ratekeeper.errors import PolicyError
from ratekeeper.policy.model import Policy
from ratekeeper.service.metrics.cells import RELOADED_CELL, VERSION_CELL, cell_of
from ratekeeper.service.metrics.slots import Slot


def note_policy(slot: Slot, policy: Policy) -> None:
    """Note that a process decides by a policy from now on."""
    slot.cells[VERSION_CELL] = int.from_bytes(bytes.fromhex(policy.version), "big", signed=True)


def note_reload(slot: Slot, mistakes: PolicyError | None) -> None:
    """Note that the policy file was read, by the process that watches it. See `watch_policy`."""
    _note(slot, "policy", mistakes)
    if mistakes is None:
        slot.cells[RELOADED_CELL] = time.time_ns() // 1_000_000


def note_envoy_reload(slot: Slot, mistakes: PolicyError | None) -> None:
    """Note that the folder of --envoy-config was read."""
    _note(slot, "envoy_config", mistakes)


def note_no_envoy(slot: Slot) -> None:
    """Note that the service has no folder of --envoy-config, so its last reading counts as successful."""
    slot.cells[cell_of("ratekeeper_envoy_config_last_reload_successful")] = 1


def _note(slot: Slot, what: str, mistakes: PolicyError | None) -> None:
    slot.add(cell_of(f"ratekeeper_{what}_reloads", "success" if mistakes is None else "failure"))
    slot.cells[cell_of(f"ratekeeper_{what}_last_reload_successful")] = int(mistakes is None)

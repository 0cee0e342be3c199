"""The needs of tests on this machine. A test whose part is not here is skipped, or fails."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from ratekeeper import Decision

ROOT = Path(__file__).parents[2]
"""The project."""

EVERYTHING = os.environ.get("RATEKEEPER_TEST_EVERYTHING") == "1"


def need(part: str, present: bool) -> None:
    """Skip a test whose part is not installed; in CI, where everything must be there, fail it."""
    if present:
        return
    if EVERYTHING:
        pytest.fail(f"{part} is missing, and RATEKEEPER_TEST_EVERYTHING=1 allows no skipping")
    pytest.skip(f"{part} is not installed")


def need_program(name: str) -> str:
    """Return the path of a program in the environment or in the system, as `need` does for a part."""
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    need(name, path is not None)
    assert path is not None
    return path


def no_waiting(*_: object) -> Decision:
    """The function that a gate calls for a waiter, in tests in which nobody waits."""
    raise AssertionError("nobody waits here")

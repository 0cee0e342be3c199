"""What tests need of this machine, and what becomes of a test whose part is not here."""

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
    """Return the path of a program, of the environment's or of the system's, as `need` does for a part."""
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    need(name, path is not None)
    assert path is not None
    return path


def no_waiting(*_: object) -> Decision:
    """What a gate calls for who must wait, in tests in which nobody does."""
    raise AssertionError("nobody waits here")

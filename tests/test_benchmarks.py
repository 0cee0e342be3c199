"""The benchmarks of policies and of the service run to their end: each checks that the answers are those it expects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from needs import need

from ratekeeper.core import IMPLEMENTATION

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["policy", "service", "recording", "resp"])
def test_a_benchmark_runs_to_its_end(name: str) -> None:
    need("the C core", IMPLEMENTATION == "c")
    command = [sys.executable, "-m", "benchmarks", "--quick", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "best / median" in done.stdout

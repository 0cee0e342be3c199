"""A pytest plugin: tell coverage which test runs, and note how long each took."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator

import coverage
import pytest

_seconds: dict[str, float] = defaultdict(float)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    measured = coverage.Coverage.current()
    assert measured is not None, "recording/ is not on PYTHONPATH"
    measured.switch_context(item.nodeid)
    yield
    measured.switch_context("")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration if report.outcome == "passed" else 0


def pytest_sessionfinish() -> None:
    with open(os.environ["MUTANTS_SECONDS"], "w") as file:
        json.dump(_seconds, file)

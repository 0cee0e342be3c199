"""A pytest plugin: note the lines that each test runs, how long each passed one took, and which were left out."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence

import executed  # type: ignore[import-not-found]
import pytest

_seconds: dict[str, float] = defaultdict(float)
_places: dict[str, list[int]] = {}
_not_passed: set[str] = set()
_left_out: list[str] = []


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    _left_out.extend(item.nodeid for item in items)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    executed.forget()
    yield
    _places[item.nodeid] = executed.places()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration
    if report.outcome != "passed":
        _not_passed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    os.unlink(executed.FILE)  # the lines of this process are known by their tests
    passed = {test: taken for test, taken in _seconds.items() if test not in _not_passed}
    with open(f"{executed.FOLDER}/tests", "w") as file:
        json.dump({"seconds": passed, "places": _places, "left out": _left_out}, file)

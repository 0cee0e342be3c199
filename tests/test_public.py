"""Every public name says what it is by an example that is run, and what is made has a repr."""

from __future__ import annotations

import doctest
import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

import pytest

import ratekeeper
from ratekeeper import AsyncLimiter, LeakyQueue, Limiter, ManualClock, MemoryStore
from ratekeeper.clock import SystemClock
from ratekeeper.testing import frozen

MODULES = [ratekeeper, importlib.import_module("ratekeeper.stores"), importlib.import_module("ratekeeper.testing")]
PUBLIC = [(module, name) for module in MODULES for name in module.__all__]


def needs_an_example(value: Any) -> bool:
    """Return whether it is a class or function: not an error, a protocol, a type alias or a constant."""
    if isinstance(value, type):
        return not issubclass(value, Exception) and not getattr(value, "_is_protocol", False)
    return inspect.isroutine(value)


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda part: getattr(part, "__name__", part))
def test_a_public_name_has_a_docstring_with_an_example_that_runs(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    if not isinstance(value, type) and not inspect.isroutine(value):
        return
    assert value.__doc__
    if not needs_an_example(value):
        return
    assert ">>> " in value.__doc__, f"{name} has no example"
    tests = [
        test
        for test in doctest.DocTestFinder(recurse=False).find(
            value, name, globs=vars(sys.modules[value.__module__]).copy()
        )
        if test
    ]
    runner = doctest.DocTestRunner()
    with frozen():
        for test in tests:
            runner.run(test)
    assert runner.summarize(verbose=False).attempted
    assert not runner.failures


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_module_exports_what_it_says_and_nothing_private(module: ModuleType) -> None:
    assert sorted(module.__all__, key=lambda name: (not name.isupper(), name)) == module.__all__
    assert not [name for name in module.__all__ if name.startswith("_") or not hasattr(module, name)]
    imported = {name for name, value in vars(module).items() if not isinstance(value, ModuleType) and name[0] != "_"}
    assert imported == set(module.__all__)


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (Limiter("5/s", name="n"), "Limiter(TokenBucket(capacity=5, refill_rate='5/s'), name='n')"),
        (AsyncLimiter("5/s", name="n"), "AsyncLimiter(TokenBucket(capacity=5, refill_rate='5/s'), name='n')"),
        (MemoryStore(100), "MemoryStore(max_keys=100, on_full='evict')"),
        (ManualClock(1.5), "ManualClock(1.5)"),
        (SystemClock(), "SystemClock()"),
        (LeakyQueue(5, "10/s"), "LeakyQueue(capacity=5, leak_rate='10/s')"),
        (Limiter("5/s").limit("a secret", timeout=2), "Guard(key=..., cost=1, timeout=2)"),
        (Limiter("5/s").limit(str, len), "Guard(key=str, cost=len)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_made_says_what_it_is_and_no_key(made: object, shown: str) -> None:
    assert repr(made) == shown

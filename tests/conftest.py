"""Fixtures of all tests: each core in turn."""

from __future__ import annotations

import gc
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

import httpx
import httpx._transports.default as httpx_transports
import pytest
from async_memory import AsyncMemoryStore
from hypothesis import HealthCheck, Phase, settings
from needs import need
from servers import PATIENCE

from ratekeeper import IMPLEMENTATION, ManualClock, MemoryStore, SharedMemoryStore
from ratekeeper.stores import shared_memory
from ratekeeper.stores.table_store import TableStore

# Random deadlines would be timed assertions. CI's machine is slow and shared.
settings.register_profile("ratekeeper", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# CI tries the same examples each time: a failure comes from a change. `make test` tries new ones.
settings.register_profile("ci", settings.get_profile("ratekeeper"), derandomize=True)
settings.register_profile("brief", settings.get_profile("ci"), max_examples=25)
settings.register_profile("thorough", settings.get_profile("ratekeeper"), max_examples=1000)
# `make mutants` asks only whether a test fails, not how small the example can be.
settings.register_profile("mutants", settings.get_profile("ratekeeper"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ratekeeper"))

# hiredis 3.5 crashes if a signal handler raises while it calls a function of redis-py, as in the storms of interrupts.
# The tests read answers by hiredis, and redis-py takes it wherever it is. So it is hidden from redis-py.
with pytest.MonkeyPatch.context() as hidden, suppress(ModuleNotFoundError):
    hidden.setitem(sys.modules, "hiredis", None)
    import redis.asyncio  # noqa: F401

# httpx reads the certificates of all authorities for each client: 60 ms of CPU, of which there are hundreds.
vars(httpx_transports)["create_ssl_context"] = cache(vars(httpx_transports)["create_ssl_context"])

# httpx gives an answer up after 5 s, and a machine that others use may stand still for longer.
_given_up = inspect.signature(httpx.get).parameters["timeout"].default  # one object is that of all calls
_given_up.connect = _given_up.read = _given_up.write = _given_up.pool = PATIENCE
with suppress(ModuleNotFoundError):
    import websockets.sync.client

    vars(websockets.sync.client)["connect"].__kwdefaults__["open_timeout"] = PATIENCE  # 10 s

pytest_plugins = ["redis_fixtures", "page_fixtures"]


def pytest_collection_finish() -> None:
    """Let no garbage collection look at the modules of all tests: hundreds of tests collect garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_tables(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep the tables that the pages name apart from those of another run of the tests on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(request.node, pytest.DoctestItem):
            patch.setattr(shared_memory, "FOLDER", request.getfixturevalue("tmp_path"))
        yield


@pytest.fixture(params=["c", "python"])
def implementation(request: pytest.FixtureRequest) -> Literal["c", "python"]:
    chosen: Literal["c", "python"] = request.param
    need("the C core", chosen == "python" or IMPLEMENTATION == "c")
    return chosen


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start=1000)


@pytest.fixture(params=["c", "python", "shared"])
def store(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> TableStore:
    """Each store in turn: the claims of tests that take it are what every store promises."""
    need("the C core", request.param == "python" or IMPLEMENTATION == "c")
    if request.param == "shared":
        return SharedMemoryStore(tmp_path / "table", 10_000, clock=clock)
    return MemoryStore(10_000, clock=clock, implementation=request.param)


@pytest.fixture(params=["local", "awaited"])
def either_store(request: pytest.FixtureRequest, store: TableStore) -> TableStore | AsyncMemoryStore:
    """Return a store for code on asyncio, which may be local or must be awaited."""
    return store if request.param == "local" else AsyncMemoryStore(store)

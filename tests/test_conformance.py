"""Every store of ratekeeper's passes the suite that it ships for others."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from async_memory import AsyncMemoryStore
from conftest import need

from ratekeeper import IMPLEMENTATION, ManualClock, MemoryStore, SharedMemoryStore
from ratekeeper.testing import StoreConformance


class TestPythonTable(StoreConformance):
    def make_store(self, clock: ManualClock) -> MemoryStore:
        return MemoryStore(10_000, clock=clock, implementation="python")


class TestCTable(StoreConformance):
    def make_store(self, clock: ManualClock) -> MemoryStore:
        need("the C core", IMPLEMENTATION == "c")
        return MemoryStore(10_000, clock=clock, implementation="c")


class TestSharedTable(StoreConformance):
    def make_store(self, clock: ManualClock) -> SharedMemoryStore:
        need("the C core", IMPLEMENTATION == "c")
        with TemporaryDirectory() as folder:  # a mapped file lives on without its name
            return SharedMemoryStore(Path(folder) / "table", 10_000, clock=clock)


class TestAwaitedStore(StoreConformance):
    def make_store(self, clock: ManualClock) -> AsyncMemoryStore:
        return AsyncMemoryStore(MemoryStore(10_000, clock=clock))

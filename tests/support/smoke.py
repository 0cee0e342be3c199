"""Tries an installed ratekeeper outside its tree, with the standard library alone: smoke.py c|python.

It is what cibuildwheel runs against each wheel. It knows nothing of pytest, nor of the repository's files.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import ratekeeper
from ratekeeper import AsyncLimiter, Keeper, Limiter, ManualClock, MemoryStore

POLICY = '[[rules]]\nname = "each user"\nkey = ["user"]\ncapacity = 2\nrefill_rate = "1/day"\n'


def try_limiter() -> None:
    """Admit exactly the capacity, and refuse until `retry_after`."""
    clock = ManualClock()
    limiter = Limiter("5/second", store=MemoryStore(clock=clock))
    assert [limiter.try_acquire("a").allowed for _ in range(6)] == [True] * 5 + [False]
    clock.advance(limiter.try_acquire("a").retry_after)
    assert limiter.try_acquire("a").allowed


def try_threads() -> None:
    """Admit exactly the capacity to eight threads together."""
    limiter = Limiter("1000/day", store=MemoryStore(clock=ManualClock()))
    admitted = [0] * 8

    def ask(number: int) -> None:
        admitted[number] = sum(limiter.try_acquire("a").allowed for _ in range(500))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 1000, admitted


async def try_asyncio() -> None:
    """Admit a waiting task, in its turn."""
    limiter = AsyncLimiter("1000/second burst 1")
    decisions = await asyncio.gather(*(limiter.acquire("a", timeout=10) for _ in range(3)))
    assert all(decision.allowed for decision in decisions)


def try_policy(folder: Path) -> None:
    """Load a policy file, and decide by it."""
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    keeper = Keeper(policy)
    assert [keeper.try_acquire({"user": "a"}).allowed for _ in range(3)] == [True, True, False]
    command = [sys.executable, "-m", "ratekeeper.cli.main", "validate", str(policy)]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, timeout=60).returncode == 0


def main(core: str) -> None:
    """Try all of it with this core, and with the version that the package says it has."""
    assert core == ratekeeper.IMPLEMENTATION, ratekeeper.IMPLEMENTATION
    assert ratekeeper.__version__ == importlib.metadata.version("ratekeeper")
    try_limiter()
    try_threads()
    asyncio.run(try_asyncio())
    with tempfile.TemporaryDirectory() as folder:
        try_policy(Path(folder))
    print(f"ratekeeper {ratekeeper.__version__} works with the {core} core on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main(sys.argv[1])

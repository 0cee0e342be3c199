"""SharedMemoryStore: one table for all processes of a host, in a mapped file. It must not know limiters, policies."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ratekeeper import core
from ratekeeper.clock import Clock, ticks_of
from ratekeeper.errors import StoreError
from ratekeeper.stores.table_store import MAX_KEYS, TableStore, denies_when_full

if TYPE_CHECKING:
    from ratekeeper.stores.table_file import TableFile

FOLDER = Path("/dev/shm")
"""The folder of a table that is given by its name: a file system in memory."""


class SharedMemoryStore(TableStore):
    """Keep up to `max_keys` live buckets in a file that any number of processes map, in 23 bytes each.

    All of them decide on the same buckets, exactly, without a lock or a server: each change is one compare-and-swap, so
    a process may die at any time. `path` is a file, or a name without a slash: a file in /dev/shm. The first process
    makes it, readable by its own user only, in its full size; the others attach. A store still works after a fork, and
    can be given to a spawned process. The table outlives its processes, and begins anew after a reboot.

    All must give the same `max_keys` and `on_full` (see `MemoryStore`): another size needs another file. A file that
    cannot be used is a `StoreError`, which gives the reason. So is a missing C core: a limit for each process would not
    be shared. Linux only.

    As a context manager it is closed at the end, and then every verb raises ValueError. The file stays: see `unlink`.

    >>> with SharedMemoryStore("ratekeeper-example", max_keys=1000) as store:
    ...     store.stats().live
    ...     store.unlink()
    0
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_keys: int = MAX_KEYS,
        *,
        on_full: Literal["evict", "deny"] = "evict",
        clock: Clock | None = None,
    ) -> None:
        deny = denies_when_full(max_keys, on_full)
        ticks_of(clock)  # a bad one is an error before there is a file
        _check_support()
        from ratekeeper.stores import table_file  # noqa: PLC0415  not every system has its parts

        self._use(table_file.attach(path_of(path), table_file.Shape(max_keys, deny)), clock)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, clock: Clock | None = None) -> SharedMemoryStore:
        """Attach to a table that exists, whatever its size. Raises `StoreError` if there is none."""
        _check_support()
        from ratekeeper.stores import table_file  # noqa: PLC0415

        store = cls.__new__(cls)
        store._use(table_file.attach(path_of(path), None), clock)
        return store

    def _use(self, file: TableFile, clock: Clock | None) -> None:
        self._file = file
        ticks = ticks_of(clock)
        shape = file.shape
        super().__init__(core.attach_table(file.memory, shape.deny_when_full, file.seed, ticks), shape.max_keys, clock)
        self._own_clock = clock

    @classmethod
    def temporary(cls, prefix: str) -> SharedMemoryStore:
        """Return a new private table in /dev/shm, to be unlinked. Removes the tables that dead processes left there."""
        _check_support()
        from ratekeeper.stores import table_file  # noqa: PLC0415

        table_file.remove_unused(FOLDER, prefix)
        return cls(prefix + secrets.token_hex(4))

    @property
    def path(self) -> Path:
        """The table's file."""
        return self._file.path

    @property
    def on_full(self) -> Literal["evict", "deny"]:
        """The treatment of a newcomer when the table is full of live buckets."""
        return "deny" if self._file.shape.deny_when_full else "evict"

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.shape.size

    @property
    def made_at(self) -> float:
        """The time when the table was made, in seconds since 1970."""
        return self._file.made_ns / 1e9

    def close(self) -> None:
        """Stop deciding: from now on every verb raises ValueError. Other processes go on."""
        self._table.close()  # type: ignore[union-attr]

    def unlink(self) -> None:
        """Remove the file. Attached processes go on with it. A later process makes a new one, with full buckets."""
        self._file.unlink()

    def __enter__(self) -> SharedMemoryStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        # Not by making it: a file that has been removed must be an error, not another table.
        return _attached, (str(self.path), self._own_clock)

    def __repr__(self) -> str:
        return f"SharedMemoryStore({str(self.path)!r}, max_keys={self._max_keys}, on_full={self.on_full!r})"


def path_of(path: str | os.PathLike[str]) -> Path:
    """Return the path of a table's file. A string without a slash is a name in /dev/shm."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a table's path must be a str or a Path, not {type(path).__name__}")
    if path in ("", ".", "..") or "\0" in str(path):
        raise ValueError(f"{path!r} is not a name of a table: use one such as 'ratekeeper-api'")
    named = isinstance(path, str) and "/" not in path
    return FOLDER / path if named else Path(os.path.abspath(path))


def _attached(path: str, clock: Clock | None) -> SharedMemoryStore:
    return SharedMemoryStore.open(path, clock=clock)


def _check_support() -> None:
    if sys.platform != "linux":
        raise StoreError("a SharedMemoryStore needs Linux")
    if core.IMPLEMENTATION != "c":
        raise StoreError(
            "a SharedMemoryStore needs the C core, without which each process would have its own limit: "
            f"do not set RATEKEEPER_CORE=python, and if the C core was not built, {core.BUILD}"
        )

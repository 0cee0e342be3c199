"""The file of a shared table: made once, attached to by any number of processes, checked before it is trusted.

This file knows bytes, locks and the file's owner. It must not know cells and limiters. Linux only.

An attached process holds a shared lock on the file, and a process that makes one an exclusive lock. The kernel
releases the locks of a dead process. So one process makes the table while others wait. If it dies, it leaves a draft,
and the next process finishes it. And no process replaces a table on which another decides. Deciding takes no lock.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import platform
import stat
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ratekeeper.core import LINE_BYTES, RESETS_BYTES, SEED_BYTES, lines_for
from ratekeeper.errors import StoreError

# Magic, layout, machine, boot id, time namespace, max_keys, deny when full, time of making, seed. It fills a page, but
# for the table's counters, which are the page's last line, so that the log of resets and the cells begin with a page.
_HEADER = struct.Struct(f"<16sI4x16s16sQQ?7xq{SEED_BYTES}s")
_PAGE = 4096
_COUNTERS = _PAGE - LINE_BYTES
_MAGIC = b"ratekeeper table"
_DRAFT = b"ratekeeper draft"
_LAYOUT = 4
_NO_TABLE = "is not a table of ratekeeper: give a path that no other program uses"

_TRIES = 2000
_BETWEEN_TRIES = 0.005


class Shape(NamedTuple):
    """The properties of a table that all its users must agree on."""

    max_keys: int
    deny_when_full: bool

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return _PAGE + RESETS_BYTES + lines_for(self.max_keys) * LINE_BYTES


class _Header(NamedTuple):
    magic: bytes
    layout: int
    machine: bytes
    boot_id: bytes
    time_namespace: int
    max_keys: int
    deny_when_full: bool
    made_ns: int
    seed: bytes


class TableFile:
    """A table's file, mapped. `memory` are its counters and cells; the lock is held as long as anyone has it."""

    def __init__(self, path: Path, fd: int, header: _Header) -> None:
        self.path = path
        self.shape = Shape(header.max_keys, header.deny_when_full)
        self.seed = header.seed
        self.made_ns = header.made_ns
        self._identity = _identity(os.fstat(fd))
        # It keeps a duplicate of the descriptor, and with it the lock, until nobody refers to the memory any more.
        self.memory = memoryview(mmap.mmap(fd, self.shape.size))[_COUNTERS:]

    def unlink(self) -> None:
        """Remove the file, unless it is gone, or another by now."""
        if _found_at(self.path) == self._identity:
            self.path.unlink(missing_ok=True)


def remove_unused(folder: Path, prefix: str) -> None:
    """Remove the tables of these names to which no process is attached: their makers have died."""
    for path in folder.glob(prefix + "*"):
        with suppress(StoreError, OSError):
            fd = _open(path, create=False)
            try:
                _check_file(fd, path)
                if _lock(fd, fcntl.LOCK_EX) and _found_at(path) == _identity(os.fstat(fd)):
                    path.unlink()
            finally:
                os.close(fd)


def attach(path: Path, shape: Shape | None) -> TableFile:
    """Return the table at `path`, attached; make it in this shape if there is none. With None it must be there.

    Raises StoreError, which says what is wrong with the file, and what would be right.
    """
    try:
        for _ in range(_TRIES):
            attached = _try_to_attach(path, shape)
            if attached is not None:
                return attached
            time.sleep(_BETWEEN_TRIES)
    except OSError as error:
        raise StoreError(f"{path}: cannot be used: {error.strerror}") from None
    raise StoreError(
        f"{path}: another process has had it locked for {_TRIES * _BETWEEN_TRIES:.0f} s, or another machine uses it: "
        "each host needs its own file"
    )


def _try_to_attach(path: Path, shape: Shape | None) -> TableFile | None:
    """Return the table, mapped, after making it if need be. None: others are about to change it, so try again."""
    fd, attached = _open(path, create=shape is not None), None
    try:
        _check_file(fd, path)
        attached = _attach(fd, path, shape)
    finally:
        if attached is None:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has the descriptor too
        os.close(fd)
    return attached


def _attach(fd: int, path: Path, shape: Shape | None) -> TableFile | None:
    alone = _lock(fd, fcntl.LOCK_EX)
    if not (alone or _lock(fd, fcntl.LOCK_SH)) or _found_at(path) != _identity(os.fstat(fd)):
        return None
    start = os.pread(fd, len(_MAGIC), 0)
    if start in (b"", _DRAFT):
        if shape is None:
            raise StoreError(f"{path}: no table has been made in it yet")
        if not alone:
            return None
        _make(fd, path, shape)
    header = _read_header(fd, path)
    if header.boot_id != _boot_id():
        _discard(path, alone, begin_anew=shape is not None)
        return None
    _check_size(fd, path, header, shape)
    return TableFile(path, fd, header) if not alone or _lock(fd, fcntl.LOCK_SH) else None


def _make(fd: int, path: Path, shape: Shape) -> None:
    """Write an empty table. The last step is the one that makes it a table; until then it is a draft."""
    os.fchmod(fd, 0o600)  # whatever the umask is
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, _DRAFT, 0)
        # All of it now: a page that the file system had no room for later would kill the process that touched it.
        os.posix_fallocate(fd, 0, shape.size)
    except OSError as error:
        path.unlink()
        raise StoreError(
            f"{path}: no room for a table of {shape.max_keys:,} keys, {shape.size / 1e6:.1f} MB ({error.strerror}): "
            f"make room in {path.parent} (for a container: --shm-size), or ask for fewer keys"
        ) from None
    header = _Header(
        _MAGIC, _LAYOUT, _machine(), _boot_id(), _time_namespace(),
        shape.max_keys, shape.deny_when_full, time.time_ns(), os.urandom(SEED_BYTES),
    )  # fmt: skip
    packed = _HEADER.pack(*header)
    os.pwrite(fd, packed[len(_MAGIC) :], len(_MAGIC))
    os.pwrite(fd, _MAGIC, 0)
    os.fsync(fd)  # on a disk, a power cut must not leave what is neither a draft nor a table


def _read_header(fd: int, path: Path) -> _Header:
    """Return the header, checked, but for the boot. Raises StoreError if it is not one of this machine."""
    packed = os.pread(fd, _HEADER.size, 0)
    if len(packed) < _HEADER.size or not packed.startswith(_MAGIC):
        raise StoreError(f"{path}: {_NO_TABLE}")
    header = _Header(*_HEADER.unpack(packed))
    if header.layout != _LAYOUT:
        raise StoreError(
            f"{path}: has layout {header.layout}, and this ratekeeper reads layout {_LAYOUT}: give each version its "
            "own file"
        )
    if header.machine != _machine():
        raise StoreError(f"{path}: was made on {_text(header.machine)}, and this is {_text(_machine())}")
    if header.time_namespace != _time_namespace() and header.boot_id == _boot_id():
        raise StoreError(
            f"{path}: was made in another time namespace, whose clock may differ: containers that share a table must "
            "share a time namespace"
        )
    return header


def _discard(path: Path, alone: bool, begin_anew: bool) -> None:
    """Remove a table of an earlier boot, as its times mean nothing now, unless another machine uses it."""
    if not begin_anew:
        raise StoreError(f"{path}: was left by an earlier boot, and begins anew when it is next used")
    if alone:
        path.unlink()


def _check_size(fd: int, path: Path, header: _Header, asked: Shape | None) -> None:
    found = Shape(header.max_keys, header.deny_when_full)
    if not 1 <= found.max_keys <= 2**32 or os.fstat(fd).st_size != found.size:
        raise StoreError(f"{path}: is damaged: its size is not what its header says. Remove it when nobody uses it")
    if asked is None or asked == found:
        return
    if asked.max_keys != found.max_keys:
        difference = f"has room for {found.max_keys:,} keys, not {asked.max_keys:,}"
    else:
        difference = "has the other on_full: all who share a table must say the same"
    raise StoreError(f"{path}: {difference}. Another size or on_full needs another file: choose another name")


def _open(path: Path, create: bool) -> int:
    """Return a descriptor, without following a link. To open a FIFO for both directions does not block."""
    flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.EACCES and _found_at(path) is not None:
            _check_kind_and_owner(path.lstat(), path)
        reason = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be opened: {error.strerror}"
        if error.errno == errno.ENOENT:
            reason += ". Make its folder first" if create else ". The first process that uses a store makes its table"
        raise StoreError(f"{path}: {reason}") from None


def _check_file(fd: int, path: Path) -> None:
    """Raise StoreError for a file that is not a table, before any words on its owner or mode; then for these."""
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and os.pread(fd, len(_MAGIC), 0) not in (b"", _DRAFT, _MAGIC):
        raise StoreError(f"{path}: {_NO_TABLE}")
    _check_kind_and_owner(status, path)


def _check_kind_and_owner(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path}: is not a regular file")
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"{path}: belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}: all who share a "
            "table must run as one user"
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise StoreError(f"{path}: others than its owner may use it (mode {mode:04o}): it must be 0600")


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(f"the file system of a table must have locks: {error.strerror}") from None
    return True


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _found_at(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(path.lstat())
    except (FileNotFoundError, PermissionError):
        return None


def _boot_id() -> bytes:
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))


def _time_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/time").st_ino
    except OSError:
        return 0  # a kernel without them has one time for all


def _machine() -> bytes:
    return platform.machine().encode()[:16].ljust(16, b"\0")


def _text(machine: bytes) -> str:
    return machine.rstrip(b"\0").decode("ascii", "replace")

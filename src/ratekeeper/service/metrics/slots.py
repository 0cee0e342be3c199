"""Slots: the memory that all processes of the service share, to count in and to tell each other. Any process reads all.

The parent makes one slot for itself and one for each worker, in one file without a name, which all map. Only one
process writes to a slot. A worker that is killed leaves its counts. The worker in its place takes its slot and counts
on, so no counter goes back. This module knows cells, and not their meaning, and no Prometheus.

    file   a page with the size of a slot and the secret of all processes, then each slot
    slot   cells | names of rules | board, for a short text of the process | ring, for its recording
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from hashlib import blake2b

from ratekeeper import core
from ratekeeper.errors import RatekeeperError
from ratekeeper.policy.model import OTHERS
from ratekeeper.service.metrics.cells import ALL_CELLS, FIXED_CELLS, RULE_CELLS, RULES, gauge_cells

_NO_NAME = " "
"""The name in cells of the rule "", which refuses requests without an attribute. No rule of a policy has this name."""
_NAME_BYTES = 112
_CUT = 96
_NAMES = 8 * ALL_CELLS
_BOARD = _NAMES + RULES * _NAME_BYTES
BOARD_BYTES = 1 << 16
"""The size of the text that a process can show all others."""
_RING = -(-(_BOARD + BOARD_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
_HEAD = mmap.PAGESIZE
_SECRET = slice(16, 48)
_OTHER_VERSION = "ratekeeper was replaced by another version while it served: restart it"


class Slot:
    """The counts of one process. `add` raises a cell, or each of several, by 1.

    A reader sees each cell whole, as a cell is written by one aligned store.

    A rule's name is written before its length, so a reader never sees a part of it.
    """

    def __init__(self, memory: memoryview) -> None:
        self.cells = memory[: 8 * ALL_CELLS].cast("q")
        self.counts = core.counts(self.cells)
        self.add = self.counts.add
        self._names = memory[_NAMES:_BOARD]
        self.board = memory[_BOARD : _BOARD + BOARD_BYTES]
        self.ring = memory[_RING:]

    def rule_names(self, first: int = 0) -> list[str]:
        """Return the name of each row that is in use, in order, from the `first` one on."""
        names = []
        for row in range(first, RULES):
            length = self.cells[self.first_cell(row)]
            if not 0 < length <= _NAME_BYTES:
                break
            names.append(bytes(self._name(row)[:length]).decode("utf-8", "replace"))
        return names

    def take_row(self, name: str) -> int:
        """Return the row of a rule: a new one, or that of all others if no row is left."""
        if self.cells[self.first_cell(0)] == 0:
            self._put(0, OTHERS)
        shown, names = shown_name(name), self.rule_names()
        if shown in names:
            return names.index(shown)
        if len(names) == RULES:
            return 0
        self._put(len(names), shown)
        return len(names)

    @staticmethod
    def first_cell(row: int) -> int:
        """Return the cell with the length of a row's name. The row's counts follow."""
        return FIXED_CELLS + RULE_CELLS * row

    def end(self) -> None:
        """Set the gauges to 0, as the process has ended. Its counters stay."""
        for cell in gauge_cells():
            self.cells[cell] = 0

    def _put(self, row: int, name: str) -> None:
        encoded = name.encode("utf-8", "replace")
        self._name(row)[: len(encoded)] = encoded
        self.cells[self.first_cell(row)] = len(encoded)

    def _name(self, row: int) -> memoryview:
        return self._names[row * _NAME_BYTES : (row + 1) * _NAME_BYTES]


class Slots:
    """The slots of all processes. The first one is the parent's, or that of the only process."""

    def __init__(self, memory: mmap.mmap, descriptor: int) -> None:
        """`descriptor` is that of the file, or -1. Raise `RatekeeperError` if a slot has another layout here."""
        self._memory = memoryview(memory)
        self.descriptor = descriptor
        ring, self._size = self._memory[:16].cast("q")
        self.secret = bytes(self._memory[_SECRET])
        """Random bytes that all processes of the service share, so that a key has one hash in all of them."""
        self.count, rest = divmod(len(memory) - _HEAD, self._size or 1)
        if rest or not self.count or self._size != _RING + ring:
            raise RatekeeperError(_OTHER_VERSION)

    @classmethod
    def alone(cls) -> Slots:
        """Make the slot of a process that has no other beside it, and no file."""
        return cls(_laid_out(-1, 1, 0), -1)

    @classmethod
    def make(cls, count: int, ring_bytes: int = 0) -> Slots:
        """Make slots for `count` processes. A child that inherits the descriptor attaches to them.

        `ring_bytes` is the size of each slot's ring, in whole pages.
        """
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("ratekeeper-metrics")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, _HEAD + count * (_RING + ring_bytes))
        return cls(_laid_out(descriptor, count, ring_bytes), descriptor)

    @classmethod
    def attach(cls, descriptor: int) -> Slots:
        """Map the slots of a parent. Raise `RatekeeperError` if they have another layout here."""
        size = os.fstat(descriptor).st_size
        if size < _HEAD:
            raise RatekeeperError(_OTHER_VERSION)
        return cls(mmap.mmap(descriptor, size), descriptor)

    def __getitem__(self, number: int) -> Slot:
        """Return one slot."""
        start = _HEAD + number * self._size
        return Slot(self._memory[start : start + self._size])

    def __iter__(self) -> Iterator[Slot]:
        """Go through all slots."""
        return map(self.__getitem__, range(self.count))


def _laid_out(descriptor: int, count: int, ring_bytes: int) -> mmap.mmap:
    """Map the memory of new slots. Note their size in it, and a new secret."""
    memory = mmap.mmap(descriptor, _HEAD + count * (_RING + ring_bytes))
    memory[:16] = struct.pack("=qq", ring_bytes, _RING + ring_bytes)
    memory[_SECRET] = os.urandom(32)
    return memory


def shown_name(name: str) -> str:
    """Return a rule's name as it is counted: one that is too long for its row is cut, and has a digest in place."""
    encoded = name.encode("utf-8", "replace")
    if len(encoded) <= _NAME_BYTES:
        return name or _NO_NAME
    return f"{encoded[:_CUT].decode('utf-8', 'ignore')}~{blake2b(encoded, digest_size=6).hexdigest()}"


def told_name(name: str) -> str:
    """Return the name of a row as people see it."""
    return "" if name == _NO_NAME else name

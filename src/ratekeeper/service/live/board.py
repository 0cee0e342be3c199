"""Board: a short text in which a process shows all others more than cells can hold. Knows no meaning of it.

Each part of the text has a name, and a function that reads it. A part is any value of JSON. The text is in the
process's slot, behind its length and its digest. So a reader tells a half-written text from a whole one, and takes the
text before. A process that is killed leaves its text until its parent clears the slot.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from ratekeeper.service.metrics.slots import Slot, Slots

_DIGEST = 16
_HEAD = _DIGEST + 4
_TRIES = 3

_log = logging.getLogger("ratekeeper")


class Board:
    """The board of this process. Not thread-safe."""

    def __init__(self, slot: Slot) -> None:
        self._memory = slot.board
        self._parts: dict[str, Callable[[], object]] = {}
        self._written = b""
        self._told: set[str] = set()

    def show(self, name: str, read: Callable[[], object]) -> None:
        """Show what a function returns, under a name, from now on. It is called about once a second."""
        self._parts[name] = read

    def write(self) -> None:
        """Write all parts, if any has changed. A part that does not fit, behind those before it, is left out."""
        parts, room = [], len(self._memory) - _HEAD - len("{}")
        for name, read in self._parts.items():
            part = f"{json.dumps(name)}:{json.dumps(read(), separators=(',', ':'))}"
            if len(part) + 1 > room:
                self._tell(name)
                continue
            room -= len(part) + 1
            parts.append(part)
        text = f"{{{','.join(parts)}}}".encode("ascii")
        if text == self._written:
            return
        self._written = text
        self._memory[_HEAD : _HEAD + len(text)] = text
        self._memory[:_HEAD] = _digest(text) + len(text).to_bytes(4, "big")

    def _tell(self, name: str) -> None:
        if name not in self._told:
            self._told.add(name)
            _log.error("%s of this process are too many to be shown to the others", name)


class Boards:
    """Reads the boards of all processes."""

    def __init__(self, slots: Slots) -> None:
        self._read = [_BoardReader(slot.board) for slot in slots]

    def read(self) -> list[Mapping[str, Any]]:
        """Return the parts of each process by their names, as it has shown them last."""
        return [board.read() for board in self._read]

    def part(self, name: str) -> list[Any]:
        """Return one part of each process that shows it."""
        return [parts[name] for parts in self.read() if name in parts]


class _BoardReader:
    """Reads one board. Its parts are not to be changed."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._head = b""
        self._parts: dict[str, Any] = {}

    def read(self) -> Mapping[str, Any]:
        for _ in range(_TRIES):
            head = bytes(self._memory[:_HEAD])
            if head == self._head:
                break
            size = int.from_bytes(head[_DIGEST:], "big")
            text = bytes(self._memory[_HEAD : _HEAD + size])
            if not size or _digest(text) == head[:_DIGEST]:
                self._head, self._parts = head, json.loads(text or b"{}")
                break
        return self._parts


def clear(slot: Slot) -> None:
    """Empty the board of a process that has ended."""
    slot.board[:_HEAD] = bytes(_HEAD)


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=_DIGEST).digest()

"""Counts: whole numbers in memory that processes may share. The C core has its own, which raises each in one step."""

from __future__ import annotations


class Counts:
    """Raises numbers of 64 bits in `memory`, a writable buffer that begins at a multiple of 8.

    >>> memory = bytearray(16)
    >>> Counts(memory).add((1, 1))
    >>> memory[8]
    2
    """

    def __init__(self, memory: bytearray | memoryview) -> None:
        self._numbers = memoryview(memory).cast("B").cast("q")

    def add(self, places: int | tuple[int, ...], /) -> None:
        """Raise the count at a place, or at each place of a tuple, by 1."""
        for place in (places,) if isinstance(places, int) else places:
            if place < 0:
                raise IndexError(f"count {place} is out of range")
            self._numbers[place] += 1

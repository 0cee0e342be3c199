"""The ring of a recording: where each number lies, and how any process reads it. Knows no policy and no hash.

One process writes, and any process reads, also when the writer was killed. `core/recording.h` writes the same.

    ring      at most 32 segments of equal size; each has a number, and the next one takes the place of the lowest
    segment   number | end | length of the schema | records | time of the first | of the last | 0 | 0 | schema | records
    record    time | its words, other readings, rules, flags: 16 bits each | cost | hash of each slot | cost of each
              attribute with one | other readings: slot, hash | rules: place in the low half, that of the override + 1

All are words of 64 bits, and lengths in a segment's head are bytes. The end is stored after a record, so a record is
there whole or not at all. While a segment's head is written its number is 0, and then it is another one. So a reader
that finds the same number before and after has read one segment, and not parts of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

NUMBER, END, SCHEMA, COUNT, FIRST, LAST = range(6)
SEGMENT_HEAD, RECORD_HEAD = 8, 3
SEGMENTS, LEAST_SEGMENT = 32, 1 << 16
MOST_WORDS = 1 << 14
"""The words of the longest record."""
ADMITTED, DELAYED, REJECTED, EXEMPT = 0, 1, 2, 4
"""The flags of a record: the outcome of its request, and whether it is exempt."""
OUTCOME = 3
NO_COST, BAD_COST = -1, -2
"""An attribute with a cost that the request lacks, or that is not a number."""


class Segment(NamedTuple):
    """A copy of one segment. `words` has its records, one after the other."""

    number: int
    schema: bytes
    requests: int
    first: int
    last: int
    words: memoryview


class Record(NamedTuple):
    """One request.

    at       ticks of the service's clock
    values   the hash of each slot, 0 for a missing one
    costs    the number in each attribute that has a cost
    others   the other readings: the slot, and the hash
    rules    the rules whose tests it passes, each with the place of the override that counts, -1 for none
    """

    at: int
    flags: int
    cost: int
    values: memoryview
    costs: memoryview
    others: tuple[tuple[int, int], ...]
    rules: tuple[tuple[int, int], ...]


def segments_of(length: int) -> tuple[int, int]:
    """Return the number of segments of a ring, and their size in bytes. Without segments nothing is recorded."""
    count = min(length // LEAST_SEGMENT, SEGMENTS)
    return (count, length // count // 64 * 64) if count > 1 else (0, 0)


def fitting_schema(length: int) -> int:
    """Return the bytes of the longest schema in a ring of this length: it leaves half of a segment for records."""
    return max(0, segments_of(length)[1] // 2 - 8 * SEGMENT_HEAD)


def ring_for(schema: int) -> int:
    """Return the bytes of a ring in which a schema of this length fits."""
    return SEGMENTS * max(LEAST_SEGMENT, -(-2 * (schema + 8 * SEGMENT_HEAD) // 64) * 64)


def heads(ring: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the first byte of each segment, and its head as words: zeros if it was never written."""
    count, size = segments_of(len(ring))
    for place in range(count):
        yield place * size, ring[place * size : place * size + 8 * SEGMENT_HEAD].cast("q")


def read_segment(ring: memoryview, start: int) -> Segment | None:
    """Return a copy of the segment that begins there; None if there is none, or if it was overwritten meanwhile."""
    _, size = segments_of(len(ring))
    head = ring[start : start + 8 * SEGMENT_HEAD].cast("q")
    number, end, length = head[NUMBER], head[END], head[SCHEMA]
    begin = 8 * SEGMENT_HEAD + -(-length // 8) * 8
    if number <= 0 or length < 0 or end % 8 or not begin <= end <= size:
        return None
    copy = bytes(ring[start : start + end])
    requests, first, last = head[COUNT], head[FIRST], head[LAST]
    if head[NUMBER] != number:
        return None
    schema = copy[8 * SEGMENT_HEAD : 8 * SEGMENT_HEAD + length]
    return Segment(number, schema, requests, first, last, memoryview(copy)[begin:].cast("q"))


def records_of(segment: Segment, costs: int) -> Iterator[Record]:
    """Yield the records of a segment, whose schema has `costs` attributes with a cost."""
    words, place = segment.words, 0
    while place < len(words):
        at, packed, cost = words[place : place + RECORD_HEAD]
        size, extra, count, flags = (packed >> shift & 0xFFFF for shift in (0, 16, 32, 48))
        rules = words[place + size - count : place + size]
        others = words[place + size - count - 2 * extra : place + size - count]
        values_end = place + size - count - 2 * extra - costs
        yield Record(
            at, flags, cost, words[place + RECORD_HEAD : values_end], words[values_end : values_end + costs],
            tuple(zip(others[::2], others[1::2], strict=True)),
            tuple([(rule & 0xFFFF_FFFF, (rule >> 32) - 1) for rule in rules]),
        )  # fmt: skip
        place += size

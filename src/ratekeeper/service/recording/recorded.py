"""The recordings of all processes as one run of requests, in order of time. Knows no policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from ratekeeper.service.metrics.slots import Slot
from ratekeeper.service.recording.recording import Schema
from ratekeeper.service.recording.ring import COUNT, FIRST, LAST, NUMBER, Record, heads, read_segment, records_of

MOST_REQUESTS = 20_000
"""The requests that are read, the newest ones: each takes some 50 us, and a user waits for the answer."""


class RecordedRequest(NamedTuple):
    """A request that one of the processes recorded. They sort by time, and then as they were recorded."""

    at: int
    process: int
    number: int
    record: Record
    schema: Schema


class _Place(NamedTuple):
    """The place of a segment: its last time, its process, and its first byte."""

    last: int
    process: int
    start: int
    requests: int


def read_requests(slots: Iterable[Slot], most: int = MOST_REQUESTS) -> list[RecordedRequest]:
    """Return the newest requests of all processes, in order.

    They begin where all recordings do that have lost older requests: before that, the requests of a process would be
    missing.
    """
    rings = [slot.ring for slot in slots]
    places: list[_Place] = []
    begin = 0
    for process, ring in enumerate(rings):
        own = [
            (head[NUMBER], head[FIRST], _Place(head[LAST], process, start, head[COUNT])) for start, head in heads(ring)
        ]
        own = [one for one in own if one[0] > 0]
        places += [place for *_, place in own if place.requests]
        if own and min(own)[0] > 1:
            begin = max(begin, min(own)[1])
    found: list[RecordedRequest] = []
    enough = False
    for place in sorted(places, reverse=True):
        if place.last < begin:
            break
        found += _requests(rings[place.process], place)
        if len(found) >= most and not enough:  # of the others, take those that reach into the same time
            enough, begin = True, max(begin, sorted(one.at for one in found)[-most])
    return sorted(one for one in found if one.at >= begin)[-most:]


def _requests(ring: memoryview, place: _Place) -> Iterator[RecordedRequest]:
    segment = read_segment(ring, place.start)
    if segment is None:  # it was overwritten a moment ago
        return
    schema = _schema(segment.schema)
    for number, record in enumerate(records_of(segment, len(schema.costs))):
        yield RecordedRequest(record.at, place.process, segment.number << 32 | number, record, schema)


@lru_cache(maxsize=256)
def _schema(text: bytes) -> Schema:
    return Schema.read(text)

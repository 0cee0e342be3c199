"""PythonRecorder: writes requests into a ring, as hashes, where the C core is not in use. `ring.py` has the layout.

An observer of decisions: it changes none, and if it cannot record one, it counts it as left out. The C core's recorder
takes from a decision of the C core the values and the rules that it tells; this one asks the policy again.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from ratekeeper.limits import MOST_COST
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.sources import readings_of
from ratekeeper.service.recording.ring import (
    BAD_COST,
    COUNT,
    END,
    EXEMPT,
    FIRST,
    LAST,
    MOST_WORDS,
    NO_COST,
    NUMBER,
    SCHEMA,
    SEGMENT_HEAD,
    fitting_schema,
    heads,
    segments_of,
)
from ratekeeper.service.recording.siphash import hash_of

_COST_DIGITS = 18


class PythonRecorder:
    """Writes to `ring`. Not thread-safe: it belongs to one event loop.

    secret   16 bytes or more: the hash's key
    changed  called with a keeper that another one's request came before: it should call `begin`
    told     returns the time and the outcome of a decision
    now      returns the time; only the C core asks it
    left_out the requests that could not be recorded
    """

    def __init__(
        self,
        ring: memoryview,
        secret: bytes,
        changed: Callable[[Any], object],
        told: Callable[[PolicyDecision], tuple[int, int]],
        now: Callable[[], int],
    ) -> None:
        self.left_out = 0
        self._ring = ring
        self._secret = secret
        self._changed = changed
        self._told = told
        self._keeper: Any = None
        self._names: tuple[str, ...] = ()
        self._costs: tuple[int, ...] = ()
        self._schema = b""
        self._segments, self._size = segments_of(len(ring))
        self._number = max((head[NUMBER] for _, head in heads(ring)), default=0)
        self._head = memoryview(b"").cast("B")

    def begin(
        self, keeper: Any, matcher: object, schema: bytes, costs: tuple[int, ...], optional: tuple[int, ...]
    ) -> bool:
        """Record requests to a keeper from now on, in a new segment if its schema is another. Return whether it fits.

        costs     the slots of the attributes that have a cost
        optional  the slots of the keys that a request may lack so that their rule is left out
        """
        goes_on = self._keeper is not None and schema == self._schema
        self._keeper, self._schema, self._costs = None, schema, costs
        if not goes_on and not self._begin_segment():
            return False
        self._keeper = keeper
        self._names = keeper.compiled.slot_names
        return True

    def decided(self, asked: Any, decision: PolicyDecision, /) -> None:
        """Record a question about a request, and its decision."""
        try:
            keeper, attributes, cost = asked
            if keeper is not self._keeper:
                self._changed(keeper)
            if keeper is not self._keeper or not self._write(self._record(attributes, cost, decision)):
                self.left_out += 1
        except Exception:  # a recording never fails a request
            self.left_out += 1

    def _record(self, attributes: Any, cost: int, decision: PolicyDecision) -> array[int]:
        compiled = self._keeper.compiled
        at, flags = self._told(decision)
        seen = compiled.seen(attributes)
        flags |= EXEMPT if compiled.exempting(seen) is not None else 0
        values = [seen.get(name) for name in self._names]
        others = [
            (slot, other) for slot, value in enumerate(values) if value is not None for other in readings_of(value)[1:]
        ]
        rules = [(place, rule.limit_place(seen)) for place, rule in enumerate(compiled.rules) if rule.matches(seen)]
        record = array("q", (at, 0, min(cost, MOST_COST)))
        record.extend(0 if value is None else hash_of(self._secret, value) for value in values)
        record.extend(_number_of(values[slot]) for slot in self._costs)
        for slot, other in others:
            record.extend((slot, hash_of(self._secret, other)))
        record.extend(place | (limit + 1) << 32 for place, limit in rules)
        if len(record) <= MOST_WORDS:
            record[1] = len(record) | len(others) << 16 | len(rules) << 32 | flags << 48
        return record

    def _write(self, record: array[int]) -> bool:
        """Write a record at the end, in the next segment if this one is full. Return whether it has room."""
        length = 8 * len(record)
        if len(record) > MOST_WORDS or length > self._size // 2:
            return False
        if self._head[END] + length > self._size and not self._begin_segment():
            return False
        head, start, at = self._head, self._number % self._segments * self._size, record[0]
        self._ring[start + head[END] : start + head[END] + length] = memoryview(record).cast("B")
        head[FIRST] = min(head[FIRST], at) if head[COUNT] else at
        head[LAST] = max(head[LAST], at) if head[COUNT] else at
        head[COUNT] += 1
        head[END] += length  # last: a reader takes what lies before it
        return True

    def _begin_segment(self) -> bool:
        if not self._segments or len(self._schema) > fitting_schema(len(self._ring)):
            return False
        begin = 8 * SEGMENT_HEAD + -(-len(self._schema) // 8) * 8
        self._number += 1
        start = self._number % self._segments * self._size
        self._head = head = self._ring[start : start + 8 * SEGMENT_HEAD].cast("q")
        head[NUMBER] = 0
        for place in range(1, SEGMENT_HEAD):
            head[place] = 0
        self._ring[start + 8 * SEGMENT_HEAD : start + 8 * SEGMENT_HEAD + len(self._schema)] = self._schema
        head[SCHEMA], head[END] = len(self._schema), begin
        head[NUMBER] = self._number
        return True


def _number_of(value: str | None) -> int:
    """Return the tokens that an attribute tells."""
    if value is None:
        return NO_COST
    return int(value) if value.isascii() and value.isdigit() and len(value) <= _COST_DIGITS else BAD_COST

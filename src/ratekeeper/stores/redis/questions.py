"""The questions of a store to the script, and their order, as coroutines: they await nothing but `send`.

`send` takes requests, which may travel apart, and returns their replies. It may block or suspend: the sync store runs
these coroutines by `run_sync`. Nothing here does I/O. This file must not know clients.

Several slots. On a cluster the charges of one request may live in several slots, which no script can reach together. So
they are first looked at all, and if all fit they are charged slot by slot. If one is then refused after all, because
another request came in between, the charges before it are taken back: exactly, if nobody came there since, and else as
a refund. So it never admits too much. In such a race a request may be refused that would have just fitted, and for the
time of a round trip others may be. If this process dies in between, or a node does, what was charged to the slots
before is lost: it refills in time, and until then less is admitted, never more.

The mark. A bucket's TAT may be what our charge made it, and yet the range at its end is not ours: a reset has forgotten
our charge, and other requests have charged as much since. If one of them leaves later, it has marked the bucket. Then
to take our charge back would take a range from its owner. So the mark, too, must be as our charge left it. A mark that
our charge has set goes with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ratekeeper.core.answers import passes
from ratekeeper.decision import Charge, Decision
from ratekeeper.stores.redis.replies import DenialCache, Reply, decisions_on
from ratekeeper.stores.redis.script import (
    BucketNames,
    Request,
    adjust_request,
    charge_request,
    decide_request,
    refund_request,
    rewind_request,
    tag_of,
)
from ratekeeper.stores.redis.sweep import sweep

V = TypeVar("V")
Send: TypeAlias = Callable[[Sequence[Request]], Awaitable[list[Reply]]]


class _Part(NamedTuple):
    """The part of a request that is in one slot."""

    names: Sequence[bytes]
    charges: Sequence[Charge]


class Question(NamedTuple):
    """A request that only the server can decide."""

    names: Sequence[bytes]
    charges: Sequence[Charge]
    commit: bool
    changes: int  # of the denials, before it was sent
    slots: list[list[int]]  # the numbers of its charges in each slot, if there are several

    def request(self) -> Request:
        """Return what is sent, if all charges are in one slot."""
        return decide_request(self.names, self.charges, self.commit)


_question: Callable[[tuple[Any, ...]], Question] = partial(tuple.__new__, Question)  # half the price


class Questions:
    """Asks for one store, by `send`. `clustered`: a script call reaches only one slot."""

    def __init__(self, names: BucketNames, denials: DenialCache | None, clustered: bool, send: Send) -> None:
        self._names = names
        self._denials = denials
        self._clustered = clustered
        self.send = send

    def question(self, charges: Sequence[Charge], commit: bool) -> Question | list[Decision]:
        """Return what the server is to be asked; or the decisions, if they are known without it."""
        name = self._names.name
        names = [name(charge.scope, charge.key) for charge in charges]
        if not names:
            return []
        changes = 0
        if commit and self._denials is not None:
            changes = self._denials.changes
            known = self._denials.recall(names, charges)
            if known is not None:
                return known
        slots = _by_slot(names) if self._clustered and len(names) > 1 else []
        return _question((names, charges, commit, changes, slots if len(slots) > 1 else []))

    def answer(self, question: Question, reply: Reply) -> list[Decision]:
        """Return the decisions on a question whose charges are all in one slot."""
        names, charges, commit, changes, _ = question
        decisions = decisions_on(charges, reply.ticks, reply.now, commit)
        if commit and self._denials is not None and not passes(charges, decisions):
            self._denials.remember(names, reply, changes)
        return decisions

    async def over_slots(self, question: Question) -> list[Decision]:
        """Return the decisions on a question whose charges are in several slots."""
        names, charges, commit, _, slots = question
        parts = [_Part(_those(slot, names), _those(slot, charges)) for slot in slots]
        answers = await self._look(parts)
        if commit and all(passes(part.charges, answer) for part, answer in zip(parts, answers, strict=True)):
            await self._charge_in_turn(parts, answers)
        in_order: dict[int, Decision] = {}
        for slot, answer in zip(slots, answers, strict=True):
            in_order.update(zip(slot, answer, strict=True))
        return [in_order[number] for number in range(len(names))]

    async def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        """Give back charges that were made at `at_ticks`, in all slots at once."""
        charges = tuple(charges)
        names = [self._names.name(charge.scope, charge.key) for charge in charges]
        if names:
            slots = _by_slot(names) if self._clustered else [list(range(len(names)))]
            with self._forgetting(names):
                await self.send(
                    [refund_request(_those(slot, names), _those(slot, charges), at_ticks) for slot in slots]
                )

    async def rewind(self, scope: str, key: str | bytes, expected: int, tat: int) -> bool:
        """Set a bucket's TAT back, if it is still `expected`. Returns whether it was."""
        name = self._names.name(scope, key)
        if tat < 0 or expected < 0:
            return False
        with self._forgetting([name]):
            [reply] = await self.send([rewind_request(name, expected, tat)])
        return reply.ticks != [0]

    async def adjust(self, scope: str, key: str | bytes, back: int, block: int | None) -> None:
        """Change a bucket by hand."""
        name = self._names.name(scope, key)
        with self._forgetting([name]):
            await self.send([adjust_request(name, back, block)])

    async def reset_scope(self, scope: str, ask: Callable[..., Awaitable[Any]], nodes: Sequence[Any]) -> None:
        """Forget all buckets of a scope, by commands that `ask` sends to each of the nodes."""
        try:
            await sweep(ask, nodes, self._names.pattern(scope))
        finally:
            if self._denials is not None:
                self._denials.forget_all()

    async def _look(self, parts: Sequence[_Part]) -> list[list[Decision]]:
        replies = await self.send([decide_request(*part, commit=False) for part in parts])
        both = zip(parts, replies, strict=True)
        return [decisions_on(part.charges, reply.ticks, reply.now, commit=False) for part, reply in both]

    async def _charge_in_turn(self, parts: Sequence[_Part], answers: list[list[Decision]]) -> None:
        """Charge one slot after the other, and put what became of each into `answers`. All are charged, or none."""
        marks: list[list[int]] = []  # of the buckets of each part, before it was charged
        charged = 0
        try:
            for number, part in enumerate(parts):
                [reply] = await self.send([charge_request(*part)])
                count = len(part.names)
                marks.append(reply.ticks[:count])
                answers[number] = decisions_on(part.charges, reply.ticks[count:], reply.now, commit=True)
                if not passes(part.charges, answers[number]):
                    break
                charged += 1
        except GeneratorExit:  # the event loop is gone
            raise
        except BaseException:
            with suppress(Exception):  # the nodes before may still answer; it is the first error that counts
                await self._take_back(parts[:charged], answers, marks)
            raise
        if 0 < charged < len(parts):
            await self._take_back(parts[:charged], answers, marks)
            answers[:charged] = await self._look(parts[:charged])

    async def _take_back(
        self, parts: Sequence[_Part], answers: Sequence[Sequence[Decision]], marks: Sequence[Sequence[int]]
    ) -> None:
        """Undo charges that were made a moment ago, the last first. Others may have been refused for them meanwhile."""
        for part, answer, before in zip(parts, answers, marks, strict=False):
            made = list(zip(*part, answer, _marks_around(part, answer, before), strict=True))
            with self._forgetting(part.names):
                for name, charge, decision, (mark_before, mark_after) in reversed(made):
                    if not _charged(charge, decision):
                        continue
                    new_tat = decision.at_ticks + decision.debt_ticks
                    undo = rewind_request(name, new_tat, new_tat - charge.increment, mark_after, mark_before)
                    [reply] = await self.send([undo])
                    if reply.ticks == [0]:
                        await self.send([refund_request([name], [charge], decision.at_ticks)])

    @contextmanager
    def _forgetting(self, names: Sequence[bytes]) -> Iterator[None]:
        """Forget denials of these buckets, whatever comes of the request: if the answer is lost, it may be done."""
        try:
            yield
        finally:
            if self._denials is not None:
                self._denials.forget(names)


def _charged(charge: Charge, decision: Decision) -> bool:
    return decision.allowed and charge.increment > 0


def _marks_around(part: _Part, answer: Sequence[Decision], before: Sequence[int]) -> list[tuple[int, int]]:
    """Return whether each charge's bucket was marked before it, and after. Two may be of one bucket."""
    marks = dict(zip(part.names, before, strict=True))
    around = []
    for name, charge, decision in zip(*part, answer, strict=True):
        mark = marks[name]
        if _charged(charge, decision) and decision.delay_ticks:
            marks[name] = 1
        around.append((mark, marks[name]))
    return around


def _by_slot(names: Sequence[bytes]) -> list[list[int]]:
    """Return the numbers of names that are sure to be in one slot together."""
    slots: dict[bytes, list[int]] = {}
    for number, name in enumerate(names):
        slots.setdefault(tag_of(name), []).append(number)
    return list(slots.values())


def _those(numbers: Sequence[int], values: Sequence[V]) -> list[V]:
    return [values[number] for number in numbers]

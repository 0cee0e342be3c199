"""What a store asks the script, and in which order: all of RedisStore and AsyncRedisStore but the sending.

A request to decide is a question, as a rule: sent once, and answered. All else is a plan, a generator: it yields
requests to send, gets their replies, and returns the result. Who sends the one or drives the other may block or await.
Nothing here does I/O, or knows a client.

Several slots. On a cluster the charges of one request may live in several slots, which no script can reach together. So
they are first looked at all, and if all fit they are charged slot by slot. If one is then refused after all, because
another came in between, those before are taken back: exactly, if nobody came there since, and else as a refund. So it
never admits too much. In such a race a request may be refused that would have just fitted, and for the time of a round
trip others may be. If this process dies in between, or a node does, what was charged to the slots before is lost: it
refills in time, and until then less is admitted, never more.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeAlias, TypeVar

from ratekeeper.decision import Charge, Decision
from ratekeeper.stores.redis.decisions import decisions_on, passes
from ratekeeper.stores.redis.denials import Denials
from ratekeeper.stores.redis.names import BucketNames, tag_of
from ratekeeper.stores.redis.script import (
    Ask,
    Reply,
    ask_decide,
    ask_refund,
    ask_reset,
    ask_rewind,
)

T = TypeVar("T")
V = TypeVar("V")
Plan: TypeAlias = Generator[list[Ask], list[Reply], T]


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
    slots: list[list[int]]  # the places of its charges in each slot, if there are several

    def ask(self) -> Ask:
        return ask_decide(self.names, self.charges, self.commit)


class Plans:
    """Makes the questions and the plans of one store. `clustered`: a request may reach only one slot."""

    def __init__(self, names: BucketNames, denials: Denials | None, clustered: bool) -> None:
        self._names = names
        self._denials = denials
        self._clustered = clustered

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
        return Question(names, charges, commit, changes, slots if len(slots) > 1 else [])

    def answer(self, question: Question, reply: Reply) -> list[Decision]:
        """Return the decisions on a question that was sent, as its charges are all in one slot."""
        names, charges, commit, changes, _ = question
        decisions = decisions_on(charges, reply.ticks, reply.now, commit)
        if commit and self._denials is not None and not passes(charges, decisions):
            self._denials.remember(names, reply, changes)
        return decisions

    def over_slots(self, question: Question) -> Plan[list[Decision]]:
        """Decide a question whose charges are in several slots."""
        names, charges, commit, _, slots = question
        parts = [_Part(_those(slot, names), _those(slot, charges)) for slot in slots]
        answers = yield from _look(parts)
        if commit and all(passes(part.charges, answer) for part, answer in zip(parts, answers, strict=True)):
            yield from self._charge_in_turn(parts, answers)
        in_order: dict[int, Decision] = {}
        for slot, answer in zip(slots, answers, strict=True):
            in_order.update(zip(slot, answer, strict=True))
        return [in_order[place] for place in range(len(names))]

    def refund(self, charges: Sequence[Charge], at: int) -> Plan[None]:
        charges = tuple(charges)
        names = [self._names.name(charge.scope, charge.key) for charge in charges]
        if names:
            slots = _by_slot(names) if self._clustered else [list(range(len(names)))]
            with self._forgetting(names):
                yield [ask_refund(_those(slot, names), _those(slot, charges), at) for slot in slots]

    def rewind(self, scope: str, key: str | bytes, expected: int, tat: int) -> Plan[bool]:
        name = self._names.name(scope, key)
        if tat < 0 or expected < 0:
            return False
        with self._forgetting([name]):
            [reply] = yield [ask_rewind(name, expected, tat)]
        return reply.ticks != [0]

    def reset(self, scope: str, key: str | bytes) -> Plan[None]:
        name = self._names.name(scope, key)
        with self._forgetting([name]):
            yield [ask_reset(name)]

    def _charge_in_turn(self, parts: Sequence[_Part], answers: list[list[Decision]]) -> Plan[None]:
        """Charge one slot after the other, and put what became of each into `answers`. All are charged, or none."""
        charged = 0
        try:
            for place, part in enumerate(parts):
                [reply] = yield [ask_decide(*part, commit=True)]
                answers[place] = decisions_on(part.charges, reply.ticks, reply.now, commit=True)
                if not passes(part.charges, answers[place]):
                    break
                charged += 1
        except GeneratorExit:
            raise
        except BaseException:
            with suppress(Exception):  # the nodes before may still answer; it is the first error that counts
                yield from self._take_back(parts[:charged], answers)
            raise
        if 0 < charged < len(parts):
            yield from self._take_back(parts[:charged], answers)
            answers[:charged] = yield from _look(parts[:charged])

    def _take_back(self, parts: Sequence[_Part], answers: Sequence[Sequence[Decision]]) -> Plan[None]:
        """Undo charges that were made a moment ago, the last first. Others may have been refused for them meanwhile."""
        for part, answer in zip(parts, answers, strict=False):
            with self._forgetting(part.names):
                for name, charge, decision in reversed(list(zip(*part, answer, strict=True))):
                    if not decision.allowed or not charge.increment:
                        continue
                    new_tat = decision.at_ticks + decision.debt_ticks
                    [reply] = yield [ask_rewind(name, new_tat, new_tat - charge.increment)]
                    if reply.ticks == [0]:
                        yield [ask_refund([name], [charge], decision.at_ticks)]

    @contextmanager
    def _forgetting(self, names: Sequence[bytes]) -> Iterator[None]:
        """Forget denials of these buckets, whatever comes of what is asked: if the answer is lost, it may be done."""
        try:
            yield
        finally:
            if self._denials is not None:
                self._denials.forget(names)


def _look(parts: Sequence[_Part]) -> Plan[list[list[Decision]]]:
    replies = yield [ask_decide(*part, commit=False) for part in parts]
    both = zip(parts, replies, strict=True)
    return [decisions_on(part.charges, reply.ticks, reply.now, commit=False) for part, reply in both]


def _by_slot(names: Sequence[bytes]) -> list[list[int]]:
    """Return the places of names that are sure to be in one slot together."""
    slots: dict[bytes, list[int]] = {}
    for place, name in enumerate(names):
        slots.setdefault(tag_of(name), []).append(place)
    return list(slots.values())


def _those(places: Sequence[int], values: Sequence[V]) -> list[V]:
    return [values[place] for place in places]

"""The script's arguments and answers: charges in, decisions out. No I/O: who sends it and who awaits is not known here.

What crosses the wire is little: for each charge its bucket's name and two times in, and one time out: what the bucket
owed before the charge. All else follows from that by the rule (see `decisions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from hashlib import sha1
from importlib.resources import files
from itertools import count
from secrets import randbelow
from struct import Struct
from typing import Any, NamedTuple

from ratekeeper.decision import Charge
from ratekeeper.limits import TICKS_PER_SECOND

DECIDE, PEEK, REFUND, REWIND, RESET = range(5)  # as in the script

_time = Struct("<dd").pack
_request = Struct("<BH").pack
_header = lru_cache(maxsize=128)(_request)
_charge = Struct("<Bdddd").pack
_times = Struct("<dddd").pack

SERVER_TIME = _time(-1, 0)


class Script(NamedTuple):
    """The script and the name that servers know it by."""

    text: bytes
    sha: bytes


@cache
def load_script() -> Script:
    """Return the script. It is read from its file once."""
    text = files("ratekeeper.stores.redis").joinpath("gcra.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


_numbers = count(10**15 + randbelow(8 * 10**15))  # of one length, so that none is the beginning of another


NUMBER = 16  # digits


def own_answer(answer: Any, arguments: Sequence[bytes]) -> str | bytes | None:
    """Return what follows the number in the answer to a call with these arguments; None of the answer to another."""
    number = arguments[-1]
    if isinstance(answer, str):
        answer = answer.encode()
    return answer[NUMBER:] if isinstance(answer, bytes) and answer.startswith(number) else None


class Ask(NamedTuple):
    """One request to the script, all or nothing by itself; a script call carries many."""

    names: Sequence[bytes]
    packed: bytes
    answers: int  # times that come back


class Reply(NamedTuple):
    """What the script says to one request: the time, and for each charge how much its bucket owed before it."""

    now: int
    ticks: list[int]
    sent: int  # the local time just before


def ask_decide(names: Sequence[bytes], charges: Sequence[Charge], commit: bool) -> Ask:
    """Return the request to decide charges of the buckets `names`."""
    parts = [_header(DECIDE if commit else PEEK, len(charges))]
    for _, _, limit, cost, increment, burst, tolerance, shadow, _ in charges:
        if cost > limit.max_cost:  # may be too large for any number; a tolerance before now refuses it
            parts.append(_charge(shadow, 0, 0, -1, 0))
        else:
            parts.append(_packed(shadow, increment, burst, tolerance))
    return Ask(names, b"".join(parts), len(charges))


@lru_cache(maxsize=1024)  # most requests ask the same of different buckets
def _packed(shadow: bool, increment: int, burst: int, tolerance: int) -> bytes:
    waits = tolerance > burst  # then the script must know whether it leaves later, and so marks the bucket
    times = *divmod(increment, TICKS_PER_SECOND), *divmod(tolerance, TICKS_PER_SECOND)
    packed = _charge(shadow + 2 * waits, *times)
    return packed + _time(*divmod(burst, TICKS_PER_SECOND)) if waits else packed


def ask_refund(names: Sequence[bytes], charges: Sequence[Charge], at: int) -> Ask:
    """Return the request to give back charges that were made at `at`, as far as that is right."""
    parts = [_request(REFUND, len(charges)), _time(*divmod(at, TICKS_PER_SECOND))]
    for charge in charges:
        parts.append(_times(*divmod(charge.increment, TICKS_PER_SECOND), *divmod(charge.burst, TICKS_PER_SECOND)))
    return Ask(names, b"".join(parts), 0)


def ask_rewind(name: bytes, expected: int, tat: int) -> Ask:
    """Return the request to set a TAT back if it is `expected`; the answer is not 0 if it was."""
    times = _times(*divmod(expected, TICKS_PER_SECOND), *divmod(tat, TICKS_PER_SECOND))
    return Ask([name], _request(REWIND, 1) + times, 1)


def ask_reset(name: bytes) -> Ask:
    """Return the request to forget a bucket."""
    return Ask([name], _request(RESET, 1), 0)


def arguments(asks: Sequence[Ask], clock: bytes = SERVER_TIME) -> list[bytes]:
    """Return what follows the script's name in EVALSHA, for requests that travel together. The last is its number."""
    number = b"%d" % next(_numbers)
    if len(asks) == 1:
        names, packed, _ = asks[0]
        return [b"%d" % len(names), *names, clock + packed, number]
    all_names = [name for ask in asks for name in ask.names]
    return [b"%d" % len(all_names), *all_names, b"".join([clock, *(ask.packed for ask in asks)]), number]


def wire(command: Sequence[bytes]) -> bytes:
    """Return a command as it crosses the wire. `redis.asyncio` takes three times as long."""
    return b"*%d\r\n%b" % (len(command), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in command]))


def clock_at(ticks: int) -> bytes:
    """Return what tells the script the time, in place of the server's: for tests."""
    return _time(*divmod(ticks, TICKS_PER_SECOND))


def read_replies(text: str | bytes, asks: Sequence[Ask], sent: int) -> list[Reply]:
    """Return what the script says to each of these requests, which were sent at the local time `sent`."""
    numbers = map(int, text.split())
    now, *ticks = [whole * TICKS_PER_SECOND + part for whole, part in zip(numbers, numbers, strict=True)]
    if len(asks) == 1:
        return [Reply(now, ticks, sent)]
    replies, at = [], 0
    for ask in asks:
        replies.append(Reply(now, ticks[at : at + ask.answers], sent))
        at += ask.answers
    return replies

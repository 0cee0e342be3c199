"""The script's arguments: the names of buckets, and requests. Keys are secrets, so a name has only digests.

Little crosses the wire. For each charge, the bucket's name and two times go in, and one time comes out: the debt of the
bucket before the charge. All else follows from that by the rule (see `replies`).

No I/O. This file must not know servers, clients and replies.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from hashlib import blake2b, sha1
from importlib.resources import files
from itertools import count
from secrets import randbelow
from struct import Struct
from typing import NamedTuple

from ratekeeper.core.answers import possible_charge
from ratekeeper.decision import Charge, key_bytes
from ratekeeper.limits import TICKS_PER_SECOND

MAX_NAMES_KEPT = 4096
"""Names that are kept, of the buckets that are asked for most, so that they are not digested each time."""

MAX_KEY_KEPT = 256
"""Letters of a key whose name is kept: long keys must not fill the memory."""

DECIDE, PEEK, REFUND, REWIND, ADJUST, MARKS = range(6)  # as in the script
ANY_MARK = 2  # as in the script

_FIRST_PART = re.compile(rb"([0-9]{1,7}):")
_DIGEST_LETTERS = 22  # base64 letters of 16 bytes, without the padding

_time = Struct("<dd").pack
_header = Struct("<BH").pack
_size = lru_cache(maxsize=1024)(b"\r\n$%d\r\n".__mod__)  # most words are of a few sizes, and to format one is slow
_number = lru_cache(maxsize=1024)(b"%d".__mod__)
_kept_header = lru_cache(maxsize=128)(_header)
_charge = Struct("<Bdddd").pack
_times = Struct("<dddd").pack
_marks = Struct("<BB").pack

SERVER_TIME = _time(-1, 0)


class Script(NamedTuple):
    """The script, and the name that servers know it by."""

    text: bytes
    sha: bytes


@cache
def load_script() -> Script:
    """Return the script. It is read from its file once."""
    text = files("ratekeeper.stores.redis").joinpath("gcra.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


# ---- the names of buckets ----


def checked_prefix(prefix: str) -> str:
    """Return the beginning of buckets' names. Raise ValueError if it cannot be one."""
    if not isinstance(prefix, str) or "{" in prefix:
        raise ValueError(
            f"prefix must be a str without '{{', which would put all buckets into one slot, not {prefix!r}"
        )
    return prefix


def _digest_key(secret: str | bytes) -> bytes:
    """Return the key of the digests. An empty secret is an error: it may be a setting that was not set."""
    if not isinstance(secret, str | bytes):
        raise TypeError(f"secret must be str or bytes, not {type(secret).__name__}")
    if not secret:
        raise ValueError(
            "secret must not be empty, as names would be digests that anybody can try: for such names, leave it out"
        )
    return blake2b(key_bytes(secret), digest_size=32).digest()


class BucketNames:
    """Names buckets: prefix, {digest of the key}, digest of the scope. The braces are a cluster's hash tag.

    So all buckets of a scope can be told by their names (see `sweep`).

    So all limits of one key are in one slot, and no key can choose its slot by braces in it. A policy's key of
    several attributes (see `policy.model.Rule.bucket`) has its tag from the first of them: rules for ["tenant"] and for
    ["tenant", "user"] share a slot. The digest of the rest of such a key comes last.

    Digests are BLAKE2b of 16 bytes, in base64. With a `secret` they are keyed: a reader of the server's data cannot try
    out likely keys. All processes that share limits need the same prefix and secret.
    """

    def __init__(self, prefix: str = "ratekeeper:", secret: str | bytes | None = None) -> None:
        self._opening = checked_prefix(prefix).encode() + b"{"
        self._secret = b"" if secret is None else _digest_key(secret)
        self._scope = lru_cache(maxsize=1024)(self._scope_digest)
        self._kept = lru_cache(maxsize=MAX_NAMES_KEPT)(self._name)

    def name(self, scope: str, key: str | bytes) -> bytes:
        """Return the name of a bucket. Raises TypeError for a key that is neither str nor bytes."""
        return self._kept(scope, key) if type(key) is str and len(key) <= MAX_KEY_KEPT else self._name(scope, key)

    def _name(self, scope: str, key: str | bytes) -> bytes:
        first, rest = key_bytes(key), b""
        if first[:1].isdigit():
            first, rest = _split(first)
        name = self._opening + self._digest(first) + b"}" + self._scope(scope)
        return name + self._digest(rest) if rest else name

    def pattern(self, scope: str) -> bytes:
        """Return the pattern that the names of all buckets of a scope match, and no others."""
        return (
            re.sub(rb"([][*?\\])", rb"\\\1", self._opening) + b"?" * _DIGEST_LETTERS + b"}" + self._scope(scope) + b"*"
        )

    def _scope_digest(self, scope: str) -> bytes:
        return self._digest(b"scope:" + key_bytes(scope))

    def _digest(self, part: bytes) -> bytes:
        digest = blake2b(part, digest_size=16, key=self._secret).digest()
        return b2a_base64(digest, newline=False)[:_DIGEST_LETTERS]


def tag_of(name: bytes) -> bytes:
    """Return the part of a name that chooses its slot."""
    return name[: name.rindex(b"}")]  # the last, as a prefix may have one too


def _split(key: bytes) -> tuple[bytes, bytes]:
    """Return the first attribute of a policy's key, as it is written there, and the rest; of other keys, all."""
    part = _FIRST_PART.match(key)
    if part is None:
        return key, b""
    try:
        text = key.decode("utf-8", "surrogatepass")  # the lengths count letters
    except UnicodeDecodeError:
        return key, b""
    first = key_bytes(text[: part.end() + int(part[1])])
    return first, key[len(first) :]


# ---- requests ----


class Request(NamedTuple):
    """One request to the script, all or nothing by itself. A script call carries many."""

    names: Sequence[bytes]
    packed: bytes
    times: int  # that come back


_request: Callable[[tuple[Sequence[bytes], bytes, int]], Request] = partial(tuple.__new__, Request)  # half the price


def decide_request(names: Sequence[bytes], charges: Sequence[Charge], commit: bool) -> Request:
    """Return the request to decide charges of the buckets `names`."""
    parts = [_kept_header(DECIDE if commit else PEEK, len(charges))]
    for _, _, limit, cost, increment, burst, tolerance, shadow, _ in charges:
        if cost > limit.max_cost:  # may be too large for any number; a tolerance before now refuses it
            parts.append(_charge(shadow, 0, 0, -1, 0))
        else:
            parts.append(_packed(shadow, increment, burst, tolerance))
    return _request((names, b"".join(parts), len(charges)))


@lru_cache(maxsize=1024)  # most requests ask the same of different buckets
def _packed(shadow: bool, increment: int, burst: int, tolerance: int) -> bytes:
    waits = tolerance > burst  # then the script must know whether it leaves later, and so marks the bucket
    times = *divmod(increment, TICKS_PER_SECOND), *divmod(tolerance, TICKS_PER_SECOND)
    packed = _charge(shadow + 2 * waits, *times)
    return packed + _time(*divmod(burst, TICKS_PER_SECOND)) if waits else packed


def charge_request(names: Sequence[bytes], charges: Sequence[Charge]) -> Request:
    """Return the request to make charges that may have to be taken back. Which buckets were marked comes first."""
    made = decide_request(names, charges, commit=True)
    return Request([*names, *names], _header(MARKS, len(names)) + made.packed, len(names) + made.times)


def refund_request(names: Sequence[bytes], charges: Sequence[Charge], at_ticks: int) -> Request:
    """Return the request to give back charges that were made at `at_ticks`, as far as that is right."""
    parts = [_header(REFUND, len(charges)), _time(*divmod(at_ticks, TICKS_PER_SECOND))]
    for charge in charges:
        parts.append(
            _times(*divmod(possible_charge(charge), TICKS_PER_SECOND), *divmod(charge.burst, TICKS_PER_SECOND))
        )
    return Request(names, b"".join(parts), 0)


def rewind_request(
    name: bytes, expected: int, tat: int, expected_mark: int = ANY_MARK, mark: int = ANY_MARK
) -> Request:
    """Return the request to set a TAT back if it and the mark are as expected. The time is not 0 if they were.

    `mark` is what the bucket has afterwards: by default the mark that it has.
    """
    times = _times(*divmod(expected, TICKS_PER_SECOND), *divmod(tat, TICKS_PER_SECOND))
    return Request([name], _header(REWIND, 1) + times + _marks(expected_mark, mark), 1)


def adjust_request(name: bytes, back: int, block: int | None) -> Request:
    """Return the request to move a TAT back, and to block the bucket, or end its block; None leaves it."""
    block_times = (-1, 0) if block is None else divmod(block, TICKS_PER_SECOND)
    times = _times(*divmod(back, TICKS_PER_SECOND), *block_times)
    return Request([name], _header(ADJUST, 1) + times, 0)


# ---- what is sent ----

_numbers = count(10**15 + randbelow(8 * 10**15))  # of one length, so that none is the beginning of another


def arguments(requests: Sequence[Request], clock: bytes = SERVER_TIME) -> list[bytes]:
    """Return what follows the script's name in EVALSHA, for requests that travel together. The last is its number."""
    number = b"%d" % next(_numbers)
    if len(requests) == 1:
        names, packed, _ = requests[0]
        return [_number(len(names)), *names, clock + packed, number]
    all_names = [name for request in requests for name in request.names]
    packed = b"".join([clock, *(request.packed for request in requests)])
    return [b"%d" % len(all_names), *all_names, packed, number]


def wire(command: Sequence[bytes]) -> bytes:
    """Return a command as it crosses the wire. `redis.asyncio` takes three times as long."""
    parts = [b"*", _number(len(command))]
    for word in command:
        parts.append(_size(len(word)))
        parts.append(word)
    parts.append(b"\r\n")
    return b"".join(parts)


def clock_at(ticks: int) -> bytes:
    """Return the time for the script, in place of the server's time: for tests."""
    return _time(*divmod(ticks, TICKS_PER_SECOND))

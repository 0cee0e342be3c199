"""The key of a rule's bucket: the values of its attributes, in one string. Knows no rule and no request."""

from __future__ import annotations

from collections.abc import Iterable


def bucket_of(values: Iterable[str | None]) -> str:
    """Return a bucket's key: for each value its length and itself, or "-" for a missing one.

    The lengths make it one-to-one: nobody can make up a value with another value's key, or a missing one's.

    >>> bucket_of(["alice", None])
    '5:alice-'
    """
    return "".join(["-" if value is None else f"{len(value)}:{value}" for value in values])


def values_of(bucket: str) -> tuple[str | None, ...]:
    """Return the values whose key this is: the inverse of `bucket_of`.

    >>> values_of("5:alice-")
    ('alice', None)
    """
    values: list[str | None] = []
    place = 0
    while place < len(bucket):
        if bucket[place] == "-":
            values.append(None)
            place += 1
            continue
        begin = bucket.index(":", place) + 1
        end = begin + int(bucket[place : begin - 1])
        values.append(bucket[begin:end])
        place = end
    return tuple(values)

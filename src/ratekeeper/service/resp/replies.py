"""Answers as the bytes of RESP2 or RESP3. Pure functions; they know no command."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

_LONGEST_ERROR = 500
_unprintable = partial(re.compile(r"[^ -~]+").sub, "?")


def simple(text: str) -> bytes:
    """Return a simple string, of ASCII in one line."""
    return b"+%b\r\n" % text.encode("ascii")


def error(text: str, kind: str = "ERR") -> bytes:
    """Return an error. Clients tell errors apart by the first word, `kind`. The text becomes one line of ASCII."""
    return b"-%b %b\r\n" % (kind.encode("ascii"), _unprintable(text)[:_LONGEST_ERROR].encode("ascii"))


def bulk(value: bytes) -> bytes:
    """Return a string of any bytes."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def encode(value: Any, resp3: bool) -> bytes:
    """Return any answer. RESP2 has no maps, floats or booleans: it gets a flat array, strings, and 1 or 0.

    >>> encode({"allowed": True, "delay": 1.5, "rule": None}, resp3=True)
    b'%3\\r\\n$7\\r\\nallowed\\r\\n#t\\r\\n$5\\r\\ndelay\\r\\n,1.5\\r\\n$4\\r\\nrule\\r\\n_\\r\\n'
    >>> encode({"allowed": True, "delay": 1.5}, resp3=False)
    b'*4\\r\\n$7\\r\\nallowed\\r\\n:1\\r\\n$5\\r\\ndelay\\r\\n$3\\r\\n1.5\\r\\n'
    """
    encoder = _SCALARS.get(type(value))
    if encoder is not None:
        return encoder(value, resp3)
    if isinstance(value, Mapping):
        head = b"%%%d\r\n" % len(value) if resp3 else b"*%d\r\n" % (2 * len(value))
        return head + b"".join([_name(name) + encode(part, resp3) for name, part in value.items()])
    return b"*%d\r\n" % len(value) + b"".join([encode(part, resp3) for part in value])


@lru_cache(maxsize=256)
def _name(name: str) -> bytes:
    """Return a name in a map: there are few."""
    return _text(name, False)


def _text(value: str, _resp3: bool) -> bytes:
    return bulk(value.encode("utf-8", "surrogatepass"))


def real(value: float, resp3: bool) -> bytes:
    """Return a float, by the shortest digits that tell it apart."""
    text = b"%a" % value
    return b",%b\r\n" % text if resp3 else b"$%d\r\n%b\r\n" % (len(text), text)


_SCALARS: dict[type, Callable[[Any, bool], bytes]] = {
    str: _text,
    bytes: lambda value, _: bulk(value),
    bool: lambda value, resp3: (b"#t\r\n" if value else b"#f\r\n") if resp3 else b":%d\r\n" % value,
    int: lambda value, _: b":%d\r\n" % value,
    float: real,
    type(None): lambda _, resp3: b"_\r\n" if resp3 else b"$-1\r\n",
}

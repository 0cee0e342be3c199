"""What buckets are called on the server. Keys are secrets, so a name has only digests. Knows no server and no limit."""

from __future__ import annotations

import re
from binascii import b2a_base64
from functools import lru_cache
from hashlib import blake2b

from ratekeeper.decision import key_bytes

MOST_KEPT = 4096
"""Names that are kept, of the buckets that are asked for most, so that they are not digested each time."""

LONGEST_KEPT = 256
"""Letters of a key whose name is kept: who sends long keys does not fill the memory."""

_FIRST_PART = re.compile(rb"([0-9]{1,7}):")
_CUT = 22  # base64 letters of 16 bytes, without the padding


class BucketNames:
    """Names buckets: prefix, {digest of the key}, digest of the scope. The braces are a cluster's hash tag.

    So all limits of one key are in one slot, and no key can choose its slot by braces of its own. A policy's key of
    several attributes (see `policy.model.Rule.bucket`) has its tag from the first of them: rules for ["tenant"] and for
    ["tenant", "user"] share a slot. The rest of such a key goes into the second digest.

    Digests are BLAKE2b of 16 bytes, in base64. With a `secret` they are keyed: nobody who can read the server can try
    out likely keys. All processes that share limits need the same prefix and secret.
    """

    def __init__(self, prefix: str = "ratekeeper:", secret: str | bytes | None = None) -> None:
        if not isinstance(prefix, str) or "{" in prefix:
            raise ValueError(f"prefix must be a str without '{{', which would choose the slot of all, not {prefix!r}")
        self._opening = prefix.encode() + b"{"
        given = b"" if secret is None else key_bytes(secret)
        self._secret = blake2b(given, digest_size=32).digest() if given else b""
        self._second = lru_cache(maxsize=1024)(self._second_digest)  # of few scopes, as most keys are of one part
        self._kept = lru_cache(maxsize=MOST_KEPT)(self._name)

    def name(self, scope: str, key: str | bytes) -> bytes:
        """Return the name of a bucket. Raises TypeError for a key that is neither str nor bytes."""
        return self._kept(scope, key) if type(key) is str and len(key) <= LONGEST_KEPT else self._name(scope, key)

    def _name(self, scope: str, key: str | bytes) -> bytes:
        first, rest = key_bytes(key), b""
        if first[:1].isdigit():
            first, rest = _split(first)
        digest = blake2b(first, digest_size=16, key=self._secret).digest()
        second = self._second(scope, rest)
        return self._opening + b2a_base64(digest, newline=False)[:_CUT] + b"}" + second

    def _second_digest(self, scope: str, rest: bytes) -> bytes:
        scope_bytes = key_bytes(scope)
        whole = b"%d:%b%b" % (len(scope_bytes), scope_bytes, rest)  # the length makes it one-to-one
        return b2a_base64(blake2b(whole, digest_size=16, key=self._secret).digest(), newline=False)[:_CUT]


def tag_of(name: bytes) -> bytes:
    """Return the part of a name that chooses its slot."""
    return name[: name.index(b"}")]


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

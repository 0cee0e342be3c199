"""Hashes in place of secrets: a policy in version control may list "sha256:..." where it would list an API key.

A request's value is hashed in its one spelling, and looked up by the digest. So a client that sends the hash itself has
another digest, and to compare takes as long for all values. Pure functions.
"""

from __future__ import annotations

from hashlib import sha256

from ratekeeper.policy.sources import Readings

PREFIX = "sha256:"
"""The beginning of a hash, and of the name of the attribute that is the digest of another."""

_DIGITS = 64
_EMPTY = sha256().hexdigest()
_HOW = "make one with: printf %s KEY | sha256sum, or: printf %s KEY | ratekeeper hash"


def is_hash(pattern: str) -> bool:
    """Return whether a string in a policy is meant as a hash, right or wrong."""
    return pattern[: len(PREFIX)].lower() == PREFIX


def digest_in(pattern: str) -> str | None:
    """Return the digest of a hash, in lower case; None for a string that is not a hash, or a wrong one.

    >>> digest_in("SHA256:" + "AB" * 32) == "ab" * 32, digest_in("k-alice")
    (True, None)
    """
    digest = pattern[len(PREFIX) :].lower()
    return digest if is_hash(pattern) and len(digest) == _DIGITS and set(digest) <= set("0123456789abcdef") else None


def digest_of(value: str) -> str:
    """Return the digest of a request's value; of a value with several readings, each one's."""
    if isinstance(value, Readings):
        return Readings.of(map(digest_of, value.all))
    return sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def why_no_hash(pattern: str) -> str | None:
    """Return why a string that is meant as a hash is wrong, and what to write. Do not show it: it may be a key."""
    digest = digest_in(pattern)
    if digest is None:
        return f"a hash is {PREFIX!r} and {_DIGITS} hexadecimal digits, without wildcards: {_HOW}"
    if digest == _EMPTY:
        return f"it is the hash of an empty string, and an empty value counts as missing: {_HOW}"
    return None


def digest_name(name: str) -> str:
    """Return the name of the attribute that is the digest of another."""
    return PREFIX + name

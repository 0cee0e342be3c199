"""SipHash-1-3 in Python: the hash of a recording, keyed by the service's secret. The C core has its own (siphash.h)."""

from __future__ import annotations

from functools import lru_cache

_MASK = 2**64 - 1


_SHORT = 256
"""The characters of a value that is worth a place in a cache."""


def hash_of(secret: bytes, value: str) -> int:
    """Return a value's hash, which is not 0: the same in all processes that share the secret, and in both cores.

    >>> hash_of(bytes(range(16)), "k-alice") == hash_of(bytes(range(16)), "k-bob")
    False
    """
    return _hash_of(secret, value) if len(value) <= _SHORT else _hash_of.__wrapped__(secret, value)


@lru_cache(maxsize=16_384)
def _hash_of(secret: bytes, value: str) -> int:
    data = value.encode("utf-8", "surrogatepass")
    found = _siphash(int.from_bytes(secret[:8], "little"), int.from_bytes(secret[8:16], "little"), data) or 1
    return found - 2**64 if found >= 2**63 else found


def _siphash(k0: int, k1: int, data: bytes) -> int:
    state = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for offset in range(0, len(padded), 8):
        word = int.from_bytes(padded[offset : offset + 8], "little")
        v0, v1, v2, v3 = _round(state[0], state[1], state[2], state[3] ^ word)
        state = v0 ^ word, v1, v2, v3
    state = state[0], state[1], state[2] ^ 0xFF, state[3]
    for _ in range(3):
        state = _round(*state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = _rotated(v1, 13) ^ v0
    v0 = _rotated(v0, 32)
    v2 = (v2 + v3) & _MASK
    v3 = _rotated(v3, 16) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = _rotated(v3, 21) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = _rotated(v1, 17) ^ v2
    return v0, v1, _rotated(v2, 32), v3


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK

"""Addresses and networks: which client an address stands for, and which network a pattern is. Pure functions.

They know no request and no rule.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network

IPV4_PREFIX = 32
IPV6_PREFIX = 64
"""The bits that tell clients apart, unless a policy says otherwise: an IPv6 customer gets a whole /64."""

_MAPPED = 96
"""The bits that all IPv6 addresses have in common that stand for an IPv4 address: ::ffff:0:0/96."""

UNKNOWN_CLIENT = "unknown"
"""The client of every request without a readable address: one value, so that nonsense buys no fresh bucket."""

LONGEST_ADDRESS = 100
"""The characters of an address, with brackets, zone and port. A longer one is not worth a place in the cache."""


def client_of(entry: str, ipv4_prefix: int = IPV4_PREFIX, ipv6_prefix: int = IPV6_PREFIX) -> str:
    """Return the client that an address belongs to: the address in its one spelling, or its network if it has a prefix.

    `entry` may have brackets, a port or a zone, as `X-Forwarded-For` and sockets have them. If it is not an address,
    return `UNKNOWN_CLIENT`.

    >>> client_of("[2001:DB8:0:7::1]:443"), client_of("192.0.2.7"), client_of("192.0.2.7", ipv4_prefix=24)
    ('2001:db8:0:7::/64', '192.0.2.7', '192.0.2.0/24')
    """
    return known_client(entry, ipv4_prefix, ipv6_prefix) if len(entry) <= LONGEST_ADDRESS else UNKNOWN_CLIENT


@lru_cache(maxsize=8192)  # parsing is slow
def known_client(entry: str, ipv4_prefix: int, ipv6_prefix: int) -> str:
    """Return the client of an address that is not too long. See `client_of`."""
    if entry.startswith("[") and "]" in entry:
        entry = entry[1 : entry.index("]")]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    try:
        address = ip_address(entry.partition("%")[0])  # a zone is not part of the number
    except ValueError:
        return UNKNOWN_CLIENT
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    prefix = ipv4_prefix if isinstance(address, IPv4Address) else ipv6_prefix
    if prefix == address.max_prefixlen:
        return str(address)
    return str(ip_network((int(address) if address.version == 6 else str(address), prefix), strict=False))


class Bits(NamedTuple):
    """An address, or a client's network, as numbers. `prefix` is the number of bits that are known."""

    version: int
    number: int
    prefix: int

    def key(self) -> bytes:
        """Return the version and the number as bytes, in the order of the numbers."""
        return bytes((self.version,)) + self.number.to_bytes(16, "big")

    def after(self) -> bytes | None:
        """Return the key of the first address behind the network; None behind the last address."""
        number = self.number + (1 << ((32 if self.version == 4 else 128) - self.prefix))
        return self._replace(number=number).key() if number < 1 << 128 else None

    def holds(self, other: Bits) -> bool:
        """Return whether another network is in this one."""
        unknown = (32 if self.version == 4 else 128) - self.prefix
        same = self.version == other.version and self.number >> unknown == other.number >> unknown
        return same and self.prefix <= other.prefix


def key_and_prefix(value: str) -> tuple[bytes, int] | None:
    """Return the key and the prefix of an address, or of a client's network; None for another value."""
    bits = bits_of(value)
    return None if bits is None else (bits.key(), bits.prefix)


def bits_of(value: str) -> Bits | None:
    """Return the address, or the network, that an attribute's value is; None if it is neither."""
    return _bits_of(value) if len(value) <= LONGEST_ADDRESS else None


@lru_cache(maxsize=8192)  # parsing is slow
def _bits_of(value: str) -> Bits | None:
    start, slash, prefix = value.partition("/")
    try:
        address = ip_address(start)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None and not slash:
        address = address.ipv4_mapped
    known = _prefix_of(prefix, address.max_prefixlen) if slash else address.max_prefixlen
    return None if known is None else Bits(address.version, int(address), known)


def _prefix_of(text: str, most: int) -> int | None:
    """Return the prefix in a string, if it is a number up to `most`."""
    right = text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most
    return int(text) if right else None


@lru_cache(maxsize=16_384)  # the policies of an application's endpoints have the same patterns
def network_of(pattern: str) -> Network | None:
    """Return the network of a pattern in CIDR notation; None for another pattern."""
    start, prefix = _parts(pattern)
    if start is None or _prefix_of(prefix, start.max_prefixlen) is None:
        return None
    network = ip_network(pattern, strict=False)
    return network if network.network_address == start else None


def why_no_network(pattern: str, ipv4_prefix: int = 32, ipv6_prefix: int = 128) -> str | None:
    """Return the mistake in a pattern that is meant to be a network, and its correction; None if there is none.

    Clients are told apart by the given prefixes, so a network with a longer one is wrong: it would match nobody.
    """
    start, prefix = _parts(pattern)
    if start is None:
        return None
    if _prefix_of(prefix, start.max_prefixlen) is None:
        return f"{pattern!r} is not a network: the prefix must be a number from 0 to {start.max_prefixlen}"
    network = network_of(pattern) or ip_network(pattern, strict=False)
    if (mapped := _mapped(network)) is not None:
        return f"{pattern!r} is a network of IPv4 addresses: write {str(mapped)!r}"
    longest = ipv4_prefix if network.version == 4 else ipv6_prefix
    if network.prefixlen > longest:
        return told_apart(pattern, network, longest)
    if network.network_address != start:
        alone = f", or {str(start)!r} for this address alone" if longest == network.max_prefixlen else ""
        return f"{pattern!r} is not a network: the address has bits set after the prefix: write {str(network)!r}{alone}"
    return None


def _mapped(network: Network) -> IPv4Network | None:
    """Return the IPv4 network that an IPv6 network stands for: an address in it is read as the IPv4 address."""
    start = network.network_address
    if isinstance(start, IPv4Address) or start.ipv4_mapped is None or network.prefixlen < _MAPPED:
        return None
    return IPv4Network((int(start.ipv4_mapped), network.prefixlen - _MAPPED))


def _parts(pattern: str) -> tuple[IPv4Address | IPv6Address | None, str]:
    """Return the address before a pattern's slash, or None, and the string after the slash."""
    start, slash, prefix = pattern.partition("/")
    if not slash or "*" in prefix or "?" in prefix or len(pattern) > LONGEST_ADDRESS or "%" in start:
        return None, prefix
    try:
        return ip_address(start), prefix
    except ValueError:
        return None, prefix


def told_apart(pattern: str, network: Network, prefix: int) -> str:
    """Return the error that a pattern is narrower than a client, and the network to write."""
    whole = network.supernet(new_prefix=prefix)
    return f"{pattern!r}: IPv{network.version} clients are told apart by their /{prefix}: write {str(whole)!r}"

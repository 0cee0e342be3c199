"""Addresses: how many clients one of them stands for, and their one spelling. Pure functions; they know no request."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

IPV4_PREFIX = 32
IPV6_PREFIX = 64
"""The bits that tell clients apart, unless a policy says otherwise: an IPv6 customer gets a whole /64."""

UNKNOWN_CLIENT = "unknown"
"""The client of every request whose address cannot be told: one value, so that nonsense buys no fresh bucket."""

_LONGEST = 100  # characters, with brackets, zone and port; anything longer is not worth a place in the cache


def client_of(entry: str, ipv4_prefix: int = IPV4_PREFIX, ipv6_prefix: int = IPV6_PREFIX) -> str:
    """Return the client that an address belongs to: the address in its one spelling, or its network if it has a prefix.

    `entry` may have brackets, a port or a zone, as `X-Forwarded-For` and sockets have them. What is not an address is
    `UNKNOWN_CLIENT`.

    >>> client_of("[2001:DB8:0:7::1]:443"), client_of("192.0.2.7"), client_of("192.0.2.7", ipv4_prefix=24)
    ('2001:db8:0:7::/64', '192.0.2.7', '192.0.2.0/24')
    """
    return _client_of(entry, ipv4_prefix, ipv6_prefix) if len(entry) <= _LONGEST else UNKNOWN_CLIENT


@lru_cache(maxsize=8192)  # parsing is slow
def _client_of(entry: str, ipv4_prefix: int, ipv6_prefix: int) -> str:
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

"""Patterns, and the attributes that match them: globs, and networks for clients' addresses.

Values: checked once, then trusted. Knows no rule and no limit. Most attributes are secrets (an API key): only those in
`PUBLIC` are ever put into a text for people.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, Protocol, TypeAlias

from ratekeeper.errors import PolicyError

Globs: TypeAlias = Mapping[str, tuple[str, ...]]
"""For each attribute the patterns of which one must match: `*` any run of characters, `/` too, `?` any one; or a
network, such as 10.0.0.0/8, which matches the addresses in it."""

PUBLIC = frozenset({"tier", "path", "method", "route", "endpoint"})
"""The attributes whose values may be shown."""

_SHOWN = 80
_LONGEST_ADDRESS = 100  # with a zone; anything longer is not worth a place in the cache
_CLIENT_BITS = 64
"""IPv6 clients are told apart by this many bits of their address."""

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network


class _Pattern(Protocol):
    """What a value is matched by: a `re.Pattern`, or one with networks."""

    def match(self, value: str, /) -> object | None: ...


class Test(NamedTuple):
    """One attribute and the pattern that its value must match."""

    attribute: str
    globs: tuple[str, ...]
    pattern: _Pattern

    @classmethod
    def of(cls, attribute: str, globs: tuple[str, ...]) -> Test:
        """Build it. Raises `PolicyError` for patterns that cannot be."""
        if isinstance(globs, str) or not globs or not all(isinstance(glob, str) for glob in globs):
            # A bare str would match letter by letter, so never: the rule would silently limit nothing.
            raise PolicyError(f"match on {attribute!r}: the patterns must be a tuple of texts, at least one")
        flags = re.IGNORECASE | re.ASCII if attribute == "method" else re.NOFLAG
        # `translate` would take [...] for a set of characters; here brackets are literal. What it makes does not
        # backtrack into a `*` once passed, so no request can be made slow to match.
        expressions = [fnmatch.translate(glob.replace("[", "[[]")) for glob in globs]
        pattern = re.compile("|".join(expressions), flags)
        networks = tuple(network for network in map(network_of, globs) if network is not None)
        return cls(attribute, globs, _GlobsAndNetworks(pattern, networks) if networks else pattern)

    def refusal(self, value: str) -> str:
        """Say why the value does not match, without the value if it is a secret."""
        if self.attribute not in PUBLIC:
            return f"{self.attribute} does not match"
        return f"{self.attribute} is {clipped(value, _SHOWN)}, not {' or '.join(map(repr, self.globs))}"


@dataclass(frozen=True, slots=True)
class _GlobsAndNetworks:
    """A pattern for addresses: those in a network, besides what globs match."""

    globs: re.Pattern[str]
    networks: tuple[_Network, ...]

    def match(self, value: str, /) -> object | None:
        address = _address_of(value) if len(value) <= _LONGEST_ADDRESS else None
        if address is not None and any(address in network for network in self.networks):
            return address
        return self.globs.match(value)


def network_of(glob: str) -> _Network | None:
    """Return the network that a pattern is, in CIDR notation; None if it is a glob.

    Raises `PolicyError` for an address with a prefix that is no network: as a glob it would match nobody.
    """
    start, slash, prefix = glob.partition("/")
    address = _address_of(start) if slash and "*" not in prefix and "?" not in prefix else None
    if address is None:
        return None
    if not (prefix.isascii() and prefix.isdigit() and len(prefix) <= 3 and int(prefix) <= address.max_prefixlen):
        raise PolicyError(f"{glob!r} is no network: the prefix must be a number from 0 to {address.max_prefixlen}")
    network = ip_network(glob, strict=False)
    if isinstance(network, IPv6Network) and network.prefixlen > _CLIENT_BITS:
        whole = network.supernet(new_prefix=_CLIENT_BITS)
        raise PolicyError(f"{glob!r}: IPv6 clients are told apart by their /{_CLIENT_BITS}: write '{whole}'")
    if network.network_address != address:
        raise PolicyError(
            f"{glob!r} is no network: the address has bits set after the prefix: write '{network}', or '{start}' for "
            "this address alone"
        )
    return network


def why_no_address(glob: str) -> str | None:
    """Say why a pattern for clients' addresses, which is no network, can match none; None if it can."""
    if "*" in glob or "?" in glob:
        return None
    if "/" in glob:
        return f"{clipped(glob, _SHOWN)} is no network: write, say, '10.0.0.0/8' or '2001:db8::/32'"
    if isinstance(_address_of(glob), IPv6Address):
        client = ip_network(f"{glob}/{_CLIENT_BITS}", strict=False)
        return f"{glob!r}: IPv6 clients are told apart by their /{_CLIENT_BITS}: write '{client}'"
    return None


@lru_cache(maxsize=8192)
def _address_of(value: str) -> _Address | None:
    """Return the address that a value is; of an IPv6 client, which is written as its /64, the first. None for others.

    Cached, as a request's client is looked at anew for each network pattern, and parsing is slow.
    """
    try:
        return ip_address(value.removesuffix(f"/{_CLIENT_BITS}") if ":" in value else value)
    except ValueError:
        return None


def tests_of(match: Globs) -> tuple[Test, ...]:
    """Build a test for each attribute. Raises `PolicyError`."""
    return tuple(Test.of(attribute, globs) for attribute, globs in match.items())


def all_accept(tests: tuple[Test, ...], attributes: Mapping[str, str]) -> bool:
    """Say whether every test accepts what a request has; a missing attribute matches nothing."""
    for attribute, _, pattern in tests:
        value = attributes.get(attribute)
        if value is None or pattern.match(value) is None:
            return False
    return True


def clipped(text: str, most: int) -> str:
    """Quote a text, cut short if it is longer than `most`."""
    return repr(text if len(text) <= most else text[:most] + "...")

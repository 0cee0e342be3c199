"""Finds patterns that no request can match, and exemptions that every request matches. Each error says the mend.

A rule that never matches limits nothing, and says nothing. Only what cannot be right is an error: an attribute that the
application or a header gives may have any value. Knows no file. Secrets are not shown: a header's pattern may be a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Any

from ratekeeper.policy.addresses import UNKNOWN_CLIENT, bits_of, network_of, told_apart, why_no_network
from ratekeeper.policy.file.check_paths import why_no_path
from ratekeeper.policy.hashes import is_hash, why_no_hash
from ratekeeper.policy.lookups.lookup import MOST_LIMITS
from ratekeeper.policy.patterns import PUBLIC, Globs, accepts, clipped
from ratekeeper.policy.sources import (
    METHODS,
    OTHER,
    AppSource,
    BearerSource,
    ClientIP,
    CookieSource,
    HeaderSource,
    PathSource,
    Readings,
    Source,
)
from ratekeeper.policy.spelling import has_wildcard, is_method, source_of

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # a tab may be in a header's value
_HAS_CONTROL = "a pattern cannot have control characters: take them out"
_GLOB_OF_ADDRESS = re.compile(r"[0-9a-fA-F.:*?/]+")
_SEPARATOR = re.compile(r"[,;|\s]+")
_AN_ADDRESS = "write an address, a network such as '10.0.0.0/8', or a glob such as '198.51.100.*'"

Sources = Mapping[str, Source]


def why_never(name: str, pattern: str, sources: Sources) -> str | None:
    """Return why a pattern can match no value of an attribute, and what to write; None if it can."""
    source = source_of(name, sources)
    if is_hash(pattern):
        return _why_no_hash(name, pattern, source)
    by_name = {"method": _why_no_method, "route": _why_no_route, "endpoint": _why_no_endpoint}
    check: Callable[[str], str | None] | None = by_name.get(name) if source is None else None
    if isinstance(source, PathSource):
        check = why_no_path
    elif isinstance(source, ClientIP):
        check = partial(_why_no_client, source=source)
    elif isinstance(source, HeaderSource | BearerSource | CookieSource):
        return _why_no_credential(pattern, source) or why_no_network(pattern)
    if check is None:
        return why_no_network(pattern)
    return _HAS_CONTROL if _CONTROL.search(pattern) else check(pattern)


def why_no_exemption(match: Globs, sources: Sources, tiers: Collection[str]) -> str | None:
    """Return why an entry of `exempt` would exempt everything, or nothing; None if it is right.

    `tiers` are all tiers there are; empty if the policy has none.
    """
    if all(_is_everything(name, globs, sources, tiers) for name, globs in match.items()):
        return "every request would match it, so nothing would be limited: name those that are meant"
    for name, globs in match.items():
        if isinstance(source_of(name, sources), PathSource):
            accept = accepts(globs)
            for glob in globs:
                if glob.endswith("/") and glob != "/" and not accept(glob[:-1]):
                    return (
                        f"{name!r}: an exemption must match a path with its last slash and without: "
                        f"write {name} = [{clipped(glob[:-1])}, {clipped(glob)}]"
                    )
    return None


def exempts_all_together(exempt: Iterable[Globs], sources: Sources, tiers: Collection[str]) -> str | None:
    """Return the attribute by which the entries together exempt every request; None if they do not."""
    together: dict[str, tuple[str, ...]] = {}
    for match in exempt:
        if len(match) == 1:
            ((name, globs),) = match.items()
            together[name] = together.get(name, ()) + globs
    return next((name for name, globs in together.items() if _is_everything(name, globs, sources, tiers)), None)


def why_no_label(names: Iterable[str], looked_up: Iterable[str]) -> str | None:
    """Return why a rule is named as a further limit of another rule, whose limit is looked up; None if none is."""
    labels = {f"{name}/{place}": name for name in looked_up for place in range(1, MOST_LIMITS)}
    for name in names:
        if name in labels:
            return (
                f"a rule is named {name!r}, as is the second or a further limit that a look-up returns for rule "
                f"{labels[name]!r}: give one of the two rules another name"
            )
    return None


def why_no_tier_value(by: str, value: str, sources: Sources) -> str | None:
    """Return why no request has a value that [tiers] lists, and what to write; None if one may."""
    if is_hash(value):
        why = why_never(by, value, sources)
        return f"can match nothing: {why}" if why else None
    if has_wildcard(value):
        return "has a wildcard, but a tier lists exact values: match the pattern in a rule or an override"
    source = source_of(by, sources)
    if isinstance(source, AppSource):
        return None
    if network_of(value) is not None and not (isinstance(source, ClientIP) and _is_client(value, source)):
        return "is a network, but a tier lists exact values: match the network in a rule or an override"
    why = why_never(by, value, sources) or _why_no_first_reading(value, source)
    return f"can match nothing: {why}" if why else None


def _why_no_first_reading(value: str, source: Source | None) -> str | None:
    """Return why a value is not the first of its readings: a tier goes by that one, or a client could choose a tier."""
    if isinstance(source, PathSource) and value.endswith("/") and value != "/":
        return f"a tier goes by the path without its last slash: write {clipped(value[:-1])}"
    if isinstance(source, HeaderSource) and source.is_host and isinstance(source.spelled(value), Readings):
        return "a tier goes by the host without its port: leave the port out"
    return None


def _is_client(network: str, source: ClientIP) -> bool:
    """Return whether a network is one client, and not several."""
    bits = bits_of(network)
    return bits is not None and bits.prefix >= (source.ipv4_prefix if bits.version == 4 else source.ipv6_prefix)


def check_parts(
    exempt: tuple[Globs, ...], rules: Iterable[tuple[str, Globs]], sources: Sources, tiers: Collection[str]
) -> Iterator[str]:
    """Return what is wrong with a policy's patterns, in words. `rules` are titles, each with a match."""
    titled = [*((f"exempt {place}", match) for place, match in enumerate(exempt, 1)), *rules]
    for title, match in titled:
        for name, globs in match.items():
            for glob in globs:
                if why := why_never(name, glob, sources):
                    yield f"{title}: {name!r}: {why}"
    for place, match in enumerate(exempt, 1):
        if why := why_no_exemption(match, sources, tiers):
            yield f"exempt {place}: {why}"
    if together := exempts_all_together(exempt, sources, tiers):
        yield f"exempt: its entries for {together!r} match every request between them, so nothing would be limited"


def _is_everything(name: str, globs: tuple[str, ...], sources: Sources, tiers: Collection[str]) -> bool:
    """Return whether every request has the attribute, and every value of it matches."""
    source = source_of(name, sources)
    if name == "tier" and tiers:
        return all(map(accepts(globs), tiers))
    if isinstance(source, PathSource):
        return _all_paths(globs)
    if is_method(name, sources):
        return all(map(accepts(glob.upper() for glob in globs), (*METHODS, OTHER)))
    return isinstance(source, ClientIP) and _all_addresses(globs)


def _all_paths(globs: tuple[str, ...]) -> bool:
    """Return whether every path matches: the long ones by a star, and all that are shorter by some glob."""
    accept = accepts(globs)
    wild = [glob for glob in globs if "*" in glob and set(glob) <= {"*", "?", "/"}]
    long = [len(glob) for glob in wild if accepts([glob])(_path(len(glob)))]
    return bool(long) and all(accept(_path(length)) for length in range(min(long)))


def _path(length: int) -> str:
    """Return a path that only wildcards match."""
    return "/" + "\0" * length


def _all_addresses(globs: tuple[str, ...]) -> bool:
    """Return whether every client matches, by a glob or by networks that hold all addresses, of both versions."""
    if any(set(glob.replace("?", "", 1)) == {"*"} for glob in globs):  # no value is empty
        return True
    networks = [network for glob in globs if (network := network_of(glob)) is not None]
    of_4 = [network for network in networks if isinstance(network, IPv4Network)]
    of_6 = [network for network in networks if isinstance(network, IPv6Network)]
    return _holds_all(of_4, 32) and _holds_all(of_6, 128)


def _holds_all(networks: list[Any], bits: int) -> bool:
    if sum(network.num_addresses for network in networks) < 2**bits:
        return False  # usually, and to collapse thousands takes time
    return bool(next(iter(collapse_addresses(networks))).prefixlen == 0)


def _why_no_client(pattern: str, source: ClientIP) -> str | None:
    if why := why_no_network(pattern, source.ipv4_prefix, source.ipv6_prefix):
        return why
    if pattern == UNKNOWN_CLIENT or network_of(pattern) is not None:
        return None
    if has_wildcard(pattern):
        return None if _GLOB_OF_ADDRESS.fullmatch(pattern) else f"it is not a glob of addresses: {_AN_ADDRESS}"
    try:
        network = ip_network(ip_address(pattern))
    except ValueError:
        if "/" in pattern and _GLOB_OF_ADDRESS.fullmatch(pattern):
            return f"{clipped(pattern)} is not a network: write, say, '10.0.0.0/8' or '2001:db8::/32'"
        return f"it is not an address: {_AN_ADDRESS}"
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None:
        return f"{pattern!r} is an IPv4 address: write {str(mapped)!r}"
    prefix = source.ipv4_prefix if network.version == 4 else source.ipv6_prefix
    return told_apart(pattern, network, prefix) if prefix < network.prefixlen else None


def _why_no_method(pattern: str) -> str | None:
    method = pattern.upper()
    if method == OTHER or method in METHODS:
        return None
    several = [word for word in _SEPARATOR.split(method) if word]
    if len(several) != 1 or several[0] != method:
        return f"{clipped(pattern)} is not one method: write {several}"
    if accepts([method])(OTHER) or any(map(accepts([method]), METHODS)):
        return None
    if accepts([method])("HEAD"):
        return f"HEAD counts as GET, so {clipped(pattern)} matches nothing: write 'GET'"
    near = get_close_matches(method, sorted(METHODS), n=1)
    hint = f": did you mean '{near[0]}'?" if near else f": write '{OTHER}' for all that are not registered"
    return f"{clipped(pattern)} is not a method{hint}"


def _why_no_route(pattern: str) -> str | None:
    if pattern[0] in "/*?":
        return None
    return f"a route begins with a slash: write {clipped('/' + pattern.strip())}"


def _why_no_endpoint(pattern: str) -> str | None:
    method, space, route = pattern.partition(" ")
    if not space:
        if "*" in pattern:
            return None
        return f"an endpoint is a method and a route: write, say, {clipped('GET /' + pattern.lstrip('/'))}"
    right = "GET" if method.upper() == "HEAD" else method.upper()
    if not has_wildcard(method) and (why := _why_no_method(right)):
        return why
    slash = "" if route.lstrip()[:1] in ("/", "*", "?") else "/"
    if method != right or slash or route != route.strip():
        return f"{clipped(pattern)} is not an endpoint: write {clipped(f'{right} {slash}{route.strip()}')}"
    return None


def _why_no_hash(name: str, pattern: str, source: Source | None) -> str | None:
    if isinstance(source, ClientIP | PathSource) or (source is None and name in PUBLIC):
        return "a hash is for a secret, such as an API key: write the value itself"
    return why_no_hash(pattern)


def _why_no_credential(pattern: str, source: HeaderSource | BearerSource | CookieSource) -> str | None:
    """Return why no header, cookie or token can be so. None of it is shown: it may be a key."""
    if _CONTROL_IN_HEADER.search(pattern):
        return _HAS_CONTROL
    if isinstance(source, HeaderSource) and source.name != "authorization" and pattern != pattern.strip():
        return "a header has no spaces around its value: take them out"
    if isinstance(source, BearerSource) and pattern.strip().lower().startswith("bearer "):
        return "it is matched against the token alone: leave 'Bearer' out"
    if isinstance(source, BearerSource | CookieSource) and not has_wildcard(pattern) and not source.spelled(pattern):
        return "it is empty, and an empty value counts as missing"
    return None

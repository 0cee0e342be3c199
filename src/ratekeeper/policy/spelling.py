"""Bring a policy's strings to the spelling of a request's attributes, so that they match by their meaning.

These are pure functions; they know the sources of attributes, and no rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ratekeeper.policy.addresses import UNKNOWN_CLIENT, client_of, network_of
from ratekeeper.policy.hashes import digest_in, digest_name, digest_of, is_hash
from ratekeeper.policy.patterns import Globs, Kind, Pattern
from ratekeeper.policy.sources import (
    BearerSource,
    ClientIP,
    CookieSource,
    HeaderSource,
    PathSource,
    Source,
    readings_of,
)

_BUILT_IN: Mapping[str, Source] = {"client": ClientIP(), "path": PathSource()}
_WILDCARD_OR_SPACE = re.compile(r"[*?\s]")
AUTHORIZATION = HeaderSource("authorization")


def source_of(name: str, sources: Mapping[str, Source]) -> Source | None:
    """Return the source of an attribute; None if it is part of each request, or unknown."""
    return sources.get(name) or _BUILT_IN.get(name)


def is_method(name: str, sources: Mapping[str, Source]) -> bool:
    """Return whether an attribute is a request's method."""
    return name == "method" and name not in sources


def has_wildcard(pattern: str) -> bool:
    """Return whether a pattern is a glob."""
    return "*" in pattern or "?" in pattern


def spelled(name: str, pattern: str, sources: Mapping[str, Source]) -> str:
    """Return a pattern in the spelling of the values that it is matched against. Wildcards stay wildcards."""
    source = source_of(name, sources)
    if isinstance(source, ClientIP):
        return _client(pattern, source)
    if isinstance(source, PathSource):
        return source.spelled(pattern)
    if isinstance(source, HeaderSource) and source.is_host:
        return readings_of(source.spelled(pattern))[-1]  # with its port, if it has one
    if source == AUTHORIZATION and has_wildcard(pattern):
        return _credentials(pattern)
    if isinstance(source, HeaderSource | BearerSource | CookieSource) and not has_wildcard(pattern):
        return source.spelled(pattern)
    return pattern.upper() if is_method(name, sources) else pattern


def spelled_match(match: Globs, sources: Mapping[str, Source], *, slash_matters: bool) -> Globs:
    """Return the patterns of a rule, an override or an exemption, as they are compiled.

    Patterns of which one is a hash, and none has wildcards, are digests, of the attribute that is the value's digest.

    Applications treat `/login/` and `/login` alike. So unless the slash matters, as it does for an exemption, a pattern
    with a slash at its end matches a path without it too.
    """
    compiled = {}
    for name, globs in match.items():
        if any(map(is_hash, globs)) and all(Pattern.of(glob).kind in (Kind.EXACT, Kind.HASH) for glob in globs):
            compiled[digest_name(name)] = tuple(dict.fromkeys([digest(name, glob, sources) for glob in globs]))
            continue
        patterns = [glob if is_hash(glob) else spelled(name, glob, sources) for glob in globs]
        if not slash_matters and isinstance(source_of(name, sources), PathSource):
            patterns += [pattern[:-1] for pattern in patterns if pattern.endswith("/") and pattern != "/"]
        compiled[name] = tuple(dict.fromkeys(patterns))
    return compiled


def digest(name: str, value: str, sources: Mapping[str, Source]) -> str:
    """Return the digest of a value that a policy lists, or that its hash has."""
    return digest_in(value) or digest_of(spelled(name, value, sources))


def hashed_names(matches: Iterable[Globs]) -> set[str]:
    """Return the attributes whose digests some patterns are matched against."""
    return {name for match in matches for name, globs in match.items() if any(map(is_hash, globs))}


def _client(pattern: str, source: ClientIP) -> str:
    if has_wildcard(pattern) or network_of(pattern) is not None:
        return pattern.lower()
    client = client_of(pattern, source.ipv4_prefix, source.ipv6_prefix)
    return pattern if client == UNKNOWN_CLIENT else client


def _credentials(glob: str) -> str:
    """Return a glob for an `Authorization` header: the scheme in lower case, one space after it, the rest as it is."""
    glob = glob.strip()
    end = _WILDCARD_OR_SPACE.search(glob)
    assert end is not None
    scheme, rest = glob[: end.start()].lower(), glob[end.start() :]
    return f"{scheme} {rest.strip()}" if rest[0].isspace() else scheme + rest

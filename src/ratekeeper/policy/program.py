"""Program: a policy as named tuples that find the rules of a request. The C core (matcher_object.c) reads them too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ratekeeper.policy.compiled_rule import CompiledRule, each_reading_fits
from ratekeeper.policy.entries import EntryIndex
from ratekeeper.policy.hashes import digest_name, digest_of
from ratekeeper.policy.lookups.cache import LookupCache
from ratekeeper.policy.model import Policy
from ratekeeper.policy.sources import Readings
from ratekeeper.policy.spelling import is_method, spelled_match

NO_CACHES: Mapping[str, LookupCache] = MappingProxyType({})


class TierOf(NamedTuple):
    """The tier of a request: by the value in a slot, or else the default."""

    slot: int
    by: str
    tier_by_value: Mapping[str, str]
    default: str


class Program(NamedTuple):
    """All that finds the rules of a request. The C core (matcher_object.c) reads it too, in this order.

    names     the attributes that a request is read for: each has its place as its slot; the tier has the last slot
    hashed    the slots of the attributes that are hashed. Their digests have the slots after those of `names`, in order
    digest    returns the digest of a value
    method    the slot of the request's method, -1 if no rule looks at it
    readings  the class `Readings`
    """

    names: tuple[str, ...]
    hashed: tuple[int, ...]
    digest: Callable[[str], str]
    method: int
    tier: TierOf | None
    exempt: EntryIndex | None
    rules: tuple[CompiledRule, ...]
    readings: type[Readings]


def program_of(policy: Policy, caches: Mapping[str, LookupCache] = NO_CACHES) -> Program:
    """Compile a policy. `caches` have the limits that are looked up, by the names of their rules."""
    sources, tiers = policy.attributes, policy.tiers
    names = tuple(sorted(policy.names() - ({"tier"} if tiers else set())))
    is_hashed = policy.hashed()
    hashed = [name for name in names if name in is_hashed]
    each = (*names, *map(digest_name, hashed), *(["tier"] if tiers else []))
    slots = {name: slot for slot, name in enumerate(each)}
    exempt = [spelled_match(match, sources, slash_matters=True) for match in policy.exempt]
    by = tiers and (digest_name(tiers.by) if tiers.hashed else tiers.by)
    tier = TierOf(slots[by], by, tiers.spelled(sources), tiers.default) if tiers and by else None
    return Program(
        names=names,
        hashed=tuple(slots[name] for name in hashed),
        digest=digest_of,
        method=slots["method"] if "method" in names and is_method("method", sources) else -1,
        tier=tier,
        exempt=EntryIndex.of(exempt, slots, one_reading=False) if exempt else None,
        rules=tuple(CompiledRule.of(rule, sources, slots, caches.get(rule.name)) for rule in policy.rules),
        readings=Readings,
    )


def seen_by(program: Program, attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that a program reads and the request has, with its tier. See `CompiledPolicy.seen`."""
    get = getattr(attributes, "get", None)
    if get is None:
        raise TypeError(f"a request is a mapping of attributes, such as a dict, not {type(attributes).__name__}")
    seen = {}
    for name in program.names:
        value = get(name)
        if value is not None:
            seen[name] = value if value.__class__ is str else _plain(name, value)
    if program.method >= 0 and "method" in seen and seen["method"].isascii():
        seen["method"] = seen["method"].upper()
    for slot in program.hashed:
        name = program.names[slot]
        if name in seen:
            seen[digest_name(name)] = program.digest(seen[name])
    if (tier := program.tier) is not None:
        value = seen.get(tier.by)
        seen["tier"] = tier.default if value is None else tier.tier_by_value.get(value, tier.default)
    return seen


def exempting(exempt: EntryIndex, seen: Mapping[str, str]) -> int:
    """Return the place of the first exemption that a request matches whole, or -1."""
    for place in exempt.candidates(seen):
        if each_reading_fits(exempt.tests[place], seen):
            return place
    return -1


def _plain(name: str, value: str) -> str:
    """Return an attribute as a plain string, unless it has readings. Raise TypeError if it is not a string."""
    if not isinstance(value, str):
        raise TypeError(f"attribute {name!r} must be a str, not {type(value).__name__}")
    return value if value.__class__ is Readings else str.__str__(value)

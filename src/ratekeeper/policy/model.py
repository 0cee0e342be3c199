"""Policy: rules and the requests that they match, the sources of attributes, and the tier of each key.

These are values: checked once, then trusted. Nothing here reads a file's syntax (see `load`) or decides (see
`compiled`), and nothing knows a clock or HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Literal, TypeAlias, get_args

from ratekeeper.decision import ON_ERROR, OnError
from ratekeeper.errors import CostError, PolicyError, why_no_name
from ratekeeper.limits import Limit, TokenBucket
from ratekeeper.policy.bucket_keys import bucket_of
from ratekeeper.policy.file.checks import check_parts, why_no_label, why_no_tier_value
from ratekeeper.policy.hashes import PREFIX, is_hash
from ratekeeper.policy.lookups.lookup import Lookup
from ratekeeper.policy.patterns import Globs, checked_globs, clipped
from ratekeeper.policy.sources import AppSource, PathSource, Source
from ratekeeper.policy.spelling import digest, hashed_names, source_of, spelled
from ratekeeper.stores.spec import StoreSpec

Missing: TypeAlias = Literal["shared", "skip", "reject"]

MESSAGE_FORM = "must be a printable string of 1 to 500 characters, without spaces around it"
OTHERS = "(others)"
"""The name by which metrics count the rules that they do not count apart. No rule of a file has it."""

_LONGEST_MESSAGE = 500
_COST_DIGITS = 18
_COST_SHOWN = 40


def is_message(text: object) -> bool:
    """Return whether a value can be a rule's message: it goes into responses, and into gRPC's status on one line."""
    return isinstance(text, str) and 0 < len(text) <= _LONGEST_MESSAGE and text.isprintable() and text == text.strip()


@dataclass(frozen=True, slots=True)
class Override:
    """Another limit, in place of that of the rule, for the requests with attributes that match."""

    match: Globs = field(hash=False, repr=False)
    limit: Limit

    def __post_init__(self) -> None:
        checked_globs(self.match)


@dataclass(frozen=True, slots=True)
class Rule:
    """A limit, the requests that it is for, and the key that tells them apart. Raise `PolicyError` for a mistake.

    match      the patterns that a request's attributes must match; without any, the rule is for every request
    key        one bucket for each distinct value of these attributes; without any, one bucket for the rule
    overrides  other limits for some; the first that matches counts
    cost       tokens a request takes, or the name of the attribute with that number
    max_wait   seconds a request may be delayed rather than refused. With None the limit decides: a token bucket does
               not wait (0), a leaky bucket lets its whole queue wait
    shadow     count and report, never refuse
    missing    the treatment of a request that lacks an attribute of the key
    on_error   the treatment of a request when the store does not answer: "raise", "deny", "local" or "allow"; None
               takes the store's setting
    message    the text for people whose request this rule refuses, in place of the usual one
    lookup     how the application looks up the limit of each bucket; `limit` is then the default

    An attribute that is None is missing. A pattern has `*` (any run of characters, `/` included) and `?` (any one);
    all else, brackets too, is literal. Case counts, except in `method`.
    """

    name: str
    limit: Limit
    match: Globs = field(default_factory=dict, hash=False, repr=False)
    key: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    cost: int | str = 1
    max_wait: float | None = None
    shadow: bool = False
    missing: Missing = "shared"
    on_error: OnError | None = None
    message: str | None = None
    lookup: Lookup | None = None

    def __post_init__(self) -> None:
        if isinstance(self.key, str):
            # Its letters would be taken for attributes that no request has: one bucket for everybody, by accident.
            raise PolicyError(f"rule {self.name!r}: key must be a tuple of attributes: ({self.key!r},)")
        self._check()
        if self.max_wait is None and isinstance(self.limit, TokenBucket):
            object.__setattr__(self, "max_wait", 0)
        checked_globs(self.match)

    def _check(self) -> None:
        """Raise for a value that a policy file could not express, for rules that are built in code."""
        wait = self.max_wait
        cost_is_right = isinstance(self.cost, str) or (self.cost.__class__ is int and self.cost >= 1)
        wait_is_right = wait is None or (isinstance(wait, int | float) and wait >= 0)
        for right, what in (
            (not (why := why_no_name(self.name)), why),
            (isinstance(self.limit, Limit), f"limit must be a TokenBucket or a LeakyBucket, not {self.limit!r}"),
            (isinstance(self.shadow, bool), f"shadow must be True or False, not {self.shadow!r}"),
            (self.missing in get_args(Missing), f"missing must be 'shared', 'skip' or 'reject', not {self.missing!r}"),
            (self.on_error in (None, *ON_ERROR), f"on_error must be one of {ON_ERROR}, or None, not {self.on_error!r}"),
            (cost_is_right, f"cost must be 1 or more tokens, or an attribute's name, not {self.cost!r}"),
            (
                self.lookup is None or isinstance(self.lookup, Lookup),
                f"lookup must be a Lookup, such as Lookup('plan'), or None, not {self.lookup!r}",
            ),
            (wait_is_right, f"max_wait must be 0 or more seconds, or None, not {wait!r}"),
            (self.message is None or is_message(self.message), f"message {MESSAGE_FORM}, or None"),
        ):
            if not right:
                raise PolicyError(f"rule {self.name!r}: {what}")

    def bucket(self, attributes: Mapping[str, str]) -> str:
        """Return the key of a request's bucket.

        >>> Rule("r", TokenBucket(1, 1), key=("user", "team")).bucket({"user": "alice"})
        '5:alice-'
        """
        return bucket_of([attributes.get(name) for name in self.key])

    def cost_of(self, attributes: Mapping[str, str]) -> int:
        """Return the tokens that the request takes; 1 if it lacks the attribute with their number.

        Raise `CostError` if that attribute is not a whole number of at most 18 digits.
        """
        if isinstance(self.cost, int):
            return self.cost
        text = attributes.get(self.cost)
        if text is None:
            return 1
        # int() takes more than people mean: "1_000", " 5", "+5", digits of other scripts, and any length.
        if not (text.isascii() and text.isdigit() and len(text) <= _COST_DIGITS):
            shown = clipped(text, _COST_SHOWN)
            raise CostError(f"{self.cost} must be a whole number of at most {_COST_DIGITS} digits, not {shown}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Tiers:
    """The tier of a request by the value of its attribute `by`; with any other value it is in tier `default`."""

    by: str
    default: str
    tier_by_value: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    _spelled: tuple[Source | None, Mapping[str, str]] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    @property
    def hashed(self) -> bool:
        """Whether some values are listed by their hashes."""
        return any(map(is_hash, self.tier_by_value))

    def spelled(self, sources: Mapping[str, Source]) -> Mapping[str, str]:
        """Return the tiers by the spelling of a request's values, or if it is `hashed` by their digests.

        Raise `PolicyError` for a mistake.
        """
        source, hashed = source_of(self.by, sources), self.hashed
        if self._spelled is not None and self._spelled[0] == source:  # as of the policy of an endpoint's own limit
            return self._spelled[1]
        tiers: dict[str, str] = {}
        for place, (value, tier) in enumerate(self.tier_by_value.items(), 1):
            if why := why_no_tier_value(self.by, value, sources):
                raise PolicyError(f"tiers: value {place}, of {tier!r}, {why}")
            own = digest(self.by, value, sources) if hashed else spelled(self.by, value, sources)
            if tiers.setdefault(own, tier) != tier:
                raise PolicyError(f"tiers: value {place} means the same as one in another tier: it can be in one")
        object.__setattr__(self, "_spelled", (source, tiers))
        return tiers


@dataclass(frozen=True, slots=True, repr=False)
class Policy:
    """Rules, and all that they need for a request. Immutable. Raise `PolicyError` if they would limit nothing.

    attributes  the source of each attribute, for HTTP; a program that passes attributes itself needs none
    tiers       gives each request its attribute `tier`
    source      the file's name, for messages
    store       the place of the buckets; a keeper opens it unless it is given a store
    exempt      the requests that no rule limits: their attributes match all patterns of an entry
    version     the first 16 hexadecimal digits of the SHA-256 of `text`, for people
    text        the text that it was read from

    >>> Policy.parse('rules = [{name = "all", limit = "100/minute"}]').rules[0].name
    'all'
    """

    rules: tuple[Rule, ...]
    attributes: Mapping[str, Source] = field(default_factory=dict, hash=False)
    tiers: Tiers | None = None
    source: str = "<policy>"
    store: StoreSpec | None = None
    exempt: tuple[Globs, ...] = field(default=(), hash=False, repr=False)
    version: str = field(default="", compare=False)
    text: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.rules, str | PathLike):
            raise TypeError(
                f"rules must be a tuple of Rule: to read a policy file, write Policy.load({str(self.rules)!r})"
            )
        if not isinstance(self.exempt, tuple) or not all(isinstance(match, Mapping) and match for match in self.exempt):
            raise PolicyError(
                f"{self.source}: exempt must be a tuple of mappings such as {{'path': ('/healthz',)}}, none of them "
                "empty: every request would match it"
            )
        for match in self.exempt:
            checked_globs(match)
        if not self.rules:
            raise PolicyError(f"{self.source}: a policy without a rule would limit nothing")
        names: set[str] = set()
        for rule in self.rules:
            if rule.name in names:  # the name is half of a bucket's identity: both would charge the same buckets
                raise PolicyError(f"{self.source}: two rules are named {rule.name!r}")
            names.add(rule.name)
        if why := why_no_label(names, (rule.name for rule in self.rules if rule.lookup is not None)):
            raise PolicyError(f"{self.source}: {why}")
        self._check_texts()

    def _check_texts(self) -> None:
        """Raise `PolicyError` for patterns that no request could match, and for exemptions that match every request."""
        matches = []
        for rule in self.rules:
            matches.append((f"rule {rule.name!r}: match", rule.match))
            for place, override in enumerate(rule.overrides, 1):
                matches.append((f"rule {rule.name!r}: override {place}", override.match))
        tiers = {self.tiers.default, *self.tiers.tier_by_value.values()} if self.tiers is not None else ()
        mistakes = [*check_parts(self.exempt, matches, self.attributes, tiers)]
        mistakes += [
            f"attributes: {name!r} cannot be the path: only 'path' is"
            for name, source in self.attributes.items()
            if isinstance(source, PathSource) and name != "path"
        ]
        mistakes += [f"{name!r} cannot be an attribute's name" for name in self.names() if name.startswith(PREFIX)]
        if mistakes:
            raise PolicyError("\n".join(f"{self.source}: {mistake}" for mistake in mistakes))
        if self.tiers is not None:
            self.tiers.spelled(self.attributes)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Policy:
        """Read a policy file (TOML). Raise `PolicyError` with all of its mistakes."""
        from ratekeeper.policy.file.load import load_policy  # noqa: PLC0415  `load` builds what is defined here

        return load_policy(path)

    @classmethod
    def parse(cls, text: str, source: str = "<policy>") -> Policy:
        """Read a policy from the text of a policy file. Raise `PolicyError`, with `source` as the file's name."""
        from ratekeeper.policy.file.load import parse_policy  # noqa: PLC0415

        return parse_policy(text, source)

    def __repr__(self) -> str:
        return f"Policy({self.source!r}, rules={[rule.name for rule in self.rules]})"

    def names(self) -> frozenset[str]:
        """Return the names of all attributes that the policy looks at."""
        looked_at = set[str]().union(*self.exempt)
        for rule in self.rules:
            looked_at.update(rule.key, rule.match, *(override.match for override in rule.overrides))
            if isinstance(rule.cost, str):
                looked_at.add(rule.cost)
        return frozenset(looked_at if self.tiers is None else looked_at | {self.tiers.by})

    def hashed(self) -> frozenset[str]:
        """Return the names of the attributes whose values are hashed, as the policy lists hashes of them."""
        matches = [*self.exempt, *(rule.match for rule in self.rules)]
        matches += [override.match for rule in self.rules for override in rule.overrides]
        return frozenset(hashed_names(matches) | ({self.tiers.by} if self.tiers and self.tiers.hashed else set()))

    def without_lookups(self) -> Policy:
        """Return the policy with the default of each limit that would be looked up."""
        return replace(self, rules=tuple(replace(rule, lookup=None) for rule in self.rules))

    def lacking(self, given: Iterable[str]) -> list[str]:
        """Return the attributes that the policy looks at, and that have no source in it or in `given`."""
        known = {name for name, source in self.attributes.items() if not isinstance(source, AppSource)}
        known.update(given, ("tier",) if self.tiers else ())
        return sorted(self.names() - known)


def checked_policy(policy: Policy) -> Policy:
    """Return the policy. Raise TypeError for anything else."""
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, such as Policy.load('policy.toml'), not {policy!r}")
    return policy


def policy_of(policy: Policy | str | PathLike[str]) -> Policy:
    """Return a policy, loaded if it is the path of its file. Raise `PolicyError` or TypeError if it cannot be."""
    return Policy.load(policy) if isinstance(policy, str | PathLike) else checked_policy(policy)

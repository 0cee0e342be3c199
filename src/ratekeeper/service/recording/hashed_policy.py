"""HashedPolicy: a policy that decides recorded requests, whose attributes are hashes. Knows no recording and no replay.

A recorded request becomes attributes again: "v:" and a name for the token of a value's hash, "c:" for a number of
tokens, and for each test that the request passed an attribute that says so. The rules' tests become tests of these:

    an unchanged test       by the recorded fact, whatever patterns it has
    a new exact value       by its hash
    a new pattern           by nothing: the rule is not known, and is left out

An attribute is named with its fingerprint (see `fingerprints`): a value that was read from another header is another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ratekeeper.policy.hashes import PREFIX
from ratekeeper.policy.model import Override, Policy, Rule
from ratekeeper.policy.patterns import Globs, Kind, Pattern
from ratekeeper.policy.sources import Readings
from ratekeeper.policy.spelling import spelled_match
from ratekeeper.service.recording.fingerprints import Fingerprints
from ratekeeper.service.recording.recording import Schema
from ratekeeper.service.recording.ring import EXEMPT, Record
from ratekeeper.service.recording.siphash import hash_of

YES = "yes"
NO_SUCH = "the recording has no attribute {!r}, as no policy looked at it"
PATTERN = "it tests {!r} by new patterns, and the recording has only hashes of values"


class Unknown(Exception):
    """A rule cannot be judged by the recording; the message says why."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that a schema's records tell, or that a policy needs: names of attributes, as they are made here."""

    names: frozenset[str]

    @classmethod
    def of(cls, schema: Schema) -> Facts:
        """Return the facts of a schema."""
        names = {value_name(name, how) for name, how in schema.names}
        names |= {cost_name(*schema.names[slot]) for slot in schema.costs}
        names |= {test_name(tests) for _, tests, _ in schema.rules}
        names |= {override_name(tests, overrides) for _, tests, overrides in schema.rules}
        return cls(frozenset(names | {exempt_name(schema.exempt)}))


@dataclass(slots=True)
class HashedPolicy:
    """A policy over the hashes of one secret.

    policy   decides recorded requests; None if no rule is known
    needs    the facts that it looks at
    unknown  why each rule that it leaves out cannot be judged, by the rule's name
    """

    policy: Policy | None
    needs: set[str] = field(default_factory=set)
    unknown: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, policy: Policy, known: Facts, secret: bytes) -> HashedPolicy:
        """Return the policy for records that tell the facts that are known."""
        making = _Making(policy, known, secret)
        rules = []
        unknown: dict[str, str] = {}
        try:
            exempt = making.exempt()
        except Unknown as why:
            return cls(None, set(), {rule.name: f"exempt: {why}" for rule in policy.rules})
        for rule in policy.rules:
            before = set(making.needs)
            try:
                rules.append(making.rule(rule))
            except Unknown as why:
                making.needs = before
                unknown[rule.name] = str(why)
        made = Policy(tuple(rules), exempt=exempt, source=policy.source) if rules else None
        return cls(made, making.needs, unknown)


class _Making:
    """Makes rules over hashes, and notes the facts that they need."""

    def __init__(self, policy: Policy, known: Facts, secret: bytes) -> None:
        self._policy, self._known, self._secret = policy, known.names, secret
        self._fingerprints = Fingerprints(policy)
        self.needs: set[str] = set()

    def exempt(self) -> tuple[Globs, ...]:
        fact = self._fact(exempt_name(self._fingerprints.exempt())) if self._policy.exempt else {}
        if fact:
            return (fact,)
        return tuple(self._exact(match, slash_matters=True) for match in self._policy.exempt)

    def rule(self, rule: Rule) -> Rule:
        tests = self._fingerprints.match(rule.match)
        match: Globs = {}
        if rule.match:
            fact = self._fact(test_name(tests))
            match = {**fact, **self._readings_of_key(rule)} if fact else self._exact(rule.match, slash_matters=False)
        cost = rule.cost if isinstance(rule.cost, int) else self._named(rule.cost, cost_name)
        key = tuple(self._named(name, value_name) for name in rule.key)
        overrides = self._overrides(rule, tests)
        return replace(rule, match=match, key=key, cost=cost, overrides=overrides, lookup=None)

    def _readings_of_key(self, rule: Rule) -> Globs:
        """Return the tests of a key's attributes by exact values: a key takes the first reading that they accept."""
        found = {}
        for name, patterns in spelled_match(rule.match, self._policy.attributes, slash_matters=False).items():
            if name in rule.key and all(Pattern.of(pattern).kind is Kind.EXACT for pattern in patterns):
                found[self._named(name, value_name)] = self._tokens(patterns)
        return found

    def _tokens(self, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(token_of(hash_of(self._secret, value)) for value in values)

    def _overrides(self, rule: Rule, tests: str) -> tuple[Override, ...]:
        if not rule.overrides:
            return ()
        fact = override_name(tests, self._fingerprints.overrides(rule))
        if self._fact(fact):
            return tuple(replace(one, match={fact: (str(place),)}) for place, one in enumerate(rule.overrides))
        return tuple(replace(one, match=self._exact(one.match, slash_matters=False)) for one in rule.overrides)

    def _fact(self, name: str) -> Globs:
        """Return the test of a recorded fact; empty if it is not recorded."""
        if name not in self._known:
            return {}
        self.needs.add(name)
        return {name: (YES,)}

    def _exact(self, match: Globs, slash_matters: bool) -> Globs:
        """Return tests of the hashes of exact values."""
        found = {}
        for name, patterns in spelled_match(match, self._policy.attributes, slash_matters=slash_matters).items():
            own = self._named(name, value_name)
            if any(Pattern.of(pattern).kind is not Kind.EXACT for pattern in patterns):
                raise Unknown(PATTERN.format(name.removeprefix(PREFIX)))
            found[own] = self._tokens(patterns)
        return found

    def _named(self, name: str, named: Callable[[str, str], str]) -> str:
        own = named(name, self._fingerprints.name(name))
        if own not in self._known:
            raise Unknown(NO_SUCH.format(name.removeprefix(PREFIX)))
        self.needs.add(own)
        return own


def attributes_of(record: Record, schema: Schema) -> dict[str, str]:
    """Return a recorded request's attributes, for a hashed policy."""
    attributes: dict[str, str] = {}
    for (name, how), value in zip(schema.names, record.values, strict=True):
        if value:
            attributes[value_name(name, how)] = token_of(value)
    for slot, number in zip(schema.costs, record.costs, strict=True):
        if number != -1:
            attributes[cost_name(*schema.names[slot])] = str(number)  # -2 is not a cost, as the request's was not
    if record.others:
        _add_readings(attributes, record, schema)
    for place, override in record.rules:
        _, tests, overrides = schema.rules[place]
        attributes[test_name(tests)] = YES
        if override >= 0:
            attributes[override_name(tests, overrides)] = str(override)
    if record.flags & EXEMPT:
        attributes[exempt_name(schema.exempt)] = YES
    return attributes


def _add_readings(attributes: dict[str, str], record: Record, schema: Schema) -> None:
    readings: dict[int, list[str]] = {}
    for slot, value in record.others:
        readings.setdefault(slot, []).append(token_of(value))
    for slot, others in readings.items():
        name = value_name(*schema.names[slot])
        attributes[name] = Readings.of([attributes[name], *others])


_tokens: dict[int, str] = {}
_MOST_TOKENS = 1 << 18


def token_of(value: int) -> str:
    """Return the token of a hash: the value of an attribute. One string for each hash, as most are repeated."""
    token = _tokens.get(value)
    if token is None:
        if len(_tokens) >= _MOST_TOKENS:
            _tokens.clear()
        token = _tokens[value] = f"h{value & 0xFFFF_FFFF_FFFF_FFFF:016x}"
    return token


def _name(kind: str, one: str, other: str = "") -> str:
    return f"{kind}:{one}:{other}"


def value_name(name: str, how: str) -> str:
    """Return the attribute with the token of a value."""
    return _name("v", name, how)


def cost_name(name: str, how: str) -> str:
    """Return the attribute with a number of tokens."""
    return _name("c", name, how)


def test_name(tests: str) -> str:
    """Return the attribute that says that a request passes a rule's tests."""
    return _name("t", tests)


def override_name(tests: str, overrides: str) -> str:
    """Return the attribute with the place of the override that counts for a request."""
    return _name("o", tests, overrides)


def exempt_name(exempt: str) -> str:
    """Return the attribute that says that a request is exempt."""
    return _name("x", exempt)

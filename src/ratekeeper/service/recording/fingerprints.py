"""Fingerprints of the tests of rules: two are equal only if the tests are. Knows no recording and no request.

An attribute's fingerprint says how it is read, and that of a test has those of its attributes. So a test whose string
stays, but whose attribute comes from another header, has another fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from ratekeeper.policy.hashes import PREFIX
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.policy.patterns import Globs
from ratekeeper.policy.spelling import source_of, spelled_match


class Fingerprints:
    """The fingerprints of a policy's tests."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._names: dict[str, str] = {}

    def name(self, name: str) -> str:
        """Return the fingerprint of the way in which the policy reads an attribute."""
        if name not in self._names:
            self._names[name] = self._of_tier() if name == "tier" and self._policy.tiers else self._of_name(name)
        return self._names[name]

    def match(self, match: Globs, slash_matters: bool = False) -> str:
        """Return the fingerprint of the tests of a rule or an override."""
        compiled = spelled_match(match, self._policy.attributes, slash_matters=slash_matters)
        return _digest([part for name in sorted(compiled) for part in (self.name(name), *sorted(compiled[name]), "")])

    def overrides(self, rule: Rule) -> str:
        """Return the fingerprint of the tests of a rule's overrides, in order; "" for a rule without overrides.

        A path may have two readings. If each passes another test, the stricter limit counts: so which one, is also a
        matter of the limits.
        """
        each = [self.match(override.match) for override in rule.overrides]
        if any("path" in override.match for override in rule.overrides):
            each += [repr(limit) for limit in (rule.limit, *(override.limit for override in rule.overrides))]
        return _digest(each) if each else ""

    def exempt(self) -> str:
        """Return the fingerprint of the exemptions; "" for a policy without them."""
        each = [self.match(match, slash_matters=True) for match in self._policy.exempt]
        return _digest(each) if each else ""

    def _of_tier(self) -> str:
        tiers = self._policy.tiers
        assert tiers is not None
        by_value = sorted(tiers.spelled(self._policy.attributes).items())
        return _digest([tiers.by, self._of_name(tiers.by), str(tiers.hashed), tiers.default, repr(by_value)])

    def _of_name(self, name: str) -> str:
        return _digest([name, repr(source_of(name.removeprefix(PREFIX), self._policy.attributes))])


def _digest(parts: Iterable[str]) -> str:
    digest = blake2b(digest_size=8)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b" % (len(encoded), encoded))
    return digest.hexdigest()

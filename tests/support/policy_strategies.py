"""Policies and requests for Hypothesis: patterns of all kinds, few values, so that many match."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, get_args

from hypothesis import strategies as st

from ratekeeper import Deny, LeakyBucket, Policy, TokenBucket
from ratekeeper.policy.lookups.lookup import Lookup
from ratekeeper.policy.model import Missing, Override, Rule, Tiers
from ratekeeper.policy.sources import Readings

USERS = st.sampled_from(["a", "ab", "abc", "b", "ba", "A", "", "10.1.2.3", "10.9.9.9"])
SHAMS = st.sampled_from(
    ["sha256:" + sha256(b"a").hexdigest(), sha256(b"a").hexdigest(), sha256(b"a").hexdigest().upper()]
)
"""Values of a client that knows the hash, and not the key."""
PATHS = st.sampled_from(["/", "/a", "/a/", "/a/b", "/a/b/", "/b", "/b;x", "/a/../b"])
METHODS = st.sampled_from(["GET", "get", "POST", "OTHER"])
CLIENTS = st.sampled_from(["10.1.2.3", "10.9.9.9", "192.0.2.7", "2001:db8:0:7::/64", "unknown"])
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "user": USERS | SHAMS | st.lists(USERS, min_size=1, max_size=2).map(Readings.of),
        "team": USERS,
        "path": st.lists(PATHS, min_size=1, max_size=3).map(Readings.of),
        "method": METHODS,
        "client": CLIENTS,
        "tokens": st.sampled_from(["1", "2", "0", "007", "9" * 9]),
    },
)
HASHES = [f"sha256:{sha256(value).hexdigest()}" for value in (b"a", b"ab", b"10.1.2.3", b"nobody")]
HASHES.append("SHA256:" + HASHES[0][7:].upper())
FREE = st.sampled_from(
    ["a", "ab", "a*", "*b", "*", "a?", "?", "*a*", "a*c", "**", "10.0.0.0/8", "[ab]", "b", *HASHES, *HASHES[:2]]
)
PATTERNS = {
    "user": FREE,
    "team": FREE,
    "path": st.sampled_from(["/a", "/a/", "/a*", "/a/*", "*/b", "*/", "/", "/*/", "/?", "/b", "*b*", "/a/b/", "*"]),
    "method": st.sampled_from(["GET", "post", "P*", "*", "OTHER", "?ET"]),
    "client": st.sampled_from(
        [
            "10.0.0.0/8",
            "10.1.0.0/16",
            "192.0.2.7",
            "2001:db8::/32",
            "2001:db8:0:7::/64",
            "10.1.2.3/32",
            "::/0",
            "unknown",
            "1*",
        ]
    ),
}
MATCHES = st.lists(st.sampled_from(sorted(PATTERNS)), unique=True, max_size=3).flatmap(
    lambda names: st.fixed_dictionaries(
        {name: st.lists(PATTERNS[name], min_size=1, max_size=3).map(tuple) for name in names}
    )
)
LIMITS = st.builds(TokenBucket, st.integers(1, 3), st.integers(1, 3)) | st.builds(
    LeakyBucket, st.integers(0, 2), st.integers(1, 3)
)
LIMITS |= st.sampled_from([*[TokenBucket(1, 1)] * 6, TokenBucket(0, 0), Deny()])
LOOKUPS = st.sampled_from(
    [None, None, Lookup("plan"), Lookup("plan", on_error="default"), Lookup("plan", on_error="deny")]
)
COSTS: st.SearchStrategy[int | str] = st.sampled_from([1, 1, 1, 2, 3, 10**6, "tokens"])
OVERRIDES = st.lists(st.builds(Override, MATCHES.filter(bool), LIMITS), max_size=6).map(tuple)
KEYS = st.sampled_from([(), ("user",), ("path", "user"), ("client",)])
MISSING: st.SearchStrategy[Missing] = st.sampled_from(get_args(Missing))


HASHED_TIERS = Tiers("user", "free", {HASHES[0]: "pro", "b": "team", HASHES[1]: "pro"})


@st.composite
def policies(draw: st.DrawFn, looked_up: bool = False) -> Policy:
    rules = tuple(
        Rule(
            f"rule {number}", draw(LIMITS), match=draw(MATCHES), key=draw(KEYS), overrides=draw(OVERRIDES),
            missing=draw(MISSING), shadow=draw(st.booleans()), cost=draw(COSTS),
            lookup=draw(LOOKUPS) if looked_up else None,
        )
        for number in range(draw(st.integers(1, 3)))
    )  # fmt: skip
    exempt = [match for match in draw(st.lists(MATCHES, max_size=4)) if match]
    tiers = draw(st.sampled_from([None, Tiers("user", "free", {"a": "pro", "b": "team"}), HASHED_TIERS]))
    while True:  # an exemption of everything is an error, and not what this is about
        try:
            return Policy(rules, exempt=tuple(exempt), tiers=tiers)
        except ValueError:
            exempt.pop()


def plan_of(attributes: Mapping[str, str]) -> Any:
    """A look-up for these policies: any kind of answer, and always the same for one bucket."""
    text = "".join(attributes.values())
    plans = (
        None,
        "2/s",
        LeakyBucket(1, 1),
        ["3/s", "5/minute"],
        [LeakyBucket(0, 1), "1/s", "2/s"],
        "often",
        TokenBucket(1, 1),
    )
    return plans[sum(map(ord, text)) % len(plans)]

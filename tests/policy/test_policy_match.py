"""Networks as patterns, and exempt requests: which requests match, which do not, and which mistakes are errors."""

from __future__ import annotations

import pickle
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_oracle import Asked

from ratekeeper import Keeper, MemoryStore, Policy, PolicyError, TokenBucket
from ratekeeper.http.attributes import client_address
from ratekeeper.policy.compiled import CompiledPolicy
from ratekeeper.policy.model import Override, Rule
from ratekeeper.policy.sources import AppSource, ClientIP
from ratekeeper.stores.table_store import TableStore

RULE = '[[rules]]\nname = "r"\nlimit = "1/day"\n'
EXEMPT = """
exempt = [
    { path = "/healthz" },
    { client = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "198.51.100.*"] },
    { api_key = ["k-internal"], method = ["get"] },
    { tier = "staff" },
]
[tiers]
by = "user"
default = "all"
staff = ["ann"]
"""


def matching(pattern: str, value: str) -> bool:
    return Asked(Rule("r", TokenBucket(1, 1), match={"client": (pattern,)}), {"client": AppSource()}).matches(
        {"client": value}
    )


# Networks


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1), st.booleans())
def test_a_network_matches_the_addresses_in_it_and_no_other(start: int, prefix: int, other: int, near: bool) -> None:
    network = IPv4Network((start, prefix), strict=False)
    address = IPv4Address(other if not near else start ^ (other >> min(31, prefix)))
    assert matching(str(network), str(address)) == (address in network)


@pytest.mark.parametrize(
    ("pattern", "address", "matches"),
    [("2001:db8::/32", "2001:db8:7::1", True), ("2001:db8::/32", "2001:db9::1", False),
     ("2001:db8:0:7::/64", "2001:db8:0:7:a:b:c:d", True), ("2001:db8:0:7::/64", "2001:db8:0:8::1", False),
     ("::/0", "2001:db8::1", True), ("::/0", "192.0.2.7", False), ("0.0.0.0/0", "2001:db8::1", False),
     ("10.0.0.0/8", "::ffff:10.1.2.3", True), ("10.0.0.0/8", "nonsense", False), ("192.0.2.7", "192.0.2.7", True),
     ("192.0.2.*", "192.0.2.7", True), ("10.1.2.3/32", "10.1.2.3", True), ("10.1.2.3/32", "10.1.2.4", False)],
)  # fmt: skip
def test_a_network_matches_a_client_as_http_writes_it(pattern: str, address: str, matches: bool) -> None:
    assert matching(pattern, client_address(None, address, ClientIP())) == matches


def test_a_network_stands_beside_other_patterns_and_in_overrides() -> None:
    rule = Asked(Rule(
        "r", TokenBucket(1, 1), match={"client": ("unknown", "10.0.0.0/8")},
        overrides=(Override({"client": ("10.9.0.0/16",)}, TokenBucket(9, 1)),),
    ))  # fmt: skip
    assert rule.matches({"client": "unknown"})
    assert rule.why_not({"client": "11.0.0.1"}) == "client does not match"
    assert [rule.capacity_for(client=client) for client in ("10.9.1.1", "10.8.1.1")] == [9, 1]


def test_what_only_looks_a_little_like_a_network_is_a_glob() -> None:
    assert matching("a/8", "a/8")
    assert matching("10.0.0.0/*", "10.0.0.0/x")
    assert not matching("10.0.0.0/8", "10.0.0.1" * 20)


MISTAKES = [
    ("10.0.0.0/33", "'10.0.0.0/33' is not a network: the prefix must be a number from 0 to 32"),
    ("10.0.0.0/255.0.0.0", "the prefix must be a number from 0 to 32"),
    ("10.0.0.0/00008", "the prefix must be a number from 0 to 32"),
    ("10.0.0.0/", "the prefix must be a number from 0 to 32"),
    ("2001:db8::/129", "the prefix must be a number from 0 to 128"),
    ("10.1.2.3/8", "has bits set after the prefix: write '10.0.0.0/8', or '10.1.2.3' for this address alone"),
    ("2001:db8::1/32", "has bits set after the prefix: write '2001:db8::/32'"),
    ("2001:db8::/96", "IPv6 clients are told apart by their /64: write '2001:db8::/64'"),
    ("::ffff:10.0.0.0/104", "'::ffff:10.0.0.0/104' is a network of IPv4 addresses: write '10.0.0.0/8'"),
    ("::ffff:a01:203/128", "is a network of IPv4 addresses: write '10.1.2.3/32'"),
    ("::ffff:0:0/96", "is a network of IPv4 addresses: write '0.0.0.0/0'"),
]


@pytest.mark.parametrize(("pattern", "says"), MISTAKES)
def test_a_bad_network_is_an_error_that_says_what_is_right(pattern: str, says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy((Rule("r", TokenBucket(1, 1), match={"client": (pattern,)}),))
    assert says in str(caught.value)
    with pytest.raises(PolicyError) as caught:
        Policy.parse(f'exempt = [\n{{ path = "/x" }},\n{{ client = ["{pattern}"] }}]\n{RULE}', "policy.toml")
    assert str(caught.value).startswith("policy.toml:3: exempt 2: 'client': ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("10.0.0/8", "'10.0.0/8' is not a network: write, say, '10.0.0.0/8'"), ("2001:db8::1", "write '2001:db8::/64'")],
)
@pytest.mark.parametrize("name", ["client", "peer"])
def test_a_pattern_that_no_client_can_match_is_an_error(name: str, pattern: str, says: str) -> None:
    attributes = '[attributes]\npeer = "client_ip"\n'
    with pytest.raises(PolicyError) as caught:
        Policy.parse(f'{attributes}{RULE}match = {{ {name} = "{pattern}" }}\n')
    assert f"'{name}': " in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("source", ['{ from = "client_ip", ipv6_prefix = 128 }', '"app"', '"header:x-client"'])
def test_an_ipv6_network_of_ipv4_addresses_which_match_as_ipv4_is_an_error(source: str) -> None:
    with pytest.raises(PolicyError, match=r"write '10\.0\.0\.0/8'"):
        Policy.parse(f'[attributes]\nclient = {source}\n{RULE}match = {{ client = "::ffff:10.0.0.0/104" }}\n')


@pytest.mark.parametrize("attributes", ['client = "app"', 'client = "header:x-client"', 'client = "cookie:c"'])
def test_an_attribute_that_may_be_no_address_may_have_any_pattern(attributes: str) -> None:
    text = f'[attributes]\n{attributes}\n{RULE}match = {{ client = ["acme/mobile", "a::b"] }}\n'
    assert Policy.parse(text).rules


# Exempt


@pytest.mark.parametrize(
    "attributes",
    [{"path": "/healthz"}, {"client": "10.200.3.4"}, {"client": "192.0.2.7"}, {"client": "2001:db8:1:2::/64"},
     {"client": "198.51.100.9"}, {"api_key": "k-internal", "method": "GET"}, {"user": "ann"}],
)  # fmt: skip
def test_a_request_that_matches_an_entry_is_limited_by_no_rule(store: TableStore, attributes: dict[str, str]) -> None:
    keeper = Keeper(Policy.parse(EXEMPT + RULE), store)
    decisions = [keeper.try_acquire(attributes) for _ in range(3)]
    assert all(decisions)
    assert decisions[0].rules == ()
    assert keeper.acquire(attributes, timeout=0).rules == ()
    assert [(it.reason, it.decision) for it in keeper.explain(attributes)] == [("the request is exempt", None)]
    assert keeper.try_acquire({}).remaining == 0, "the first that is charged"


@pytest.mark.parametrize(
    "attributes",
    [{}, {"path": "/healthz/x"}, {"client": "11.0.0.1"}, {"client": "unknown"}, {"client": "2001:db9::/64"},
     {"api_key": "k-internal"}, {"api_key": "k-internal", "method": "PUT"}, {"user": "bob"},
     {"user": "bob", "tier": "staff"}],
)  # fmt: skip
def test_a_request_that_matches_no_entry_whole_is_limited(store: TableStore, attributes: dict[str, str]) -> None:
    keeper = Keeper(Policy.parse(EXEMPT + RULE), store)
    assert [keeper.try_acquire(attributes).allowed for _ in range(2)] == [True, False]


def test_a_policy_of_one_plain_rule_exempts_too(store: TableStore) -> None:
    keeper = Keeper(Policy.parse('exempt = [{ path = "/x" }]\n' + RULE), store)
    assert [keeper.try_acquire({"path": path}).allowed for path in ("/x", "/x", "/y", "/y", "/x")] == [
        True, True, True, False, True,
    ]  # fmt: skip


def test_an_exempt_request_needs_no_attribute_that_a_rule_insists_on() -> None:
    policy = Policy.parse('exempt = [{ path = "/x" }]\n' + RULE + 'key = ["user"]\nmissing = "reject"\n')
    keeper = Keeper(policy, MemoryStore(10))
    assert keeper.try_acquire({"path": "/x"}).allowed
    assert not keeper.try_acquire({"path": "/y"}).allowed


def test_exempt_may_be_given_in_code_and_its_attributes_are_looked_at() -> None:
    rules = (Rule("r", TokenBucket(1, 1)),)
    policy = Policy(rules, exempt=({"path": ("/a", "/b"), "client": ("10.0.0.0/8",)}, {"team": ("ops",)}))
    assert policy.names() == {"path", "client", "team"}
    compiled = CompiledPolicy(policy)
    assert compiled.exempting({"team": "ops"}) == {"team": ("ops",)}
    assert compiled.exempting({"path": "/a", "client": "10.1.1.1"}) == policy.exempt[0]
    assert compiled.exempting({"path": "/a"}) is None
    copy = pickle.loads(pickle.dumps(policy))
    assert copy == policy
    assert CompiledPolicy(copy).exempting({"path": "/b", "client": "10.1.1.1"}) == policy.exempt[0]
    assert policy != Policy(rules)


@pytest.mark.parametrize("exempt", [({},), [{"path": ("/x",)}], {"path": ("/x",)}, ("/x",)])
def test_exempt_in_code_that_would_exempt_everything_or_is_no_tuple_is_an_error(exempt: object) -> None:
    with pytest.raises(PolicyError, match="exempt must be a tuple of mappings"):
        Policy((Rule("r", TokenBucket(1, 1)),), exempt=exempt)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="'path': the patterns must be a tuple"):
        Policy((Rule("r", TokenBucket(1, 1)),), exempt=({"path": "/x"},))  # type: ignore[dict-item]

"""Nothing is silently unlimited: what no request can match is an error that says what to write instead."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_oracle import Asked

from ratekeeper import Policy, PolicyError, TokenBucket
from ratekeeper.cli.main import main
from ratekeeper.http.attributes import read_method
from ratekeeper.policy.file.check_paths import why_no_path
from ratekeeper.policy.model import Override, Rule, Tiers
from ratekeeper.policy.sources import (
    METHODS,
    AppSource,
    ClientIP,
    CookieSource,
    HeaderSource,
    PathSource,
    Source,
)

BUCKET = TokenBucket(1, 1)
RULE = '[[rules]]\nname = "r"\nlimit = "1/day"\n'
NAMED = """[attributes]
key = "header:x-key"
auth = "header:authorization"
token = "bearer"
session = "cookie:session"
user = "app"
host = "header:host"
"""


def toml(text: str) -> str:
    return '"' + re.sub(r'[\x00-\x1f\x7f"\\]', lambda found: f"\\u{ord(found[0]):04x}", text) + '"'


# Patterns that no request can match

MISTAKES = [
    ("path", "api/x", "a path begins with a slash: write '/api/x'"),
    ("path", "https://example.com/api", "a path has no scheme and no host: write '/api'"),
    ("path", "http://example.com", "a path has no scheme and no host: write '/'"),
    ("path", "example.com/api/*", "a path has no host: write '/api/*'"),
    ("path", "localhost:8000/api", "a path has no host: write '/api'"),
    ("path", "//example.com/x", "a path has no empty, '.' or '..' segments: write '/example.com/x'"),
    ("path", "/search?q=x", "a path has no query: write '/search'"),
    ("path", "/search?q=*", "a path has no query: write '/search'"),
    ("path", "/a%20b", "a path is matched decoded: write '/a b'"),
    ("path", "/%61pi/*", "a path is matched decoded: write '/api/*'"),
    ("path", "/users/{id}", "a path has no placeholders, a 'route' has: write '/users/*'"),
    ("path", "/users/{id:int}/x", "write '/users/*/x'"),
    ("path", "/users/<int:id>", "write '/users/*'"),
    ("path", "/users/:id/x", "write '/users/*/x'"),
    ("path", "/v[0-9]/x", "brackets are not wildcards, as '*' and '?' are: write '/v?/x'"),
    ("path", "^/api$", "a pattern is not a regular expression: write '/api'"),
    ("path", "^/api/.*", "a pattern is not a regular expression"),
    ("path", "/api$", "a pattern is not a regular expression: write '/api'"),
    ("path", "/a/../b", "a path has no empty, '.' or '..' segments: write '/b'"),
    ("path", "/a/./b", "write '/a/b'"),
    ("path", "/a//b", "write '/a/b'"),
    ("path", "/..", "write '/'"),
    ("path", "*/../b", "write '*/b'"),
    ("path", "/login;x=1", "a path is matched without its parameters: write '/login'"),
    ("path", "/a\nb", "cannot have control characters"),
    ("path", "https://example.com//a/%62?x=1", "write '/a/b'"),
    ("method", "GTE", "'GTE' is not a method: did you mean 'GET'?"),
    ("method", "FROBNICATE", "is not a method: write 'OTHER' for all that are not registered"),
    ("method", "HEAD", "HEAD counts as GET, so 'HEAD' matches nothing: write 'GET'"),
    ("method", "head", "write 'GET'"),
    ("method", "HEA*", "write 'GET'"),
    ("method", "XYZ*", "'XYZ*' is not a method"),
    ("method", "GET,POST", "is not one method: write ['GET', 'POST']"),
    ("method", "GET POST", "is not one method: write ['GET', 'POST']"),
    ("method", "get|post", "is not one method: write ['GET', 'POST']"),
    ("method", " GET", "is not one method: write ['GET']"),
    ("method", "GET\0", "cannot have control characters"),
    ("client", "localhost", "it is not an address: write an address, a network such as '10.0.0.0/8'"),
    ("client", "acme*", "it is not a glob of addresses"),
    ("client", "10.0.0/8", "'10.0.0/8' is not a network: write, say, '10.0.0.0/8'"),
    ("client", "10.0.0.1:443", "it is not an address"),
    ("client", "::ffff:10.0.0.1", "is an IPv4 address: write '10.0.0.1'"),
    ("client", "2001:db8::1", "IPv6 clients are told apart by their /64: write '2001:db8::/64'"),
    ("client", "2001:db8::/96", "IPv6 clients are told apart by their /64: write '2001:db8::/64'"),
    ("client", "10.0.0.0/33", "the prefix must be a number from 0 to 32"),
    ("client", "10.0.0.1\t", "cannot have control characters"),
    ("endpoint", "get /x", "'get /x' is not an endpoint: write 'GET /x'"),
    ("endpoint", "HEAD /x", "write 'GET /x'"),
    ("endpoint", "GET x", "write 'GET /x'"),
    ("endpoint", "GET  /x", "write 'GET /x'"),
    ("endpoint", "/x", "an endpoint is a method and a route: write, say, 'GET /x'"),
    ("endpoint", "GTE /x", "'GTE' is not a method: did you mean 'GET'?"),
    ("endpoint", "GET /x\n", "cannot have control characters"),
    ("route", "items/{id}", "a route begins with a slash: write '/items/{id}'"),
    ("route", "/a\0", "cannot have control characters"),
]
FITTING = [
    ("path", ["/", "/*", "*", "*.php", "*/admin", "/api/*", "/api/", "/a?c", "/v?/*", "?api", "/a.b/..c/...", "/a b",
              "/ä", "/100%", "/a=b", "/a:b", "/v1/x:cancel", "/.well-known/*", "/{", "/a[b", "/a^b", "/$a", "/a~b"]),
    ("method", ["GET", "post", "OTHER", "*", "P*", "?ET", "QUERY", "VERSION-CONTROL", "**"]),
    ("client", ["192.0.2.7", "10.0.0.0/8", "2001:db8::/32", "2001:DB8:0:7::/64", "198.51.100.*", "2001:db8:*", "*",
                "unknown", "10.?.0.0", "10.0.0.1/32"]),
    ("endpoint", ["GET /items/{id}", "* /items/{id}", "GET *", "*", "*/items", "P* /x", "OTHER /x", "GET*"]),
    ("route", ["/items/{id}", "/items/<int:id>/", "*", "*/x", "/pkg.Service/Method"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pattern", "says"), MISTAKES)
def test_a_pattern_that_no_request_can_match_is_an_error_with_its_mend(name: str, pattern: str, says: str) -> None:
    places = [
        f"{RULE}match = {{ {name} = [{toml('*')}, {toml(pattern)}] }}\n",
        f"{RULE}overrides = [{{ {name} = {toml(pattern)}, capacity = 5 }}]\n",
        f"exempt = [{{ user = 'u', {name} = {toml(pattern)} }}]\n{RULE}",
    ]
    for text in [*places, f"{NAMED}{places[0]}"]:
        with pytest.raises(PolicyError) as caught:
            Policy.parse(text, "policy.toml")
        assert says in str(caught.value)
        assert re.match(rf"policy\.toml:\d+: (rule 'r': (match|override 1)|exempt 1): '{name}': ", str(caught.value))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300
    match = {name: (pattern,)}
    for rules, exempt in (
        ((Rule("r", BUCKET, match=match),), ()),
        ((Rule("r", BUCKET, overrides=(Override(match, BUCKET),)),), ()),
        ((Rule("r", BUCKET),), ({**match, "user": ("u",)},)),
    ):
        with pytest.raises(PolicyError) as caught:
            Policy(rules, source="here", exempt=exempt)
        assert str(caught.value).startswith("here: ")
        assert says in str(caught.value)


@pytest.mark.parametrize(("name", "patterns"), FITTING)
def test_a_pattern_that_a_request_can_match_is_taken(name: str, patterns: list[str]) -> None:
    assert Policy((Rule("r", BUCKET, match={name: tuple(patterns)}),)).rules
    assert Policy.parse(f"{RULE}match = {{ {name} = [{', '.join(map(toml, patterns))}] }}\n").rules


@pytest.mark.parametrize("source", [AppSource(), HeaderSource("x-any"), CookieSource("any")])
@pytest.mark.parametrize("name", ["path", "method", "client", "route", "endpoint"])
def test_an_attribute_that_comes_from_elsewhere_may_be_any_text(name: str, source: Any) -> None:
    texts = ("api", "HEAD", "localhost", "^x$", "GET,POST", "{id}", "a%20b", "/a/../b")
    rule = Asked(Rule("r", BUCKET, match={name: texts}), {name: source})
    spelled = getattr(source, "spelled", str)  # as the reader gives it
    assert all(rule.matches({name: spelled(text)}) for text in texts)


@given(st.text("/.*?a%2f;[]{}<>:^$=\\&#-", min_size=1, max_size=12))
def test_the_mend_of_a_paths_pattern_is_no_mistake_itself(pattern: str) -> None:
    why = why_no_path(pattern)
    if why is not None:
        assert why_no_path(literal_eval(why.rpartition(": write ")[2])) is None


def test_the_places_of_patterns_in_a_list_are_told() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(f'{RULE}match.path = [\n"/a",\n"b",\n"/c",\n"d",\n]\n', "policy.toml")
    assert [line.partition(" ")[0] for line in str(caught.value).split("\n")] == ["policy.toml:6:", "policy.toml:8:"]


# Methods


@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_registered_method_is_itself_and_may_be_matched(method: str) -> None:
    assert read_method(method.lower()) == method
    assert Policy((Rule("r", BUCKET, match={"method": (method,)}),)).rules


# Headers, cookies and tokens: errors show none of it

CREDENTIALS = [
    ("key", " k-secret", "a header has no spaces around its value: take them out"),
    ("key", "k-secret ", "a header has no spaces around its value: take them out"),
    ("key", "k-secret\n", "cannot have control characters"),
    ("auth", "k-secret\x00", "cannot have control characters"),
    ("token", "Bearer k-secret", "it is matched against the token alone: leave 'Bearer' out"),
    ("token", "bearer *", "it is matched against the token alone: leave 'Bearer' out"),
    ("token", "  ", "it is empty, and an empty value counts as missing"),
    ("session", '""', "it is empty, and an empty value counts as missing"),
    ("session", "k-secret\x1f", "cannot have control characters"),
]


@pytest.mark.parametrize(("name", "pattern", "says"), CREDENTIALS)
def test_a_pattern_that_no_credential_can_match_is_an_error_that_does_not_show_it(
    name: str, pattern: str, says: str
) -> None:
    for text in (
        f"{NAMED}{RULE}match = {{ {name} = {toml(pattern)} }}\n",
        f'{NAMED}[tiers]\nby = "{name}"\ndefault = "d"\np = [{toml(pattern)}]\n{RULE}',
    ):
        if "*" in pattern and "tiers" in text:
            continue
        with pytest.raises(PolicyError) as caught:
            Policy.parse(text)
        assert says in str(caught.value)
        assert "secret" not in str(caught.value)


def test_any_text_that_a_credential_may_be_is_taken() -> None:
    for name, pattern in (("key", "Zoë 日本"), ("key", "a\tb"), ("auth", "TOKEN   x"), ("session", '"a b"'),
                          ("token", "k-1"), ("token", "bearer-1"), ("user", " \n")):  # fmt: skip
        assert Policy.parse(f"{NAMED}{RULE}match = {{ {name} = {toml(pattern)} }}\n").rules


# Exemptions

EVERYTHING: list[dict[str, tuple[str, ...]]] = [
    {"path": ("*",)}, {"path": ("/x", "/*")}, {"path": ("**",)}, {"method": ("*",)}, {"client": ("*",)},
    {"client": ("0.0.0.0/0", "::/0")}, {"path": ("*",), "method": ("*",)}, {"method": ("GET", "*")},
    {"client": ("::/0", "0.0.0.0/1", "128.0.0.0/1")}, {"path": ("?*",)},
    {"client": ("?*",)}, {"client": ("192.0.2.7", "?**")},
    {"path": ("*?",)}, {"path": ("*?*",)}, {"path": ("*/*",)}, {"path": ("/", "/?*")},
    {"path": ("/", "/?", "??*?")}, {"client": ("*?",)},
]  # fmt: skip


def exempt_text(entries: list[dict[str, tuple[str, ...]]]) -> str:
    lists = [
        ", ".join(f"{name} = [{', '.join(map(toml, globs))}]" for name, globs in entry.items()) for entry in entries
    ]
    return f"exempt = [{', '.join(f'{{ {entry} }}' for entry in lists)}]\n"


@pytest.mark.parametrize("match", EVERYTHING)
def test_an_exemption_of_everything_is_an_error(match: dict[str, tuple[str, ...]]) -> None:
    makes: list[Callable[[], Policy]] = [
        lambda: Policy((Rule("r", BUCKET),), exempt=({"path": ("/ok",)}, match)),
        lambda: Policy.parse(exempt_text([match]) + RULE),
    ]
    for make in makes:
        with pytest.raises(PolicyError, match="so nothing would be limited"):
            make()


def test_an_exemption_of_every_tier_is_an_error() -> None:
    tiers = '[tiers]\nby = "user"\ndefault = "a"\n'
    with pytest.raises(PolicyError, match="exempt 1: every request would match it"):
        Policy.parse(f'exempt = [{{ tier = "*" }}]\n{tiers}{RULE}')
    assert Policy.parse(f'exempt = [{{ tier = "*" }}]\n{RULE}').rules, "without [tiers] it may be missing"
    tiers += 'pro = ["bob"]\n'
    for globs in ('["a", "pro"]', '["?*"]', '["a", "p*"]'):
        with pytest.raises(PolicyError, match="exempt 1: every request would match it"):
            Policy.parse(f"exempt = [{{ tier = {globs} }}]\n{tiers}{RULE}")
    with pytest.raises(PolicyError, match="its entries for 'tier' match every request between them"):
        Policy.parse(f'exempt = [{{ tier = "a" }}, {{ tier = "pro" }}]\n{tiers}{RULE}')
    for way in (Tiers("user", "a", {"bob": "pro"}), Tiers("user", "pro", {})):
        with pytest.raises(PolicyError, match="exempt 1: every request would match it"):
            Policy((Rule("r", BUCKET),), tiers=way, exempt=({"tier": ("a", "pro")},))
    assert Policy.parse(f'exempt = [{{ tier = "pro" }}]\n{tiers}{RULE}').exempt


def test_exemptions_of_everything_between_them_are_an_error() -> None:
    halves: list[dict[str, tuple[str, ...]]] = [{"client": ("0.0.0.0/0",)}, {"client": ("::/0",)}]
    with pytest.raises(PolicyError, match="match every request between them"):
        Policy((Rule("r", BUCKET),), exempt=tuple(halves))
    with pytest.raises(PolicyError, match="match every request between them"):
        Policy.parse(exempt_text(halves) + RULE)


@pytest.mark.parametrize(
    "match",
    [{"path": ("*",), "client": ("10.0.0.0/8",)}, {"client": ("0.0.0.0/0",)}, {"client": ("::/0", "0.0.0.0/1")},
     {"user": ("*",)}, {"path": ("/a*",)}, {"client": ("0.0.0.0/1", "0.0.0.0/1", "::/0")}],
)  # fmt: skip
def test_an_exemption_of_many_is_taken(match: dict[str, tuple[str, ...]]) -> None:
    assert Policy((Rule("r", BUCKET),), exempt=(match,)).exempt
    assert Policy.parse(exempt_text([match]) + RULE).exempt


def test_an_exemption_by_an_attribute_of_the_application_may_have_any_pattern() -> None:
    policy = Policy((Rule("r", BUCKET),), {"path": AppSource()}, exempt=({"path": ("*",)}, {"path": ("x/",)}))
    assert policy.exempt


def test_an_exemption_of_a_path_with_a_slash_at_its_end_needs_the_path_without() -> None:
    """A path with a slash at its end is read in both ways, so alone the pattern would exempt nothing."""
    with pytest.raises(PolicyError, match=re.escape("write path = ['/healthz', '/healthz/']")):
        Policy.parse(f'exempt = [{{ path = "/healthz/" }}]\n{RULE}')
    for right in (["/healthz", "/healthz/"], ["/"], ["/static/*", "/static/x/"]):
        assert Policy.parse(f"exempt = [{{ path = {right} }}]\n{RULE}").exempt


# Tiers

TIER_MISTAKES = [
    ("key", "k-*", "number 2 of 'pro' has a wildcard, but a tier lists exact values"),
    ("user", "a?", "number 2 of 'pro' has a wildcard, but a tier lists exact values"),
    ("key", "10.0.0.0/8", "number 2 of 'pro' is a network, but a tier lists exact values"),
    ("client", "10.0.0.0/8", "number 2 of 'pro' is a network, but a tier lists exact values"),
    ("client", "2001:db8::/32", "number 2 of 'pro' is a network, but a tier lists exact values"),
    ("client", "2001:db8::1", "number 2 of 'pro' can match nothing: '2001:db8::1': IPv6 clients are told apart by"),
    ("client", "localhost", "number 2 of 'pro' can match nothing: it is not an address"),
    ("path", "x", "number 2 of 'pro' can match nothing: 'x': a path begins with a slash: write '/x'"),
    ("path", "/vip/", "number 2 of 'pro' can match nothing: a tier goes by the path without its last slash"),
    ("host", "a.example:80", "number 2 of 'pro' can match nothing: a tier goes by the host without its port"),
    ("host", "[::1]:80", "number 2 of 'pro' can match nothing: a tier goes by the host without its port"),
    ("method", "HEAD", "number 2 of 'pro' can match nothing: HEAD counts as GET"),
]


@pytest.mark.parametrize(("by", "value", "says"), TIER_MISTAKES)
def test_a_tier_of_what_is_no_exact_value_is_an_error(by: str, value: str, says: str) -> None:
    first = {"client": "192.0.2.7", "path": "/a", "method": "GET"}.get(by, "k")
    text = f'{NAMED}[tiers]\nby = "{by}"\ndefault = "free"\npro = [{toml(first)},\n{toml(value)}]\n{RULE}'
    with pytest.raises(PolicyError) as caught:
        Policy.parse(text, "policy.toml")
    assert str(caught.value).startswith("policy.toml:12: [tiers]: ")
    assert says in str(caught.value)
    sources: dict[str, Source] = {"key": HeaderSource("x-key"), "host": HeaderSource("host"), "user": AppSource()}
    if by == "user":
        return  # in code it is free text
    with pytest.raises(PolicyError, match=r"tiers: value 1, of 'pro', (has|is|can)"):
        Policy((Rule("r", BUCKET),), sources, Tiers(by, "free", {value: "pro"}))


def test_a_tier_may_list_clients_as_they_are_told_apart() -> None:
    text = f'[tiers]\nby = "client"\ndefault = "free"\npro = ["192.0.2.7", "2001:db8:0:7::/64", "unknown"]\n{RULE}'
    assert Policy.parse(text).tiers


def test_one_value_in_two_spellings_is_in_one_tier() -> None:
    tiers = '[tiers]\nby = "session"\ndefault = "free"\npro = ["abc"]\ngold = ["\\"abc\\""]\n'
    with pytest.raises(PolicyError, match="number 1 of 'gold' is also in 'pro': it can be in one"):
        Policy.parse(f"{NAMED}{tiers}{RULE}")
    with pytest.raises(PolicyError, match="means the same as one in another tier"):
        Policy((Rule("r", BUCKET),), {"s": CookieSource("s")}, Tiers("s", "free", {"abc": "pro", '"abc"': "gold"}))


def test_validate_warns_of_a_tier_that_no_rule_limits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def warnings(rules: str, exempt: str = "") -> list[str]:
        tiers = '[tiers]\nby = "user"\ndefault = "free"\npro = ["p"]\nstaff = ["s"]\n'
        (tmp_path / "policy.toml").write_text(exempt + tiers + rules)
        assert main(["validate", str(tmp_path / "policy.toml")]) == 0
        return re.findall(r"warning: no rule limits tier '(\w+)'", capsys.readouterr().out)

    assert warnings(RULE) == []
    assert warnings(f'{RULE}match = {{ tier = "free" }}\n') == ["pro", "staff"]
    assert warnings(f'{RULE}match = {{ tier = ["free", "p*"] }}\n', 'exempt = [{ tier = "staff" }]\n') == []
    assert warnings(f"{RULE}shadow = true\n") == ["free", "pro", "staff"]


# Costs, sources and stores


def test_a_cost_of_nothing_is_an_error() -> None:
    with pytest.raises(
        PolicyError, match=r"policy\.toml:4: rule 'r': 'cost' must be 1 or more: at a cost of 0 the rule"
    ):
        Policy.parse(f"{RULE}cost = 0\n", "policy.toml")
    for cost in (0, -1, 1.5, None, True):
        with pytest.raises(PolicyError, match="cost must be 1 or more tokens, or an attribute's name"):
            Rule("r", BUCKET, cost=cost)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "says"),
    [("reddis://h", "did you mean 'redis'"), ("redis://h:abc", "is not a URL of a Redis store"),
     ("redis://h:99999", "is not a URL of a Redis store"),
     ("redis://h/abc", "after the host, only a database's number may follow"),
     ("redis://", "it names no host"), ("redis+cluster://h/1", "a cluster has only one database"),
     ("redis+sentinel://h", "after the hosts, the service's name must follow"),
     ("redis://h?dbb=1", "there is no option 'dbb'"),
     ("shared:..", "is not a name of a table"),
     ("shared:/tmp", "'/tmp' is a folder"), ("shared:", "a store is memory")],
)  # fmt: skip
def test_a_store_that_can_never_be_opened_is_an_error_without_opening_it(url: str, says: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(says)) as caught:
        Policy.parse(f'[store]\nurl = "{url}"\n{RULE}', "policy.toml")
    assert str(caught.value).startswith("policy.toml:2: [store]: ")


def test_a_path_is_the_attribute_path_only() -> None:
    with pytest.raises(PolicyError, match="'url' cannot be the path: only 'path' is"):
        Policy((Rule("r", BUCKET),), {"url": PathSource()})


@pytest.mark.parametrize(
    "options", [{"trusted_proxies": "1"}, {"trusted_proxies": -1}, {"ipv6_prefix": 31}, {"ipv6_prefix": 129},
                {"ipv4_prefix": 7}, {"ipv4_prefix": 33}, {"ipv4_prefix": True}, {"ipv6_prefix": 64.0}],
)  # fmt: skip
def test_an_option_of_a_clients_address_is_checked_when_it_is_given(options: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=f"{next(iter(options))} must be a whole number from"):
        ClientIP(**options)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("192.0.2.7", "IPv4 clients are told apart by their /24: write '192.0.2.0/24'"),
     ("192.0.2.0/25", "IPv4 clients are told apart by their /24: write '192.0.2.0/24'"),
     ("2001:db8:0:701::/64", "IPv6 clients are told apart by their /56: write '2001:db8:0:700::/56'")],
)  # fmt: skip
def test_a_network_is_checked_against_the_prefixes_of_its_own_attribute(pattern: str, says: str) -> None:
    text = '[attributes]\npeer = { from = "client_ip", ipv4_prefix = 24, ipv6_prefix = 56 }\n'
    with pytest.raises(PolicyError) as caught:
        Policy.parse(f"{text}{RULE}match = {{ peer = '{pattern}' }}\n")
    assert says in str(caught.value)
    assert Policy.parse(f"{text}{RULE}match = {{ client = '{pattern}' }}\n").rules, "by default they are not that wide"

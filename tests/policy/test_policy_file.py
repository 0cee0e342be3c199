"""The policy file: every mistake is an error with its place and what would be right; what loads is what was said."""

from __future__ import annotations

import re
import tomllib
from fractions import Fraction
from math import inf
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_oracle import Asked

from ratekeeper.errors import PolicyError
from ratekeeper.limits import LeakyBucket, TokenBucket
from ratekeeper.policy.file.toml_lines import lines_of
from ratekeeper.policy.keeper import Keeper
from ratekeeper.policy.model import Override, Policy, Rule, Tiers
from ratekeeper.policy.sources import AppSource, BearerSource, ClientIP, CookieSource, HeaderSource, PathSource

if TYPE_CHECKING:
    from pathlib import Path

DESIGN = """\
[attributes]                        # where a request's attributes come from, for HTTP
api_key = "header:x-api-key"
user    = "header:x-user-id"
client  = { from = "client_ip", trusted_proxies = 1 }

[tiers]                             # gives every request an attribute `tier`
by = "api_key"
default = "free"
pro = ["k-alice", "k-bob"]

[[rules]]
name = "free keys"
match = { tier = "free", path = "/api/*", method = ["GET", "POST"] }   # globs; all must match
key = ["api_key"]                   # one bucket for each distinct value; leave out = one bucket for the rule
algorithm = "token_bucket"          # the default; or "leaky_bucket" with leak_rate
capacity = 20
refill_rate = 5                     # tokens per second, or "300/minute"
overrides = [{ api_key = "k-carol", capacity = 500, refill_rate = 100 }]
cost = 1                            # or "header:x-cost"
max_wait = 0                        # seconds a request may be delayed before it is rejected instead
shadow = false                      # count and report, never reject
missing = "shared"                  # a request without the key's attribute
"""

RULE = '[[rules]]\nname = "r"\ncapacity = 20\nrefill_rate = 5\n'
LEAKY = '[[rules]]\nname = "r"\nalgorithm = "leaky_bucket"\ncapacity = 20\nleak_rate = 5\n'
NAMED = '[attributes]\nuser = "header:x-user"\n'
TIERS = '[tiers]\nby = "api_key"\ndefault = "free"\npro = ["k-1"]\n'


def one(text: str) -> Rule:
    (rule,) = Policy.parse(text).rules
    return rule


def rule_with(extra: str) -> Rule:
    return one(RULE + extra)


def errors_of(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(text, "policy.toml")
    return str(caught.value).split("\n")


# Files that load


def test_the_design_example_loads_as_it_says() -> None:
    policy = Policy.parse(DESIGN, "policy.toml")
    assert policy.source == "policy.toml"
    assert policy.attributes == {
        "api_key": HeaderSource("x-api-key"), "user": HeaderSource("x-user-id"), "client": ClientIP(trusted_proxies=1),
    }  # fmt: skip
    assert policy.tiers == Tiers("api_key", "free", {"k-alice": "pro", "k-bob": "pro"})
    assert policy.rules == (
        Rule(
            "free keys",
            TokenBucket(20, 5),
            match={"tier": ("free",), "path": ("/api/*",), "method": ("GET", "POST")},
            key=("api_key",),
            overrides=(Override({"api_key": ("k-carol",)}, TokenBucket(500, 100)),),
            cost=1, max_wait=0, shadow=False, missing="shared",
        ),
    )  # fmt: skip


def test_a_rule_needs_no_more_than_a_name_and_a_limit() -> None:
    assert rule_with("") == Rule("r", TokenBucket(20, 5))


def test_a_token_bucket_does_not_wait_and_a_leaky_bucket_lets_its_whole_queue_wait() -> None:
    assert one(RULE).max_wait == 0
    assert one(LEAKY).max_wait is None
    assert one(LEAKY).limit == LeakyBucket(20, 5)
    assert Rule("r", TokenBucket(1, 1)).max_wait == 0
    assert Rule("r", LeakyBucket(1, 1)).max_wait is None


@pytest.mark.parametrize(("text", "wait"), [("0.25", 0.25), ("2", 2), ("inf", inf)])
def test_max_wait_is_any_number_of_seconds(text: str, wait: float) -> None:
    assert rule_with(f"max_wait = {text}").max_wait == wait
    assert one(LEAKY + f"max_wait = {text}").max_wait == wait


def test_a_limit_may_be_written_as_one_text() -> None:
    assert one('[[rules]]\nname = "r"\nlimit = "100/minute burst 20"').limit == TokenBucket(20, "100/minute")


def test_a_rate_may_be_text() -> None:
    assert one('[[rules]]\nname = "r"\ncapacity = 2\nrefill_rate = "300/minute"').limit == TokenBucket(2, 5)


def test_an_override_inherits_what_it_leaves_out() -> None:
    rule = rule_with("""overrides = [
        { user = "a", capacity = 500 }, { user = "b", refill_rate = "1/m" }, { user = "c", limit = "7/h" }]""")
    limits = [Asked(rule).limit_for({"user": user}) for user in "abcd"]
    assert limits == [TokenBucket(500, 5), TokenBucket(20, "1/m"), TokenBucket(7, "7/h"), TokenBucket(20, 5)]


def test_an_override_inherits_from_a_limit_written_as_one_text() -> None:
    rule = one('[[rules]]\nname = "r"\nlimit = "100/minute"\noverrides = [{ user = "a", capacity = 500 }]')
    assert Asked(rule).limit_for({"user": "a"}) == TokenBucket(500, "100/minute")


def test_an_override_of_a_leaky_bucket_is_leaky() -> None:
    rule = one(LEAKY + 'overrides = [{ user = "a", leak_rate = 9 }]')
    assert Asked(rule).limit_for({"user": "a"}) == LeakyBucket(20, 9)


def test_match_and_overrides_may_be_tables_of_their_own() -> None:
    rule = rule_with('[rules.match]\npath = "/a"\n[[rules.overrides]]\nuser = "u"\ncapacity = 1\n')
    assert rule.match == {"path": ("/a",)}
    assert Asked(rule).limit_for({"user": "u"}) == TokenBucket(1, 5)


def test_a_client_ip_trusts_no_proxy_unless_told_to() -> None:
    text = (
        '[attributes]\na = "client_ip"\nb = { from = "client_ip" }\nc = { from = "client_ip", trusted_proxies = 2 }\n'
    )
    assert Policy.parse(text + RULE).attributes == {"a": ClientIP(0), "b": ClientIP(0), "c": ClientIP(2)}


def test_a_client_ip_may_be_told_apart_by_other_prefixes() -> None:
    text = '[attributes]\nclient = { from = "client_ip", trusted_proxies = 1, ipv4_prefix = 24, ipv6_prefix = 56 }\n'
    assert Policy.parse(text + RULE).attributes == {"client": ClientIP(1, ipv4_prefix=24, ipv6_prefix=56)}
    for option, values in (("ipv4_prefix", (8, 32)), ("ipv6_prefix", (32, 128))):
        for value in values:
            assert Policy.parse(f'[attributes]\nc = {{ from = "client_ip", {option} = {value} }}\n{RULE}').attributes


@pytest.mark.parametrize(
    ("text", "ignore_case"),
    [('"path"', False), ('{ from = "path" }', False), ('{ from = "path", ignore_case = true }', True)],
)
def test_a_path_may_ignore_case(text: str, ignore_case: bool) -> None:
    policy = Policy.parse(f'[attributes]\npath = {text}\n{RULE}match = {{ path = "/Login" }}')
    assert policy.attributes == {"path": PathSource(ignore_case)}
    assert Asked(policy.rules[0], policy.attributes).matches({"path": "/login"}) is ignore_case


def test_an_attribute_may_be_the_token_of_a_bearer() -> None:
    assert Policy.parse(f'[attributes]\ntoken = "bearer"\n{RULE}key = ["token"]').attributes == {
        "token": BearerSource()
    }


def test_header_names_are_lower_cased() -> None:
    assert HeaderSource("X-Key").name == "x-key"
    assert Policy.parse('[attributes]\na = "header:X-Key"\n' + RULE).attributes == {"a": HeaderSource("x-key")}


def test_an_attribute_may_come_from_a_cookie_or_from_the_application() -> None:
    policy = Policy.parse('[attributes]\na = "cookie:Sid"\nb = "app"\n' + RULE + 'key = ["a", "b"]')
    assert policy.attributes == {"a": CookieSource("Sid"), "b": AppSource()}


def test_a_cost_from_a_header_makes_an_attribute_of_that_text() -> None:
    policy = Policy.parse(NAMED + RULE + 'cost = "header:X-Cost"')
    assert policy.attributes == {"user": HeaderSource("x-user"), "header:X-Cost": HeaderSource("x-cost")}
    assert policy.rules[0].cost_of({"header:X-Cost": "7"}) == 7


def test_the_builtin_attributes_need_no_declaration() -> None:
    text = NAMED.replace("user", "api_key") + TIERS + RULE
    assert Policy.parse(text + 'match = { method = "GET", path = "/", tier = "pro" }\nkey = ["client"]').rules


def test_without_an_attributes_table_any_attribute_goes() -> None:
    assert rule_with('match = { org = "x" }\nkey = ["seat"]\ncost = "tokens"').key == ("seat",)


def test_a_file_loads_under_its_own_name_and_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\xef\xbb\xbf" + DESIGN.replace("\n", "\r\n").encode())
    policy = Policy.load(path)
    assert policy.rules == Policy.parse(DESIGN).rules
    assert policy.source == str(path)
    assert Policy.load(str(path)) == policy


def test_a_tier_without_members_is_a_tier() -> None:
    assert Policy.parse(TIERS + "gold = []\n" + RULE + 'match = { tier = ["gold", "f*", "x?"] }').rules


@pytest.mark.parametrize("name", ["default", "by"])
def test_the_default_tier_may_have_any_name(name: str) -> None:
    policy = f'[tiers]\nby = "user"\ndefault = "{name}"\npro = ["bob"]\n{RULE}match = {{ tier = "{name}" }}'
    keeper = Keeper(Policy.parse(policy))
    assert [len(keeper.peek({"user": user}).rules) for user in ("alice", "bob")] == [1, 0]


def test_an_exact_rate_is_inherited_exactly() -> None:
    rule = one('[[rules]]\nname = "r"\ncapacity = 3\nrefill_rate = "7/minute"\noverrides = [{ u = "a", capacity = 9 }]')
    assert Asked(rule).limit_for({"u": "a"}).rate == Fraction(7, 60)


# Files that do not

MISTAKES = [
    # the file
    ("", "policy.toml: 'rules' is missing", "would limit nothing"),
    ("rules = []", "policy.toml:1: 'rules' is empty", "would limit nothing"),
    ('\n[rules]\nname = "r"', "policy.toml:2: 'rules' is a list of tables: write [[rules]]"),
    ("rules = 5", "policy.toml:1: 'rules' must be a list of tables, not a whole number"),
    ("rules = [5]", "policy.toml:1: 'rules' must be a list of tables, not a list of something else"),
    (RULE.replace("rules", "rule"), "policy.toml:1: unknown table 'rule': did you mean 'rules'?"),
    (RULE + "[tier]\n", "policy.toml:5: unknown table 'tier': did you mean 'tiers'?"),
    (RULE + "[quux]\n", "policy.toml:5: unknown table 'quux': use one of attributes, exempt, rules, store, tiers"),
    ("atributes = 1\n" + RULE, "policy.toml:1: unknown key 'atributes': did you mean 'attributes'?"),
    (RULE + "shadow =\n", "policy.toml:5: not TOML: Invalid value (column 9)"),
    (RULE + 'missing = "sh', "policy.toml:5: not TOML: Unterminated string (the file ends too early)"),
    (RULE + "cost = " + "9" * 5000, "policy.toml: not TOML: Exceeds the limit"),
    ("x = " + "[" * 9000, "policy.toml: not TOML: nested too deep"),
    # exempt
    ("exempt = 5\n" + RULE, "policy.toml:1: 'exempt' must be a list of tables, not a whole number: write exempt = [{"),
    ("exempt = [{}]\n" + RULE, "policy.toml:1: exempt 1: it is empty, so every request would match it"),
    ("exempt = [\n{ path = [] }]\n" + RULE, "policy.toml:2: exempt 1: 'path' has no pattern"),
    ('exempt = [{ path = "/a" },\n{ path = 5 }]\n' + RULE,
     "policy.toml:2: exempt 2: 'path' must be a string or a list"),
    ('exempt = [{ usr = "a" }]\n' + NAMED + RULE, "policy.toml:1: exempt 1: unknown attribute 'usr'", "'user'?"),
    ('exempt = [{ tier = "fre" }]\n' + TIERS + RULE, "policy.toml:1: exempt 1: unknown tier 'fre'", "'free'?"),
    ('exmpt = [{ path = "/a" }]\n' + RULE, "policy.toml:1: unknown table 'exmpt': did you mean 'exempt'?"),
    # [attributes]
    ("attributes = 1\n" + RULE, "policy.toml:1: 'attributes' must be a table, not a whole number"),
    (NAMED + 'k = "heder:x"\n' + RULE, "policy.toml:3: [attributes]: 'k' cannot come from 'heder:x'", "'header:NAME'?"),
    (NAMED + 'k = "header:"\n' + RULE,
     "policy.toml:3: [attributes]: 'k': 'header:' names no header", "header:x-api-key"),
    (NAMED + 'k = "header:a b"\n' + RULE, "policy.toml:3: [attributes]: 'k': 'header:a b' names no header"),
    (NAMED + 'k = "cookie:"\n' + RULE,
     "policy.toml:3: [attributes]: 'k': 'cookie:' names no cookie", "cookie:session"),
    (NAMED + 'k = "cookie:a;b"\n' + RULE, "policy.toml:3: [attributes]: 'k': 'cookie:a;b' names no cookie"),
    (NAMED + 'k = "apps"\n' + RULE, "policy.toml:3: [attributes]: 'k' cannot come from 'apps'", "'app'?"),
    (NAMED + "k = true\n" + RULE, "policy.toml:3: [attributes]: 'k' must be 'header:NAME'", "not true or"),
    (NAMED + '"" = "client_ip"\n' + RULE, "[attributes]: '' cannot be an attribute's name"),
    (NAMED + '"header:x" = "header:x"\n' + RULE,
     "policy.toml:3: [attributes]: 'header:x' cannot be an attribute's name"),
    (NAMED + 'k = { form = "client_ip" }\n' + RULE, "policy.toml:3: [attributes]: k: unknown key 'form'", "'from'?"),
    (NAMED + "k = { trusted_proxies = 1 }\n" + RULE, "policy.toml:3: [attributes]: k: 'from' is missing", "client_ip"),
    (NAMED + 'k = { from = "ip" }\n' + RULE, "policy.toml:3: [attributes]: k: 'from' cannot be 'ip'", "client_ip"),
    (NAMED + "k = { from = 4 }\n" + RULE, "[attributes]: k: 'from' must be one of client_ip, path, not a whole number"),
    (NAMED + '[attributes.k]\nfrom = "client_ip"\ntrusted_proxies = -1\n' + RULE,
     "policy.toml:5: [attributes]: k: 'trusted_proxies' must be a whole number from 0 to 1000, not -1"),
    (NAMED + 'k = { from = "client_ip", trusted_proxies = true }\n' + RULE,
     "must be a whole number from 0 to 1000, not true or false"),
    (NAMED + 'k = { from = "client_ip", ipv6_prefix = 31 }\n' + RULE,
     "policy.toml:3: [attributes]: k: 'ipv6_prefix' must be a whole number from 32 to 128, not 31"),
    (NAMED + 'k = { from = "client_ip", ipv4_prefix = 33 }\n' + RULE, "must be a whole number from 8 to 32, not 33"),
    (NAMED + 'k = { from = "client_ip", ipv6_prefix = "56" }\n' + RULE, "from 32 to 128, not a string"),
    (NAMED + 'k = { from = "client_ip", ipv6_prefx = 56 }\n' + RULE, "unknown key 'ipv6_prefx'", "'ipv6_prefix'?"),
    (NAMED + 'k = { from = "client_ip", ignore_case = true }\n' + RULE, "unknown key 'ignore_case': use one of from"),
    (NAMED + 'path = { from = "path", ignore_case = 1 }\n' + RULE, "path: 'ignore_case' must be true or false"),
    (NAMED + 'path = { from = "path", trusted_proxies = 1 }\n' + RULE, "path: unknown key 'trusted_proxies'"),
    (NAMED + 'url = "path"\n' + RULE, "policy.toml:3: [attributes]: 'url' cannot be the path: write path = {"),
    (NAMED + 'k = "bearr"\n' + RULE, "policy.toml:3: [attributes]: 'k' cannot come from 'bearr'", "'bearer'?"),
    (NAMED + 'tier = "header:x-tier"\n' + TIERS.replace("api_key", "user") + RULE,
     "policy.toml:3: [attributes]: 'tier' is given by [tiers]"),
    # [tiers]
    ("tiers = 1\n" + RULE, "policy.toml:1: 'tiers' must be a table, not a whole number"),
    ('[tiers]\ndefault = "a"\n' + RULE, "policy.toml:1: [tiers]: 'by' is missing: write, say, by = 'api_key'"),
    ('[tiers]\nby = "a"\n' + RULE, "policy.toml:1: [tiers]: 'default' is missing: write, say, default = 'free'"),
    ('[tiers]\nby = 1\ndefault = "a"\n' + RULE, "policy.toml:2: [tiers]: 'by' must be a string, not a whole number"),
    ('[tiers]\nby = "a"\ndefault = ""\n' + RULE,
     "policy.toml:3: [tiers]: 'default' must be a string, not an empty string"),
    ('[tiers]\nby = "tier"\ndefault = "a"\n' + RULE, "policy.toml:2: [tiers]: 'by' cannot be 'tier'"),
    (NAMED + '[tiers]\nby = "usr"\ndefault = "a"\n' + RULE,
     "policy.toml:4: [tiers]: unknown attribute 'usr': did you mean 'user'?"),
    (TIERS + 'gold = "k-2"\n' + RULE, "policy.toml:5: [tiers]: 'gold' must be a list, not a string", 'gold = ["..."]'),
    (TIERS + 'gold = ["k-2",\n 7]\n' + RULE,
     "policy.toml:6: [tiers]: 'gold' must hold strings: number 2 is a whole number"),
    (TIERS + '"the gold" = ["k-2",\n "k-1"]\n' + RULE,
     "policy.toml:6: [tiers]: number 2 of 'the gold' is also in 'pro': it can be in one"),
    # a rule's own keys
    (RULE + "capcity = 5\n", "policy.toml:5: rule 'r': unknown key 'capcity': did you mean 'capacity'?"),
    (RULE.replace("capacity", "capcity"), "policy.toml:3: rule 'r': unknown key 'capcity': did you mean 'capacity'?"),
    (RULE + "xyzzy = 5\n", "policy.toml:5: rule 'r': unknown key 'xyzzy': use one of algorithm, capacity, cost, d"),
    ("[[rules]]\ncapacity = 20\nrefill_rate = 5\n", "policy.toml:1: rule 1: 'name' is missing: write, say, name ="),
    (RULE.replace('"r"', "7"), "policy.toml:2: rule 1: 'name' must be a string, not a whole number"),
    (RULE.replace('"r"', '""'), "policy.toml:2: rule 1: 'name' must be a string, not an empty string"),
    (RULE.replace('"r"', r'"a\nb"'), r"policy.toml:2: rule 1: 'name' must be printable, without spaces around it"),
    (RULE.replace('"r"', '" r"'), "policy.toml:2: rule 1: 'name' must be printable, without spaces around it"),
    (RULE.replace('"r"', '"(others)"'), "policy.toml:2: rule 1: 'name' cannot be '(others)', as metrics count many"),
    (RULE + RULE, "policy.toml:6: rule 2: rule 1 is named 'r' too: each needs its own"),
    (RULE + 'shadow = "yes"\n', "policy.toml:5: rule 'r': 'shadow' must be true or false, not a string"),
    (RULE + 'missing = "sharde"\n', "policy.toml:5: rule 'r': 'missing' cannot be 'sharde': did you mean 'shared'?"),
    (RULE + "missing = 1\n", "'missing' must be one of shared, skip, reject, not a whole number"),
    (RULE + "max_wait = -1\n", "policy.toml:5: rule 'r': 'max_wait' must be 0 or more seconds, not a negative number"),
    (RULE + "max_wait = nan\n", "'max_wait' must be 0 or more seconds, not nan"),
    (RULE + "max_wait = true\n", "'max_wait' must be 0 or more seconds, not true or false"),
    (RULE + 'max_wait = "1s"\n', "'max_wait' must be 0 or more seconds, not a string"),
    # its limit
    (RULE.replace("refill_rate = 5", ""),
     "policy.toml:1: rule 'r': 'refill_rate' is missing: write, say, refill_rate = 5"),
    (RULE.replace("capacity = 20", ""), "policy.toml:1: rule 'r': 'capacity' is missing: write, say, capacity = 20"),
    (LEAKY.replace("leak_rate = 5", ""), "policy.toml:1: rule 'r': 'leak_rate' is missing: write, say, leak_rate = 5"),
    (LEAKY.replace("leak_", "refill_"),
     "policy.toml:5: rule 'r': 'refill_rate' is not for a leaky bucket:"
      " write 'leak_rate', or algorithm = 'token_bucket'"),
    (RULE.replace("refill_", "leak_"),
     "policy.toml:4: rule 'r': 'leak_rate' is not for a token bucket:"
      " write 'refill_rate', or algorithm = 'leaky_bucket'"),
    (RULE + 'algorithm = "leeky_bucket"\n',
     "policy.toml:5: rule 'r': 'algorithm' cannot be 'leeky_bucket'", "'leaky_bucket'?"),
    (RULE + "algorithm = 1\n", "policy.toml:5: rule 'r': 'algorithm' must be one of token_bucket, leaky_bucket"),
    (RULE.replace("20", "0"), "policy.toml:3: rule 'r': TokenBucket: capacity must be at least 1, not 0"),
    (RULE.replace("20", "true"), "policy.toml:3: rule 'r': TokenBucket: capacity must be a whole number"),
    (RULE.replace("20", "0x" + "f" * 5000), "policy.toml:", "rule 'r': Exceeds the limit"),
    (RULE.replace("5", "0"), "policy.toml:4: rule 'r': TokenBucket: refill_rate: a rate must be positive"),
    (RULE.replace("5", '"5/minuet"'), "policy.toml:4: rule 'r': TokenBucket: refill_rate:", "did you mean 'minute'?"),
    (RULE.replace("5", "1979-05-27"), "policy.toml:4: rule 'r': TokenBucket: refill_rate: a rate is a number"),
    (RULE + 'limit = "5/s"\n', "policy.toml:3: rule 'r': 'limit' says what 'capacity' and 'refill_rate' would"),
    ('[[rules]]\nname = "r"\nlimit = "5/minuet"', "policy.toml:3: rule 'r': '5/minuet': unknown unit", "'minute'?"),
    ('[[rules]]\nname = "r"\nlimit = 5', "policy.toml:3: rule 'r': a limit is a string such as '100/minute', not 5"),
    (f'[[rules]]\nname = "r"\nlimit = "{"9" * 400}.5/s"', "policy.toml:3: rule 'r': "),
    ('[[rules]]\nname = "r"\nalgorithm = "leaky_bucket"\nlimit = "5/s"',
     "policy.toml:4: rule 'r': 'limit' is for a token bucket: write 'capacity' and 'leak_rate'"),
    # match and key
    (RULE + "match = 5\n", "policy.toml:5: rule 'r': 'match' must be a table, not a whole number"),
    (RULE + "match = { path = 5 }\n",
     "policy.toml:5: rule 'r': match: 'path' must be a string or a list of strings, not a whole"),
    (RULE + "match = { path = [] }\n", "policy.toml:5: rule 'r': match: 'path' has no pattern, so nothing would match"),
    (RULE + 'match = { path = "" }\n',
     "policy.toml:5: rule 'r': match: 'path' must hold strings: number 1 is an empty string"),
    (RULE + 'match.path = [\n"/a",\n3,\n]\n',
     "policy.toml:7: rule 'r': match: 'path' must hold strings: number 2 is a whole"),
    (NAMED + RULE + 'match = { usr = "x" }\n', "policy.toml:7: rule 'r': match: unknown attribute 'usr'", "'user'?"),
    (NAMED + RULE + 'match = { tier = "x" }\n', "policy.toml:7: rule 'r': match: unknown attribute 'tier'"),
    (RULE + 'match = { "header:x" = "y" }\n',
     "policy.toml:5: rule 'r': match: 'header:x' is not an attribute: add it to"),
    (TIERS + RULE + 'match = { tier = "fre" }\n',
     "policy.toml:9: rule 'r': match: unknown tier 'fre': did you mean 'free'?"),
    (TIERS + RULE + 'match = { tier = ["pro", "gold"] }\n', "unknown tier 'gold': use one of free, pro"),
    (RULE + 'key = "user"\n', "policy.toml:5: rule 'r': 'key' must be a list, not a string: write key = [\"...\"]"),
    (RULE + "key = [1]\n", "policy.toml:5: rule 'r': 'key' must hold strings: number 1 is a whole number"),
    (RULE + 'key = ["header:x-user"]\n',
     "policy.toml:5: rule 'r': 'header:x-user' is not an attribute: add it to [attributes]"),
    (NAMED + RULE + 'key = ["client",\n "usr"]\n',
     "policy.toml:8: rule 'r': unknown attribute 'usr': did you mean 'user'?"),
    # overrides
    (RULE + "overrides = 5\n", "policy.toml:5: rule 'r': 'overrides' must be a list of tables, not a whole number"),
    (RULE + 'overrides = { user = "a", capacity = 1 }\n',
     "policy.toml:5: rule 'r': 'overrides' must be a list of tables"),
    (RULE + "overrides = [{ capacity = 1 }]\n", "policy.toml:5: rule 'r': override 1: it has no attribute to match"),
    (RULE + 'overrides = [{ user = "a" }]\n', "rule 'r': override 1: it changes nothing: give a 'capacity'"),
    (RULE + 'overrides = [{ user = "a", deny = false }]\n', "rule 'r': override 1: it changes nothing: give a 'capa"),
    (RULE + 'overrides = [{ user = "a", deny = true, limit = "1/s" }]\n', "override 1: 'limit' means nothing beside"),
    (RULE + 'overrides = [{ user = "a", deny = "yes" }]\n', "override 1: 'deny' must be true or false, not a string"),
    (RULE + 'overrides = [{ deny = true }]\n', "override 1: it has no attribute to match"),
    ('[[rules]]\nname = "r"\ndeny = true\nmax_wait = 2\n', "policy.toml:4: rule 'r': 'max_wait' means nothing beside"),
    ('[[rules]]\nname = "r"\ndeny = true\nlimit = "5/s"\n',
     "policy.toml:4: rule 'r': 'limit' means nothing beside deny = true, which refuses every request: take one"),
    ('[[rules]]\nname = "r"\ndeny = true\nalgorithm = "leaky_bucket"\n', "policy.toml:4: rule 'r': 'algorithm' means"),
    ('[[rules]]\nname = "r"\ndeny = 1\nlimit = "1/s"\n', "policy.toml:3: rule 'r': 'deny' must be true or false, not"),
    ('[[rules]]\nname = "r"\nlimit = "0/s burst 2"\n', "policy.toml:3: rule 'r': TokenBucket: refill_rate: a rate"),
    (RULE + 'overrides = [\n{ user = "a", capacity = 1 },\n{ user = "b", capacity = 0 }]\n',
     "policy.toml:7: rule 'r': override 2: TokenBucket: capacity must be at least 1, not 0"),
    (RULE + '[[rules.overrides]]\nuser = "a"\ncapacity = 1\n[[rules.overrides]]\nuser = "b"\ncapacity = 0\n',
     "policy.toml:10: rule 'r': override 2: TokenBucket: capacity must be at least 1, not 0"),
    (RULE + 'overrides = [{ user = "a", capcity = 1, refill_rate = 1 }]\n',
     "rule 'r': override 1: unknown key 'capcity': did you mean 'capacity'?"),
    (RULE + 'overrides = [{ user = "a", capacity = 1, refil_rate = "1/s" }]\n',
     "override 1: unknown key 'refil_rate': did you mean 'refill_rate'?"),
    (RULE + 'overrides = [{ user = "a", capacity = 1, cost = 2 }]\n',
     "override 1: unknown key 'cost': use one of capacity"),
    (RULE + 'overrides = [{ user = 7, capacity = 1 }]\n', "override 1: 'user' must be a string or a list of strings"),
    (NAMED + RULE + 'overrides = [{ usr = "a", capacity = 1 }]\n',
     "override 1: unknown key 'usr': did you mean 'user'?"),
    (NAMED + RULE + 'overrides = [{ user = "a", capcity = "1" }]\n', "unknown key 'capcity': did you mean 'capacity'?"),
    (RULE + 'overrides = [{ user = "a", leak_rate = 1 }]\n', "override 1: 'leak_rate' is not for a token bucket"),
    (RULE + 'overrides = [{ user = "a", limit = "1/s", capacity = 1 }]\n',
     "override 1: 'limit' says what 'capacity' would"),
    (TIERS + RULE + 'overrides = [{ tier = "prp", capacity = 1 }]\n',
     "override 1: unknown tier 'prp': did you mean 'pro'?"),
    # cost
    (RULE + "cost = -1\n",
     "policy.toml:5: rule 'r': 'cost' must be a whole number (without quotes)", "not a negative number"),
    (RULE + "cost = true\n", "'cost' must be a whole number", "not true or false"),
    (RULE + "cost = 1.5\n", "'cost' must be a whole number", "not a number"),
    (RULE + 'cost = "5"\n', "'cost' must be a whole number (without quotes)", "not a string"),
    (RULE + 'cost = ""\n', "'cost' must be a whole number", "not an empty string"),
    (RULE + 'cost = "header:"\n',
     "policy.toml:5: rule 'r': 'header:' names no header: write, say, cost = 'header:x-cost'"),
    (NAMED + RULE + 'cost = "usr"\n', "policy.toml:7: rule 'r': unknown attribute 'usr': did you mean 'user'?"),
    (RULE + "cost = 21\n",
     "policy.toml:5: rule 'r': 'cost' is more than token_bucket of 20 at 5/s can ever admit (20)"),
    (RULE + 'overrides = [{ u = "b", capacity = 30 }, { u = "a", capacity = 4 }]\ncost = 5\n',
     "policy.toml:6: rule 'r': 'cost' is more than token_bucket of 4 at 5/s of override 2 can ever admit (4)"),
    # a limit of nothing has no part to inherit
    ('[[rules]]\nname = "r"\nlimit = "0/s"\noverrides = [{ u = "a", capacity = 5 }]\n',
     "policy.toml:4: rule 'r': override 1: 'refill_rate' is missing: write, say, refill_rate = 5"),
    ('[[rules]]\nname = "r"\ndeny = true\noverrides = [{ u = "a", refill_rate = 5 }]\n',
     "policy.toml:4: rule 'r': override 1: 'capacity' is missing: write, say, capacity = 20"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fragments"), [(mistake[0], mistake[1:]) for mistake in MISTAKES])
def test_a_mistake_is_one_error_that_says_where_and_what_would_be_right(text: str, fragments: tuple[str, ...]) -> None:
    errors = errors_of(text)
    assert len(errors) == 1, errors
    for fragment in fragments:
        assert fragment in errors[0]
    assert len(errors[0]) < 300


@pytest.mark.parametrize(
    ("before", "place"), [(NAMED, "policy.toml:3: "), (TIERS, "policy.toml:5: "), (RULE, "policy.toml:5: ")]
)
def test_an_exempt_after_a_table_is_told_where_it_belongs(before: str, place: str) -> None:
    errors = errors_of(before + 'exempt = [{ path = "/a" }]\n' + RULE.replace('"r"', '"q"'))
    table = {NAMED: "attributes", TIERS: "tiers", RULE: "rules"}[before]
    assert f"{place}'exempt' is a key of the file, here it is one of [{table}]: move it above all tables" in errors


def test_all_errors_of_a_file_come_at_once_in_its_order() -> None:
    text = RULE.replace("20", "0") + "shdow = true\n\n" + LEAKY.replace('"r"', '"q"').replace("5", "-5") + "[tiers]\n"
    assert [error.split(" ")[0] for error in errors_of(text)] == [f"policy.toml:{line}:" for line in (3, 5, 11, 12, 12)]


def test_errors_do_not_tell_keys() -> None:
    secrets = '[tiers]\nby = "api_key"\ndefault = "free"\npro = "k-secret"\nteam = ["k-secret"]\ngold = ["k-secret"]\n'
    override = (
        'overrides = [{ api_key = ["k-secret", 1] }, { capacity = "k-secret", api_key = "k-secret", shadow = 1 }]\n'
    )
    told = "\n".join(errors_of(secrets + RULE + override + 'match = { api_key = ["k-secret", ""] }'))
    assert told.count("\n") >= 5
    assert "k-secret" not in told.replace("capacity must be a whole number of tokens, not 'k-secret'", "")


def test_a_line_is_told_only_where_it_is_known() -> None:
    text = RULE + r'overrides = [{ "us\u0065r" = 5, capacity = 1 }]'
    assert errors_of(text)[0].startswith("policy.toml:5: rule 'r': override 1: 'user' must be")
    assert errors_of("")[0].startswith("policy.toml: ")


@pytest.mark.parametrize(
    ("content", "fragment"),
    [(None, "policy.toml: no such file"), (b"a = 1\nb = '\xff'", "policy.toml:2: not UTF-8 text: byte 0xff")],
)
def test_a_file_that_cannot_be_read_says_why(content: bytes | None, fragment: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PolicyError, match=re.escape(fragment)):
        Policy.load(path)
    with pytest.raises(PolicyError, match="is a directory, not a policy file"):
        Policy.load(tmp_path)


@settings(max_examples=3 * settings().max_examples)
@given(st.data())
def test_a_file_with_random_slips_loads_whole_or_is_a_policy_error(data: st.DataObject) -> None:
    text = DESIGN
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        put = data.draw(st.sampled_from(["", *"\"'[]{}=,.#\n0x-\\ *"]) | st.text(max_size=2))
        text = text[:at] + put + text[at + data.draw(st.integers(0, 3)) :]
    error = ""
    try:
        policy = Policy.parse(text)
    except PolicyError as caught:
        error = str(caught)
    assert policy.rules if not error else all(line.startswith("<policy>") for line in error.split("\n"))


@given(st.text("[]{}=\"'#.,\n ab1-", max_size=60))
def test_finding_lines_never_fails_and_finds_only_what_is_there(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in lines_of(text).values())


def test_lines_are_found_past_strings_comments_and_lists_that_look_like_tables() -> None:
    text = '# [[rules]]\na = """\n[[rules]]\nname = 1\n"""\nb = [\n  ["x"]]\nc = \'"""\'\n'
    text += "f = '''\n[[rules]]\n'''\n"
    text += '[[rules]]\n"name" = 2 # "\nd.e = {f = [{}, {g = 1}]}\n'
    assert tomllib.loads(text)["rules"]
    assert {path: line for path, line in lines_of(text).items() if path[0] == "rules"} == {
        ("rules",): 12, ("rules", 0): 12, ("rules", 0, "name"): 13, ("rules", 0, "d"): 14, ("rules", 0, "d", "e"): 14,
        ("rules", 0, "d", "e", "f"): 14, ("rules", 0, "d", "e", "f", 0): 14, ("rules", 0, "d", "e", "f", 1): 14,
        ("rules", 0, "d", "e", "f", 1, "g"): 14,
    }  # fmt: skip
    assert lines_of(text)["c",] == 8


def test_a_repr_tells_no_secret() -> None:
    shown = repr(Policy.parse(DESIGN.replace('tier = "free"', 'api_key = "k-dave"')))
    assert "free keys" in shown
    assert "k-" not in shown.replace("x-api-key", "")

"""Hashes in a policy stand for secrets: they match the value that has them, in its one spelling, and nothing else."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256

import pytest
from exchanges import Asked as Request
from hypothesis import given
from hypothesis import strategies as st
from policy_oracle import Asked

from ratekeeper import Keeper, Policy, PolicyError, TokenBucket, core
from ratekeeper.cli.main import main
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.policy.compiled import CompiledPolicy, Matcher, PythonMatcher
from ratekeeper.policy.model import Override, Rule, Tiers
from ratekeeper.policy.program import Program, program_of
from ratekeeper.policy.sources import (
    AppSource,
    BearerSource,
    ClientIP,
    CookieSource,
    HeaderSource,
    Readings,
    Source,
)

BUCKET = TokenBucket(5, 1)
MATCHERS = [PythonMatcher] if core.matcher is None else [PythonMatcher, core.matcher]


def hashed(value: str) -> str:
    return "sha256:" + sha256(value.encode()).hexdigest()


ALICE = hashed("k-alice")
FILE = f"""
exempt = [{{ api_key = "{hashed("k-ops")}" }}]
[attributes]
api_key = "header:x-api-key"
[tiers]
by = "api_key"
default = "free"
pro = ["{ALICE}", "k-bob"]
team = ["{hashed("k-team").upper()}"]
[[rules]]
name = "free"
match = {{ tier = "free" }}
key = ["api_key"]
limit = "10/hour"
[[rules]]
name = "paid"
match = {{ tier = ["pro", "team"] }}
key = ["api_key"]
limit = "100/hour"
overrides = [{{ api_key = ["{hashed("k-bob")}", "k-other"], limit = "300/hour" }}]
[[rules]]
name = "banned"
match = {{ api_key = ["{hashed("k-bad")}", "k-test-*"] }}
deny = true
"""


@pytest.mark.parametrize("matcher", MATCHERS)
def test_a_hash_stands_for_its_value_in_tiers_overrides_matches_and_exemptions(
    matcher: Callable[[Program], Matcher],
) -> None:
    compiled = CompiledPolicy(Policy.parse(FILE), matcher=matcher)

    def rules(key: str | None) -> list[tuple[str, int]]:
        plan = compiled.plan({} if key is None else {"api_key": key})
        limits = [*(charge.limit.capacity for charge in plan.charges), *(0 for _ in plan.known)]
        return [(rule.name, limit) for rule, limit in zip(plan.rules, limits, strict=True)]

    assert rules("k-alice") == [("paid", 100)]
    assert rules("k-team") == [("paid", 100)]
    assert rules("k-bob") == [("paid", 300)]
    assert rules("k-ops") == []
    assert rules("k-bad") == rules("k-test-1") == [("banned", 0)]
    assert rules("k-eve") == rules(None) == [("free", 10)]
    for sham in ("k-ops", "k-bad", "k-alice", "k-team"):
        for literal in (hashed(sham), hashed(sham)[7:], hashed(sham).upper()):
            assert rules(literal) == [("free", 10)], "who knows the hash has not the key"


def test_buckets_are_those_of_the_value_itself() -> None:
    keeper = Keeper(Policy.parse(FILE))
    plain = Keeper(Policy.parse(FILE.replace(ALICE, "k-alice")))
    decisions = [one.try_acquire({"api_key": "k-alice"}) for one in (keeper, plain)]
    assert [it.rules[0].decision.key for it in decisions] == ["7:k-alice"] * 2


SPELLINGS: list[tuple[Source, str, list[tuple[str, bytes]]]] = [
    (HeaderSource("x-key"), "k-1", [("x-key", b"k-1"), ("X-Key", b" k-1 ")]),
    (HeaderSource("x-key"), "k-é", [("x-key", "k-é".encode()), ("x-key", "k-é".encode("latin-1"))]),
    (BearerSource(), "k-1", [("authorization", b"Bearer k-1"), ("authorization", b"bEARER   k-1 ")]),
    (HeaderSource("authorization"), "token k-1", [("authorization", b"Token k-1"), ("Authorization", b"TOKEN   k-1")]),
    (CookieSource("s"), "k+1;", [("cookie", b"s=k%201%3b"), ("cookie", b's="k 1\\073"'), ("cookie", b"a=b; s=k+1%3B")]),
]


@pytest.mark.parametrize(("source", "spelling", "headers"), SPELLINGS)
def test_what_is_hashed_is_the_value_in_its_one_spelling(
    source: Source, spelling: str, headers: list[tuple[str, bytes]]
) -> None:
    rule = Rule("r", BUCKET, match={"key": (hashed(spelling),)})
    policy = Policy((rule,), {"key": source})
    asked = Asked(rule, {"key": source})
    for name, value in headers:
        request = Request("GET", "/", [(name.encode(), value)])
        assert asked.matches(AttributeReader(policy.attributes, ClientIP(), {"key"}).read(request)), (name, value)


@given(st.text(), st.text(max_size=3))
def test_any_value_matches_its_own_hash_and_no_other(value: str, other: str) -> None:
    digest = "sha256:" + sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    if not value:
        return
    rule = Asked(Rule("r", BUCKET, match={"user": (digest,)}))
    assert rule.matches({"user": value})
    assert rule.matches({"user": other}) == (other == value)
    assert rule.matches({"user": Readings.of([other, value])})
    assert rule.why_not({"user": digest}) == "user does not match"
    assert rule.why_not({}) == "no user"


MAKE = "make one with: printf %s KEY | sha256sum, or: printf %s KEY | ratekeeper hash"
WRONG = f"a hash is 'sha256:' and 64 hexadecimal digits, without wildcards: {MAKE}"
MISTAKES = [
    ("sha256:", WRONG),
    ("sha256:" + "a" * 63, WRONG),
    ("sha256:" + "a" * 65, WRONG),
    ("sha256:" + "g" * 64, WRONG),
    ("sha256:" + "\u0663" * 64, WRONG),
    ("SHA256:my-secret-key", WRONG),
    ("sha256:*", WRONG),
    ("sha256:" + "a" * 63 + "?", WRONG),
    ("sha256: " + "a" * 63, WRONG),
    ("sha256:" + "a" * 64 + "  -", WRONG),
    (hashed(""), f"it is the hash of an empty string, and an empty value counts as missing: {MAKE}"),
]


@pytest.mark.parametrize(("pattern", "says"), MISTAKES)
def test_a_wrong_hash_is_an_error_that_says_how_to_make_one_and_shows_none_of_it(pattern: str, says: str) -> None:
    rule = '[[rules]]\nname = "r"\nlimit = "1/s"\n'
    texts = [
        (f'{rule}match = {{ user = "{pattern}" }}\n', f"4: rule 'r': match: 'user': {says}"),
        (f'{rule}overrides = [{{ user = "{pattern}", capacity = 2 }}]\n', f"4: rule 'r': override 1: 'user': {says}"),
        (f'exempt = [{{ user = "{pattern}" }}]\n{rule}', f"1: exempt 1: 'user': {says}"),
        (f'[tiers]\nby = "user"\ndefault = "free"\npro = ["{pattern}"]\n{rule}',
         f"4: [tiers]: number 1 of 'pro' can match nothing: {says}"),
    ]  # fmt: skip
    for text, expected in texts:
        with pytest.raises(PolicyError) as caught:
            Policy.parse(text, "policy.toml")
        assert str(caught.value) == f"policy.toml:{expected}"
    with pytest.raises(PolicyError, match=r"64 hexadecimal digits|hash of an empty string"):
        Policy((Rule("r", BUCKET, match={"user": (pattern,)}),))
    with pytest.raises(PolicyError, match=r"64 hexadecimal digits|hash of an empty string"):
        Policy((Rule("r", BUCKET),), tiers=Tiers("user", "free", {pattern: "pro"}))


@pytest.mark.parametrize("name", ["path", "method", "client", "route", "endpoint", "tier"])
def test_what_is_no_secret_is_written_as_it_is(name: str) -> None:
    with pytest.raises(PolicyError, match="a hash is for a secret, such as an API key: write the value itself"):
        Policy((Rule("r", BUCKET, match={name: (ALICE,)}),))
    Policy(
        (Rule("r", BUCKET, match={name: (ALICE,)}),), {name: AppSource()} if name != "tier" else {"tier": AppSource()}
    )


def test_a_value_and_its_hash_are_in_one_tier() -> None:
    text = (
        '[tiers]\nby = "user"\ndefault = "free"\npro = ["k-alice"]\nteam = ["{}"]\n'
        + '[[rules]]\nname = "r"\nlimit = "1/s"\n'
    )
    for pattern in (ALICE, "SHA256:" + ALICE[7:].upper()):
        with pytest.raises(PolicyError, match="number 1 of 'team' is also in 'pro': it can be in one"):
            Policy.parse(text.format(pattern))
        with pytest.raises(PolicyError, match="value 2 means the same as one in another tier"):
            Policy((Rule("r", BUCKET),), tiers=Tiers("user", "free", {"k-alice": "pro", pattern: "team"}))
    Policy.parse(text.format(hashed("k-bob")))


@pytest.mark.parametrize("matcher", MATCHERS)
def test_a_value_is_hashed_once_and_only_if_a_hash_of_it_is_listed(matcher: Callable[[Program], Matcher]) -> None:
    seen: list[str] = []

    def counted(value: str) -> str:
        seen.append(value)
        return sha256(value.encode()).hexdigest()

    overrides = tuple(Override({"key": (hashed(f"k-{n}"),), "team": ("t",)}, BUCKET) for n in range(100))
    rules = tuple(Rule(f"r{n}", BUCKET, match={"key": (ALICE,)}, key=("user",), overrides=overrides) for n in range(9))
    policy = Policy(rules, tiers=Tiers("key", "free", {ALICE: "pro"}), exempt=({"key": (hashed("k-ops"),)},))
    ask = matcher(program_of(policy)._replace(digest=counted)).match
    assert len(ask({"key": "k-alice", "user": "u", "team": "t"})) == 9
    assert ask({"user": "u"}) == []
    assert seen == ["k-alice"]


def test_the_name_of_a_digest_cannot_be_an_attributes() -> None:
    with pytest.raises(PolicyError, match="'sha256:user' cannot be an attribute's name"):
        Policy((Rule("r", BUCKET, key=("sha256:user",), match={"user": (ALICE,)}),))


def test_many_hashes_are_one_look_up() -> None:
    many = {hashed(f"k-{n}"): "pro" for n in range(2000)}
    program = program_of(Policy((Rule("r", BUCKET, match={"key": tuple(many)}),), tiers=Tiers("key", "free", many)))
    assert program.tier is not None
    assert len(program.tier.tier_by_value) == len(program.rules[0].tests[0].known.exact) == 2000
    assert program.rules[0].tests[0].glob is None


# The command


def run_hash(given: bytes, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    return main(["hash"])


@pytest.mark.parametrize("given", [b"k-alice", b"k-alice\n", b"k-alice\r\n"])
def test_the_command_prints_what_a_policy_lists(
    given: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_hash(given, monkeypatch) == 0
    assert capsys.readouterr().out == f"{ALICE}\n"
    assert run_hash(b"k-1\nk-\xe9\n", monkeypatch) == 0
    assert capsys.readouterr().out == f"{hashed('k-1')}\n{hashed('k-é')}\n"


@pytest.mark.parametrize("given", [b"", b"\n", b"k-1\n\n", b" k-1"])
def test_the_command_hashes_nothing_that_no_request_has(
    given: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_hash(given, monkeypatch) == 2
    printed = capsys.readouterr()
    assert "is empty or has spaces around it" in printed.err
    assert printed.out == ""


def test_the_command_takes_no_secret_as_an_argument() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ratekeeper.cli.main", "hash", "k-alice"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "it takes no arguments, and reads stdin" in done.stderr
    assert "k-alice" not in done.stdout + done.stderr

"""`ratekeeper validate` with several files: a line for each, each mistake with its line, and JSON of the same."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from ratekeeper.cli.main import main
from ratekeeper.policy.file.load import MAX_BYTES

GOOD = '[[rules]]\nname = "r"\nkey = ["client"]\nlimit = "1/s"\noverrides = [{ client = "192.0.2.7", limit = "5/s" }]\n'
BAD = '[[rules]]\nname = "r"\nlimit = "1/s"\nshadwo = true\nmax_wait = "long"\n'
UNLIMITED = """
[tiers]
by = "user"
default = "free"
pro = ["bob"]
[[rules]]
name = "r"
match = { tier = "free" }
limit = "1/s"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("good", GOOD), ("bad", BAD), ("unlimited", UNLIMITED)):
        (tmp_path / f"{name}.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["validate", *args])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_several_files_have_a_line_each_and_a_mistake_has_its_own(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert run(capsys, "good.toml", "bad.toml", "unlimited.toml") == (
        1,
        "good.toml: 1 rule, no mistake found\n"
        "bad.toml:4: rule 'r': unknown key 'shadwo': did you mean 'shadow'?\n"
        "bad.toml:5: rule 'r': 'max_wait' must be 0 or more seconds, not a string\n"
        "unlimited.toml: 1 rule, no mistake found\n"
        "unlimited.toml: warning: no rule limits tier 'pro': all its requests are admitted\n",
        "",
    )


def test_a_file_that_cannot_be_read_is_an_error_and_the_others_are_still_looked_at(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    code, out, err = run(capsys, "nowhere.toml", "bad.toml", str(folder), "good.toml")
    assert code == 2
    assert [line.partition(":")[0] for line in out.splitlines()] == ["bad.toml", "bad.toml", "good.toml"]
    assert err == f"ratekeeper: nowhere.toml: no such file\nratekeeper: {folder}: is a directory, not a policy file\n"


def test_a_policy_on_standard_input_is_read_by_a_dash(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, BAD.encode())
    code, out, err = run(capsys, "-", "-")
    assert (code, out.count("\n"), err) == (1, 2, "")
    assert out.startswith("standard input:4: rule 'r': unknown key 'shadwo'")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"a = 1\n\xff = 2\n", "standard input:2: not UTF-8 text: byte 0xff\n"),
     (b"[[rules]\n", "standard input:1: not TOML: "),
     (b"#" * (MAX_BYTES + 1), "standard input: is longer than 4 MiB (4,194,304 bytes), the most that a policy may")],
    ids=["not UTF-8", "not TOML", "too long"],
)  # fmt: skip
def test_input_that_is_not_a_policy_is_a_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: bytes, says: str
) -> None:
    type_in(monkeypatch, content)
    code, out, err = run(capsys, "-")
    assert (code, out.count("\n"), err) == (1, 1, "")
    assert says in out


def test_json_has_each_file_with_its_rules_or_its_mistakes(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = run(capsys, "--json", "good.toml", "bad.toml", "unlimited.toml")
    good, bad, unlimited = json.loads(out)
    assert (code, err) == (1, "")
    assert good == {
        "file": "good.toml",
        "valid": True,
        "mistakes": [],
        "warnings": [],
        "rules": [
            {
                "name": "r",
                "shadow": False,
                "key": ["client"],
                "limit": "token_bucket of 1 at 1/s",
                "message": None,
                "looked_up": None,
                "ttl": None,
                "on_lookup_error": None,
                "overrides": ["token_bucket of 5 at 5/s"],
            }
        ],
    }
    assert (bad["valid"], bad["rules"]) == (False, [])
    assert bad["mistakes"] == [
        {"line": 4, "text": "rule 'r': unknown key 'shadwo': did you mean 'shadow'?"},
        {"line": 5, "text": "rule 'r': 'max_wait' must be 0 or more seconds, not a string"},
    ]
    assert unlimited["warnings"] == ["no rule limits tier 'pro': all its requests are admitted"]


def test_json_tells_of_a_mistake_without_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, b"")
    [found] = json.loads(run(capsys, "--json", "-")[1])
    [mistake] = found["mistakes"]
    assert mistake["line"] is None
    assert mistake["text"].startswith("'rules' is missing: write, say, [[rules]]")


def test_a_mistake_is_one_line_whatever_the_names_in_it(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    name = "a\\nb\\u2028: c"
    attributes = f'[attributes]\n"{name}" = {{ from = "client_ip", x = 1 }}\n'
    (folder / "li\nes.toml").write_text(f'{attributes}[[rules]]\nname = "r"\nlimit = "1/s"\nkey = ["zz"]\n')
    options = "from, ipv4_prefix, ipv6_prefix, trusted_proxies"
    known = f"{name}, client, endpoint, method, path, route"
    says = [
        {"line": 1, "text": f"[attributes]: {name}: unknown key 'x': use one of {options}"},
        {"line": 6, "text": f"rule 'r': unknown attribute 'zz': use one of {known}"},
    ]
    code, out, _ = run(capsys, "--json", "li\nes.toml")
    [about] = json.loads(out)
    assert (code, about["file"], about["mistakes"]) == (1, "li\nes.toml", says)
    assert run(capsys, "li\nes.toml")[1] == "".join(f"li\nes.toml:{it['line']}: {it['text']}\n" for it in says)

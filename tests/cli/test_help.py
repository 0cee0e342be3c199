"""A person who guesses is helped: help in every spelling, true examples, and errors that name what is meant."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import need
from servers import ratekeeper_service

from ratekeeper import IMPLEMENTATION, SharedMemoryStore
from ratekeeper.cli.main import main, make_parser
from ratekeeper.cli.parser import EXIT_CODES

ROOT = Path(__file__).parents[2]
COMMANDS = make_parser().commands.choices
EXAMPLES = re.compile(r"^  ((?:printf .* \| )?ratekeeper .*)$", re.MULTILINE)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The exit code of a command line, and what it printed."""
    try:
        code = main(words)
    except SystemExit as exit_:
        code = int(str(exit_.code))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def examples(name: str) -> list[str]:
    return EXAMPLES.findall(COMMANDS[name].format_help())


def test_help_is_the_same_however_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    spellings = [said(capsys, *words) for words in (["help"], ["--help"], ["-h"])]
    assert spellings == [(0, spellings[0][1], "")] * 3
    assert said(capsys) == (2, "", spellings[0][1]), "without a command there is nothing to do"
    for name in COMMANDS:
        assert said(capsys, "help", name) == said(capsys, name, "--help") == said(capsys, name, "-h")
        assert name in spellings[0][1]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_examples_and_the_same_exit_codes(name: str) -> None:
    shown = COMMANDS[name].format_help()
    assert shown.endswith(f"\n{EXIT_CODES}\n")
    assert examples(name)
    for example in examples(name):
        _, *words = shlex.split(re.split(r" [<>] ", example.split(" | ")[-1])[0])
        assert words[0] == name
        make_parser().parse_args(words)


def test_the_page_has_the_exit_codes_of_the_help() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for line in EXIT_CODES.splitlines()[1:]:
        code, meaning = re.split(r"  +", line.strip(), maxsplit=1)
        assert f"| {code} | {meaning} |" in page


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder with the files that the examples name; yields the name of a shared table."""
    need("the C core", IMPLEMENTATION == "c")
    (tmp_path / "policies").mkdir()
    for name in ("policy.toml", "policies/one.toml"):
        shutil.copy(ROOT / "examples" / "policy.toml", tmp_path / name)
    shutil.copy(ROOT / "examples" / "access.log", tmp_path)
    monkeypatch.chdir(tmp_path)
    with SharedMemoryStore(f"ratekeeper-help-{os.getpid()}") as store:
        try:
            yield store.path.name
        finally:
            store.unlink()


ENDLESS = ("ratekeeper serve", "--watch", "ratekeeper top http://127.0.0.1:8080")
"""These run until they are stopped: other tests start them."""


@pytest.mark.slow
def test_every_example_runs(place: str, tmp_path: Path) -> None:
    ours = f"{shlex.quote(sys.executable)} -m ratekeeper.cli.main"
    for folder in (".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"):
        (tmp_path / "made" / folder).mkdir(parents=True)
    (tmp_path / "access.log.gz").write_bytes((tmp_path / "access.log").read_bytes())
    (tmp_path / "token").write_text("ann a-token-of-an-admin\n")
    with ratekeeper_service(tmp_path / "policy.toml", None, "--admin-tokens", "token") as url:
        for name in COMMANDS:
            for example in examples(name):
                if any(word in example and "--count" not in example for word in ENDLESS):
                    continue
                line = example.replace("ratekeeper ", f"{ours} ", 1).replace("my-api", place).replace("~/", "made/")
                line = line.replace("http://127.0.0.1:8080", url)
                done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
                assert (done.returncode, done.stderr) == (0, ""), example


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("valdiate policy.toml", "unknown command 'valdiate': did you mean 'validate'?"),
        ("check policy.toml", "unknown command 'check': did you mean 'validate'?"),
        ("frobnicate", "unknown command 'frobnicate': use one of block, "),
        ("help blok", "unknown command 'blok': did you mean 'block'?"),
        ("--store x usage", "unknown option '--store': write the command first, then its options"),
        ("explain policy.toml --cots 5", "unknown option '--cots': did you mean '--cost'?"),
        ("explain policy.toml --cos 5", "unknown option '--cos': did you mean '--cost'?"),
        ("validate --cost 5 policy.toml", "validate has no option --cost: explain has it"),
        ("validate --store=x policy.toml", "validate has no option --store: serve, usage, reset, grant, "),
        ("table one two", "one argument too many: 'two'"),
        ("explain", "the following arguments are required: POLICY"),
        ("explain path=/ policy.toml", "'path=/' is an attribute, and the policy file belongs here: write"),
        ("usage shared:x policy.toml a=b", "'shared:x' is a store, and the policy file belongs here: write --store"),
        ("replay access.log policy.toml", "'access.log' stands where the policy file belongs: write"),
        ("reset-rule logins policy.toml", "'logins' stands where the policy file belongs: write 'policy.toml' first"),
        ("grant policy.toml api_key=k-1 25", "argument TOKENS: must be a whole number, 0 or more, not 'api_key=k-1'"),
        ("explain policy.toml --cost -1", "argument --cost: must be a whole number, 0 or more, not '-1'"),
    ],
)  # fmt: skip
def test_a_mistyped_or_misplaced_word_is_told_with_the_right_one(
    capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    code, out, err = said(capsys, *line.split())
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert says in first
    assert re.fullmatch(r"Try: ratekeeper (\S+ )?--help", second)


def test_a_policy_where_an_attribute_belongs_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    policy = str(ROOT / "examples" / "policy.toml")
    code, _, err = said(capsys, "explain", policy, "other.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "'other.toml' is not KEY=VALUE, such as path=/api/search: POLICY is one file, and comes first" in err


def test_a_policy_may_have_an_equals_sign_in_its_path(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy = tmp_path / "a=b.toml"
    shutil.copy(ROOT / "examples" / "policy.toml", policy)
    assert said(capsys, "explain", str(policy))[0] == 0


def test_options_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(ROOT / "examples" / "policy.toml"), "api_key=x", "path=/api/x"]
    for place in range(4):
        code, out, _ = said(capsys, "explain", *words[:place], "--cost", "4", *words[place:])
        assert code == 1
        assert "free keys: refuses; 3 of 3 left, costs 4" in out


def test_a_reader_that_has_read_enough_ends_a_command_without_a_word(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("".join(f'[[rules]]\nname = "{n}"\nlimit = "1/s"\n' for n in range(3000)))
    line = f"{shlex.quote(sys.executable)} -m ratekeeper.cli.main validate {shlex.quote(str(policy))} | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout.endswith("policy.toml: 3000 rules, no mistake found\n")


def test_nothing_is_coloured_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    root = ROOT / "examples"
    assert main(["replay", str(root / "policy.toml"), str(root / "access.log")]) == 0
    assert main(["validate", str(root / "policy.toml")]) == 0
    assert "\x1b" not in output.getvalue()

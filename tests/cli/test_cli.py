"""The command: what it prints, and its exit codes: 0, 1 if the answer is no, 2 for an error in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ratekeeper import IMPLEMENTATION, __version__
from ratekeeper.cli.main import main

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "policy.toml")


def ended(words: list[str]) -> int | str | None:
    """Run the command. Return its exit code, also if its arguments end it."""
    try:
        return main(words)
    except SystemExit as error:
        return error.code


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(args)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_package_runs_as_the_command() -> None:
    asked = subprocess.run([sys.executable, "-m", "ratekeeper", "-V"], capture_output=True, text=True, check=True)
    assert asked.stdout.startswith(f"ratekeeper {__version__} (")


def test_the_version_says_which_core(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "-V"):
        with pytest.raises(SystemExit, match=r"^0$"):
            main([option])
        assert capsys.readouterr().out.startswith(
            f"ratekeeper {__version__} ({'C' if IMPLEMENTATION == 'c' else 'Python'} core"
        )


def test_validate_says_what_each_rule_limits(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "validate", EXAMPLE)
    assert code == 0
    assert "4 rules, no mistake found" in out
    assert "in any time t at most 3 + 30/minute * t" in out
    assert "one at a time, 2/s; 5 may wait" in out
    assert "k-bob" not in out, "keys are secrets"


def test_validate_shows_a_rules_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rules]]\nname = "r"\nlimit = "1/s"\nmessage = "Slow down."\n')
    assert "\n  says   Slow down.\n" in run(capsys, "validate", str(policy))[1]


def test_validate_and_explain_tell_of_who_is_exempt_and_name_no_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('exempt = [{ path = "/healthz" }, { api_key = ["k-1"] }]\n[[rules]]\nname = "r"\nlimit = "1/s"\n')
    out = run(capsys, "validate", str(policy))[1]
    assert "exempt: requests with path /healthz\n" in out
    assert "exempt: requests with api_key (1 given)\n" in out
    code, out, _ = run(capsys, "explain", str(policy), "api_key=k-1", "--cost", "5")
    assert code == 0
    assert out == (
        "- r: does not apply: the request is exempt\n=> allowed: exempt, as are all requests with api_key (1 given)\n"
    )


@pytest.mark.parametrize(
    ("option", "within", "beyond", "says"),
    [
        ("--port", ["0", "65535"], ["65536", "-1", "1.5", "٣"], "a port is a number from 0 to 65535"),
        ("--workers", ["1", "1000"], ["0", "-1", "2.5", "many", "1001", "000010000", "٣"], "from 1 to 1000 processes"),
        ("--headers", ["ietf", "ietf-06, x-epoch"], ["x-epoch,x-delta", "ietf-6", ""], "headers has"),
        ("--grace", ["0", "0.5", "999999"], ["1000000", "-1", "1e3", ".5", "soon", "inf"], "must be seconds, 0 or"),
    ],
)
def test_an_option_for_serve_is_taken_within_its_bounds(
    capsys: pytest.CaptureFixture[str], option: str, within: list[str], beyond: list[str], says: str
) -> None:
    for value in within:
        code, _, err = run(capsys, "serve", "/no/such/policy.toml", f"{option}={value}")
        assert (code, "/no/such/policy.toml" in err) == (2, True)
    for value in beyond:
        with pytest.raises(SystemExit, match=r"^2$"):
            main(["serve", "/no/such/policy.toml", f"{option}={value}"])
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"alice \xff\n"], ids=["missing", "not UTF-8"])
@pytest.mark.parametrize(
    "words", [["serve", "policy.toml", "--admin-tokens"], ["top", "http://127.0.0.1:1", "--token-file"]]
)
def test_a_file_of_tokens_that_cannot_be_read_is_named_once_with_the_reason(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], content: bytes | None
) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    assert ended([*words, str(file)]) == 2
    why = "No such file or directory" if content is None else "it is not UTF-8: byte 0xff"
    assert capfd.readouterr().err.splitlines()[0].endswith(f"cannot read {str(file)!r}: {why}")


def test_an_error_of_the_system_is_told_in_words(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["replay", EXAMPLE, str(Path(EXAMPLE).with_name("access.log")), "--html", str(tmp_path)]
    assert ended(words) == 2
    assert capfd.readouterr().err == f"ratekeeper: {tmp_path}: Is a directory\n"


def test_an_empty_name_of_a_policy_is_an_error_that_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    assert ended(["validate", ""]) == 2
    assert "the policy file's name is empty" in capfd.readouterr().err


def test_a_number_of_too_many_digits_is_an_error_that_says_how_many(capfd: pytest.CaptureFixture[str]) -> None:
    assert ended(["explain", "policy.toml", "--cost", "9" * 19]) == 2
    assert "must be a whole number, 0 or more and of at most 18 digits" in capfd.readouterr().err


def test_a_bad_policy_is_an_error_with_all_its_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rules]]\nname = "r"\ncapcity = 5\nrefill_rate = "5/minuet"\n')
    code, out, err = run(capsys, "validate", str(policy))
    first, second = out.splitlines()
    assert (code, err) == (1, "")
    assert first == f"{policy}:3: rule 'r': unknown key 'capcity': did you mean 'capacity'?"
    assert second.startswith(f"{policy}:4: rule 'r': ")
    assert second.endswith("did you mean 'minute'?")
    code, out, err = run(capsys, "explain", str(policy))
    assert (code, out) == (2, "")
    assert f"{first}\n{second}\n" in err


def test_a_file_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("validate", "explain", "serve"):
        code, _, err = run(capsys, command, "nowhere.toml")
        assert code == 2
        assert "nowhere.toml" in err
        assert err.count("\n") == 1


def test_explain_says_why_of_each_rule(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", EXAMPLE, "api_key=k-bob", "path=//api/x/../search")
    assert code == 0
    assert out.startswith(
        "tier: pro\n- free keys: does not apply: tier is 'pro', not 'free'\n- pro keys: allows; 500 of"
    )
    assert "=> allowed\n" in out
    assert "k-bob" not in out


@pytest.mark.parametrize(
    ("argument", "matches"),
    [("path=/LOGIN", True), ("path=//x/../login", True), ("path=/login?x=1", True), ("method=head", True),
     ("method=GET", True), ("method=PURGE", False), ("client=2001:DB8:0:7:a:b:c:d", True), ("client=192.0.2.7", False),
     ("token=  k-1 ", True), ("session=\"s\\0541\"", True), ("session=s1", False)],
)  # fmt: skip
def test_explain_reads_a_value_as_it_is_read_from_a_request(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, argument: str, matches: bool
) -> None:
    policy = tmp_path / "policy.toml"
    patterns = {"path": "/Login", "method": "GET", "client": "2001:db8:0:7::/64", "token": "k-1", "session": "s,1"}
    name = argument.partition("=")[0]
    policy.write_text(
        '[attributes]\npath = { from = "path", ignore_case = true }\ntoken = "bearer"\nsession = "cookie:session"\n'
        f'[[rules]]\nname = "r"\nmatch = {{ {name} = "{patterns[name]}" }}\nlimit = "1/s"\n'
    )
    code, out, _ = run(capsys, "explain", str(policy), argument)
    assert code == 0
    assert ("- r: allows" in out) is matches


def test_explain_of_a_client_that_is_no_address_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "explain", EXAMPLE, "client=localhost")
    assert code == 2
    assert "client=localhost is not an address, such as 192.0.2.7, or unknown" in err
    assert run(capsys, "explain", EXAMPLE, "client=unknown")[0] == 0


LOOKED_UP = """
[[rules]]
name = "each user"
key = ["user"]
limit = "app:plan"
default = "2/minute"
ttl = "30s"
"""


def test_a_looked_up_limit_is_shown_as_such(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(LOOKED_UP)
    code, out, _ = run(capsys, "validate", str(policy))
    assert code == 0
    assert "limit  looked up by the application's 'app:plan', again after 30 s; if that fails: last known" in out
    assert "else   bursts of 2, refilled at 2/minute" in out
    [[rule]] = [file["rules"] for file in json.loads(run(capsys, "validate", "--json", str(policy))[1])]
    assert (rule["looked_up"], rule["ttl"], rule["on_lookup_error"]) == ("plan", 30, "last known")
    code, out, _ = run(capsys, "explain", str(policy), "user=alice")
    assert code == 0
    assert "which is the default: the application looks up 'app:plan'" in out
    [rule] = json.loads(run(capsys, "explain", "--json", str(policy), "user=alice")[1])["rules"]
    assert (rule["looked_up"], rule["limit"]) == ("plan", "token_bucket of 2 at 2/minute")


def test_explain_exits_1_if_the_request_would_be_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", EXAMPLE, "api_key=x", "path=/api/x", "--cost", "4")
    assert code == 1
    assert "free keys: refuses; 3 of 3 left, costs 4" in out
    assert out.endswith("=> refused\n")


def test_explain_says_when_nothing_limits_a_request(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rules]]\nname = "r"\nmatch = { path = "/a" }\nlimit = "1/s"\n')
    assert "no rule applies, so nothing limits this request" in run(capsys, "explain", str(policy), "path=/b")[1]


@pytest.mark.parametrize(
    ("argument", "says"),
    [("path", "'path' is not KEY=VALUE"), ("api_kye=x", "no attribute 'api_kye': did you mean 'api_key'?")],
)
def test_an_attribute_that_no_rule_could_see_is_an_error(
    capsys: pytest.CaptureFixture[str], argument: str, says: str
) -> None:
    code, _, err = run(capsys, "explain", EXAMPLE, argument)
    assert code == 2
    assert says in err


@pytest.mark.parametrize(
    ("method", "note"),
    [
        ("gte", "note: method=gte is not registered, and counts as OTHER: did you mean GET?\n"),
        ("X\x1b[2J", "note: method=X\\x1b[2J is not registered, and counts as OTHER\n"),
        ("head", ""),
        ("other", ""),
    ],
)
def test_a_method_that_is_not_registered_gets_a_note(
    capsys: pytest.CaptureFixture[str], method: str, note: str
) -> None:
    code, _, err = run(capsys, "explain", EXAMPLE, f"method={method}")
    assert (code, err) == (0, note)


def test_an_attribute_that_is_given_twice_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "explain", EXAMPLE, "path=/a", "api_key=k-1", "path=/b")
    assert (code, err) == (2, "ratekeeper: 'path' is given twice: give it once\n")


def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    (tmp_path / "httptools.py").write_text("raise ModuleNotFoundError")
    done = subprocess.run(
        [sys.executable, "-m", "ratekeeper.cli.main", "serve", EXAMPLE, "--port", "0"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.returncode == 2
    assert done.stderr == (
        "ratekeeper: ratekeeper serve needs an optional dependency: pip install 'ratekeeper[service]'\n"
    )

"""`ratekeeper replay` as people use it: what it opens, what it prints, and how it fails."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ratekeeper.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
POLICY = """
[attributes]
api_key = "header:x-api-key"
[[rules]]
name = "each [key]"
key = ["api_key"]
limit = "2/minute"
[[rules]]
name = "watched"
match = { path = "/api/*" }
key = ["path"]
limit = "1/minute"
shadow = true
"""
LOG = "".join(json.dumps({"ts": 1_700_000_000, "path": "/api/x", "api_key": key}) + "\n" for key in "aab" * 3)


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return str(path)


def log(tmp_path: Path, content: str | bytes) -> str:
    path = tmp_path / "access.log"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return str(path)


def command(*args: str) -> int:
    return main(["replay", *args])


def test_the_report_reads_like_this(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert command(policy, log(tmp_path, LOG + "junk\n"), "--show-keys") == 0
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert shown[0].endswith("policy.toml: 0 s, 14 Nov 2023 22:13:20 to 22:13:20 UTC")
    assert shown[2:-3] == [
        "requests  9",
        "admitted  4  44.4 %",
        "rejected  5  55.6 %",
        "not read  1          of 10 lines",
        "",
        "                                                                 capacity  capacity",
        "rule              requests  admitted  rejected          buckets  for 99 %   for all",
        "each [key]               9         4         5  55.6 %        2         6         6",
        "  2 at 2/minute",
        "watched (shadow)         9         1         8  88.9 %        1         9         9",
        "  1 at 1/minute",
        "",
        "most rejected          admitted  rejected          capacity for all",
        "watched  path=/api/x          1         8  88.9 %                 9",
        "each [key]  api_key=a         2         4  66.7 %                 6",
        "each [key]  api_key=b         2         1  33.3 %                 3",
        "",
        "! line 10 was not read: neither the common or combined log format, nor JSON",
    ]
    assert shown[-3:] == [
        "- timestamps have 1 s grain: requests of one second count as one burst, so bursts may look larger",
        "- capacity for all: the capacity that, at the rule's rate, would have rejected no request of this log; "
        "for 99 %: none of 99 % of the buckets",
        "- a rule in shadow rejects nothing: its numbers are what it would have done",
    ]


@pytest.mark.parametrize(
    "packed",
    [LOG.encode(), gzip.compress(LOG.encode()), LOG.replace("\n", "\r\n").encode("utf-8-sig")],
    ids=["plain", "gzip", "lines and mark of Windows"],
)
def test_a_log_is_read_plain_and_in_gzip_by_name_and_from_standard_input(
    packed: bytes, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(policy, log(tmp_path, packed)) == 0
    by_name = capsys.readouterr().out
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(packed)))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert command(policy, "-") == 0
    assert not stdin.buffer.closed
    assert "requests  9" in by_name
    assert _but_names(capsys.readouterr().out) == _but_names(by_name)


def _but_names(output: str) -> str:
    """Cut the headline, which names the log, and the hashes, which are new in each run."""
    return re.sub("#[0-9a-f]{8}", "#", output.partition("\n")[2])


def test_a_line_longer_than_64_kb_is_no_request(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"ts": 1_700_000_000, "path": "/", "note": "x" * size}) + "\n" for size in (65_000, 66_000)]
    assert command(policy, log(tmp_path, "".join(lines)), "--json") == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 1


def test_keys_are_hashed_unless_asked_for(policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log(tmp_path, LOG.replace('"a"', '"k-secret"'))
    command(policy, path)
    hidden = capsys.readouterr()
    assert re.search(r"api_key=#[0-9a-f]{8}", hidden.out)
    assert "k-secret" not in hidden.out + hidden.err
    assert "--show-keys" in hidden.out
    command(policy, path, "--show-keys")
    assert "api_key=k-secret" in capsys.readouterr().out


def test_hashes_are_explained_only_where_there_are_some(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = log(tmp_path, LOG.replace('"a"', '"#a"'))
    command(policy, path, "--show-keys")
    assert "hashes stand for them" not in capsys.readouterr().out
    Path(policy).write_text('[[rules]]\nname = "all"\nlimit = "2/minute"')
    command(policy, path)
    assert "hashes stand for them" not in capsys.readouterr().out


def test_what_a_log_says_does_nothing_to_a_terminal(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J[red]\u202e\ud800" + "x" * 500
    path = log(tmp_path, LOG.replace('"a"', json.dumps(evil)))
    assert command(policy, path, "--show-keys") == 0
    shown = capsys.readouterr().out
    assert r"api_key=\x1b[2J[red]\u202e\ud800xx" in shown
    assert "x" * 60 not in shown


def test_top_says_how_many_buckets_are_listed(policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for top, listed in (("0", 0), ("1", 1), ("9", 3)):
        command(policy, log(tmp_path, LOG), "--top", top)
        assert len(re.findall(r"(?:api_key|path)=", capsys.readouterr().out)) == listed


@pytest.mark.parametrize("arguments", [["--top", "-1"], ["--top", "x"], ["--max-keys", "0"], ["--top", "²"]])
def test_numbers_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command("policy.toml", "access.log", *arguments)
    assert exit_.value.code == 2
    assert "must be a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "there is nothing in it"), (b"\n\n", "there is nothing in it"),
     (b"\njunk\n", "no line of it is a request: line 2: neither the common or combined log format, nor JSON"),
     (b"\xff\x00" * 200_000, "no line of it is a request: line 1: neither"),
     (gzip.compress(LOG.encode(), mtime=0)[:-9], "cannot be read: Compressed file ended"),
     (b"\x1f\x8bjunk" * 9, "cannot be read")],
)  # fmt: skip
def test_a_log_without_a_request_is_an_error_that_says_why(
    content: bytes, message: str, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(policy, log(tmp_path, content)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_a_log_that_is_not_there_and_a_policy_that_is_wrong_are_errors(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "nowhere.log")
    assert command(policy, missing) == 2
    assert capsys.readouterr().err == f"ratekeeper: {missing}: cannot be read: No such file or directory\n"
    Path(policy).write_text(POLICY.replace("limit", "limt"))
    assert command(policy, log(tmp_path, LOG)) == 2
    assert "limt" in capsys.readouterr().err


def test_it_needs_no_other_package(policy: str, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError")
    command = [sys.executable, "-m", "ratekeeper.cli.main", "replay", policy, log(tmp_path, LOG)]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_bars_of_all_outcomes_begin_in_one_column(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(policy)
    path.write_text('[[rules]]\nname = "queue"\nalgorithm = "leaky_bucket"\ncapacity = 1\nleak_rate = 1\n')
    lines = [json.dumps({"ts": 1_700_000_000 + at, "path": "/"}) for at in (0, 0, 0, 9)]
    assert command(policy, log(tmp_path, "\n".join(lines))) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith(tuple("▁▂▃▄▅▆▇█"))]
    assert [row.split()[0] for row in rows] == ["admitted", "delayed", "rejected"]
    assert {row.index(row.split()[1]) for row in rows} == {10}


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (60, "requests  admitted  delayed  rejected           for all"),
        (80, "requests  admitted  delayed  rejected          buckets  for 99 %   for all"),
        (100, "rule          requests  admitted  delayed  rejected          buckets  for 99 %   for all"),
    ],
)
def test_tables_and_bars_fit_into_the_terminal(
    columns: int, titles: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert command(str(EXAMPLES / "policy.toml"), str(EXAMPLES / "access.log")) == 0
    shown = capsys.readouterr().out.splitlines()
    tables = shown[7 : next(place for place, line in enumerate(shown) if line.startswith("! "))]
    assert max(map(len, tables)) <= columns
    assert titles in map(str.strip, tables)
    assert "  queue of 5 at 2/s" in tables


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_terminal_sees_how_far_it_is(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")  # room for the path, however long the folder of the test is
    with open(theirs, "w") as terminal, open(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert command(policy, log(tmp_path, LOG)) == 0
        terminal.flush()
        assert b"access.log" in screen.read(65536)
    assert "access.log" in capsys.readouterr().out


def test_a_looked_up_limit_is_replayed_by_its_default_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rules]]\nname = "each user"\nkey = ["api_key"]\nlimit = "app:plan"\ndefault = "2/minute"\n')
    assert command(str(policy), log(tmp_path, LOG)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "'each user' was replayed by its default: the application looks up 'app:plan'" in shown

"""`ratekeeper usage`, `reset`, `grant`, `block` and `unblock` of a real service, by its admin API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_client import TOKEN
from servers import free_port
from service_process import Running, running

from ratekeeper.cli.main import main

pytestmark = pytest.mark.slow

POLICY = """
exempt = [{ path = "/healthz" }]
[attributes]
user = "header:x-user"
[[rules]]
name = "each user"
key = ["user"]
limit = "10/hour"
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("support")
    (folder / "policy.toml").write_text(POLICY)
    (folder / "tokens").write_text(f"ann {TOKEN}\n")
    with running(folder / "policy.toml", "--admin-tokens", str(folder / "tokens")) as service:
        yield service


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = main(words)
    except SystemExit as exit_:
        code = int(str(exit_.code))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def of(service: Running, tmp_path: Path) -> list[str]:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return ["--service", service.url, "--token-file", str(file), "user=alice", "path=/x"]


def test_each_command_changes_what_the_service_decides_by(
    capsys: pytest.CaptureFixture[str], service: Running, of: list[str]
) -> None:
    while service.check("alice").status_code == 200:
        pass
    code, out, err = run(capsys, "usage", *of)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["rule", "used", "left", "next", "in", "full", "in"]
    assert out.splitlines()[1].startswith("each user  10 of 10  [####################]  0     6 min    ")
    assert "  7 of 10  [##############......]  3     now" in run(capsys, "grant", "3", *of)[1]
    assert [service.check("alice").status_code for _ in range(4)] == [200, 200, 200, 429]
    out = run(capsys, "block", "--for", "2h", *of, "--rule", "each user")[1]
    assert "each user: blocked until 20" in out
    [usage] = json.loads(run(capsys, "block", "--until", "2030-01-31T18:00Z", "--json", *of)[1])
    assert (usage["rule"], usage["remaining"], usage["shadow"]) == ("each user", 0, False)
    assert abs(usage["blocked_until"] - 1_896_112_800) < 5
    assert "  10 of 10  [####################]  0     6 min" in run(capsys, "unblock", *of)[1]
    assert "  0 of 10  [....................]  10    now      0 s" in run(capsys, "reset", *of)[1]
    assert service.check("alice").status_code == 200
    assert run(capsys, "usage", *of[:4], "path=/healthz")[1] == "exempt, by the policy of the service\n"


def test_an_error_says_what_is_wrong_and_nothing_is_changed(
    capsys: pytest.CaptureFixture[str], service: Running, of: list[str], tmp_path: Path
) -> None:
    wrong, nowhere = tmp_path / "wrong", f"http://127.0.0.1:{free_port()}"
    wrong.write_text("a-token-of-nobody-at-all\n")
    at, token = of[:2], of[2:4]
    for words, says in (
        (["reset", *at, "--token-file", str(wrong), "user=bob"], "does not know this token: --token-file FILE must"),
        (["reset", *at, "user=bob"], "--service needs the token of an admin: add --token-file FILE"),
        (["reset", "--service", nowhere, *token, "user=bob"], "cannot be reached (Connection refused)"),
        (["reset", *at, *token, "usr=bob"], "the policy knows no attribute 'usr': did you mean 'user'?"),
        (["reset", *at, *token, "policy.toml", "user=bob"], "'policy.toml' is not KEY=VALUE"),
        (["reset", *at, *token, "user=bob", "user=eve"], "'user' is given twice"),
        (["reset", *at, *token, "user=bob", "--rule", "each usr"], "each usr"),
        (["grant", *at, *token, "0", "user=bob"], "tokens must be a whole number, 1 or more"),
        (["reset", *of, "--store", "shared:x"], "not allowed with"),
        (["reset", *of, "--limits", "plan=os.path:join"], "--limits is for --store"),
    ):
        code, out, err = run(capsys, *words)
        assert (code, out) == (2, "")
        assert says in err
        assert TOKEN not in err


def test_a_service_without_an_admin_api_says_so(
    capsys: pytest.CaptureFixture[str], of: list[str], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    with running(policy) as off:
        code, _, err = run(capsys, "usage", "--service", off.url, *of[2:])
    assert code == 2
    assert "the admin API is off: start the service with --admin-tokens FILE" in err

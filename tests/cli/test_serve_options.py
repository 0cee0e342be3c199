"""`ratekeeper serve`: an option that would have no effect is an error, and says which other one it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratekeeper.cli.main import main


@pytest.mark.parametrize(
    ("option", "value", "needed"),
    [
        ("--resp-password-file", "secret", "add --resp HOST:PORT"),
        ("--access-log-sample", "0.5", "add --access-log FILE"),
        ("--envoy-config", ".", "add --grpc HOST:PORT"),
        ("--tls-key", "key.pem", "give both --tls-cert and --tls-key"),
        ("--tls-client-ca", "ca.pem", "give both --tls-cert and --tls-key"),
    ],
)
def test_an_option_without_the_one_that_it_is_for_is_an_error(
    option: str, value: str, needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("policy.toml").write_text('rules = [{name = "all", limit = "5/hour"}]')
    Path("secret").write_text("open sesame")
    nowhere = "unix:nowhere/http.sock"  # so that it does not serve in any case
    assert main(["serve", "policy.toml", "--port", nowhere, option, value]) == 2
    assert needed in capsys.readouterr().err

"""`ratekeeper serve`: options that would have no effect, or cannot be used, are errors before anything starts."""

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


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tls_files_are_tried_before_a_socket_is_made(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policy.toml").write_text('rules = [{name = "all", limit = "5/hour"}]')
    tls = ["--tls-cert", "no.pem", "--tls-key", "no.pem"]
    assert main(["serve", "policy.toml", "--port", "unix:nowhere/http.sock", "--workers", workers, *tls]) == 2
    assert "TLS cannot read no.pem" in capsys.readouterr().err

"""Standard streams that are closed, or that nothing can be written to: a command does its work all the same."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from needs import need
from servers import PATIENCE

COMMAND = f"{shlex.quote(sys.executable)} -m ratekeeper.cli.main"


@pytest.fixture
def policy(tmp_path: Path) -> str:
    need("Linux", sys.platform == "linux")
    file = tmp_path / "policy.toml"
    file.write_text('rules = [{name = "all", limit = "5/hour"}]')
    return shlex.quote(str(file))


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_ends_as_with_open_streams(policy: str, closed: str) -> None:
    for words, code in ((f"validate {policy}", 0), (f"explain --cost 9 {policy}", 1)):
        done = subprocess.run(["bash", "-c", f"{COMMAND} {words} {closed}"], stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (code, ""), words


def test_a_command_escapes_what_the_encoding_of_its_output_lacks(policy: str) -> None:
    Path(shlex.split(policy)[0]).write_text('rules = [{name = "日本", limit = "5/hour"}]', encoding="utf-8")
    for words, code in ((f"validate {policy}", 0), (f"explain {policy} --cost 9", 1)):
        env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
        done = subprocess.run(["bash", "-c", f"{COMMAND} {words}"], capture_output=True, env=env)
        assert (done.returncode, done.stderr) == (code, b""), words
        assert rb"\u65e5\u672c" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("redirected", [">/dev/full", "<&- >&- 2>&- --access-log - --access-log-sample 1"])
def test_the_service_serves_and_says_that_it_is_ready(policy: str, redirected: str, workers: int) -> None:
    name = f"\0ratekeeper-test-{os.getpid()}-closed"
    line = f"exec {COMMAND} serve {policy} --port 0 --workers {workers} {redirected}"
    env = {**os.environ, "NOTIFY_SOCKET": f"@{name[1:]}"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
        telling.bind(name)
        telling.settimeout(PATIENCE)
        with subprocess.Popen(["bash", "-c", line], env=env, stdout=subprocess.DEVNULL) as service:
            try:
                assert telling.recv(100) == b"READY=1"
                service.terminate()
                assert service.wait(PATIENCE) == 0
            finally:
                service.kill()

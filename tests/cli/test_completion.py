"""Completion in real shells: a Tab at a terminal types the rest of a command, an option, a file or an attribute."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from needs import need_program

from ratekeeper.cli.main import main, make_parser

pytestmark = pytest.mark.slow

PATIENCE = 60.0
TYPED = [
    ("ratekeeper vali", "ratekeeper validate "),
    ("ratekeeper reset-", "ratekeeper reset-rule "),
    ("ratekeeper explain my-pol", "ratekeeper explain my-policy.toml "),
    ("ratekeeper explain my-policy.toml meth", "ratekeeper explain my-policy.toml method="),
    ("ratekeeper replay my-policy.toml --show", "ratekeeper replay my-policy.toml --show-keys "),
    ("ratekeeper completion fi", "ratekeeper completion fish "),
]


class Terminal:
    """A shell at a terminal: keys go in, and the screen's bytes are read until they show what is expected."""

    def __init__(self, controller: int) -> None:
        self._controller = controller
        self._seen = ""

    def type(self, keys: str, expected: str) -> None:
        os.write(self._controller, keys.encode())
        deadline = time.monotonic() + PATIENCE
        while expected not in self._seen:
            left = deadline - time.monotonic()
            ready = select.select([self._controller], [], [], max(0.0, left))[0]
            assert ready, f"{expected!r} is not in {self._seen!r}"
            self._seen += os.read(self._controller, 65536).decode(errors="replace")
        self._seen = ""


@contextmanager
def shell(folder: Path, *command: str) -> Iterator[Terminal]:
    controller, terminal = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "PS1": "$ ", "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, cwd=folder, start_new_session=True
    ) as process:
        os.close(terminal)
        try:
            yield Terminal(controller)
        finally:
            process.kill()
            os.close(controller)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my-policy.toml").touch()
    for name in ("bash", "zsh", "fish"):
        command = [sys.executable, "-m", "ratekeeper.cli.main", "completion", name]
        (tmp_path / f"script.{name}").write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    return tmp_path


def test_bash_completes(folder: Path) -> None:
    with shell(folder, need_program("bash"), "--norc", "-i") as terminal:
        terminal.type("source script.bash; echo rea''dy\n", "ready\r\n")
        for keys, shown in TYPED:
            terminal.type(f"{keys}\t", shown)
            terminal.type("\x15echo nex''t\n", "next\r\n")  # Ctrl-U empties the line


def test_zsh_completes(folder: Path) -> None:
    with shell(folder, need_program("zsh"), "-f", "-i") as terminal:
        terminal.type("unsetopt zle_bracketed_paste; autoload -U compinit; compinit -D; echo fir''st\n", "first\r\n")
        terminal.type("source ./script.zsh; echo rea''dy\n", "ready\r\n")
        for keys, shown in TYPED:
            terminal.type(f"{keys}\t", shown.rstrip(" ="))
            terminal.type("\x15echo nex''t\n", "next\r\n")


def test_fish_completes(folder: Path) -> None:
    fish = need_program("fish")
    for keys, shown in TYPED:
        command = f"source script.fish; complete -C '{keys}'"
        done = subprocess.run([fish, "-N", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
        words = [line.partition("\t")[0] for line in done.stdout.splitlines()]
        assert words == [shown.split()[-1]], done


def test_every_command_and_option_is_in_every_script(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bash", "zsh", "fish"):
        assert main(["completion", name]) == 0
        script = capsys.readouterr().out
        for command, parser in make_parser().commands.choices.items():
            assert command in script
            for option in parser.options:
                assert (f"-l {option[2:]}" if name == "fish" and option.startswith("--") else option[1:]) in script


def test_another_shell_is_an_error_that_names_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["completion", "powershell"])
    assert "invalid choice: 'powershell' (choose from " in capsys.readouterr().err

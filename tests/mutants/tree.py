"""The scratch copy of the tree: mutants are written, built and tested there, never in the tree itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "mutants"
TREE = BUILD / "tree"
SOURCE = Path("src") / "ratekeeper"


class Outcome(NamedTuple):
    """How a command ended: its exit code, None if it was stopped at its time limit, and what it printed."""

    code: int | None
    output: str


def make() -> None:
    """Bring the scratch copy up to date, and build its C core."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    for path in [*TREE.rglob("*.py"), *TREE.rglob("*.[ch]"), *TREE.rglob("*.lua"), *TREE.rglob("*.toml")]:
        if str(path.relative_to(TREE)) not in names:
            path.unlink()
    for name in names:
        copy(name)
    build()


def copy(name: str | Path) -> None:
    """Copy one file of the tree to the scratch copy, unless it is the same there."""
    original, target = ROOT / name, TREE / name
    if target.exists() and target.read_bytes() == original.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(original, target)
    _forget_compiled(target)


def build() -> None:
    """Build the C core of the scratch copy, as the editable install does it."""
    done = run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], 300, {"RATEKEEPER_CORE": "require"})
    if done.code != 0:
        raise SystemExit(f"the C core does not build:\n{done.output}")


@contextmanager
def changed(name: str | Path, text: str) -> Iterator[None]:
    """Give a file of the scratch copy another text, for as long as the block lasts."""
    path = TREE / name
    original = path.read_bytes()
    path.write_text(text)
    _forget_compiled(path)
    try:
        yield
    finally:
        path.write_bytes(original)
        _forget_compiled(path)


def _forget_compiled(path: Path) -> None:
    # Python tells sources apart by size and second: two mutants of one file may have both in common.
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def pytest(tests: Sequence[str], seconds: float, *options: str, env: Mapping[str, str] | None = None) -> Outcome:
    """Run tests of the scratch copy."""
    chosen = BUILD / "chosen"
    chosen.write_text("\n".join(tests))
    # Other libraries bring plugins that take two seconds to load, for each mutant.
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HYPOTHESIS_PROFILE": "mutants", **(env or {})}
    needed = ["-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    return run([sys.executable, "-m", "pytest", "-q", *needed, *options, f"@{chosen}"], seconds, alone)


def run(command: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Outcome:
    """Run a command in the scratch copy, where its `ratekeeper` is the one that is imported."""
    environment = {**os.environ, "PYTHONPATH": str(TREE / "src"), **(env or {})}
    log = BUILD / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=TREE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _stop(process)
    return Outcome(code, log.read_text(errors="replace"))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the process, if it runs, and all that it left running in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

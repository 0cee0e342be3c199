"""The scratch copies of the tree: mutants are written, built and tested there, never in the tree itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "mutants"
SOURCE = Path("src") / "ratekeeper"
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Outcome(NamedTuple):
    """How a command ended: its exit code, None if it was stopped at its time limit, and what it printed."""

    code: int | None
    output: str


class Tree:
    """One scratch copy. Its folder has files beside the copy, for one command at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "tree"

    def make(self) -> None:
        """Bring the copy up to date, and build its C core."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        names = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
        for pattern in ("*.py", "*.[ch]", "*.lua", "*.toml"):
            for path in self.root.rglob(pattern):
                if str(path.relative_to(self.root)) not in names:
                    path.unlink()
        for name in names:
            self._copy(name)
        self.build()

    def _copy(self, name: str) -> None:
        original, target = ROOT / name, self.root / name
        if target.exists() and target.read_bytes() == original.read_bytes():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, target)
        _forget_compiled(target)

    def build(self) -> None:
        """Build the C core of the copy, as the editable install does it."""
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        done = self.run(command, 300, {"RATEKEEPER_CORE": "require"})
        if done.code != 0:
            raise SystemExit(f"the C core does not build:\n{done.output}")

    @contextmanager
    def changed(self, name: str | Path, text: str) -> Iterator[None]:
        """Give a file of the copy another text, for as long as the block lasts."""
        path = self.root / name
        original = path.read_bytes()
        path.write_text(text)
        _forget_compiled(path)
        try:
            yield
        finally:
            path.write_bytes(original)
            _forget_compiled(path)

    def pytest(
        self, tests: Sequence[str], seconds: float, *options: str, env: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run tests of the copy."""
        chosen = self.folder / "chosen"
        chosen.write_text("\n".join(tests))
        # Other libraries bring plugins that take two seconds to load, for each mutant.
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HYPOTHESIS_PROFILE": "mutants", **(env or {})}
        needed = ["-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        return self.run([sys.executable, "-m", "pytest", "-q", *needed, *options, f"@{chosen}"], seconds, alone)

    def run(self, command: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Outcome:
        """Run a command in the copy, where its `ratekeeper` is the one that is imported."""
        environment = {**os.environ, "PYTHONPATH": str(self.root / "src"), **(env or {})}
        log = self.folder / "output"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.root,
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


def spread(work: Callable[[Tree, Item], Answer], items: Iterable[Item], trees: Sequence[Tree]) -> Iterator[Answer]:
    """Yield the answer for each item, in their order. Each tree does the work of one item at a time."""
    free: SimpleQueue[Tree] = SimpleQueue()
    for tree in trees:
        free.put(tree)

    def one(item: Item) -> Answer:
        tree = free.get()
        try:
            return work(tree, item)
        finally:
            free.put(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        yield from pool.map(one, items)


def _forget_compiled(path: Path) -> None:
    # Python tells sources apart by size and second: two mutants of one file may have both in common.
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the process, if it runs, and all that it left running in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

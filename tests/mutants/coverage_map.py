"""Which tests run which line of src: measured once, a test file at a time, and kept under build/mutants/lines.

A line is known by its function and its text, not by its number, so the data of an older tree still serve. A function
that is newer than the data is tried by the tests of its folder; `--fresh` measures all again. A test file is measured
again if it changes. Slow tests are not measured.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TypedDict

from mutants.mutations import Functions, function_at, functions_of
from mutants.tree import BUILD, SOURCE, Tree, spread

LINES = BUILD / "lines"
# These read sources rather than run them, or install the package elsewhere.
NOT_USED = {"test_layers.py", "test_install.py", "test_mutants.py", "test_words.py"}
NO_TESTS = 5  # pytest's exit code if it leaves all tests out


class Piece(TypedDict):
    """The measurements of one test file: its tests with their seconds, and which of these run a function's line."""

    tests: list[tuple[str, float]]
    functions: dict[str, dict[str, list[int]]]
    slow: list[str]


class CoverageMap:
    """The tests that run a line, and how long they take. Of slow tests only the names are known."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._slow: set[str] = set()
        self._lines: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def add(self, file: str, piece: Piece) -> None:
        """Add what is known of the tests of one file."""
        names = [f"{file}::{test}" for test, _ in piece["tests"]]
        self.seconds.update(zip(names, (taken for _, taken in piece["tests"]), strict=True))
        self._slow.update(f"{file}::{test}" for test in piece["slow"])
        for name, lines in piece["functions"].items():
            for text, tests in lines.items():
                self._lines[name][text].update(names[test] for test in tests)

    def keep(self, tests: set[str]) -> None:
        """Forget all other tests: what a test is named may depend on src, which has changed since."""
        self.seconds = {test: taken for test, taken in self.seconds.items() if test in tests}
        self._slow &= tests

    def runs(self, name: str, texts: Iterable[str]) -> bool:
        """Return whether a test that is not slow runs one of these lines of a function."""
        known = self._lines.get(name, {})
        return any(known[text] & self.seconds.keys() for text in texts if text in known)

    def tests_of(self, name: str, texts: Iterable[str]) -> set[str]:
        """Return the tests that run the first known one of these lines of a function; else those of all its lines."""
        known = self._lines.get(name, {})
        for text in texts:
            if text in known:
                return known[text] & self.seconds.keys()
        return set().union(*known.values()) & self.seconds.keys()

    def tests_about(self, file: Path) -> set[str]:
        """Return the tests that are about a file of src."""
        return {test for test in self.seconds if is_about(test, file)}

    def slow_tests_about(self, file: Path) -> set[str]:
        """Return the slow tests that are about a file of src."""
        return {test for test in self._slow if is_about(test, file)}


def is_about(test: str, file: Path) -> bool:
    """Return whether a test is about a file of src: folders of tests are named after those of src."""
    folder, _, rest = file.relative_to(SOURCE).as_posix().partition("/")
    return test.startswith(f"tests/{folder}/" if rest else f"tests/test_{file.stem}")


def load(trees: Sequence[Tree], *, fresh: bool) -> CoverageMap:
    """Return the map; measure what is missing of it."""
    if fresh:
        shutil.rmtree(LINES, ignore_errors=True)
    LINES.mkdir(parents=True, exist_ok=True)
    first = trees[0]
    names = [str(file.relative_to(first.root)) for file in sorted((first.root / "tests").rglob("test_*.py"))]
    found = CoverageMap()
    for name, piece in spread(_piece, [name for name in names if Path(name).name not in NOT_USED], trees):
        found.add(name, piece)
    listed = first.pytest(["tests"], 300, "--collect-only").output
    found.keep({line for line in listed.splitlines() if "::" in line})
    return found


def _piece(tree: Tree, name: str) -> tuple[str, Piece]:
    """Return the name of a test file, and its measurements."""
    file = tree.root / name
    kept = LINES / f"{file.stem}.{sha256(file.read_bytes()).hexdigest()[:16]}.json"
    if not kept.exists():
        for older in LINES.glob(f"{file.stem}.*.json"):
            older.unlink()
        print(f"measuring which lines {file.name} runs", flush=True)
        kept.write_text(json.dumps(measure(tree, name)))
    piece: Piece = json.loads(kept.read_text())
    return name, piece


Line = tuple[str, str]
"""A line of a function: the function's name, and the line's text."""


def measure(tree: Tree, name: str) -> Piece:
    """Run a test file, and return which of its tests run which lines."""
    recorded = tree.folder / "recorded"
    shutil.rmtree(recorded, ignore_errors=True)
    recorded.mkdir(parents=True)
    sources = {str(path): path.read_text() for path in (tree.root / SOURCE).rglob("*.py")}
    modules = [f"{len(text.splitlines())} {path}\n" for path, text in sources.items()]
    (recorded / "modules").write_text("".join(modules))
    paths = f"{tree.root / 'src'}:{tree.root / 'tests' / 'mutants' / 'recording'}"
    done = tree.pytest([name], 900, "-p", "recorder", "-m", "not slow", env={"PYTHONPATH": paths})
    if done.code not in (0, NO_TESTS):
        print(f"  {name}: {done.output.strip().splitlines()[-1]}")
    noted = json.loads((recorded / "tests").read_text())
    passed: dict[str, float] = noted["seconds"]
    lines = [line for text in sources.values() for line in _lines_of(text)]
    functions: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for place, tests in _runs(recorded, noted["places"], list(passed), len(lines)):
        if line := lines[place]:
            function, text = line
            functions[function][text] |= tests
    return {
        "tests": [(test.partition("::")[2], taken) for test, taken in passed.items()],
        "functions": {
            name: {text: sorted(tests) for text, tests in known.items()} for name, known in functions.items()
        },
        "slow": [test.partition("::")[2] for test in noted["left out"]],
    }


@cache
def _lines_of(text: str) -> list[Line | None]:
    """Return for each line of a file its function and its text, or None outside of functions."""
    functions: Functions = functions_of(text)
    named = [(function_at(functions, number), line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(function, line) if function else None for function, line in named]


def _runs(recorded: Path, noted: dict[str, list[int]], passed: list[str], size: int) -> Iterable[tuple[int, set[int]]]:
    """Yield the places of lines that ran, each with tests that ran it, themselves or by a process."""
    numbers = {test: number for number, test in enumerate(passed)}
    for test, places in noted.items():
        if test in numbers:
            yield from ((place, {numbers[test]}) for place in places)
    for file in recorded.glob("process.*"):
        raw = file.read_bytes()
        test, _, phase = raw[size:].decode().rpartition(" ")
        tests = {numbers[test]} if test in numbers else set()
        if phase in ("", "(setup)"):  # it may be a fixture's, and serve all tests
            tests = set(numbers.values())
        yield from ((found.start(), tests) for found in re.finditer(b"\1", raw[:size]))

"""Which tests run which line of src: measured once, a test file at a time, and kept under build/mutants/lines.

A line is known by its function and its text, not by its number, so the data of an older tree still serve. A function
that is newer than the data is tried by the tests of its folder; `--fresh` measures all again. A test file is measured
again if it changes.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TypedDict

from coverage import CoverageData
from coverage.exceptions import DataError

from mutants import tree
from mutants.mutations import Functions, function_at, functions_of

LINES = tree.BUILD / "lines"
RECORDING = Path(__file__).parent / "recording"
# These read sources rather than run them, or install the package elsewhere.
NOT_USED = {"test_layers.py", "test_install.py", "test_mutants.py", "test_words.py"}
CONFIG = """
[run]
source = {source}
data_file = {data}
parallel = true
patch = _exit
context = ${{PYTEST_CURRENT_TEST-}}
disable_warnings = no-data-collected, module-not-measured, couldnt-parse
"""


class Piece(TypedDict):
    """The measurements of one test file: its tests with their seconds, and which of these run a function's line."""

    tests: list[tuple[str, float]]
    functions: dict[str, dict[str, list[int]]]


class CoverageMap:
    """The tests that run a line, and how long they take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lines: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def add(self, file: str, piece: Piece) -> None:
        """Add what is known of the tests of one file."""
        names = [f"{file}::{test}" for test, _ in piece["tests"]]
        self.seconds.update(zip(names, (taken for _, taken in piece["tests"]), strict=True))
        for name, lines in piece["functions"].items():
            for text, tests in lines.items():
                self._lines[name][text].update(names[test] for test in tests)

    def keep(self, tests: set[str]) -> None:
        """Forget all other tests: what a test is named may depend on src, which has changed since."""
        self.seconds = {test: taken for test, taken in self.seconds.items() if test in tests}

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


def is_about(test: str, file: Path) -> bool:
    """Return whether a test is about a file of src: folders of tests are named after those of src."""
    folder, _, rest = file.relative_to(tree.SOURCE).as_posix().partition("/")
    return test.startswith(f"tests/{folder}/" if rest else f"tests/test_{file.stem}")


def load(*, fresh: bool) -> CoverageMap:
    """Return the map; measure what is missing of it."""
    if fresh:
        shutil.rmtree(LINES, ignore_errors=True)
    LINES.mkdir(parents=True, exist_ok=True)
    found = CoverageMap()
    for file in sorted((tree.TREE / "tests").rglob("test_*.py")):
        if file.name not in NOT_USED:
            digest = sha256(file.read_bytes()).hexdigest()[:16]
            piece = LINES / f"{file.stem}.{digest}.json"
            if not piece.exists():
                for older in LINES.glob(f"{file.stem}.*.json"):
                    older.unlink()
                print(f"measuring which lines {file.name} runs", flush=True)
                piece.write_text(json.dumps(_measure(file)))
            found.add(str(file.relative_to(tree.TREE)), json.loads(piece.read_text()))
    listed = tree.pytest(["tests"], 300, "--collect-only").output
    found.keep({line for line in listed.splitlines() if "::" in line})
    return found


def _measure(file: Path) -> Piece:
    folder = tree.BUILD / "recorded"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "config.ini"
    config.write_text(CONFIG.format(source=tree.TREE / tree.SOURCE, data=folder / "data"))
    env = {
        "PYTHONPATH": f"{tree.TREE / 'src'}:{RECORDING}",
        "COVERAGE_PROCESS_START": str(config),
        "MUTANTS_SECONDS": str(folder / "seconds"),
    }
    done = tree.pytest([str(file)], 3600, "-p", "recorder", env=env)
    if done.code != 0:
        print(f"  {done.output.strip().splitlines()[-1]}")
    passed = [(test, taken) for test, taken in json.loads((folder / "seconds").read_text()).items() if taken]
    places = {test: place for place, (test, _) in enumerate(passed)}
    return {
        "tests": [(test.partition("::")[2], taken) for test, taken in passed],
        "functions": _read(folder.glob("data.*"), places),
    }


def _tests_of(context: str, places: dict[str, int]) -> set[int]:
    """Return the tests that coverage has noted. A process says when it began: one of a fixture may serve all tests."""
    if context.endswith(" (setup)"):
        return set(places.values())
    test = context.removesuffix(" (call)")
    return {places[test]} if test in places else set()


def _read(recorded: Iterable[Path], places: dict[str, int]) -> dict[str, dict[str, list[int]]]:
    """Return the tests of each line of each function."""
    functions: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    sources: dict[str, tuple[Functions, list[str]]] = {}
    for path in recorded:
        data = CoverageData(str(path))
        try:
            data.read()
        except DataError:  # its process was killed while it wrote
            continue
        for name in data.measured_files():
            if name not in sources:
                text = Path(name).read_text()
                sources[name] = functions_of(text), text.splitlines()
            known, lines = sources[name]
            for number, contexts in data.contexts_by_lineno(name).items():
                function = function_at(known, number)
                if function:
                    for context in contexts:
                        functions[function][lines[number - 1].strip()] |= _tests_of(context, places)
    return {name: {text: sorted(tests) for text, tests in lines.items() if tests} for name, lines in functions.items()}

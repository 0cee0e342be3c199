"""The mutants: careless mutations of Python, drawn by a seed, and those of C and Lua in mutants.toml.

Equivalent mutants, which change nothing that a caller can see, are listed in equivalent.toml with a reason each.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mutants.mutations import Functions, Mutation, function_at, functions_of, mutations_of

if TYPE_CHECKING:
    from mutants.coverage_map import CoverageMap

LISTS = Path("tests") / "mutants"
SOURCE = Path("src") / "ratekeeper"


class Mutant(NamedTuple):
    """One changed file. `name` and the two lines say what was changed; `text` is the whole file."""

    kind: str
    file: Path
    line: int
    function: str
    before: str
    after: str
    text: str
    tests: Collection[str] = ()
    slow: Collection[str] = ()  # to be tried if no other test runs its line

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Return what stays the same when other lines of the file change."""
        return self.file.name, self.function, self.before, self.after


def drawn(root: Path, count: int, seed: int, within: str, covered: CoverageMap) -> list[Mutant]:
    """Return a sample of the mutants of Python files, without those that are known to be equivalent."""
    files = [file for file in python_files(root) if within in str(file)]
    every = [(file, mutation) for file in files for mutation in mutations_of((root / file).read_text())]
    random.Random(seed).shuffle(every)
    known = {equivalent.identity for equivalent in equivalents(root)}
    found: list[Mutant] = []
    for file, mutation in every:
        text = (root / file).read_text()
        mutant = made(file, text, mutation, functions_of(text), covered)
        if mutant.identity not in known:
            found.append(mutant)
        if len(found) == count:
            break
    return found


def python_files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in (root / SOURCE).rglob("*.py"))


def made(file: Path, text: str, mutation: Mutation, functions: Functions, covered: CoverageMap | None) -> Mutant:
    """Return the mutant that a mutation makes of a file, with the tests that run its line."""
    changed = mutation.apply(text)
    lines = text.splitlines()
    function = function_at(functions, mutation.statement)
    before, after = lines[mutation.line - 1].strip(), changed.splitlines()[mutation.line - 1].strip()
    mutant = Mutant(mutation.kind, file, mutation.line, function or "", before, after, changed)
    if not covered:
        return mutant
    if not function:  # run when the module is imported: whatever runs the module may tell
        tests = set().union(*(covered.tests_of(name, ()) for *_, name in functions))
        return _tried_by(mutant, tests, covered, slow=not tests)
    texts = [lines[number - 1].strip() for number in (mutation.line, mutation.statement)]
    return _tried_by(mutant, covered.tests_of(function, texts), covered, slow=not covered.runs(function, texts))


def _tried_by(mutant: Mutant, tests: set[str], covered: CoverageMap, *, slow: bool) -> Mutant:
    tests = tests or covered.tests_about(mutant.file)
    return mutant._replace(tests=tests, slow=covered.slow_tests_about(mutant.file) if slow else ())


class Equivalent(NamedTuple):
    """A mutant that no caller can tell from the original, and why."""

    identity: tuple[str, str, str, str]
    why: str


def equivalents(root: Path) -> list[Equivalent]:
    """Return the known equivalent mutants."""
    return [
        Equivalent((entry["file"], entry["function"], entry["before"], entry["after"]), entry["why"])
        for entry in _entries(root, "equivalent.toml")
    ]


def stale_equivalents(root: Path) -> list[Equivalent]:
    """Return those whose lines are no longer there."""
    missing = {equivalent.identity: equivalent for equivalent in equivalents(root)}
    wanted = {name for name, *_ in missing}
    for file in python_files(root):
        if file.name in wanted:
            text = (root / file).read_text()
            functions = functions_of(text)
            for mutation in mutations_of(text):
                missing.pop(made(file, text, mutation, functions, None).identity, None)
    return list(missing.values())


def written(root: Path, suffixes: Iterable[str]) -> list[Mutant]:
    """Return the mutants of mutants.toml for files with these suffixes. Raise LookupError if a line is not there."""
    return list(_written(root, set(suffixes)))


def _written(root: Path, suffixes: set[str]) -> Iterator[Mutant]:
    for entry in _entries(root, "mutants.toml"):
        if Path(entry["file"]).suffix not in suffixes:
            continue
        file = next((root / SOURCE).rglob(entry["file"]), None)
        if file is None:
            raise LookupError(f"mutants.toml: there is no {entry['file']} in src")
        lines = file.read_text().splitlines(keepends=True)
        found = [number for number, line in enumerate(lines) if line.strip() == entry["line"]]
        if len(found) != 1:
            raise LookupError(
                f"mutants.toml: {entry['file']} has {len(found)} lines {entry['line']!r}, it must have one"
            )
        [number] = found
        lines[number] = lines[number].replace(entry["line"], entry["new"])
        yield Mutant("written", file.relative_to(root), number + 1, "", entry["line"], entry["new"], "".join(lines))


def _entries(root: Path, name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = tomllib.loads((root / LISTS / name).read_text())["mutant"]
    return entries

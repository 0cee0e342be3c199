"""What `make mutants` rests on: mutations are as said, and the lines that are written down by hand are still there."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import pytest
from mutants.coverage_map import CoverageMap, measure
from mutants.mutations import function_at, functions_of, mutations_of
from mutants.sample import equivalents, made, python_files, stale_equivalents, written
from mutants.tree import ROOT, Tree

RECORDING = ROOT / "tests" / "mutants" / "recording"

EXAMPLE = '''
@cache
async def take(self, count: int = 1) -> bool:
    """Return whether it is there."""
    if count < 2 and not self.closed:  # a comment
        self.left -= count
    assert isinstance(count, int)
    return await ask(self.left, f"{count + 1}", count)
'''


def test_each_careless_class_has_its_mutations_and_all_else_stays_as_it_is() -> None:
    lines = EXAMPLE.splitlines()
    found = {
        (mutation.kind, changed.splitlines()[mutation.line - 1].strip())
        for mutation in mutations_of(EXAMPLE)
        if (changed := mutation.apply(EXAMPLE))
    }
    comment = ":  # a comment"
    assert found == {
        ("removed decorator", ""),
        ("constant", "async def take(self, count: int = 2) -> bool:"),
        ("comparison", f"if count <= 2 and not self.closed{comment}"),
        ("constant", f"if count < 3 and not self.closed{comment}"),
        ("and/or", f"if (count < 2 or not self.closed){comment}"),
        ("not", f"if count < 2 and self.closed{comment}"),
        ("arithmetic", "self.left += count"),
        ("deleted", "pass"),
        ("return None", "return None"),
        ("not awaited", "return ask(self.left, f'{count + 1}', count)"),
        ("swapped arguments", "return await ask(f'{count + 1}', self.left, count)"),
        ("swapped arguments", "return await ask(self.left, count, f'{count + 1}')"),
    }
    for mutation in mutations_of(EXAMPLE):
        both = zip(lines, mutation.apply(EXAMPLE).splitlines(), strict=True)
        assert [number for number, (old, new) in enumerate(both, 1) if old != new] == [mutation.line]


@pytest.mark.parametrize("file", python_files(ROOT)[::4], ids=lambda file: "/".join(file.parts[2:]))
def test_mutants_are_python(file: object) -> None:
    text = (ROOT / str(file)).read_text()
    for mutation in mutations_of(text)[::50]:
        ast.parse(mutation.apply(text))


def test_every_mutant_that_is_written_by_hand_has_its_line() -> None:
    assert len(written(ROOT, [".c", ".h"])) >= 15
    assert len(written(ROOT, [".lua"])) >= 10


def test_every_equivalent_mutant_is_there_and_has_its_reason() -> None:
    assert stale_equivalents(ROOT) == []
    assert all(equivalent.why for equivalent in equivalents(ROOT))


MODULE = """
def used():
    return 'used'

def by_a_process():
    return 'by_a_process'

def by_a_server():
    return 'by_a_server'

def by_a_slow_test():
    return 'by_a_slow_test'

def unused():
    return 'unused'
"""
TESTS = """
import os, subprocess, sys
import pytest
from ratekeeper import part

BY_A_PROCESS = "import os; from ratekeeper import part; part.by_a_process(); os.kill(os.getpid(), 9)"

def test_that_uses_it():
    assert part.used()

def test_that_uses_it_too():
    assert [part.used(), part.used()]

def test_whose_process_is_killed():
    assert subprocess.run([sys.executable, "-c", BY_A_PROCESS]).returncode == -9

def test_whose_child_is_killed():
    child = os.fork()
    if child == 0:
        part.by_a_process()
        os.kill(os.getpid(), 9)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 9

@pytest.fixture(scope="module")
def server():
    program = "from ratekeeper import part; part.by_a_server()"
    subprocess.run([sys.executable, "-c", program], check=True)

def test_with_a_server(server):
    part.by_a_process()

def test_that_fails(server):
    part.used()
    raise AssertionError

@pytest.mark.slow
def test_that_is_slow():
    assert part.by_a_slow_test()
"""
needs_monitoring = pytest.mark.skipif(sys.version_info < (3, 12), reason="the map needs sys.monitoring")


@pytest.fixture(scope="module")
def covered(tmp_path_factory: pytest.TempPathFactory) -> CoverageMap:
    tree = Tree(tmp_path_factory.mktemp("lane"))
    shutil.copytree(RECORDING, tree.root / RECORDING.relative_to(ROOT))
    files = {
        "src/ratekeeper/__init__.py": "",
        "src/ratekeeper/part.py": MODULE,
        "tests/test_part.py": TESTS,
        "pytest.ini": "[pytest]\nmarkers = slow",
    }
    for name, text in files.items():
        (tree.root / name).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / name).write_text(text)
    covered = CoverageMap()
    covered.add("tests/test_part.py", measure(tree, "tests/test_part.py"))
    return covered


@needs_monitoring
@pytest.mark.parametrize(
    ("function", "tests"),
    [
        ("used", {"that_uses_it", "that_uses_it_too"}),
        ("by_a_process", {"whose_process_is_killed", "whose_child_is_killed", "with_a_server"}),
        (
            "by_a_server",
            {"that_uses_it", "that_uses_it_too", "whose_process_is_killed", "whose_child_is_killed", "with_a_server"},
        ),
        ("by_a_slow_test", set()),
        ("unused", set()),
    ],
)
def test_the_map_knows_which_tests_run_a_line(covered: CoverageMap, function: str, tests: set[str]) -> None:
    found = covered.tests_of(function, [f"return '{function}'"])
    assert found == {f"tests/test_part.py::test_{test}" for test in tests}


@needs_monitoring
def test_slow_tests_try_a_line_that_no_other_test_runs(covered: CoverageMap) -> None:
    file = Path("src/ratekeeper/part.py")
    made_of = {
        function_at(functions_of(MODULE), mutation.statement): made(
            file, MODULE, mutation, functions_of(MODULE), covered
        )
        for mutation in mutations_of(MODULE)
    }
    assert made_of["by_a_slow_test"].slow == made_of["unused"].slow == {"tests/test_part.py::test_that_is_slow"}
    assert not made_of["used"].slow
